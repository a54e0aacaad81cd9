"""Hard Patches Mining: masked pre-training that hides what is hard to rebuild."""

__version__ = "0.1.0"
