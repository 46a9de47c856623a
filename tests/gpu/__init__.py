"""Checks that wait for a CUDA device."""
