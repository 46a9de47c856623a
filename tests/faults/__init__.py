"""Campaigns of faults: slow, seeded, and repeated by `make test-faults`."""
