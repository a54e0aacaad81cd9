"""One feature for the whole image: what is visible has to predict what the teacher sees."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.heads import init_perceptron, perceptron, perceptron_flops
from hpm_jax.losses.spread import visible_tokens
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import Setting, register
from hpm_jax.random import stream
from hpm_jax.tokens import unit_length


@register("global_consistency")
class GlobalConsistency(Term):
    """The mean of visible features predicts that of the teacher's (LUT; BYOL's loss).

    `2 - 2 cos(predictor(head(student)), head(teacher))`, averaged over the masks of each image; the
    teacher's head is the moving average of the student's. With `mask.views=2` and
    `mask.strategy=disjoint` these are the two disjoint views of LUT. LUT draws two crops and
    changes the colours of one, and its heads have batch norm; here the crop is one and the heads
    have layer norm.
    """

    weight: float = option(0.25, "weight of the term in the loss", low=-1e6, high=1e6)
    width: int = positive(4096, "width of the hidden layer of head and predictor", high=2**16)
    values: int = positive(256, "number of values that are compared", high=2**16)

    reads: ClassVar = ("features",)

    def check(self, config: Any) -> None:
        """The teacher has to have a head of its own."""
        if config.teacher.kept and not config.teacher.in_state:
            raise ConfigError(
                f"config.losses has {str(self)!r}, which compares with a head that the teacher "
                f"has too, and config.teacher = {str(config.teacher)!r} has none: "
                "--config.teacher=moving_average"
            )

    def widths(self, setting: Setting) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths of the layers of head and predictor."""
        return (setting.width, self.width, self.values), (self.values, self.width, self.values)

    def step_flops(self, setting: Setting) -> float:
        """Those of head and predictor, and of the teacher's head."""
        head, predictor = map(perceptron_flops, self.widths(setting))
        return 3 * (head + predictor) + head

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns head and predictor."""
        head, predictor = self.widths(setting)
        return {
            "head": init_perceptron(stream(key, "head", 0), head),
            "predictor": init_perceptron(stream(key, "predictor", 0), predictor),
        }

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the loss, from 0 to 4."""
        own = outputs.own
        seen = perceptron(own.params["head"], visible_tokens(outputs).mean(axis=1))
        found = perceptron(own.params["predictor"], seen)
        whole = perceptron(own.teacher["head"], outputs.readings["features"].mean(axis=1))
        return jnp.square(unit_length(found) - unit_length(whole)).sum(axis=-1).mean(), {}
