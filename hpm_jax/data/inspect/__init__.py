"""Inspects a data set: `python -m hpm_jax.data.inspect --path DATA`; see docs/data.md."""
