"""Evaluate encoders and methods: few-shot protocols, ELEVATER, and the facts of the image benchmarks."""
