"""A loss between mixtures of the student's blocks and the last blocks of a teacher."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.heads import init_perceptron, perceptron
from hpm_jax.losses.reconstruction import smooth_l1
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import Setting, register
from hpm_jax.random import stream
from hpm_jax.targets.features import normalized
from hpm_jax.tokens import gather


@register("dynamic_alignment")
class DynamicAlignment(Term):
    """Features of visible patches by a teacher that sees the whole image (MaskAlign, Xue 2023).

    For each of the teacher's last `layers` blocks, a linear head reads the sum of the student's
    blocks with learned weights (section 3.2, dynamic alignment), which start with 1 at the block as
    far from the end and 0.01 added to all. Smooth L1 compares it with the teacher's block, before
    its last norm, after a layer norm without scale and shift. The paper's teacher is CLIP or DINO,
    `config.teacher = "frozen(path='...')"`, its masks are `attention(high=False, noise=1.0)`, and
    it has no decoder, `no_decoder`.
    """

    weight: float = option(2.0, "weight of the term in the loss", low=-1e6, high=1e6)
    layers: int = positive(5, "number of the teacher's last blocks that are aligned", high=1000)
    blocks: tuple[int, ...] = option(
        tuple(range(1, 13)),
        "the student's blocks that are mixed, from 1, in rising order",
        low=1,
        high=10**4,
    )
    beta: float = option(1.0, "difference up to which the loss is quadratic", above=0, high=1e6)

    @property
    def student_blocks(self) -> tuple[int, ...]:  # type: ignore[override]
        """The blocks."""
        return self.blocks

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """The teacher's last blocks, the first of them first."""
        return tuple(f"block_{number}" for number in range(-self.layers, 0))

    def check(self, config: Any) -> None:
        """The blocks have to be there."""
        name, depth = f"config.losses has {str(self)!r}", config.model.depth
        rising = list(self.blocks) == sorted(set(self.blocks))
        if not self.blocks or not rising or self.blocks[-1] > depth:
            raise ConfigError(
                f"{name}: expected blocks in rising order up to config.model.depth = {depth}, as "
                f"in blocks={tuple(range(1, depth + 1))}"
            )
        if config.teacher.kept and self.layers > (there := config.teacher.depth(config)):
            raise ConfigError(f"{name}: the teacher has {there} blocks, so layers is at most that")

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the weights of the mixtures `[layers, blocks]`, and the heads."""
        layers, blocks = self.layers, len(self.blocks)
        widths = (setting.width, setting.features_width or setting.width)
        return {
            "mix": jnp.eye(layers, blocks, blocks - layers, dtype=jnp.float32) + 0.01,
            "heads": {
                f"head_{number}": init_perceptron(stream(key, "head", number), widths)
                for number in range(layers)
            },
        }

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the mean over the teacher's blocks, visible patches and values."""
        params, keep = outputs.own.params, outputs.mask.keep
        seen = jnp.stack([outputs.blocks[block][:, -keep.shape[1] :] for block in self.blocks])
        mixed = jnp.einsum("lk,kbnd->lbnd", params["mix"], seen.astype(jnp.float32))
        losses = []
        for number, read in enumerate(self.reads):
            found = perceptron(params["heads"][f"head_{number}"], mixed[number])
            target = normalized(gather(outputs.readings[read], keep), "layer_norm")
            losses.append(smooth_l1(found, target, self.beta).mean())
        return jnp.stack(losses).mean(), {}

    def step_flops(self, setting: Setting) -> float:
        """Returns the operations of mixtures and heads, forward and backward."""
        width, visible = setting.width, setting.sizes.length - setting.hidden
        head = width * (setting.features_width or width)
        return 3 * 2 * self.layers * visible * (len(self.blocks) * width + head)
