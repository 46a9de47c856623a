"""Tests of tars, stores and runs on several machines."""
