"""Hugging Face's VideoMAE here: the same loss for the same mask, the same logits.

Its layer norms have an eps of 1e-12 by default, and of PyTorch's 1e-5 after the decoder and after
mean pooling. Those of VideoMAE and ours have 1e-6, so that theirs are set to it before comparing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from small_weights import DECODER, VIDEO_ENCODER, assert_same_weights, random_weights
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
)

from hpm_jax.config.shared import IMAGENET_MEAN, IMAGENET_STD
from hpm_jax.convert import __main__ as command
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import from_state_dict, to_state_dict
from hpm_jax.convert.weights import classifier, masked_autoencoder, masked_autoencoder_params
from hpm_jax.losses import squared_error
from hpm_jax.targets import TARGETS, TargetContext
from hpm_jax.tokens import Mask, Tokenizer, gather, patchify

VIDEOS = np.random.default_rng(1).normal(size=(3, 6, 24, 24, 3)).astype(np.float32)
PATCHES, PATCH = 3 * 6 * 6, (2, 4, 4)
SIZES = {
    "image_size": 24,
    "patch_size": 4,
    "num_frames": 6,
    "tubelet_size": 2,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-6,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}


def randomized(model):
    """Every parameter random, every layer norm with the eps of VideoMAE."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    return model.eval()


def read_from_folder(model, folder):
    model.save_pretrained(folder)
    return read_weights(folder)


def read_from_file(model, folder):
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    return read_weights(path, heads=4, decoder_heads=2, grid=(6, 6), frames=6)


def read_from_memory(model, folder):
    """The names that the model has itself, which are others than those that it saves."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    return from_state_dict(state, heads=4, decoder_heads=2, grid=(6, 6), frames=6)


WAYS = {"folder": read_from_folder, "file": read_from_file, "memory": read_from_memory}


def as_theirs():
    return torch.from_numpy(VIDEOS.transpose(0, 1, 4, 2, 3))


def assert_close(actual, expected):
    expected = expected.numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", ["pixels", "channel_normalized_pixels"])
def test_loss(tmp_path, way, target):
    """Of the same hidden patches. The pixels that they rebuild are in [0, 1], not normalised."""
    normalized = target == "channel_normalized_pixels"
    config = VideoMAEConfig(**SIZES, norm_pix_loss=normalized, use_mean_pooling=False)
    theirs = randomized(VideoMAEForPreTraining(config))
    noise = np.random.default_rng(2).random((3, PATCHES))
    order = np.argsort(noise, axis=1).astype(np.int32)
    keep, hide = (np.sort(part, axis=1) for part in (order[:, :12], order[:, 12:]))
    hidden = np.zeros((3, PATCHES), bool)
    np.put_along_axis(hidden, hide, True, axis=1)
    with torch.no_grad():
        expected = theirs(as_theirs(), bool_masked_pos=torch.from_numpy(hidden))

    weights = WAYS[way](theirs, tmp_path)
    a = weights.architecture
    assert (a.layout, a.grid, a.patch, a.heads, a.decoder_heads) == (
        "videomae",
        (3, 6, 6),
        PATCH,
        4,
        2,
    )
    patches, model = patchify(jnp.asarray(VIDEOS), PATCH), masked_autoencoder(weights)
    mask = Mask(jnp.asarray(keep), jnp.asarray(hide))
    prediction = jax.jit(model.apply)({"params": masked_autoencoder_params(weights)}, patches, mask)
    assert_close(prediction.values, expected.logits)
    if normalized:
        tokenizer = Tokenizer(PATCH, IMAGENET_MEAN, IMAGENET_STD)
        rebuilt = TARGETS[target]()(TargetContext(patches, a.grid, tokenizer))
    else:
        mean, std = (np.tile(np.float32(x), 32) for x in ((0.485, 0.456, 0.406), IMAGENET_STD))
        rebuilt = patches * std + mean
    loss = squared_error(prediction.values, gather(rebuilt, mask.hide))
    np.testing.assert_allclose(loss.mean(), expected.loss.numpy(), rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mean_pooling", [True, False])
def test_classifier(tmp_path, way, mean_pooling):
    config = VideoMAEConfig(**SIZES, num_labels=7, use_mean_pooling=mean_pooling)
    theirs = randomized(VideoMAEForVideoClassification(config))
    with torch.no_grad():
        expected = theirs(as_theirs()).logits
    weights = WAYS[way](theirs, tmp_path)
    assert weights.architecture.pool == ("mean" if mean_pooling else "cls")
    model, patches = classifier(weights), patchify(jnp.asarray(VIDEOS), PATCH)
    logits = jax.jit(model.apply)({"params": weights.params}, patches)
    assert_close(logits, expected)


@pytest.mark.parametrize("way", WAYS)
def test_encoder_alone(tmp_path, way):
    theirs = randomized(VideoMAEModel(VideoMAEConfig(**SIZES, use_mean_pooling=False)))
    with torch.no_grad():
        expected = theirs(as_theirs()).last_hidden_state
    weights = WAYS[way](theirs, tmp_path)
    model, patches = classifier(weights), patchify(jnp.asarray(VIDEOS), PATCH)

    def encode(model, patches):
        return model.encoder(patches)

    tokens = jax.jit(lambda p: model.apply({"params": p}, patches, method=encode))(weights.params)
    assert_close(tokens, expected)


@pytest.mark.parametrize(("place", "sizes"), [("model", DECODER), ("module", {"classes": 7})])
def test_official_checkpoints(tmp_path, place, sizes):
    """Pre-training saves its weights as "model", fine-tuning by DeepSpeed as "module"."""
    pool = "mean" if "classes" in sizes else "cls"
    weights = random_weights(dataclasses.replace(VIDEO_ENCODER, **sizes, pool=pool))
    state = {name: torch.from_numpy(value) for name, value in to_state_dict(weights).items()}
    torch.save({place: state, "epoch": 3}, tmp_path / "theirs.pth")
    read = read_weights(tmp_path / "theirs.pth", heads=4, decoder_heads=2, grid=(3, 5), frames=4)
    assert_same_weights(read, weights)


@pytest.mark.parametrize(("pre_training", "ending"), [(True, "pth"), (False, "safetensors")])
def test_command(tmp_path, capsys, pre_training, ending):
    """Out of their folder, under VideoMAE's own names, and checked."""
    kind = VideoMAEForPreTraining if pre_training else VideoMAEForVideoClassification
    theirs = randomized(kind(VideoMAEConfig(**SIZES, use_mean_pooling=not pre_training)))
    theirs.save_pretrained(tmp_path / "theirs")
    target = tmp_path / f"video.{ending}"
    command.main([str(tmp_path / "theirs"), str(target), "--check"])
    said = capsys.readouterr().out
    assert "videos       6 x 24 x 24, 3 channels, 108 patches of 2 x 4 x 4" in said
    assert "largest difference 0.0e+00" in said
    assert ("reconstruction" in said) == pre_training
    assert ("logits" in said) == (not pre_training)
