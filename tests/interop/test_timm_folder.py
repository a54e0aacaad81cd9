"""Folders for timm: `create_model` makes of them what computes as our models do."""

import dataclasses

import jax
import numpy as np
import pytest
import timm
import torch
from small_weights import DECODER, ENCODER, random_weights

from hpm_jax.convert import __main__ as command
from hpm_jax.convert.about import About
from hpm_jax.convert.folder import write_folder
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import classifier
from hpm_jax.convert.write import write_weights
from hpm_jax.tokens import patchify

ABOUT = About("runs/x", (0.4,), (0.2,), 0.8, "bilinear", classes=("cat", "dog", "hen"))
GREY = dataclasses.replace(ENCODER, channels=1)  # 12 x 20 pixels
IMAGES = np.random.default_rng(1).normal(size=(3, 12, 20, 1)).astype(np.float32)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("classes", [0, 3])
def test_create_model(tmp_path, pool, classes):
    weights = random_weights(dataclasses.replace(GREY, pool=pool, classes=classes))
    known = ABOUT if classes else ABOUT._replace(classes=())
    assert not write_folder(tmp_path / "vit", weights, "timm", known)
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).numpy()
    ours, patches = classifier(weights), patchify(IMAGES, (1, 4, 4))
    method = None if classes else "features"
    expected = jax.jit(lambda p: ours.apply({"params": p}, patches, method=method))(weights.params)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == [1, 12, 20] or tuple(config["input_size"]) == (1, 12, 20)
    assert list(config["mean"]) == [0.4] and list(config["std"]) == [0.2]
    assert (config["crop_pct"], config["interpolation"]) == (0.8, "bilinear")
    assert model.pretrained_cfg.get("label_names") == (["cat", "dog", "hen"] if classes else None)
    again = read_weights(tmp_path / "vit")
    assert again.architecture == weights.architecture


def test_the_command(tmp_path, capsys):
    source = tmp_path / "source.safetensors"
    a = dataclasses.replace(ENCODER, **DECODER, loss_predictor=True)
    write_weights(source, random_weights(a), "hpm")
    command.main([str(source), str(tmp_path / "vit"), "--names", "timm", "--check"])
    said = capsys.readouterr().out
    assert "in timm      encoder" in said and "read again" in said
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True)
    assert model.num_features == 32 and model.patch_embed.img_size == (12, 20)
