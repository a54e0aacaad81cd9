"""Features of an encoder that was trained before, and learns no more, as a target."""

from typing import Any

from jax import Array
from jaxtyping import Float

from hpm_jax.fields import option
from hpm_jax.frozen_encoder import EncoderFile
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.features import NORMALIZATIONS, normalized
from hpm_jax.targets.target import Target, TargetContext


@register("frozen_features")
class FrozenFeatures(EncoderFile, Target):
    """Patch features of a trained encoder that sees the whole image (HPM, table 1: DINO)."""

    normalize: str = option(
        "l2",
        "of the features of each patch: to length 1, to mean 0 and variance 1, or none",
        choices=NORMALIZATIONS,
    )

    def check(self, config: Any) -> None:
        """The file has to be there, and its encoder to take the images of the run."""
        self.check_encoder(f"config.target = {str(self)!r}", config)

    def width(self, setting: Setting) -> int:
        """That of its encoder."""
        return self.encoder(setting.grid).width

    def step_flops(self, setting: Setting) -> float:
        """Those of the encoder, forward, over the whole image."""
        return self.encoder_flops(setting, setting.patches)

    def load(self, setting: Setting) -> Any:
        """Parameters of the encoder, with positions on the grid of the run."""
        return self.encoder_params(setting.grid)

    def __call__(self, context: TargetContext) -> Float[Array, "B L D"]:
        """`[B, L, width]`, after the encoder's last norm."""
        encoder = self.encoder(context.grid)
        patches = self.own_patches(context.patches, context.grid, context.tokenizer)
        tokens: Any = encoder.apply({"params": context.frozen}, patches)
        features = tokens[:, encoder.layout.extra_tokens :].astype(context.patches.dtype)
        return normalized(features, self.normalize)
