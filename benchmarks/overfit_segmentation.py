"""Whether segmentation learns eight photographs by heart: a run whose mean IoU has to pass 95 %.

    python -m benchmarks.overfit_segmentation --data /data/camvid --workdir runs/overfit

The first eight images of the folder's training split are reduced to 48 x 64, and are both what is
trained on and what is scored, without augmentation. The encoder is the demo's (patches of 8). With
--decoder linear_head every patch has one vector of logits, and edges stay rough. Exits with 1 if
the mean IoU is lower than --least.
"""

import argparse
import io
import json
import sys
from pathlib import Path

from PIL import Image

from hpm_jax.config import defaults, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.data.label_maps import label_maps
from hpm_jax.tasks.segment import segment

SIZE = (48, 64)
IMAGES = 8
DECODER = "upernet(channels=32, auxiliary_channels=16, dropout=0.0)"
DEMO = Path(__file__).parents[1] / "hpm_jax" / "demo" / "model.safetensors"


def reduce(source: Path, target: Path, ignored: int) -> None:
    """Writes the first images and label maps of `source`, small, as both splits of `target`."""
    config = defaults("segment")
    config.init_from = "not read"
    config.data.update(path=str(source), ignore_index=ignored)
    records = label_maps(freeze(config).data).train
    for index in range(IMAGES):
        example = records[index]
        for folder, name in (("images", "image"), ("labels", "label_map")):
            method = Image.Resampling.BOX if name == "image" else Image.Resampling.NEAREST
            whole = Image.open(io.BytesIO(example[name]))
            small = whole.resize(SIZE[::-1], method)
            for split in ("train", "val"):
                path = target / folder / split / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                small.save(path)
    (target / "classes.txt").write_text((source / "classes.txt").read_text())


def main() -> None:
    """Trains and prints the mean IoU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder in CamVid's layout")
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of the run")
    parser.add_argument("--decoder", default=DECODER, help="config.decoder of the run")
    parser.add_argument("--epochs", type=int, default=400, help="steps, of all eight images each")
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
