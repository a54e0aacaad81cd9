"""Validates configs of label propagation."""

from hpm_jax.config.checks.shared import check_start
from hpm_jax.config.track import Track
from hpm_jax.errors import ConfigError


def check_track(config: Track) -> None:
    """Raises a `ConfigError` for an invalid config of label propagation."""
    check_start(config)
    if config.features.block == 0:
        raise ConfigError("config.features.block = 0: blocks count from 1, or from the end with -1")
    for name in ("mean", "std"):
        values = getattr(config.data, name)
        if len(values) != config.data.channels:
            raise ConfigError(
                f"config.data.{name} = {values}: expected {config.data.channels} values, "
                "one a channel (config.data.channels)"
            )
