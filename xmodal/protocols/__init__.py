"""Evaluation protocols as objects: which samples train, validate and test, and how rates fall."""
