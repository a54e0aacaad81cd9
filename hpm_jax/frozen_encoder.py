"""Encoders that were trained before and learn no more, as parts of plugs."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from jax import Array
from jaxtyping import Float

from hpm_jax.errors import ConfigError, UserError
from hpm_jax.fields import option
from hpm_jax.plugs import Setting
from hpm_jax.tokens import AnyArray, Grid, Tokenizer


@dataclasses.dataclass(frozen=True, repr=False)
class EncoderFile:
    """The options of a plug that has a trained encoder: its file, and the images that it takes.

    The file is any that `hpm_jax.convert` reads, with patches of the size of the run's; learned
    positions are resized to the run's grid. The weights are in no checkpoint; `frozen.json` in the
    workdir has their digest. A plug with an option `block` has the encoder up to that block.
    """

    path: str = option("", "weights file or workdir of the encoder; see docs/weights.md")
    weights: str = option("student", "which weights of path to use", choices=("student", "teacher"))
    heads: int = option(
        0, "number of attention heads; 0 to read it from the file", low=0, high=1024
    )
    mean: tuple[float, ...] = option(
        (0.485, 0.456, 0.406), "mean of each channel of its images", low=-1e6, high=1e6
    )
    std: tuple[float, ...] = option(
        (0.229, 0.224, 0.225), "standard deviation of each channel", low=1e-6, high=1e6
    )
    dtype: str = option("float32", "dtype of its matrix products", choices=("float32", "bfloat16"))

    def read(self) -> Any:
        """Returns the `Weights` in the file, which is read once; see `release`."""
        from hpm_jax.convert import read

        key = self.path, self.weights, self.heads, _stamp(self.path)
        if key not in _held:
            _held[key] = read.read_weights(self.path, self.weights, self.heads or None)
        return _held[key]

    def encoder(self, grid: Grid) -> Any:
        """Returns the `Encoder` on a grid, without its parameters."""
        return _encoder_alone(self, Path(self.path).absolute(), grid)

    def encoder_params(self, grid: Grid) -> Any:
        """Returns the parameters of the encoder, with positions on the grid."""
        self.encoder(grid)  # its sizes stay known when the weights are released
        return _encoder_and_params(self, grid)[1]

    def encoder_flops(self, setting: Setting, patches: int, depth: int | None = None) -> float:
        """Returns FLOPs of a forward pass of the encoder over `patches` of an image.

        Args:
            depth: number of its first blocks that are computed; None for all.
        """
        from hpm_jax.models.flops import encoder_flops

        encoder, values = self.encoder(setting.grid), setting.tokenizer.values
        depth = encoder.stack["depth"] if depth is None else depth
        return encoder_flops(patches, values, encoder.width, depth, encoder.layout)

    def own_patches(
        self, patches: Float[AnyArray, "B L P"], grid: Grid, tokenizer: Tokenizer
    ) -> Float[Array, "B L P"]:
        """Returns patches of a run `[B, L, P]`, normalised as the encoder takes them.

        Args:
            grid, tokenizer: of the run.
        """
        own = Tokenizer(tokenizer.patch_size, self.mean, self.std)
        return own(tokenizer.pixels(patches, grid))

    def check_encoder(self, name: str, config: Any) -> None:
        """Raises a `ConfigError` where the encoder does not take the images of the run.

        Args:
            name: of the plug, to begin the sentence.
        """
        if not self.path:
            raise ConfigError(f"{name}: path is empty: expected a file of weights")
        try:
            weights = self.read()
        except UserError as error:
            raise ConfigError(f"{name}: {error}") from None
        a = weights.architecture
        if a.patch != config.patch_size or (a.layout == "mae" and config.grid[0] > 1):
            raise ConfigError(
                f"{name} cuts images into patches of {a.patch} (frames, rows, columns), and the "
                f"run into {config.patch_size}, which is another grid: choose an encoder with the "
                "same patches, or set config.model.tubelet and patch_size"
            )
        if {len(self.mean), len(self.std), config.data.channels} != {a.channels}:
            raise ConfigError(
                f"{name} takes {a.channels} channels; mean and std have {len(self.mean)} and "
                f"{len(self.std)} values, and config.data.channels = {config.data.channels}: "
                "expected the same number of all"
            )
        self._check_normalization(name, weights)

    def _check_normalization(self, name: str, weights: Any) -> None:
        """CLIP's and SigLIP's encoders take images that are normalised by other numbers."""
        from hpm_jax.convert.about import about
        from hpm_jax.convert.preprocessing import is_siglip

        a = weights.architecture
        if a.channels == 3 and (a.pre_norm or is_siglip(a)):
            known = about(self.path, weights)
            if (self.mean, self.std) != (known.mean, known.std):
                raise ConfigError(
                    f"{name}: images of this encoder are normalised by other numbers: set "
                    f"mean={known.mean}, std={known.std}"
                )


_held: dict[Any, Any] = {}  # weights that were read and not yet loaded into a state


def release() -> None:
    """Forgets the weights that were read, when every plug has loaded its own."""
    _held.clear()


def _stamp(place: str) -> tuple[Any, ...]:
    """Returns what changes with a file, or with the files of a folder, on this machine."""
    path = Path(place).absolute()
    if not path.exists():
        return ()
    found = [path, *path.iterdir()] if path.is_dir() else [path]
    stats = [(str(each), each.stat()) for each in sorted(found)]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _encoder_and_params(plug: EncoderFile, grid: Grid) -> tuple[Any, Any]:
    from hpm_jax.config.evaluation import Features
    from hpm_jax.evaluation.features import frozen_encoder

    weights = plug.read()
    t, h, w = (n * p for n, p in zip(grid, weights.architecture.patch, strict=True))
    options = Features(pool="mean", dtype=plug.dtype, block=getattr(plug, "block", -1))
    return frozen_encoder(weights, (t, h, w), options)


@functools.lru_cache(maxsize=8)
def _encoder_alone(plug: EncoderFile, path: Path, grid: Grid) -> Any:
    """Keeps the module, not the parameters, so the file is read once for it."""
    return _encoder_and_params(plug, grid)[0]
