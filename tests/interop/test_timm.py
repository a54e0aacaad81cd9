"""Our weights in a real timm, loaded strictly, and timm's weights here: the same numbers."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from small_weights import DECODER, ENCODER, random_weights
from timm.models import load_checkpoint
from timm.models.vision_transformer import VisionTransformer

from hpm_jax.convert import __main__ as command
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import from_state_dict
from hpm_jax.convert.weights import classifier
from hpm_jax.convert.write import write_weights
from hpm_jax.tokens import patchify

IMAGES = np.random.default_rng(1).normal(size=(3, 12, 20, 3)).astype(np.float32)
SIZES = {"img_size": (12, 20), "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
POOLS = {"cls": "token", "mean": "avg"}


def in_timm(model):
    """Features and logits, `[B, D]` and `[B, classes]`."""
    with torch.no_grad():
        tokens = model.eval().forward_features(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)))
        return [model.forward_head(tokens, pre_logits=only).numpy() for only in (True, False)]


def here(weights):
    """The same by our model; without a head the features are all there is."""
    model, patches = classifier(weights), patchify(IMAGES, (1, 4, 4))

    def outputs(model, patches):
        features = model.features(patches)
        return [features, model(patches) if weights.architecture.classes else features]

    apply = jax.jit(lambda params: model.apply({"params": params}, patches, method=outputs))
    return apply(weights.params)


def assert_close(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("classes", [0, 7])
def test_ours_in_timm(tmp_path, ending, pool, classes):
    weights = random_weights(dataclasses.replace(ENCODER, pool=pool, classes=classes))
    path = tmp_path / f"vit.{ending}"
    write_weights(path, weights, "timm")
    model = VisionTransformer(**SIZES, num_classes=classes, global_pool=POOLS[pool])
    load_checkpoint(model, str(path), strict=True)
    assert_close(in_timm(model), here(weights))


def test_our_pretrained_encoder_in_timm(tmp_path):
    weights = random_weights(dataclasses.replace(ENCODER, **DECODER, loss_predictor=True))
    write_weights(tmp_path / "vit.pth", weights, "timm")
    model = VisionTransformer(**SIZES, num_classes=0)
    model.load_state_dict(torch.load(tmp_path / "vit.pth")["model"], strict=True)
    assert_close(in_timm(model), here(weights))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("classes", [0, 7])
def test_timm_here(tmp_path, pool, classes):
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES, num_classes=classes, global_pool=POOLS[pool])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save({"state_dict": model.state_dict(), "arch": "vit"}, tmp_path / "timm.pth")
    weights = read_weights(tmp_path / "timm.pth", heads=4, grid=(3, 5))
    assert_close(here(weights), in_timm(model))


def test_a_timm_model_of_a_known_size_needs_nothing():
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=192, depth=1, num_heads=3)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    architecture = from_state_dict(state).architecture
    assert (architecture.grid, architecture.heads, architecture.classes) == ((1, 4, 4), 3, 1000)


def test_check(tmp_path, capsys, monkeypatch):
    source, target = tmp_path / "source.safetensors", tmp_path / "target.safetensors"
    write_weights(source, random_weights(dataclasses.replace(ENCODER, classes=7, pool="mean")))
    command.main([str(source), str(target), "--check"])
    said = capsys.readouterr().out
    for output in ("encoder", "features", "logits"):
        assert f"in timm      {output}" in said

    def read_other(*_):
        return random_weights(dataclasses.replace(ENCODER, classes=7, pool="mean"), seed=1)

    monkeypatch.setattr(command, "read_weights", read_other)
    monkeypatch.setattr(command, "write_weights", lambda *_: None)
    with pytest.raises(SystemExit, match=r"^error: .* differs by"):
        command.main([str(source), str(target), "--check"])
