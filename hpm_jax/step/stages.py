"""The change from one stage of a run to the next: the student becomes the teacher."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.step.guard import new_history
from hpm_jax.step.state import Params, TrainState

NextStage = Callable[[TrainState, Array, Array], TrainState]


def make_next_stage(fresh_params: Callable[[Array, Array], Params]) -> NextStage:
    """Builds `(state, root key, stage) -> state`, to be jitted; it runs between two steps.

    The teacher gets the student's parameters, and the student new ones (dBOT, Liu et al. 2022).
    The step, the optimizer and the states of plugs stay as they are. What gradients were like
    (`history`) is forgotten, because those of a new student are larger.

    Args:
        fresh_params: `(root key, stage) -> params`; stage 0 is the start of the run.
    """

    def next_stage(state: TrainState, root: Array, stage: Array) -> TrainState:
        history = None if state.history is None else new_history()
        teacher = jax.tree.map(jnp.copy, state.params)
        return state.replace(teacher=teacher, params=fresh_params(root, stage), history=history)

    return next_stage
