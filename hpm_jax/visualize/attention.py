"""Draws the attention of the cls token over photographs, for any encoder that can be read.

    python -m hpm_jax.visualize.attention --init_from=runs/mine photo.jpg another.jpg
    python -m hpm_jax.visualize.attention --init_from=mae_pretrain_vit_base.pth --block=9 photo.jpg

Each photograph has two rows or more: the photograph, the mean of the heads, then each head. The
picture shows the softmax of the model's own block for the query of the cls token. The attention of
the cls token to itself is printed, not drawn.
"""

import jax
import numpy as np
from matplotlib import colormaps
from PIL import Image

from hpm_jax.errors import one_sentence
from hpm_jax.storage import as_path, reported
from hpm_jax.visualize.masks import below
from hpm_jax.visualize.photographs import Photographs, load_photographs, photograph_parser
from hpm_jax.visualize.sheet import draw_sheet

SIDE = 192  # of a panel, pixels
COLUMNS = 7
STRENGTH = 0.65  # of the heat over the photograph


def cls_attention(photos: Photographs) -> np.ndarray:
    """Returns softmax weights `[B, heads, 1 + L]` float32 of the cls token in the last block.

    The cls token comes first, then registers if there are any; each row sums to 1. Images are
    encoded singly, so large ones fit.
    """

    @jax.jit
    def weights_of(params, images):
        patches = photos.tokenizer(images)
        return photos.encoder.apply(
            {"params": params}, patches, attention=True, method="outputs"
        ).attention

    found = [weights_of(photos.params, image[None]) for image in photos.images]
    return np.concatenate([np.asarray(one) for one in found])


def draw_attention(photos: Photographs, attention: np.ndarray) -> Image.Image:
    """Draws the sheet.

    Args:
        attention: from `cls_attention`.
    """
    _, rows, columns = photos.encoder.grid
    extra = photos.encoder.layout.extra_tokens
    maps = attention[:, :, extra:].reshape(*attention.shape[:2], rows, columns)
    sheets: list[Image.Image] = []
    for name, image, heads in zip(photos.names, photos.images, maps, strict=True):
        image = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, -1)
        panels = {name: image, "mean of heads": heated(image, heads.mean(axis=0))}
        for number, head in enumerate(heads):
            panels[f"head {number + 1}"] = heated(image, head)
        titles = list(panels)
        for start in range(0, len(titles), COLUMNS):
            part = titles[start : start + COLUMNS]
            title = f"attention of the cls token in block {photos.block}" if not sheets else ""
            end = name == photos.names[-1] and start + COLUMNS >= len(titles)
            note = "dark: the lowest, bright: the highest attention of each map" if end else ""
            sheets.append(draw_sheet([{"": [panels[x] for x in part]}], part, title, note, SIDE))
    return below(sheets)


def heated(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Overlays a photograph, uint8 `[H, W, 3]`, with the interpolated colours of a map `[h, w]`."""
    scaled = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    size = image.shape[1], image.shape[0]
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    heat = 255 * colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3]
    return np.round((1 - STRENGTH) * image + STRENGTH * heat).astype(np.uint8)


def main(argv: list[str] | None = None) -> None:
    """Draws the requested file."""
    parser = photograph_parser(
        "python -m hpm_jax.visualize.attention", __doc__ or "", "attention.png"
    )
    options = parser.parse_args(argv)
    with one_sentence():
        photos = load_photographs(options, cls_token=True)
        attention = cls_attention(photos)
        out = as_path(options.out)
        with reported(out):
            draw_attention(photos, attention).save(out)
    for name, own in zip(photos.names, attention[:, :, 0].mean(axis=1), strict=True):
        print(f"{name}: {own:.1%} of the attention is the cls token's to itself")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
