"""Small folders of images and label maps, in the layouts of CamVid and of ADE20K."""

import numpy as np
from PIL import Image

CLASSES = ("sky", "road", "car")
COLORS = np.array([[40, 90, 220], [120, 120, 120], [220, 40, 30]], np.uint8)
VOID = 11


def scene(rng, size=(24, 32), step=1):
    """Sky over road, with a car on it and unlabelled pixels at the right: image and label map.

    All edges are at multiples of `step`.
    """
    height, width = size
    horizon = int(rng.integers(height // 4, height // 2)) // step * step
    labels = np.zeros(size, np.uint8)
    labels[horizon:] = 1
    top, left = rng.integers(horizon, height - 6), rng.integers(2, width - 12)
    top, left = top // step * step, left // step * step
    down, across = -(-6 // step) * step, -(-10 // step) * step
    labels[top : top + down, left : left + across] = 2
    image = COLORS[labels].astype(int) + rng.integers(-12, 13, (*size, 3))
    labels[:, -2:] = VOID
    return image.clip(0, 255).astype(np.uint8), labels


def write_scenes(root, counts=None, size=(24, 32), step=1):
    """Writes `images/<split>`, `labels/<split>` and `classes.txt`, as CamVid's; returns `root`."""
    rng = np.random.default_rng(0)
    for split, count in (counts or {"train": 6, "val": 3}).items():
        for number in range(count):
            image, labels = scene(rng, size, step)
            write_pair(root, split, f"scene_{number}", image, labels)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def write_pair(root, split, name, image, labels, labels_folder="labels", ending="png"):
    """Writes one image and its label map."""
    for folder, file, array in (
        ("images", f"{name}.{ending}", image),
        (labels_folder, f"{name}.png", labels),
    ):
        path = root / folder / split / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
