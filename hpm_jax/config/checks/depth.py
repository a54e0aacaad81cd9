"""Validates configs of the depth probe."""

from hpm_jax.config.checks.segment import check_scales, check_unused
from hpm_jax.config.checks.shared import check_data, check_start
from hpm_jax.config.depth import DepthData, DepthProbe
from hpm_jax.errors import ConfigError


def check_depth_probe(config: DepthProbe) -> None:
    """Raises a `ConfigError` for an invalid config of the depth probe."""
    check_start(config)
    check_unused(config.data, DepthData(), "the depth probe, which sees whole images in windows")
    check_data(config)
    check_scales(config)
    if config.features.block == 0:
        raise ConfigError("config.features.block = 0: blocks count from 1, or from the end with -1")
    if config.data.nearest >= config.data.farthest:
        raise ConfigError(
            f"config.data.nearest = {config.data.nearest:g} is not below config.data.farthest = "
            f"{config.data.farthest:g}: expected the range of depths in metres, such as 0.001 to 10"
        )
    if not config.head.penalties:
        raise ConfigError("config.head.penalties = (): give one number or more, such as (0.01,)")
