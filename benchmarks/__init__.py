"""Measurements: `python -m benchmarks [NAME…]`. Every figure stands beside a baseline measured in the same run."""
