"""What is suggested for data and a machine, on a table of cases, and that a run keeps to it."""

import json

import pytest
from small_images import encode, photo

from hpm_jax.config import defaults, freeze
from hpm_jax.config.automatic import find_options
from hpm_jax.data import suggest as suggesting
from hpm_jax.data.suggest import DataFacts, Machine, suggest

CPU = Machine()
GPU = Machine("gpu", 1, 80 * 10**9, 16, True)
SMALL_GPU = Machine("gpu", 1, 8 * 10**9, 8, False)
TPU = Machine("tpu", 16, 16 * 10**9, 100, True)
PHOTOS = DataFacts(20_000, 375, 500)
CASES = [
    # data, machine, image size, patch, width, batch, dtype
    (DataFacts(60_000, 28, 28, 1, (), (0.1,), (0.3,)), CPU, (28, 28), 4, 128, 64, "float32"),
    (DataFacts(50_000, 32, 32), GPU, (32, 32), 4, 192, 256, "bfloat16"),
    (DataFacts(100_000, 64, 64), GPU, (64, 64), 8, 192, 256, "bfloat16"),
    (DataFacts(100_000, 96, 96), GPU, (96, 96), 8, 192, 256, "bfloat16"),
    (PHOTOS, GPU, (224, 224), 16, 384, 256, "bfloat16"),
    (PHOTOS, SMALL_GPU, (224, 224), 16, 384, 256, "float32"),
    (PHOTOS._replace(images=1_280_000), TPU, (224, 224), 16, 768, 1024, "bfloat16"),
    (PHOTOS._replace(images=100), GPU, (224, 224), 16, 384, 8, "bfloat16"),
    (DataFacts(9000, 128, 512, elongated=True), GPU, (128, 384), 8, 192, 256, "bfloat16"),
    (DataFacts(9000, 512, 128, elongated=True), GPU, (384, 128), 8, 192, 256, "bfloat16"),
]


@pytest.mark.parametrize(("facts", "machine", "size", "patch", "width", "batch", "dtype"), CASES)
def test_suggestions(facts, machine, size, patch, width, batch, dtype):
    found = suggest(facts, machine)
    assert found["data.image_size"] == size and found["model.patch_size"] == patch
    assert (found["model.width"], found["model.dtype"]) == (width, dtype)
    assert found["optimizer.batch_size"] == batch
    config = defaults()
    for name, value in found.items():
        *sections, last = name.split(".")
        section = config[sections[0]] if sections else config
        section[last] = value
    freeze(config)  # they go together


def test_batches_divide_over_devices_and_parts():
    for devices in (1, 3, 8, 16):
        for images in (20, 300, 10_000, 10**6):
            machine = Machine("gpu", devices, 12 * 10**9, 16, True)
            found = suggest(PHOTOS._replace(images=images), machine)
            batch, parts = found["optimizer.batch_size"], found["optimizer.accumulation"]
            assert batch % devices == 0 or batch == images
            assert batch % parts == 0 and batch <= images


def test_little_memory_accumulates():
    assert suggest(PHOTOS, GPU)["optimizer.accumulation"] == 1
    assert suggest(PHOTOS, SMALL_GPU)["optimizer.accumulation"] > 1


def test_what_is_given_wins_and_the_rest_follows():
    fixed = {"optimizer.epochs": 40, "data.image_size": (96, 96), "size": "B"}
    found = suggest(PHOTOS, GPU, fixed)
    assert found["optimizer.epochs"] == 40 and found["optimizer.warmup_epochs"] == 2
    assert "ramp_epochs=20" in found["teacher"]
    assert (found["data.image_size"], found["model.patch_size"]) == ((96, 96), 8)
    assert found["model.width"] == 768


def test_few_or_other_channels():
    facts = DataFacts(5000, 224, 224, 5, (0.0, 9000.0), (0.3,) * 5, (0.1,) * 5)
    found = suggest(facts, GPU)
    assert (found["data.channels"], found["data.value_range"]) == (5, (0.0, 9000.0))
    assert found["data.mean"] == (0.3,) * 5
    dark = PHOTOS._replace(mean=(0.05,) * 3, std=(0.1,) * 3)
    assert suggest(dark, GPU)["data.mean"] == (0.05,) * 3, "no photographs"
    assert suggest(PHOTOS, GPU)["data.mean"] == (0.485, 0.456, 0.406)


@pytest.fixture
def config(tmp_path):
    """The config of one's own images, for twenty small ones."""
    import runpy

    (tmp_path / "images").mkdir()
    for number in range(20):
        (tmp_path / "images" / f"{number}.png").write_bytes(encode(photo(30, 32, number)))

    def make(variant="", **data):
        config = runpy.run_path("configs/hpm_folder.py")["get_config"](variant)
        config.data.path = str(tmp_path / "images")
        config.data.update(data)
        return config

    return make


def test_options_are_found_and_printed(config):
    found = config()
    lines = find_options(found, (), "nowhere")
    assert found.data.image_size == (32, 32) and found.model.patch_size == 4
    assert "18 images, usually 30 x 32 with 3 channels" in lines[0]
    assert "  --config.data.image_size='(32,32)'" in lines
    freeze(found)


def test_variants_and_the_command_line_are_kept(config):
    found = config("S,epochs=7,pixels=64")
    found.model.dtype = "bfloat16"
    lines = find_options(found, ("model.dtype",), "nowhere")
    assert (found.model.width, found.data.image_size) == (384, (64, 64))
    assert (found.optimizer.epochs, found.optimizer.warmup_epochs) == (7, 0.35)
    assert found.model.dtype == "bfloat16" and "dtype" not in " ".join(lines)


def test_a_run_that_goes_on_does_not_change_its_mind(config, tmp_path, monkeypatch):
    from hpm_jax.fields import as_dict

    first = config()
    find_options(first, (), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(as_dict(freeze(first))))
    monkeypatch.setattr(suggesting, "this_machine", lambda: GPU)
    again, elsewhere = config(), config()
    assert find_options(again, (), tmp_path) == []
    assert freeze(again) == freeze(first)
    find_options(elsewhere, (), tmp_path / "other")
    assert freeze(elsewhere) != freeze(first), "the machine matters where a run begins"
