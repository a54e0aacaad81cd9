"""How a model is pre-trained: the plugs that every step is built from."""

import dataclasses
from collections.abc import Callable

from jax import Array

from hpm_jax.losses import pairs_ranked_correctly, squared_error
from hpm_jax.losses.ranking import RankingLoss
from hpm_jax.masking.strategies import Strategy
from hpm_jax.masking.units import Unit
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.targets import Target
from hpm_jax.tokens import Grid, normalize, patchify


def whole(patches: Array) -> Array:
    """All of a patch is to be rebuilt."""
    return patches


@dataclasses.dataclass(frozen=True)
class Method:
    """How the model is pre-trained: the plugs of the step.

    HPM is hard masks with a relative ranking loss; MAE is random masks and no ranking loss.
    """

    patch_size: Grid
    mean: tuple[float, ...]  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...]
    hidden: int  # units hidden in each image or clip
    strategy: Strategy
    target: Target
    part: Callable[[Array], Array] = whole  # what of each patch is to be rebuilt
    objective: Callable[[Array, Array], Array] = squared_error
    ranking: RankingLoss | None = None
    ranking_weight: float = 1.0
    ranked: RankingLoss = pairs_ranked_correctly  # a metric over the same pairs
    shuffle: bool = False  # whether the ranking needs the hidden patches in random order
    tubes: bool = False  # whether a unit of masks is a tube, else a patch
    views: int = 1  # masks of each clip, by one look of the teacher
    frame_stride: int = 1  # the teacher sees every so manieth frame of the grid
    every_steps: int = 1  # the teacher looks so seldom, and a batch comes so often

    def patches(self, images: Array) -> Array:
        """uint8 images `[B, H, W, C]` to normalised patches `[B, L, P]` float32, on the device.

        Clips are `[B, T, H, W, C]`, and several of each video `[B, R, T, H, W, C]` give B R rows.
        """
        if images.ndim == 6:
            images = images.reshape(-1, *images.shape[2:])
        return patchify(normalize(images, self.mean, self.std), self.patch_size)

    def target_of(self, patches: Array) -> Array:
        """What each patch `[B, L, P]` is to become, `[B, L, D]`."""
        return self.target(self.part(patches), self.std)

    def unit(self, model: MaskedAutoencoder) -> Unit:
        """What masks are made of."""
        return Unit(model.grid, self.tubes)
