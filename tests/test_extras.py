"""Optional libraries: what needs one that is missing names its extra; nothing else needs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpm_jax.config import ConfigError, Data
from hpm_jax.data.sources import SOURCES
from hpm_jax.detection.rasters import pycocotools
from hpm_jax.run.metrics import MetricsWriter, read_lines

ROOT = Path(__file__).parent.parent
OPTIONAL = (
    "av", "tensorboard", "tensorflow_datasets", "gcsfs", "torch", "wandb", "onnx", "pyarrow",
    "datasets", "tifffile", "imagecodecs", "nibabel", "pycocotools",
)  # fmt: skip
IMPORTS_EVERYTHING = f"""
import importlib, pkgutil, sys

class Missing:
    def find_spec(name, path, target=None):
        if name in {OPTIONAL}:
            raise ImportError(name + " is missing")

sys.meta_path.insert(0, Missing)
import hpm_jax
for module in pkgutil.walk_packages(hpm_jax.__path__, "hpm_jax."):
    if module.name not in ("hpm_jax.data.video", "hpm_jax.configs"):
        importlib.import_module(module.name)
"""


def test_only_the_decoder_of_videos_imports_an_optional_library():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_EVERYTHING], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("av", "video_folder", 'needs the extra "video": pip install av'),
        ("av", "video_csv", 'needs the extra "video": pip install av'),
        ("tensorflow_datasets", "tfds", 'needs the extra "tfds": pip install tensorflow-datasets'),
    ],
)
def test_sources(module, source, says, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"config.data.source = '{source}' {says}"):
        SOURCES[source](Data(source=source, path="/data", name="x", frames=4))


def test_detection_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    says = 'the task detect needs the extra "coco": pip install pycocotools'
    with pytest.raises(ConfigError, match=says):
        pycocotools("the task detect")


def test_without_tensorboard_the_numbers_are_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    said = []
    writer = MetricsWriter(tmp_path, say=said.append)
    writer.write(5, {"loss": 0.5})
    writer.write_picture(5, "masks", b"")
    writer.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 5, "loss": 0.5}]
    assert not (tmp_path / "tensorboard").exists()
    assert said == [
        'tensorboard/ in the workdir needs the extra "tensorboard": pip install tensorboard; '
        "metrics.jsonl has every number"
    ]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    from hpm_jax import extras

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(
        extras.MissingPackage, match='needs the extra "volumes": pip install nibabel'
    ):
        extras.import_extra("nibabel", "volumes", "a .nii file")
