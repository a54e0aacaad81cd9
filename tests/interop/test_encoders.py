"""DINOv2, DINOv3, CLIP and SigLIP of transformers and timm, here: the same features."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
import transformers as hf
from safetensors.torch import save_file

from hpm_jax.config import Features
from hpm_jax.convert.preprocessing import normalization
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import from_state_dict, to_state_dict
from hpm_jax.convert.weights import WeightsError
from hpm_jax.convert.write import write_weights
from hpm_jax.evaluation.features import frozen_encoder
from hpm_jax.tokens import patchify

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 72,  # not 4 times the width
    "image_size": 24,
    "patch_size": 4,
}
CLIP = {**SIZES, "hidden_act": "quick_gelu"}
DINOV3 = {**SIZES, "num_register_tokens": 3, "image_size": (24, 16)}
HUGGING_FACE = {
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**SIZES)),
    "dinov2, swiglu": lambda: hf.Dinov2Model(hf.Dinov2Config(**SIZES, use_swiglu_ffn=True)),
    "dinov2, registers": lambda: hf.Dinov2WithRegistersModel(
        hf.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3)
    ),
    "dinov3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**DINOV3)),
    "dinov3, gates": lambda: hf.DINOv3ViTModel(
        hf.DINOv3ViTConfig(**DINOV3, use_gated_mlp=True, hidden_act="silu", rope_theta=50.0)
    ),
    "clip": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**CLIP)),
    "clip, both towers": lambda: hf.CLIPModel(
        hf.CLIPConfig(
            vision_config=CLIP | {"hidden_act": "gelu"},
            text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        )
    ),
    "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**SIZES)),
    "siglip, both towers": lambda: hf.SiglipModel(
        hf.SiglipConfig(
            vision_config=SIZES,
            text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        )
    ),
}


def randomize(model):
    """Every parameter random, norms around one, so that each can be seen in the output."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = parameter.ndim == 1 and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(scale), std=0.2)
    return model.eval()


def pixels(height=24, width=24):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def in_hugging_face(model, images):
    """The normalised tokens `[B, N, D]`."""
    of_model = getattr(model, "vision_model", model)
    inputs = {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2))}
    if images.shape[1:3] != (24, 24) and "DINO" not in type(model).__name__.upper():
        inputs["interpolate_pos_encoding"] = True
    with torch.no_grad():
        tokens = of_model(**inputs).last_hidden_state
        if "CLIP" in type(model).__name__:  # whose last norm is applied to the cls token alone
            tokens = of_model.post_layernorm(tokens)
    return tokens.numpy()


def here(weights, images):
    height, width = images.shape[1:3]
    encoder, params = frozen_encoder(weights, (1, height, width), Features(pool="mean"))
    patches = patchify(jnp.asarray(images), weights.architecture.patch)
    return np.asarray(jax.jit(encoder.apply)({"params": params}, patches))


def assert_close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_a_folder_of_hugging_face(tmp_path, kind):
    """At its own size and at another, after a file of ours too; other modules are left out."""
    theirs = randomize(HUGGING_FACE[kind]())
    theirs.save_pretrained(tmp_path)
    weights = read_weights(tmp_path)
    assert_close(here(weights, pixels()), in_hugging_face(theirs, pixels()))
    if kind != "dinov2, registers":  # whose positions are resized with antialiasing there
        wide = pixels(16, 32)
        assert_close(here(weights, wide), in_hugging_face(theirs, wide))
    write_weights(tmp_path / "ours.safetensors", weights)
    again = read_weights(tmp_path / "ours.safetensors")
    assert again.architecture == weights.architecture
    jax.tree.map(np.testing.assert_array_equal, again.params, weights.params)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "dinov3"])
def test_names_of_transformers_4_and_of_memory(kind):
    """Published files have the names of version 4, in which towers stand in `vision_model.`."""
    theirs = randomize(HUGGING_FACE[kind]())
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    if kind in ("clip", "siglip"):
        state = {f"vision_model.{name}": value for name, value in state.items()}
        state["vision_model.embeddings.position_ids"] = np.arange(37)[None]
    weights = from_state_dict(
        state, heads=2, options={"mlp": "quick_gelu"} if kind == "clip" else {}
    )
    assert_close(here(weights, pixels()), in_hugging_face(theirs, pixels()))


def test_the_activation_of_clip_is_told_once(tmp_path):
    theirs = randomize(HUGGING_FACE["clip"]())
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match="--mlp quick_gelu"):
        read_weights(file, heads=2)
    weights = read_weights(file, heads=2, mlp="quick_gelu")
    assert weights.architecture == read_weights(tmp_path).architecture
    mean = normalization(file, weights.architecture)["mean"]
    np.testing.assert_allclose(mean, hf.CLIPImageProcessor().image_mean)


