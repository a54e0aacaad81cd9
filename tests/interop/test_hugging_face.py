"""Hugging Face's ViT-MAE and ViT here: the same loss for the same mask, the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
    ViTModel,
)

from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import from_state_dict
from hpm_jax.convert.weights import (
    classifier,
    constant_positions,
    masked_autoencoder,
    masked_autoencoder_params,
)
from hpm_jax.losses import squared_error
from hpm_jax.targets import TARGETS, TargetContext
from hpm_jax.tokens import Mask, Tokenizer, gather, patchify
from hpm_jax.visualize.attention import cls_attention
from hpm_jax.visualize.photographs import load_photographs, photograph_parser

IMAGES = np.random.default_rng(1).normal(size=(3, 24, 24, 3)).astype(np.float32)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 24,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
MAE_POSITIONS = {
    "vit.embeddings.position_embeddings": 32,
    "embeddings.position_embeddings": 32,
    "decoder.decoder_pos_embed": 16,
}


def randomize(model):
    """Every parameter random, frozen positions as in published checkpoints: sine and cosine."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            table = constant_positions(MAE_POSITIONS[name], (1, 6, 6))
            parameter.data.copy_(torch.from_numpy(table))
        else:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def read_from_folder(model, folder):
    model.save_pretrained(folder)
    return read_weights(folder)


def read_from_file(model, folder):
    model.save_pretrained(folder)
    return read_weights(folder / "model.safetensors", heads=4, decoder_heads=2)


def read_from_memory(model, folder):
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    return from_state_dict(state, heads=4, decoder_heads=2)


WAYS = {"folder": read_from_folder, "file": read_from_file, "memory": read_from_memory}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", ["pixels", "normalized_pixels"])
def test_loss(tmp_path, way, target):
    """With the noise that decides Hugging Face's mask, and its formula of the loss."""
    normalized = target == "normalized_pixels"
    config = ViTMAEConfig(**SIZES, **DECODER, mask_ratio=0.75, norm_pix_loss=normalized)
    theirs = randomize(ViTMAEForPreTraining(config))
    noise = np.random.default_rng(2).random((3, 36), dtype=np.float32)
    images = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))
    with torch.no_grad():
        expected = theirs(images, noise=torch.from_numpy(noise))

    weights = WAYS[way](theirs, tmp_path)
    patches, model = patchify(jnp.asarray(IMAGES), (1, 4, 4)), masked_autoencoder(weights)
    order = np.argsort(noise, axis=1).astype(np.int32)
    mask = Mask(*(jnp.asarray(np.sort(part, axis=1)) for part in (order[:, :9], order[:, 9:])))
    prediction = jax.jit(model.apply)({"params": masked_autoencoder_params(weights)}, patches, mask)
    tokenizer = Tokenizer((1, 4, 4), (0.0,) * 3, (1.0,) * 3)
    rebuilt = TARGETS[target]()(TargetContext(patches, model.grid, tokenizer))
    loss = squared_error(prediction.values, gather(rebuilt, mask.hide))
    np.testing.assert_allclose(loss.mean(), expected.loss.numpy(), rtol=1e-5)
    values = gather(jnp.asarray(expected.logits.numpy()), mask.hide)
    np.testing.assert_allclose(prediction.values, values, atol=1e-4)


def features(weights):
    model, patches = classifier(weights), patchify(jnp.asarray(IMAGES), (1, 4, 4))
    apply = jax.jit(lambda params: model.apply({"params": params}, patches, method="features"))
    return apply(weights.params)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "config"),
    [(ViTMAEModel, ViTMAEConfig(**SIZES, mask_ratio=0.0)), (ViTModel, ViTConfig(**SIZES))],
)
def test_encoder_alone(tmp_path, way, kind, config):
    theirs = randomize(kind(config))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).last_hidden_state[:, 0]
    found = features(WAYS[way](theirs, tmp_path))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_classifier(tmp_path, way):
    theirs = randomize(ViTForImageClassification(ViTConfig(**SIZES, num_labels=7)))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).logits
    weights = WAYS[way](theirs, tmp_path)
    model, patches = classifier(weights), patchify(jnp.asarray(IMAGES), (1, 4, 4))
    logits = jax.jit(model.apply)({"params": weights.params}, patches)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("block", [1, 2])
def test_attention_of_the_cls_token(tmp_path, block):
    """The heads of `hpm_jax.visualize.attention`, on a photograph."""
    config = ViTConfig(**SIZES, attn_implementation="eager")
    theirs = randomize(ViTModel(config))
    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(3).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    options = photograph_parser("", "", "").parse_args(
        [f"--init_from={tmp_path}", f"--block={block}", str(tmp_path / "photo.png")]
    )
    photos = load_photographs(options, cls_token=True)
    np.testing.assert_array_equal(photos.images, pixels[None])
    inputs = np.array(photos.tokenizer.normalize(photos.images)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(inputs), output_attentions=True).attentions
    found = cls_attention(photos)
    np.testing.assert_allclose(found, expected[block - 1][:, :, 0].numpy(), rtol=1e-3, atol=1e-6)
    assert np.ptp(found) > 0.2 * found.mean(), "it is not uniform"
