"""PyTorch's pickled files: the official ones are read, and nothing in any file is executed."""

import argparse
import dataclasses
import os
import pickle

import jax
import numpy as np
import pytest
import torch
from small_weights import DECODER, ENCODER, random_weights

from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import to_state_dict
from hpm_jax.convert.weights import WeightsError
from hpm_jax.convert.write import write_weights

MODEL = dataclasses.replace(ENCODER, **DECODER, loss_predictor=True)
SIZES = {"heads": 4, "decoder_heads": 2, "grid": (3, 5)}


def tensors(weights, prefix=""):
    state = to_state_dict(weights, "hpm")
    return {prefix + name: torch.from_numpy(value.copy()) for name, value in state.items()}


def assert_same(actual, expected):
    assert actual.architecture == expected.architecture
    jax.tree.map(np.testing.assert_array_equal, actual.params, expected.params)


def everything_around(weights):
    """What training scripts save beside the weights."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter]).state_dict()
    args = argparse.Namespace(lr=1e-3, output_dir="out")
    return weights | {"optimizer": optimizer, "epoch": 3, "scaler": {}, "args": args}


@pytest.mark.parametrize("old_format", [False, True])
def test_official_hpm(tmp_path, old_format):
    student, teacher = random_weights(MODEL, 1), random_weights(MODEL, 2)
    content = {
        "state_dict": tensors(student, "module."),
        "ema_state_dict": tensors(teacher),
    }
    path = tmp_path / "hpm.pth"
    torch.save(everything_around(content), path, _use_new_zipfile_serialization=not old_format)
    assert_same(read_weights(path, **SIZES), student)
    assert_same(read_weights(path, which="teacher", **SIZES), teacher)


def test_official_mae(tmp_path):
    weights = random_weights(dataclasses.replace(MODEL, loss_predictor=False))
    torch.save(everything_around({"model": tensors(weights)}), tmp_path / "mae.pth")
    assert_same(read_weights(tmp_path / "mae.pth", **SIZES), weights)
    with pytest.raises(WeightsError, match=r"holds model, optimizer, .*the teacher's weights"):
        read_weights(tmp_path / "mae.pth", which="teacher", **SIZES)


def test_a_state_dict_alone_in_half_precision(tmp_path):
    weights = random_weights(MODEL)
    positions = ("pos_embed", "decoder_pos_embed")
    half = {n: t if n in positions else t.bfloat16() for n, t in tensors(weights).items()}
    torch.save(half, tmp_path / "pytorch_model.bin")
    found = to_state_dict(read_weights(tmp_path / "pytorch_model.bin", **SIZES), "hpm")
    for name, value in half.items():
        np.testing.assert_array_equal(found[name], value.float().numpy(), err_msg=name)


@pytest.mark.parametrize("ending", ["pth", "pt"])
def test_ours_out_and_in(tmp_path, ending):
    weights, path = random_weights(MODEL), tmp_path / f"hpm.{ending}"
    write_weights(path, weights, "hpm")
    assert_same(read_weights(path), weights)
    state = torch.load(path)["model"]
    for name, value in to_state_dict(weights, "hpm").items():
        np.testing.assert_array_equal(state[name].numpy(), value, err_msg=name)


class Malicious:
    """Makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_plain_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, save_plain_pickle])
def test_nothing_is_executed(tmp_path, save):
    made, path = tmp_path / "made", tmp_path / "a.pth"
    save({"model": {"cls_token": np.pi}, "args": Malicious(made)}, path)
    with pytest.raises(WeightsError, match=r"holds more than weights \(posix\.mkdir\)"):
        read_weights(path)
    assert not made.exists()
    if save is torch.save:
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert made.exists(), "the file was harmless, and the test shows nothing"


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_truncated(tmp_path, old_format, kept):
    path = tmp_path / "a.pth"
    content = {"model": tensors(random_weights(MODEL))}
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(WeightsError, match=r"a\.pth is not whole, or no file of weights"):
        read_weights(path, **SIZES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3.0, "holds a float, expected a state dict"),
        ({"model": 3.0}, "holds model: expected the student's weights under model or state_dict"),
        ({}, "holds nothing: expected"),
        ({"model": {"cls_token": 3.0}}, "cls_token is a float, expected a tensor"),
        ({"optimizer": {}, "epoch": 3}, "holds optimizer, epoch: expected"),
        (torch.zeros(3), "holds a Tensor, expected a state dict"),
    ],
)
def test_no_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "a.pth")
