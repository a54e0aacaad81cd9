"""The vision transformer with a classification head, for fine-tuning and frozen features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.encoder import Encoder, stack_options
from hpm_jax.models.layers import layer_norm
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.stack import Gather, as_they_are
from hpm_jax.tokens import Grid

POOLS = ("cls", "mean")


class Classifier(nn.Module):
    """A vision transformer with a linear classification head.

    Pooling "mean" averages the patch tokens, without cls, followed by a separate norm; "cls" takes
    the cls token of the normalised output (MAE, models_vit.py). Calling the module returns logits.

    Attributes:
        grid: the grid of patches, `(t, h, w)`.
        values: number of values of a patch, `P`.
        classes: number of classes.
        width, depth, heads: sizes of the encoder.
        pool: a name in `POOLS`.
        head_std: standard deviation of the head's initial weights, a truncated normal.
        layout: cls token, positions and biases, see `hpm_jax/models/layouts.py`.
        dtype: of matrix products and of activations; parameters and logits are float32.
        remat: a name in `REMAT_POLICIES`.
        unroll: number of blocks unrolled in the scanned stack; 0 unrolls all.
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
        stack = stack_options(self, self.depth, self.heads) | {"norm": self.pool == "cls"}
        self.encoder = Encoder(
            self.grid,
            self.width,
            stack,
            self.dtype,
            self.layout,
            self.layout.classifier_positions,
        )
        if self.pool == "mean":
            self.norm = layer_norm(jnp.float32, eps=self.layout.norm_eps)
        # PyTorch truncates at two units, not two standard deviations: in effect nothing
        self.head = nn.Dense(self.classes, kernel_init=nn.initializers.normal(self.head_std))

    def __call__(
        self,
        patches: Array,
        keep: Array | None = None,
        drop: Array | None = None,
        head_drop: Array | None = None,
    ) -> Array:
        """Returns logits `[B, classes]` float32 of patches `[B, L, P]`.

        Args:
            keep: `[B, K]` indices of the patches to encode; None for all.
            drop: `[B, depth, 2]` from `drop_paths`; None drops nothing.
            head_drop: `[B, D]` from `dropout`, a factor on the input of the head.
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
        """Returns the input of the head, `[B, D]` float32.

        With `collect`, indices of blocks from 0, also their outputs, `[B, 1 + K, D]` each.
        """
        outputs = self.encoder.outputs(patches, keep, drop, collect)
        features = self._pooled(outputs.tokens)
        return (features, outputs.blocks) if collect else features

    def _pooled(self, tokens: Array) -> Array:
        if self.pool == "cls":
            return tokens[:, 0].astype(jnp.float32)
        tokens = tokens[:, self.layout.extra_tokens :]
        return self.norm(tokens.astype(jnp.float32).mean(axis=1))
