"""The variants that `tools/bench.py` compares: our steps, the released formulations written plainly, and the floors."""
