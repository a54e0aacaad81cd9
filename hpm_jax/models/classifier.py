"""The vision transformer with a head for classes: fine-tuning, and frozen features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.encoder import Encoder
from hpm_jax.models.layers import Gather, as_they_are, layer_norm
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.tokens import Grid

POOLS = ("cls", "mean")


class Classifier(nn.Module):
    """A vision transformer and one linear layer for the classes.

    Pooling "mean" averages the patch tokens, without cls, and has a norm of its own after that;
    "cls" takes the cls token of the normalised output (MAE, models_vit.py). The plain call gives
    logits.

    Attributes:
        grid: the grid of patches, `(t, h, w)`.
        values: of a patch, `P`.
        classes: how many there are.
        width, depth, heads: the encoder.
        pool: a name in `POOLS`.
        head_std: of the head's first weights, a truncated normal.
        layout: cls token, positions and biases, see `hpm_jax/models/layouts.py`.
        dtype: of matrix products and of activations; parameters and logits are float32.
        remat: a name in `REMAT_POLICIES`.
        unroll: blocks unrolled in the scanned stack; 0 unrolls all.
        attention: a name in `ATTENTIONS`.
        gather: see `Stack`.
    """

    grid: Grid
    values: int
    classes: int
    width: int = 768
    depth: int = 12
    heads: int = 12
    pool: str = "mean"
    head_std: float = 2e-5
    layout: Layout = LAYOUTS["mae"]
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    gather: Gather = as_they_are

    def setup(self):
        stack = {
            "depth": self.depth,
            "heads": self.heads,
            "remat": self.remat,
            "unroll": self.unroll or self.depth,
            "attention": self.attention,
            "gather": self.gather,
            "norm": self.pool == "cls",
        }
        self.encoder = Encoder(
            self.grid,
            self.width,
            stack,
            self.dtype,
            self.layout,
            self.layout.classifier_positions,
        )
        if self.pool == "mean":
            self.norm = layer_norm(jnp.float32)
        # PyTorch cuts its normal two units, not two deviations, from zero: nothing is cut
        self.head = nn.Dense(self.classes, kernel_init=nn.initializers.normal(self.head_std))

    def __call__(
        self,
        patches: Array,
        keep: Array | None = None,
        drop: Array | None = None,
        head_drop: Array | None = None,
    ) -> Array:
        """Logits `[B, classes]` float32 of patches `[B, L, P]`.

        Args:
            keep: `[B, K]` the patches that the encoder sees; None for all.
            drop: `[B, depth, 2]` from `drop_paths`; None drops nothing.
            head_drop: `[B, D]` from `dropout`, what the head reads is multiplied with it.
        """
        features = self.features(patches, keep, drop)
        return self.head(features if head_drop is None else features * head_drop)

    def features(
        self,
        patches: Array,
        keep: Array | None = None,
        drop: Array | None = None,
        collect: tuple[int, ...] = (),
    ) -> Array | tuple[Array, tuple[Array, ...]]:
        """What the head reads, `[B, D]` float32.

        With `collect`, numbers of blocks from 0, also the outputs of these, `[B, 1 + K, D]` each.
        """
        outputs = self.encoder.outputs(patches, keep, drop, collect)
        features = self._pooled(outputs.tokens)
        return (features, outputs.blocks) if collect else features

    def _pooled(self, tokens: Array) -> Array:
        if self.pool == "cls":
            return tokens[:, 0].astype(jnp.float32)
        tokens = tokens[:, self.layout.extra_tokens :]
        return self.norm(tokens.astype(jnp.float32).mean(axis=1))
