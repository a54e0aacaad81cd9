"""Other ways to compute the parts of the training step, for `benchmarks/step_variants.py`."""