TIMM = {
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "dinov2, registers": ("vit_small_patch14_reg4_dinov2", {}),
    "dinov2, swiglu": ("vit_giant_patch14_dinov2", {}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "clip": ("vit_base_patch16_clip_224", {}),
    "clip, quick gelu": ("vit_base_patch16_clip_quickgelu_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "siglip, tanh": ("vit_so400m_patch16_siglip_256", {}),
    "deit 3": ("deit3_small_patch16_224", {}),
    "dino": ("vit_small_patch16_224.dino", {}),
    "qk norm": ("vit_small_patch16_224", {"qk_norm": True}),
}


@pytest.mark.parametrize("kind", TIMM)
def test_a_folder_of_timm(tmp_path, kind):
    name, changes = TIMM[kind]
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 24, "patch_size": 4}
    theirs = randomize(timm.create_model(name, num_classes=0, **sizes, **changes))
    state = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    config = {"architecture": name.split(".")[0], "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = read_weights(tmp_path, heads=2)
    with torch.no_grad():
        expected = theirs.forward_features(torch.from_numpy(pixels().transpose(0, 3, 1, 2)))
    assert_close(here(weights, pixels()), expected.numpy())


def open_clip_state(model):
    """The names of open_clip and of OpenAI, beside a text tower, of a CLIP of timm."""
    names = {
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.proj.weight": "conv1.weight",
        "norm_pre.": "ln_pre.",
        "norm.": "ln_post.",
        "blocks.": "transformer.resblocks.",
    }
    in_block = {
        ".norm1.": ".ln_1.",
        ".norm2.": ".ln_2.",
        ".attn.qkv.": ".attn.in_proj_",
        ".attn.proj.": ".attn.out_proj.",
        ".mlp.fc1.": ".mlp.c_fc.",
        ".mlp.fc2.": ".mlp.c_proj.",
    }
    state = {}
    for name, value in model.state_dict().items():
        start = next(start for start in names if name.startswith(start))
        renamed = names[start] + name.removeprefix(start)
        renamed = functools.reduce(lambda x, pair: x.replace(*pair), in_block.items(), renamed)
        flat = name in ("cls_token", "pos_embed")
        state[f"visual.{renamed}"] = (value.squeeze(0) if flat else value).squeeze(
            *([0] if name == "cls_token" else [])
        )
    state["visual.proj"] = torch.zeros(32, 8)
    return state | {
        "positional_embedding": torch.zeros(7, 8),
        "text_projection": torch.zeros(8, 8),
        "logit_scale": torch.zeros(()),
        "token_embedding.weight": torch.zeros(5, 8),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(8),
        "ln_final.weight": torch.zeros(8),
    }


@pytest.mark.parametrize("quick", [True, False])
def test_open_clip(tmp_path, quick):
    """By its config, and for OpenAI's by the numbers that its files have beside the weights."""
    name = "vit_base_patch16_clip_quickgelu_224" if quick else "vit_base_patch16_clip_224"
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 24, "patch_size": 4}
    theirs = randomize(timm.create_model(name, num_classes=0, **sizes))
    with torch.no_grad():
        expected = theirs.forward_features(torch.from_numpy(pixels().transpose(0, 3, 1, 2)))
    state = open_clip_state(theirs)
    save_file(
        {name: value.contiguous() for name, value in state.items()},
        tmp_path / "open_clip_model.safetensors",
    )
    model = {"quick_gelu": quick, "vision_cfg": {"width": 32, "head_width": 16}}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    weights = read_weights(tmp_path)
    assert_close(here(weights, pixels()), expected.numpy())
    assert normalization(tmp_path, weights.architecture)["mean"] == (0.1,) * 3
    if quick:
        state |= {"input_resolution": torch.tensor(24), "context_length": torch.tensor(7)}
        state["vocab_size"] = torch.tensor(5)
        torch.save(state, tmp_path / "openai.pt")
        again = read_weights(tmp_path / "openai.pt", heads=2)
        assert again.architecture == weights.architecture


@pytest.mark.parametrize("kind", ["dinov2, swiglu", "dinov3, gates"])
def test_names_of_meta(kind):
    """DINOv2's and DINOv3's own names, as far as we know them, of models of transformers."""
    theirs = randomize(HUGGING_FACE[kind]())
    weights = from_state_dict(
        {name: value.numpy() for name, value in theirs.state_dict().items()},
        heads=2,
        options={"rotary_base": 50.0} if "dinov3" in kind else {},
    )
    again = from_state_dict(meta_names(weights, kind), heads=2)
    assert again.architecture.mlp == "swiglu"
    assert_close(here(again, pixels()), in_hugging_face(theirs, pixels()))


def meta_names(weights, kind):
    state = to_state_dict(weights)
    state["mask_token"] = np.zeros((1, 32), np.float32)
    if kind.startswith("dinov2"):
        fused = {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."}
        return {
            functools.reduce(lambda x, pair: x.replace(*pair), fused.items(), name): value
            for name, value in state.items()
        }
    state["storage_tokens"] = state.pop("reg_token")
    state["rope_embed.periods"] = (50.0 ** (np.arange(4) / 4)).astype(np.float32)
    for number in range(2):
        mlp, bias = f"blocks.{number}.mlp.", f"blocks.{number}.attn.qkv.bias"
        for kind in ("weight", "bias"):
            gate, value = np.split(state.pop(f"{mlp}fc1.{kind}"), 2)
            state |= {f"{mlp}w1.{kind}": gate, f"{mlp}w2.{kind}": value}
            state[f"{mlp}w3.{kind}"] = state.pop(f"{mlp}fc2.{kind}")
        state[f"{bias}_mask"] = np.repeat(np.float32([1, 0, 1]), 32)
        state[bias] = state[bias] + np.repeat(np.float32([0, 0.3, 0]), 32)  # of keys: masked
    return state
