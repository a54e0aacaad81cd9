"""Folders for transformers: what its own loaders make of them computes what our models do."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from small_weights import DECODER, ENCODER, VIDEO_ENCODER, random_weights
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    VideoMAEForPreTraining,
    ViTMAEForPreTraining,
)

from hpm_jax.convert.about import About
from hpm_jax.convert.folder import write_folder
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import classifier, masked_autoencoder, masked_autoencoder_params
from hpm_jax.data.transforms import spread_views
from hpm_jax.targets.pixels import ChannelNormalizedPixels, NormalizedPixels, RawPixels
from hpm_jax.tokens import Mask, patchify

SQUARE = dataclasses.replace(ENCODER, grid=(1, 4, 4))
VIDEO = dataclasses.replace(VIDEO_ENCODER, grid=(2, 4, 4))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ABOUT = About("runs/x", MEAN, STD, 0.875, "bicubic", mask_ratio=0.75, target=RawPixels())


def pixels(a, seed=1):
    """Images or clips `[3, T, h, w, C]`, normalised."""
    size = [count * side for count, side in zip(a.grid, a.patch, strict=True)]
    return np.random.default_rng(seed).normal(size=(3, *size, a.channels)).astype(np.float32)


def in_torch(images):
    """`[B, C, h, w]`, or `[B, T, C, h, w]` of clips."""
    moved = torch.from_numpy(np.moveaxis(images, -1, 2))
    return moved if moved.shape[1] > 1 else moved[:, 0]


def here(weights, images, method):
    model, patches = classifier(weights), patchify(images, weights.architecture.patch)
    return jax.jit(lambda p: model.apply({"params": p}, patches, method=method))(weights.params)


def loaded(kind, folder, **options):
    """Every weight comes from the folder, and every weight of the folder is used."""
    model, told = kind.from_pretrained(folder, output_loading_info=True, **options)
    return model.eval(), {name: keys for name, keys in told.items() if keys}


def assert_close(found, expected):
    expected = np.asarray(expected)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4)


@pytest.mark.parametrize("grid", [(1, 4, 4), (1, 3, 5)])
def test_encoder_by_auto_model(tmp_path, grid):
    a = dataclasses.replace(ENCODER, grid=grid)
    weights = random_weights(dataclasses.replace(a, **DECODER, loss_predictor=True))
    notes = write_folder(tmp_path / "vit", weights, "hugging_face", ABOUT)
    model, told = loaded(AutoModel, tmp_path / "vit", mask_ratio=0.0)
    assert not told.get("missing_keys") and not told.get("mismatched_keys")
    images = pixels(a)
    order = torch.arange(a.patches).expand(3, -1) / a.patches
    with torch.no_grad():
        found = model(in_torch(images), noise=order).last_hidden_state
    assert_close(found, here(weights, images, lambda m, x: m.encoder(x)))
    square = grid[1] == grid[2]
    assert ("loss predictor" if square else "config.data.image_size") in notes[0]


@pytest.mark.parametrize("target", [RawPixels, NormalizedPixels])
def test_masked_autoencoder(tmp_path, target):
    weights = random_weights(dataclasses.replace(SQUARE, **DECODER, loss_predictor=True))
    write_folder(tmp_path / "mae", weights, "hugging_face", ABOUT._replace(target=target()))
    model, told = loaded(ViTMAEForPreTraining, tmp_path / "mae")
    assert not told
    assert model.config.norm_pix_loss == (target is NormalizedPixels)
    images, noise = pixels(SQUARE), np.random.default_rng(2).random((3, 16), dtype=np.float32)
    with torch.no_grad():
        found = model(in_torch(images), noise=torch.from_numpy(noise)).logits.numpy()
    order = np.argsort(noise, axis=1).astype(np.int32)
    mask = Mask(*(np.sort(part, axis=1) for part in (order[:, :4], order[:, 4:])))
    ours = masked_autoencoder(weights)
    params = {"params": masked_autoencoder_params(weights)}
    values = jax.jit(ours.apply)(params, patchify(images, SQUARE.patch), mask).values
    assert_close(np.take_along_axis(found, mask.hide[..., None], axis=1), values)


@pytest.mark.parametrize(
    ("pool", "grid"), [("cls", (1, 4, 4)), ("cls", (1, 3, 5)), ("mean", (1, 4, 4))]
)
def test_classifier_of_images(tmp_path, pool, grid):
    weights = random_weights(dataclasses.replace(ENCODER, grid=grid, classes=3, pool=pool))
    known = ABOUT._replace(classes=("cat", "dog", "hen"))
    assert not write_folder(tmp_path / "vit", weights, "hugging_face", known)
    model, told = loaded(AutoModelForImageClassification, tmp_path / "vit")
    assert not told
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "hen"}
    images = pixels(weights.architecture)
    with torch.no_grad():
        assert_close(model(in_torch(images)).logits, here(weights, images, None))
    again = read_weights(tmp_path / "vit")
    assert again.architecture == weights.architecture
    assert_close(here(again, images, None), here(weights, images, None))


def test_video_encoder_and_masked_autoencoder(tmp_path):
    weights = random_weights(dataclasses.replace(VIDEO, **DECODER, loss_predictor=True))
    known = ABOUT._replace(target=ChannelNormalizedPixels())
    write_folder(tmp_path / "video", weights, "hugging_face", known)
    model, told = loaded(AutoModel, tmp_path / "video")
    assert not told.get("missing_keys") and not told.get("mismatched_keys")
    videos = pixels(VIDEO)
    with torch.no_grad():
        found = model(in_torch(videos)).last_hidden_state
    assert_close(found, here(weights, videos, lambda m, x: m.encoder(x)))
    model, told = loaded(VideoMAEForPreTraining, tmp_path / "video")
    assert not told
    index = np.arange(VIDEO.patches, dtype=np.int32)
    keep, hide = (np.tile(x, (3, 1)) for x in (index[index % 4 == 0], index[index % 4 > 0]))
    with torch.no_grad():
        hidden = torch.from_numpy(np.tile(index % 4 > 0, (3, 1)))
        found = model(in_torch(videos), bool_masked_pos=hidden).logits
    ours, params = masked_autoencoder(weights), {"params": masked_autoencoder_params(weights)}
    patches = patchify(videos, VIDEO.patch)
    assert_close(found, jax.jit(ours.apply)(params, patches, Mask(keep, hide)).values)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("grid", [(2, 4, 4), (2, 3, 5)])
def test_classifier_of_videos(tmp_path, pool, grid):
    weights = random_weights(dataclasses.replace(VIDEO, grid=grid, classes=3, pool=pool))
    write_folder(tmp_path / "video", weights, "hugging_face", ABOUT)
    model, told = loaded(AutoModelForVideoClassification, tmp_path / "video")
    assert not told
    videos = pixels(weights.architecture)
    with torch.no_grad():
        assert_close(model(in_torch(videos)).logits, here(weights, videos, None))


def options(size, crop):
    from hpm_jax.config import Data

    return Data(image_size=size, test_crop=crop, mean=MEAN, std=STD)


@pytest.mark.parametrize("found", [(40, 64), (64, 40), (18, 18)])
def test_preprocessing_is_that_of_our_evaluation(tmp_path, found):
    """To half a level of grey: their resizing rounds elsewhere."""
    weights = random_weights(dataclasses.replace(SQUARE, classes=3))
    write_folder(tmp_path / "vit", weights, "hugging_face", ABOUT)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "vit")
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (*found, 3), dtype=np.uint8)
    theirs = processor(images=image, return_tensors="np")["pixel_values"][0]
    (view,) = spread_views(*found, options((16, 16), 0.875), 1)
    ours = (view.apply_image(image) / 255.0 - np.array(MEAN)) / np.array(STD)
    difference = np.abs(theirs.transpose(1, 2, 0) - ours) * np.array(STD) * 255
    assert difference.max() < 1.6 and difference.mean() < 0.6
    assert np.abs(ours).max() > 1


def test_what_is_written(tmp_path):
    weights = random_weights(dataclasses.replace(SQUARE, **DECODER))
    write_folder(tmp_path / "vit", weights, "hugging_face", ABOUT)
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    assert config["layer_norm_eps"] == 1e-6 and config["mask_ratio"] == 0.75
    told = json.loads((tmp_path / "vit" / "preprocessor_config.json").read_text())
    assert told["image_mean"] == list(MEAN) and told["size"] == {"shortest_edge": 18}
