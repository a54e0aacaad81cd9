"""Demonstrates the method on your own photographs: `python -m hpm_jax.demo photo.jpg`."""
