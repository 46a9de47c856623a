"""Readers and writers of point-cloud files, one module a family; `pointcloud.datasets.files` opens them all."""
