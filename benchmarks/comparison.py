"""The setting of configs/compare_cifar10.py, for questions that are no contrast of arms."""

from configs.compare_cifar10 import get_config
from hpm_jax.config import freeze
from hpm_jax.config.compare import Compare
from hpm_jax.config.inherit import inherit


def comparison_on(path: str, **arms: dict) -> Compare:
    """The comparison on a folder of CIFAR-10, with some more arms."""
    config = get_config()
    config.base.data.update(source="folder", path=path)
    for name, changes in arms.items():
        config.arms[name] = changes
    return freeze(inherit(config))
