"""Tests of writing configs for own data."""
