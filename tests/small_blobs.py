"""Small images of discs and squares in COCO's layout."""

import json

import numpy as np
from PIL import Image

CLASSES = ("disc", "square")
COLORS = np.array([[220, 60, 40], [40, 90, 220]])


def blob(rng, size=(48, 64)):
    """Two to four objects on grey: image, and of each object class, box and polygon."""
    image = rng.integers(110, 131, (*size, 3))
    row, column = np.mgrid[: size[0], : size[1]]
    objects, taken = [], np.zeros(size, bool)
    for _ in range(int(rng.integers(2, 5))):
        kind, side = int(rng.integers(2)), int(rng.integers(8, 18))
        top, left = (int(rng.integers(0, length - side)) for length in size)
        if taken[top : top + side, left : left + side].any():
            continue
        taken[top : top + side, left : left + side] = True
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        center = np.array([left, top]) + side / 2
        polygon = center + side / 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        inside = (row + 0.5 - center[1]) ** 2 + (column + 0.5 - center[0]) ** 2 <= side**2 / 4
        if kind == 1:
            corners = np.array([[0, 0], [side, 0], [side, side], [0, side]])
            polygon = corners + np.array([left, top])
            inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
        image[inside] = COLORS[kind]
        objects.append((kind, [left, top, side, side], polygon.ravel().tolist()))
    return image.astype(np.uint8), objects


def write_blobs(root, counts=None, size=(48, 64), masks=True):
    """Writes `annotations/<split>.json` and `<split>/*.png`; returns `root`."""
    rng = np.random.default_rng(0)
    for split, count in (counts or {"train": 6, "val": 3}).items():
        images, annotations = [], []
        (root / split).mkdir(parents=True)
        for number in range(1, count + 1):
            image, objects = blob(rng, size)
            name = f"blob_{number}.png"
            Image.fromarray(image).save(root / split / name)
            shape = {"height": size[0], "width": size[1]}
            images.append({"id": number, "file_name": name, **shape})
            for kind, box, polygon in objects:
                one = {"id": len(annotations) + 1, "image_id": number, "category_id": 3 * kind + 1}
                one |= {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                annotations.append(one | ({"segmentation": [polygon]} if masks else {}))
        write_annotations(root, split, images, annotations)
    return root


def write_annotations(root, split, images, annotations, classes=CLASSES):
    """Writes an annotation file; ids of categories are 1, 4, ..."""
    categories = [{"id": 3 * place + 1, "name": name} for place, name in enumerate(classes)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(document))


def change(root, split, **changes):
    """Changes the first annotation of a split; returns the file."""
    path = root / "annotations" / f"{split}.json"
    document = json.loads(path.read_text())
    document["annotations"][0] |= changes
    path.write_text(json.dumps(document))
    return path
