"""A small run, shared by the tests of the step and of everything around it."""

import functools

import jax
import ml_collections
import numpy as np

from hpm_jax.config import Config, defaults, freeze
from hpm_jax.run.build import (
    Start,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.step import make_train_step


def small_options() -> ml_collections.ConfigDict:
    """Digits of 16 x 16 in 16 patches, one block everywhere."""
    config = defaults()
    config.data.update(source="digits", image_size=(16, 16), channels=1, mean=(0.5,), std=(0.5,))
    config.data.update(flip=0.0, test_crop=1.0)
    config.model.update(patch_size=4, width=16, depth=1, heads=2, unroll=0)
    config.model.update(decoder_width=8, decoder_depth=1, decoder_heads=2)
    config.optimizer.update(epochs=4, batch_size=64, warmup_epochs=1.0, base_learning_rate=4e-3)
    config.teacher = "moving_average(start=0.9, end=0.9)"
    config.evaluation.update(bank_images=64, test_images=32, batch_size=32, pictures=2)
    return config


def task_options(task: str, init_from, **changes) -> ml_collections.ConfigDict:
    """The options of another task, changed as `small_config` does; to be inherited and frozen."""
    config = defaults(task)
    config.init_from = str(init_from)
    return changed(config, changes)


def small_config(**changes) -> Config:
    """The small options, changed: whole sections by dictionaries, others by values."""
    return freeze(changed(small_options(), changes))


def changed(config: ml_collections.ConfigDict, changes: dict) -> ml_collections.ConfigDict:
    """The config itself, with whole sections changed by dictionaries, others by values."""
    for name, change in changes.items():
        if isinstance(change, dict):
            config[name].update(change)
        else:
            config[name] = change
    return config


MAE = {"mask": {"strategy": "random"}, "losses": (), "teacher": "none"}


class Parts:
    """What a step is made of, and what it takes; see `parts_of`."""

    def __init__(self, config: Config):
        self.config = config
        self.model, self.method = build_model(config), build_method(config)
        self.optimizer = build_optimizer(config)
        self.key = jax.random.key(config.seed)
        init = build_init(config, self.model, self.method, self.optimizer)
        self.state = jax.jit(init)(self.key, Start(frozen=load_frozen(self.method)))
        shape = (config.optimizer.batch_size, *config.data.image_size, config.data.channels)
        self.images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@functools.cache
def parts_of(config: Config) -> Parts:
    """The parts of a config, made once for all tests."""
    return Parts(config)


@functools.cache
def compiled_step(config: Config, accumulation: int = 1):
    """The jitted step of a config, compiled once for all tests."""
    parts = parts_of(config)
    return jax.jit(make_train_step(parts.model, parts.method, parts.optimizer, accumulation))


def schedule(n_hard: int = 0, rate: float = 1e-3, teacher_rate: float = 0.1) -> Schedule:
    """The scalars of a step."""
    return Schedule(np.float32(rate), np.float32(teacher_rate), np.int32(n_hard))
