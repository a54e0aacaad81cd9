"""A loss between relations of tokens: those of the student and of a trained encoder."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.frozen_encoder import EncoderFile
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import Setting, register
from hpm_jax.tokens import AnyArray


@register("token_relations")
class TokenRelations(EncoderFile, Term):
    """Relations of visible patches by a trained encoder that sees the same patches (Shi 2023).

    Hybrid Distillation (arXiv 2306.15876): in a late block, `softmax(Q K^T / sqrt(d))` and
    `softmax(V V^T / sqrt(d))` of each head tell how patches relate to one another; the loss is the
    divergence of the student's from a masked autoencoder's. The term `distillation` adds features
    of another teacher. There the student sees the whole image, of which redundant tokens are masked
    in stages; here both see what the mask leaves, and no cls token or register takes part.
    """

    block: int = option(
        -1, "the teacher's block, from 1, or from the end", low=-(10**4), high=10**4
    )
    student_block: int = option(
        -1, "the student's block, from 1, or from the end", low=-(10**4), high=10**4
    )
    parts: int = option(
        0,
        "number of equal parts of queries, keys and values, each with its own relations; 0 for the "
        "attention heads, of which both encoders then have the same number",
        low=0,
        high=1024,
    )

    def check(self, config: Any) -> None:
        """The file has to be there; both encoders have to have the block, and the parts."""
        name = f"config.losses has {str(self)!r}"
        self.check_encoder(f"{name}, which", config)
        model, a = config.model, self.read().architecture
        for option_name, block, depth in (
            ("block", self.block, a.depth),
            ("student_block", self.student_block, model.depth),
        ):
            if not 1 <= (block if block > 0 else depth + 1 + block if block else 0) <= depth:
                raise ConfigError(
                    f"{name}: {option_name} = {block} of {depth} blocks: expected 1 to {depth}, or "
                    f"-1 to -{depth} from the end"
                )
        if not self.parts and a.heads != model.heads:
            raise ConfigError(
                f"{name}: the teacher has {a.heads} attention heads and the student {model.heads} "
                "(config.model.heads): set parts to a number that divides both widths"
            )
        if self.parts and (a.width % self.parts or model.width % self.parts):
            raise ConfigError(
                f"{name}: parts = {self.parts} does not divide the widths {a.width} of the teacher "
                f"and {model.width} of the student (config.model.width)"
            )

    @property
    def related_blocks(self) -> tuple[int, ...]:  # type: ignore[override]
        """The student's block."""
        return (self.student_block,)

    def load(self, setting: Setting) -> Any:
        """Returns parameters of the teacher, with positions on the grid of the run."""
        return self.encoder_params(setting.grid)

    def step_flops(self, setting: Setting) -> float:
        """Those of the teacher up to its block, of the student's heads once more, and relations."""
        encoder, seen = self.encoder(setting.grid), setting.visible
        last = encoder.stack["depth"]
        heads = 2 * 3 * (seen + encoder.layout.extra_tokens) * encoder.width**2
        teacher = self.encoder_flops(setting, seen, last - 1) + heads
        relations = 2 * 2 * seen**2
        own = 2 * 3 * seen * setting.width**2 + relations * setting.width
        return teacher + relations * encoder.width + 3 * own

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the sum of both divergences, means over images, heads and patches."""
        grid, keep = outputs.unit.grid, outputs.mask.keep
        encoder = self.encoder(grid)
        patches = self.own_patches(outputs.patches, grid, outputs.tokenizer)
        last = encoder.stack["depth"] - 1  # the encoder ends with the block
        found: Any = encoder.apply(
            {"params": outputs.own.frozen}, patches, keep, related=(last,), method="outputs"
        )
        of_teacher = found.heads[0]
        of_student = outputs.heads[self.student_block]
        teacher, student = (
            [heads_apart(part[:, :, -keep.shape[1] :], self.parts) for part in parts]
            for parts in (of_teacher, of_student)
        )
        attention = divergence(*(log_relations(query, key) for query, key, _ in (teacher, student)))
        values = divergence(*(log_relations(value, value) for _, _, value in (teacher, student)))
        return attention + values, {"relations_attention": attention, "relations_values": values}


def heads_apart(heads: Float[AnyArray, "B heads N d"], parts: int) -> Float32[Array, "B parts N _"]:
    """Returns heads cut anew into `parts`, float32; as they are if `parts` is 0."""
    heads = jnp.asarray(heads, jnp.float32)
    batch, count, tokens, width = heads.shape
    parts = parts or count
    joined = heads.swapaxes(1, 2).reshape(batch, tokens, parts, count * width // parts)
    return joined.swapaxes(1, 2)


def log_relations(
    first: Float[AnyArray, "B H N d"], second: Float[AnyArray, "B H N d"]
) -> Float[Array, "B H N N"]:
    """Returns `log softmax(first second^T / sqrt(d))`."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", first, second) * first.shape[-1] ** -0.5
    return jax.nn.log_softmax(scores, axis=-1)


def divergence(
    fixed: Float[AnyArray, "B H N N"], other: Float[AnyArray, "B H N N"]
) -> Float[Array, ""]:
    """Returns the mean over rows of `KL(fixed || other)`, of logarithms of shares."""
    return jnp.sum(jnp.exp(fixed) * (fixed - other), axis=-1).mean()
