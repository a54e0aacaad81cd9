"""Writes features of images or videos to one file: `python -m hpm_jax.embed`; see docs/embed.md."""
