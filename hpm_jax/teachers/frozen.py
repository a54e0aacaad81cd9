"""A teacher that was trained before and stays as it is."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hpm_jax.frozen_encoder import EncoderFile
from hpm_jax.models.masked_autoencoder import block_number, is_block
from hpm_jax.plugs import Setting, register
from hpm_jax.teachers.teacher import Teacher
from hpm_jax.tokens import AnyArray, Grid, Tokenizer


@register("frozen")
class Frozen(EncoderFile, Teacher):
    """A trained encoder, whose attention and features masks and targets read (MaskAlign, MILAN).

    One pass over the whole image serves all of them. The encoder may have another size than that of
    the run; it predicts no losses. Its weights are in no checkpoint.
    """

    in_state: ClassVar[bool] = False
    averages: ClassVar[bool] = False

    def check(self, config: Any) -> None:
        """The file has to be there, and its encoder to take the images of the run."""
        self.check_encoder(f"config.teacher = {str(self)!r}", config)

    def gives(self, output: str) -> bool:
        """All but predicted losses."""
        return output != "predicted_loss"

    def features_width(self, setting: Setting) -> int:
        """That of its encoder."""
        return self.encoder(setting.grid).width

    def pass_flops(self, setting: Setting, reads: tuple[str, ...]) -> float:
        """FLOPs of a forward pass of its encoder, up to the last block that is read."""
        if not reads:
            return 0.0
        encoder = self.encoder(setting.grid)
        depth = encoder.stack["depth"]
        keys = 2 * (setting.patches + encoder.layout.extra_tokens) * encoder.width**2
        blocks, beside = [], 0
        for read in reads:
            last = {"features": depth, "attention": depth - 1}
            blocks.append(block_number(read, depth) + 1 if is_block(read) else last[read])
            beside += keys if read == "attention" else 0
        return self.encoder_flops(setting, setting.patches, max(blocks)) + beside

    def depth(self, config: Any) -> int:
        """Number of blocks of its encoder."""
        return self.read().architecture.depth

    def load(self, setting: Setting) -> Any:
        """Parameters of the encoder, with positions on the grid of the run."""
        return self.encoder_params(setting.grid)

    def outputs(
        self,
        params: Any,
        patches: Float[AnyArray, "B L P"],
        reads: tuple[str, ...],
        grid: Grid,
        tokenizer: Tokenizer,
    ) -> dict[str, Array]:
        """Returns outputs of the encoder by name, as `MaskedAutoencoder.read`.

        Args:
            params: from `load`.
            patches: `[B, L, P]`, normalised by the run's tokenizer.
            reads: "features", "block_N", "attention".
            grid: of the patches.
            tokenizer: of the run.
        """
        encoder = self.encoder(grid)
        blocks = {x: block_number(x, encoder.stack["depth"]) for x in reads if is_block(x)}
        collect = tuple(sorted(set(blocks.values())))
        outputs: Any = encoder.apply(
            {"params": params},
            self.own_patches(patches, grid, tokenizer),
            collect=collect,
            attention="attention" in reads,
            method="outputs",
        )
        extra, found = encoder.layout.extra_tokens, {}
        if "features" in reads:
            found["features"] = outputs.tokens[:, extra:].astype(jnp.float32)
        if "attention" in reads:
            found["attention"] = outputs.attention.mean(axis=1)[:, extra:]
        for name, number in blocks.items():
            found[name] = outputs.blocks[collect.index(number)][:, extra:].astype(jnp.float32)
        return found
