"""Our graphs in onnxruntime: the same numbers, for any batch size."""

import dataclasses
import sys

import numpy as np
import onnx
import pytest
from small_weights import DECODER, ENCODER, VIDEO_ENCODER, random_weights

from hpm_jax.convert import __main__ as command
from hpm_jax.convert import to_onnx
from hpm_jax.convert.about import About
from hpm_jax.convert.check import onnx_differences
from hpm_jax.convert.to_onnx import onnx_outputs, write_onnx
from hpm_jax.convert.weights import WeightsError
from hpm_jax.convert.write import write_weights
from hpm_jax.errors import ConfigError

MAE_ST = dataclasses.replace(VIDEO_ENCODER, layout="mae_st")
KINDS = {
    "encoder": dataclasses.replace(ENCODER, **DECODER, loss_predictor=True),
    "grey": dataclasses.replace(ENCODER, channels=1),
    "cls": dataclasses.replace(ENCODER, classes=3),
    "mean": dataclasses.replace(ENCODER, classes=3, pool="mean"),
    "videomae": VIDEO_ENCODER,
    "videomae classifier": dataclasses.replace(VIDEO_ENCODER, classes=3, pool="mean"),
    "mae_st": MAE_ST,
    "mae_st classifier": dataclasses.replace(MAE_ST, classes=3, pool="mean"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers(tmp_path, kind):
    weights = random_weights(KINDS[kind])
    write_onnx(tmp_path / "encoder.onnx", weights)
    found = onnx_differences(weights, tmp_path / "encoder.onnx")
    assert found.keys() == {"encoder", "features"} | ({"logits"} if KINDS[kind].classes else set())
    assert max(found.values()) < 1e-4


def test_any_batch_size(tmp_path):
    path = tmp_path / "encoder.onnx"
    write_onnx(path, random_weights(KINDS["cls"]))
    images = np.random.default_rng(0).normal(size=(5, 3, 12, 20)).astype(np.float32)
    whole = onnx_outputs(path, images)
    assert whole["logits"].shape == (5, 3) and np.abs(whole["logits"]).max() > 0.1
    for name, value in onnx_outputs(path, images[2:3]).items():
        np.testing.assert_allclose(value, whole[name][2:3], atol=1e-5)


def test_it_tells_how_images_are_normalised(tmp_path):
    known = About("runs/x", (0.4, 0.5, 0.6), (0.2,) * 3, 0.8, "bilinear", classes=("cat", "dog"))
    write_onnx(tmp_path / "encoder.onnx", random_weights(ENCODER), known)
    properties = {x.key: x.value for x in onnx.load(tmp_path / "encoder.onnx").metadata_props}
    assert properties == {"mean": "0.4 0.5 0.6", "std": "0.2 0.2 0.2", "classes": "cat\ndog"}


def test_the_command(tmp_path, capsys):
    source, target = tmp_path / "source.safetensors", tmp_path / "encoder.onnx"
    write_weights(source, random_weights(KINDS["mean"]), "timm")
    command.main([str(source), str(target), "--check"])
    assert "in onnx      logits" in capsys.readouterr().out
    for arguments, says in (
        ([str(source), str(tmp_path / "a.onnx"), "--names", "timm"], "--names timm is for weights"),
        ([str(source), str(tmp_path / "b.onnx")], r"b\.onnx is a folder"),
    ):
        (tmp_path / "b.onnx").mkdir(exist_ok=True)
        with pytest.raises(SystemExit, match=f"^error: .*{says}"):
            command.main(arguments)
    assert not (tmp_path / "a.onnx").exists()


def test_what_cannot_be_written(tmp_path, monkeypatch):
    weights = random_weights(ENCODER)
    monkeypatch.setattr(to_onnx, "LARGEST", 1000)
    with pytest.raises(WeightsError, match=r"a file of ONNX has at most 1,000"):
        write_onnx(tmp_path / "encoder.onnx", weights)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match='needs the extra "onnx": pip install onnx'):
        write_onnx(tmp_path / "encoder.onnx", weights)
    assert not list(tmp_path.iterdir())
