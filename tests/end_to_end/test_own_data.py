"""Short runs on data of one's own: volumes as slices and blocks, tar files, deep bands; resumed."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from commands import finish
from PIL import Image

from hpm_jax.data.suggest import Machine

TESTS = Path(__file__).parents[1]
CONFIG = f"""
import sys

sys.path.insert(0, {str(TESTS)!r})
from small import small_options


def get_config():
    config = small_options()
    config.optimizer.update(epochs=2, batch_size=8, warmup_epochs=0.5)
    config.evaluation.update(every_epochs=2.0, test_images=4, bank_images=8, batch_size=4)
    config.data.holdout = 0.2
    config.run.log_every_steps = 1
    return config
"""


def volumes(folder):
    rng = np.random.default_rng(0)
    for number in range(15):
        np.save(folder / f"{number}.npy", rng.normal(0, 300, (8, 20, 24)).astype(np.float32))


def tars(folder):
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number in range(20):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (20, 24), np.uint8)).save(file, "PNG")
            info = tarfile.TarInfo(f"{number:03}.png")
            info.size = len(file.getvalue())
            tar.addfile(info, io.BytesIO(file.getvalue()))


def bands(folder):
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 5000, (20, 18, 18, 4), dtype=np.uint16))
    np.save(folder / "labels.npy", np.arange(20) % 2)


RANGE = "--config.data.value_range=(-1000.0,1000.0)"
FOUR = ["--config.data.channels=4", "--config.data.value_range=(0.0,5000.0)"]
FOUR += [f"--config.data.{name}=(0.5,0.5,0.5,0.5)" for name in ("mean", "std")]
BLOCKS = ["--config.data.frames=4", "--config.data.frame_stride=1", "--config.model.tubelet=2"]
BLOCKS += ["--config.model.layout=videomae", "--config.evaluation.pool=mean"]
KINDS = {
    "slices": ("volumes", volumes, [RANGE]),
    "blocks": ("volumes", volumes, [RANGE, *BLOCKS]),
    "tars": ("webdataset", tars, []),
    "bands": ("numpy", bands, FOUR),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_run_and_its_end(kind, tmp_path):
    source, make, options = KINDS[kind]
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    (tmp_path / "tiny.py").write_text(CONFIG)
    options = [
        f"--config.data.source={source}",
        f"--config.data.path={tmp_path / 'data'}",
        *options,
    ]
    workdir = tmp_path / "run"
    code, output = finish(tmp_path / "tiny.py", workdir, *options)
    assert code == 0, output
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses and np.isfinite(losses).all()
    assert list((workdir / "pictures").glob("step_*.png"))
    code, output = finish(tmp_path / "tiny.py", workdir, *options)
    assert code == 0, f"the data is what the run began with: {output}"


def test_a_folder_finds_its_setting_and_keeps_it(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(20):
        image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        image.save(tmp_path / "data" / f"{number}.png")
    options = [f"--config.data.path={tmp_path / 'data'}", "--config.optimizer.epochs=1"]
    options += ["--config.model.depth=1", "--config.evaluation.every_epochs=0.0"]
    config = TESTS.parent / "configs" / "hpm_folder.py"
    code, output = finish(config, tmp_path / "run", *options)
    assert code == 0, output
    assert "found for 18 images, usually 12 x 12 with 3 channels" in output
    assert "--config.data.image_size='(12,12)'" in output and "model.depth" not in output
    there = json.loads((tmp_path / "run" / "config.json").read_text())
    assert there["data"]["image_size"] == [12, 12] and Machine().platform == "cpu"
    Image.new("RGB", (300, 300)).save(tmp_path / "data" / "0.png")
    code, output = finish(config, tmp_path / "run", *options, "--config.run.accept_new_data=True")
    assert code == 0 and "found for" not in output, output
