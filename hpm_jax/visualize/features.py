"""Draws the first three principal components of patch features as colours over photographs.

    python -m hpm_jax.visualize.features --init_from=runs/mine photo.jpg another.jpg
    python -m hpm_jax.visualize.features --init_from=vit.safetensors --foreground=0.5 photo.jpg

The components are computed over the patches of all photographs, so a colour has the same meaning in
all of them. `--foreground` keeps the patches above a threshold of the first component and computes
the components of these alone; `--invert` keeps those below it.
"""

import jax
import numpy as np
from PIL import Image
from sklearn.decomposition import PCA

from hpm_jax.errors import one_sentence
from hpm_jax.storage import as_path, reported
from hpm_jax.visualize.photographs import (
    PhotographError,
    Photographs,
    load_photographs,
    photograph_parser,
)
from hpm_jax.visualize.sheet import draw_sheet

COMPONENTS = 3  # red, green, blue
SIDE = 256  # of a panel, pixels
CLIPPED = (1, 99)  # percentiles of a component that become 0 and 1


def patch_features(photos: Photographs) -> np.ndarray:
    """Returns features `[B, L, D]` float32 after the requested block and the last norm."""

    @jax.jit
    def encode(params, images):
        tokens = photos.encoder.apply({"params": params}, photos.tokenizer(images))
        return tokens[:, photos.encoder.layout.extra_tokens :]

    found = [encode(photos.params, image[None]) for image in photos.images]
    return np.concatenate([np.asarray(one, np.float32) for one in found])


def components(features: np.ndarray) -> np.ndarray:
    """Returns the first three principal components of `[N, D]`: `[N, 3]`, the largest first.

    Raises:
        PhotographError: for fewer than three patches, or features that are not finite.
    """
    if min(features.shape) < COMPONENTS:
        raise PhotographError(
            f"{features.shape[0]} patches of width {features.shape[1]} have no {COMPONENTS} "
            "principal components: expected more photographs or a lower --foreground"
        )
    if not np.isfinite(features).all():
        raise PhotographError("the features are not finite: the encoder has diverged, take another")
    return PCA(COMPONENTS, svd_solver="full").fit_transform(features)


def colors_of(
    features: np.ndarray, foreground: float | None = None, invert: bool = False
) -> np.ndarray:
    """Returns colours in [0, 1], `[B, L, 3]`; patches outside the foreground are black.

    Args:
        features: `[B, L, D]`.
        foreground: the threshold of the first component, scaled to [0, 1]; None for all patches.
        invert: whether the foreground is below it.
    """
    flat = features.reshape(-1, features.shape[-1])
    found = components(flat)
    kept = np.ones(len(flat), bool)
    if foreground is not None:
        first = _scaled(found[:, :1])[:, 0]
        kept = first < foreground if invert else first > foreground
        found = components(flat[kept])
    colors = np.zeros((len(flat), COMPONENTS))
    colors[kept] = _scaled(found)
    return colors.reshape(*features.shape[:2], COMPONENTS)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Scales each column to [0, 1], clipping the outermost hundredths."""
    low, high = np.percentile(values, CLIPPED, axis=0)
    return np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)


def draw_features(photos: Photographs, colors: np.ndarray) -> Image.Image:
    """Draws the sheet: a row for each photograph.

    Args:
        colors: from `colors_of`.
    """
    _, rows, columns = photos.encoder.grid
    blocks = []
    for name, image, values in zip(photos.names, photos.images, colors, strict=True):
        image = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, -1)
        small = np.round(255 * values.reshape(rows, columns, 3)).astype(np.uint8)
        size = image.shape[1], image.shape[0]
        large = Image.fromarray(small).resize(size, Image.Resampling.NEAREST)
        blocks.append({name: [image, np.asarray(large)]})
    return draw_sheet(
        blocks,
        ["photograph", "components"],
        f"features of block {photos.block}",
        "red, green, blue: the first three principal components of all patches together",
        SIDE,
    )


def main(argv: list[str] | None = None) -> None:
    """Draws the requested file."""
    parser = photograph_parser(
        "python -m hpm_jax.visualize.features", __doc__ or "", "features.png"
    )
    parser.add_argument(
        "--foreground", type=float, help="threshold of the first component, from 0 to 1"
    )
    parser.add_argument("--invert", action="store_true", help="keep patches below the threshold")
    options = parser.parse_args(argv)
    with one_sentence():
        if options.foreground is not None and not 0 <= options.foreground <= 1:
            raise PhotographError(
                f"--foreground={options.foreground}: expected a threshold from 0 to 1"
            )
        photos = load_photographs(options, cls_token=False)
        colors = colors_of(patch_features(photos), options.foreground, options.invert)
        out = as_path(options.out)
        with reported(out):
            draw_features(photos, colors).save(out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
