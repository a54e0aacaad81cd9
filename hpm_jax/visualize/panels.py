"""Everything that is drawn of a model, as panels of pixels."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap

from hpm_jax.visualize.view import FATE_COLORS, View, enlarge, losses_of, pixels_of


def panels_of(images: np.ndarray, view: View) -> dict[str, np.ndarray]:
    """Returns all panels as pixels, uint8 `[B, (T,) H, W, 3]`; losses are scaled per image."""
    pixels = pixels_of(images, view)
    heat = colormaps["magma"].with_extremes(bad=FATE_COLORS[0])  # patches without a true loss
    maps = {name: heat(_scaled(loss), bytes=True) for name, loss in losses_of(view).items()}
    maps["mask"] = ListedColormap(FATE_COLORS)(view.status, bytes=True)
    return {name: np.round(255 * panel).astype(np.uint8) for name, panel in pixels.items()} | {
        name: enlarge(colors[..., :3], pixels["input"]) for name, colors in maps.items()
    }


def _scaled(losses: np.ndarray) -> np.ma.MaskedArray:
    """Scales losses of each image or clip from 0 (lowest) to 1 (highest); NaN is masked."""
    values = np.ma.masked_invalid(losses)
    axes = tuple(range(1, losses.ndim))
    low, high = (f(axes, keepdims=True) for f in (values.min, values.max))
    return (values - low) / np.maximum(high - low, 1e-12)
