"""The state of a run: one pytree that a checkpoint saves and a step replaces."""

from collections.abc import Callable
from typing import Any, TypedDict

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import SingleDeviceSharding

from hpm_jax.models import Classifier, Detector, MaskedAutoencoder, Segmenter
from hpm_jax.tokens import Mask

Params = Any


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step reads and writes."""

    step: Array  # int32 scalar: optimizer steps taken
    params: Params  # float32: the student, both heads
    teacher: Params | None  # float32: its moving average, of the same shape; None where not kept
    optimizer: optax.OptState
    scores: Array | None = None  # [B, U]: cached predictions of a teacher with every_steps > 1
    plugs: Any = None  # by slot, the states that plugs keep; None where none does
    frozen: Any = None  # by slot, weights that never learn; in no checkpoint
    history: Any = None  # of gradients, see hpm_jax/step/guard.py; None where nothing asks for it


class Start(TypedDict, total=False):
    """What a state starts from, loaded before anything is compiled."""

    params: Params  # those that replace fresh ones
    frozen: dict[str, Any]  # by slot; see `Plug.load`


def init_params(model: MaskedAutoencoder | Classifier | Segmenter | Detector, key: Array) -> Params:
    """Fresh parameters of `model`."""
    if not isinstance(model, MaskedAutoencoder):
        return init_variables(model, key)["params"]
    length = model.grid[0] * model.grid[1] * model.grid[2]
    patches = jnp.zeros((1, length, model.values))
    everything_but_one = Mask(
        keep=jnp.zeros((1, 1), jnp.int32), hide=jnp.arange(1, length, dtype=jnp.int32)[None]
    )
    return model.init(key, patches, everything_but_one)["params"]


def init_variables(model: Classifier | Segmenter | Detector, key: Array) -> dict[str, Any]:
    """Fresh parameters, "params", and the running averages of norms, "batch_stats", if any."""
    length = model.grid[0] * model.grid[1] * model.grid[2]
    return dict(model.init(key, jnp.zeros((1, length, model.values))))


def param_shapes(model: MaskedAutoencoder | Classifier | Segmenter | Detector) -> Params:
    """Shapes and dtypes of the parameters of `model`, without computing them."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def fresh_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    teacher: bool = False,
    scores: tuple[int, int] | None = None,
) -> TrainState:
    """The state before the first step from `params`, a copy of which is the teacher, if any.

    To be jitted with the shardings wanted, so that no device holds more than its own.

    Args:
        scores: clips and units of a batch, for cached predictions of the teacher.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        teacher=jax.tree.map(jnp.copy, params) if teacher else None,
        optimizer=optimizer.init(params),
        scores=jnp.full(scores, jnp.nan, jnp.float32) if scores else None,
    )


def abstract_state(
    init: Callable[..., TrainState], *inputs: Any, place: Callable[[Any], Any]
) -> TrainState:
    """Shapes and dtypes of `init(*inputs)`, each to lie where `place` says; no memory yet.

    Args:
        place: from the tree of shapes to a tree of shardings.
    """
    shapes = jax.eval_shape(init, *inputs)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        place(shapes),
    )


def on_one_device(shapes: Any) -> Any:
    """Everything on the first device of this process."""
    place = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: place, shapes)
