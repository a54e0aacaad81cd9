"""Whether segmentation learns eight photographs by heart: a run whose mean IoU has to pass 95 %.

    python -m benchmarks.overfit_segmentation --data /data/camvid --workdir runs/overfit

The first eight images of the folder's training split are reduced to 48 x 64, and are both what is
trained on and what is scored, without augmentation. Their label maps have the resolution of the
decoder's finest map, 24 x 32, as finer edges cannot be learned by it; classes of fewer than 50
pixels in all maps are left out. The encoder is the demo's (patches of 8). Exits with 1 if the mean
IoU is lower than --least.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from hpm_jax.config import defaults, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.data.label_maps import label_maps
from hpm_jax.tasks.segment import segment

SIZE = (48, 64)
FACTOR = 2  # side of a cell of the decoder's finest map, for patches of 8
FINEST = (SIZE[0] // FACTOR, SIZE[1] // FACTOR)
RARE = 50  # pixels
IMAGES = 8
DECODER = "upernet(channels=32, auxiliary_channels=16, dropout=0.0)"
DEMO = Path(__file__).parents[1] / "hpm_jax" / "demo" / "model.safetensors"


def reduce(source: Path, target: Path, ignored: int) -> None:
    """Writes the first images and label maps of `source`, small, as both splits of `target`."""
    config = defaults("segment")
    config.init_from = "not read"
    config.data.update(path=str(source), ignore_index=ignored)
    records = label_maps(freeze(config).data).train
    examples = [records[index] for index in range(IMAGES)]
    images = [read(example["image"]).resize(SIZE[::-1], Resampling.BOX) for example in examples]
    coarse = [
        read(example["label_map"]).resize(FINEST[::-1], Resampling.NEAREST) for example in examples
    ]
    counts = np.bincount(np.stack(coarse).ravel(), minlength=256) * FACTOR**2
    for index, (image, labels) in enumerate(zip(images, map(np.asarray, coarse), strict=True)):
        known = np.where(counts[labels] < RARE, ignored, labels).astype(np.uint8)
        label_map = Image.fromarray(known.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1))
        for folder, small in (("images", image), ("labels", label_map)):
            for split in ("train", "val"):
                path = target / folder / split / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                small.save(path)
    (target / "classes.txt").write_text((source / "classes.txt").read_text())


def read(data: bytes) -> Image.Image:
    """Opens an image in memory."""
    return Image.open(io.BytesIO(data))


def main() -> None:
    """Trains and prints the mean IoU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder in CamVid's layout")
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of the run")
    parser.add_argument("--decoder", default=DECODER, help="config.decoder of the run")
    parser.add_argument("--epochs", type=int, default=350, help="steps, of all eight images each")
    parser.add_argument("--ignored", type=int, default=11, help="value of pixels to leave out")
    parser.add_argument("--least", type=float, default=0.95, help="mean IoU to pass")
    options = parser.parse_args()
    small = options.workdir / "data"
    if not small.exists():
        reduce(options.data, small, options.ignored)
    config = defaults("segment")
    config.init_from = str(DEMO)
    config.data.update(path=str(small), ignore_index=options.ignored, image_size=SIZE, flip=0.0)
    config.augment.update(scale=(1.0, 1.0), max_share=1.0, photometric=False)
    config.model.update(drop_path=0.0, unroll=0)
    config.decoder = options.decoder
    config.optimizer.update(epochs=options.epochs, batch_size=IMAGES, layer_decay=1.0)
    config.optimizer.update(absolute_learning_rate=4e-3, warmup_epochs=10.0, weight_decay=0.0)
    config.evaluation.update(every_epochs=float(options.epochs), batch_size=IMAGES)
    config.run.update(checkpoint_every_epochs=float(options.epochs), log_every_steps=25)
    segment(freeze(inherit(config)), options.workdir / "run")
    scores = json.loads((options.workdir / "run" / "segmentation.json").read_text())
    print(f"mean IoU {scores['miou']:.2%}, pixel accuracy {scores['pixel_accuracy']:.2%}")
    sys.exit(scores["miou"] < options.least)


if __name__ == "__main__":
    main()
