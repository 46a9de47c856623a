"""Parity with the official implementations: `python -m tests.parity CASE.json [CASE.json ...]`."""
