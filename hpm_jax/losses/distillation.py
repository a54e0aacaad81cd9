"""A loss between the student's features and those of an encoder that was trained before."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.frozen_encoder import EncoderFile
from hpm_jax.losses.heads import init_perceptron, perceptron, perceptron_flops
from hpm_jax.losses.reconstruction import smooth_l1
from hpm_jax.losses.spread import visible_tokens
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.features import NORMALIZATIONS, normalized


@register("distillation")
class Distillation(EncoderFile, Term):
    """Features of visible patches by a larger encoder that sees the same patches (DMAE, Bai 2023).

    L1, averaged over values, between the linear projection of the student's features and the
    teacher's, both of length 1. DMAE takes blocks at three quarters of both depths: 9 of 12 and 18
    of 24. The teacher runs on the visible patches alone, up to `block`. `normalize="none"` and
    `beta=1.0` are the smooth L1 of feature maps of Hybrid Distillation (Shi et al. 2023); the term
    `token_relations` is the rest of it.
    """

    block: int = option(
        -1,
        "the teacher's block, from 1, or from the end; its last norm follows",
        low=-(10**4),
        high=10**4,
    )
    student_block: int = option(
        0, "the student's block, from 1, before the norm; 0 for the encoder's output",
        low=0, high=10**4,
    )  # fmt: skip
    normalize: str = option(
        "l2",
        "of both features of each patch: to length 1, to mean 0 and variance 1, or none",
        choices=NORMALIZATIONS,
    )
    beta: float = option(
        0.0, "difference up to which the loss is quadratic (smooth L1); 0 for L1", low=0, high=1e6
    )
    layers: int = option(0, "number of hidden layers of the projection", low=0, high=100)

    def check(self, config: Any) -> None:
        """The file has to be there, and its encoder to take the images of the run."""
        self.check_encoder(f"config.losses has {str(self)!r}, which", config)
        if self.student_block > config.model.depth:
            raise ConfigError(
                f"config.losses has {str(self)!r}: the student has {config.model.depth} blocks "
                "(config.model.depth), so student_block is at most that"
            )

    @property
    def student_blocks(self) -> tuple[int, ...]:  # type: ignore[override]
        """The block, if there is one."""
        return (self.student_block,) if self.student_block else ()

    def load(self, setting: Setting) -> Any:
        """Returns parameters of the teacher, with positions on the grid of the run."""
        return self.encoder_params(setting.grid)

    def widths(self, setting: Setting) -> tuple[int, ...]:
        """Widths of the layers of the projection."""
        width = self.encoder(setting.grid).width
        return (setting.width,) * (self.layers + 1) + (width,)

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the projection."""
        return init_perceptron(key, self.widths(setting))

    def step_flops(self, setting: Setting) -> float:
        """Those of the teacher, forward, and of the projection, of the visible patches."""
        projection = perceptron_flops(self.widths(setting))
        teacher = self.encoder_flops(setting, setting.visible)
        return teacher + 3 * setting.visible * projection

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the loss."""
        grid, keep, tokenizer = outputs.unit.grid, outputs.mask.keep, outputs.tokenizer
        encoder = self.encoder(grid)
        patches = self.own_patches(outputs.patches, grid, tokenizer)
        tokens: Any = encoder.apply({"params": outputs.own.frozen}, patches, keep)
        features = tokens[:, encoder.layout.extra_tokens :].astype(jnp.float32)
        if self.student_block:
            outputs = outputs._replace(features=outputs.blocks[self.student_block])
        found = perceptron(outputs.own.params, visible_tokens(outputs))
        found, features = (normalized(x, self.normalize) for x in (found, features))
        return smooth_l1(found, features, self.beta).mean(), {}
