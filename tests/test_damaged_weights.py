"""Weights of kinds that cannot be read, damaged notes, and targets that cannot be written."""

import importlib.util
import json
import re

import numpy as np
import pytest
from full_disk import no_file_larger_than
from small_weights import ENCODER, official_state, random_weights

from hpm_jax.config import ConfigError, defaults
from hpm_jax.config.inherit import inherit
from hpm_jax.convert import __main__ as command
from hpm_jax.convert.files import OURS, read_file, write_file
from hpm_jax.convert.preprocessing import normalization
from hpm_jax.convert.preprocessing import test_crop as crop_of
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import WeightsError
from hpm_jax.convert.write import write_weights

STATE = {"a": np.ones((4, 4), np.float32)}
NEEDS_TORCH = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch")
ENDINGS = [".safetensors", ".npz", pytest.param(".pth", marks=NEEDS_TORCH)]


# --- tensors


def quantised(torch):
    return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


UNREADABLE = {
    "sparse": (lambda torch: torch.ones(4, 4).to_sparse(), "a is a sparse_coo tensor"),
    "meta": (lambda torch: torch.empty(4, device="meta"), "a is a meta tensor"),
    "quantised": (quantised, "a is a quantised tensor"),
    "four bits": (
        lambda torch: torch.zeros(4, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "a holds float4_e2m1fn_x2, expected floats of 16, 32 or 64 bits",
    ),
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about what it saves
@pytest.mark.parametrize("kind", UNREADABLE)
def test_tensors_that_hold_no_numbers(tmp_path, kind):
    torch = pytest.importorskip("torch")
    make, message = UNREADABLE[kind]
    torch.save({"model": {"a": make(torch)}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message) as refusal:
        read_file(tmp_path / "a.pth")
    assert "\n" not in str(refusal.value) and "a.pth" in str(refusal.value)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn_x2"])
def test_floats_of_few_bits_in_safetensors(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensor = torch.zeros(4, 4, dtype=torch.uint8).view(getattr(torch, dtype))
    save_file({"a": tensor}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a holds F.*save the weights in float32"):
        read_file(tmp_path / "a.safetensors")


def test_names_and_numbers_of_another_kind(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": {0: torch.ones(4)}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="a tensor is called 0, expected names"):
        read_file(tmp_path / "a.pth")
    state = {name: torch.from_numpy(value) for name, value in official_state().items()}
    state["norm.bias"] = state["norm.bias"].to(torch.int32)
    torch.save({"model": state}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"norm.bias holds int32, expected floats"):
        read_weights(tmp_path / "b.pth", heads=4, decoder_heads=4)


@pytest.mark.parametrize("ending", ENDINGS)
def test_fifty_gigabytes(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write_file(path, STATE, {})
    with path.open("r+b") as file:
        file.truncate(50 * 2**30)  # takes no space on the disk
    with pytest.raises(WeightsError, match=r"has 53,687,091,200 bytes, expected at most"):
        read_weights(path)


# --- what stands beside the weights

NOTES = {
    "no text": (b"\xff", "is damaged"),
    "cut": (b'{"grid": [1, 3', "is damaged"),
    "a list": (b"[1]", "holds a list, expected options by name"),
    "no grid": (b'{"heads": 4}', "grid is None, expected three whole numbers"),
    "text": (b'{"grid": [1, 3, 5], "heads": "4", "decoder_heads": 0}', "heads is '4', expected"),
    "negative": (b'{"grid": [1, -3, 5], "heads": 4, "decoder_heads": 0}', "grid is -3, expected"),
    "huge": (
        b'{"grid": [1, 3, 5], "heads": 1e400, "decoder_heads": 0}',
        "heads is inf, expected a whole number",
    ),
}


@pytest.mark.parametrize("kind", [kind for kind in NOTES if kind != "no text"])
def test_damaged_notes(tmp_path, kind):
    from safetensors.numpy import save_file

    text, message = NOTES[kind]
    save_file(STATE, tmp_path / "a.safetensors", {OURS: text.decode()})
    np.savez(tmp_path / "a.npz", **STATE, **{OURS: text.decode()})
    for name in ("a.safetensors", "a.npz"):
        with pytest.raises(WeightsError, match=f"the note hpm_jax in .*{name}.*{message}"):
            read_weights(tmp_path / name)


CONFIGS = {
    "no text": (b"\xff", "config.json is damaged"),
    "cut": (b'{"model_type": "vit"', "config.json is damaged"),
    "a list": (b"[1]", "config.json holds a list, expected options by name"),
    "heads": (b'{"model_type": "vit", "num_attention_heads": "4"}', "heads is '4', expected"),
    "clip": (
        b'{"model_type": "videomae", "num_frames": 16, "image_size": 224, "patch_size": 0}',
        "patch_size is 0, expected a whole number from 1",
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_damaged_configs(tmp_path, kind):
    text, message = CONFIGS[kind]
    write_file(tmp_path / "model.safetensors", STATE, {})
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path)
    if kind in ("no text", "cut", "a list"):
        config = defaults("finetune")
        config.init_from = str(tmp_path)
        with pytest.raises(ConfigError, match=message):
            inherit(config)


def test_a_config_of_fifty_gigabytes(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(WeightsError, match=r"config.json has 53,687,091,200 bytes"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"mean": "0.5", "std": [0.5] * 3}, "are normalised by '0.5': expected one number for"),
        ({"mean": [0.5, None, 0.5], "std": [0.5] * 3}, "expected one number for each channel"),
        ({"crop_pct": "0.9", "input_size": [3, 12, 20]}, "crop_pct is '0.9', expected a share"),
        ("vit", "pretrained_cfg is a str, expected options by name"),
    ],
)
def test_damaged_preprocessing(tmp_path, told, message):
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": told}))
    with pytest.raises(WeightsError, match=message):
        normalization(tmp_path, ENCODER)
        crop_of(tmp_path, ENCODER, (12, 20))


# --- targets


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_the_old_file(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write_file(path, STATE, {})
    before = path.read_bytes()
    large = {"a": np.ones(2**16, np.float32)}
    with no_file_larger_than(2**12), pytest.raises(WeightsError, match=r"cannot write .*make room"):
        write_file(path, large, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
def test_targets_that_are_no_place(tmp_path, ending, capsys):
    source = tmp_path / "source.npz"
    write_weights(source, random_weights(ENCODER))
    (tmp_path / "file").touch()
    (tmp_path / f"folder{ending}").mkdir()
    for target, message in (
        (tmp_path / f"folder{ending}", "is a folder: name a file, such as"),
        (tmp_path / "file" / f"a{ending}", "cannot write .*(Not a directory|File exists)"),
    ):
        with pytest.raises(SystemExit) as end:
            command.main([str(source), str(target)])
        assert re.search(f"error: .*{message}", str(end.value)) and "\n" not in str(end.value)
    assert not list(tmp_path.rglob("*.new"))
