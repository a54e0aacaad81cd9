"""Weights of mae_st in and out again, and what they compute; needs no torch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax
from small_weights import (
    DECODER,
    VIDEO_ENCODER,
    assert_same_state,
    assert_same_weights,
    random_weights,
)

from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import from_state_dict, to_state_dict
from hpm_jax.convert.weights import (
    WeightsError,
    classifier,
    masked_autoencoder,
    masked_autoencoder_params,
)
from hpm_jax.convert.write import write_weights
from hpm_jax.tokens import Mask

MODEL = dataclasses.replace(VIDEO_ENCODER, **DECODER, layout="mae_st", loss_predictor=True)


def mae_st_state(classes=0):
    """Random weights under mae_st's names: width 16, decoder 8, 2 frames of 2 x 3 places."""
    rng = np.random.default_rng(0)
    shapes = {"patch_embed.proj.weight": (16, 3, 2, 4, 4), "patch_embed.proj.bias": (16,)}
    for start, width in (("", 16), ("decoder_", 8)) if not classes else (("", 16),):
        shapes |= {f"{start}{name}": (1, 1, width) for name in ("cls_token", "pos_embed_class")}
        shapes |= {f"{start}pos_embed_spatial": (1, 6, width)}
        shapes |= {f"{start}pos_embed_temporal": (1, 2, width)}
        layers = {f"attn.{part}": (width, width) for part in ("q", "k", "v", "proj")}
        layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        layers |= {"norm1": (width,), "norm2": (width,)}
        layers = {f"{start}blocks.{n}.{k}": shape for n in range(2) for k, shape in layers.items()}
        layers[f"{start}norm"] = (width,)
        if start:
            shapes["mask_token"] = (1, 1, width)
            layers |= {"decoder_embed": (width, 16), "decoder_pred": (48, width)}
        elif classes:
            layers["head"] = (classes, width)
        for name, shape in layers.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


class MaeSt:
    """mae_st by its formulas alone (models_mae.py, models_vit.py, video_vit.py), in float64."""

    def __init__(self, state):
        self.state = {name: value.astype(np.float64) for name, value in state.items()}

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def positions(self, start):
        time, space = (self.state[f"{start}pos_embed_{k}"][0] for k in ("temporal", "spatial"))
        return np.concatenate([space + row for row in time])

    def blocks(self, start, x, heads=2):
        for number in range(2):
            block = f"{start}blocks.{number}"
            normed = self.norm(f"{block}.norm1", x)
            query, key, value = (
                np.stack(np.split(self.linear(f"{block}.attn.{part}", normed), heads, -1))
                for part in "qkv"
            )
            scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
            out = np.concatenate(softmax(scores, axis=-1) @ value, axis=-1)
            x = x + self.linear(f"{block}.attn.proj", out)
            hidden = self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x))
            x = x + self.linear(f"{block}.mlp.fc2", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)
        return x

    def tokens(self, video, keep):
        """Of one clip `[T, H, W, C]`: cls, and the patches at `keep`, after the blocks."""
        kernel, rows = self.state["patch_embed.proj.weight"], []
        for t, h, w in np.ndindex(2, 2, 3):
            patch = video[2 * t : 2 * t + 2, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]
            rows.append(np.einsum("thwc,dcthw->d", patch, kernel))
        patches = np.array(rows) + self.state["patch_embed.proj.bias"] + self.positions("")
        cls = self.state["cls_token"][0] + self.state["pos_embed_class"][0]
        return self.blocks("", np.concatenate([cls, patches[keep]]))

    def rebuild(self, video, keep, hide):
        visible = self.linear("decoder_embed", self.norm("norm", self.tokens(video, keep))[1:])
        everything = np.tile(self.state["mask_token"][0], (12, 1))
        everything[keep] = visible
        cls = self.state["decoder_cls_token"][0] + self.state["decoder_pos_embed_class"][0]
        tokens = np.concatenate([cls, everything + self.positions("decoder_")])
        tokens = self.norm("decoder_norm", self.blocks("decoder_", tokens))
        return self.linear("decoder_pred", tokens)[1:][hide]

    def logits(self, video):
        pooled = self.tokens(video, np.arange(12))[1:].mean(0)
        return self.linear("head", self.norm("norm", pooled))


VIDEO = np.random.default_rng(3).normal(size=(4, 8, 12, 3))
IN_PATCHES = VIDEO.reshape(2, 2, 2, 4, 3, 4, 3).transpose(0, 2, 4, 1, 3, 5, 6).reshape(1, 12, 96)
IN_PATCHES = IN_PATCHES.astype(np.float32)


def test_it_computes_the_same():
    state = mae_st_state()
    weights = from_state_dict(state, heads=2, decoder_heads=2, grid=(2, 3))
    a = weights.architecture
    assert (a.layout, a.grid, a.patch, a.target_values) == ("mae_st", (2, 2, 3), (2, 4, 4), 48)
    hidden = np.isin(np.arange(12), [0, 1, 4, 5, 6, 8, 10, 11])
    keep, hide = np.flatnonzero(~hidden), np.flatnonzero(hidden)
    mask = Mask(*(jnp.asarray(index, jnp.int32)[None] for index in (keep, hide)))
    params = masked_autoencoder_params(weights)
    prediction = jax.jit(masked_autoencoder(weights).apply)({"params": params}, IN_PATCHES, mask)
    expected = MaeSt(state).rebuild(VIDEO, keep, hide)
    np.testing.assert_allclose(prediction.values[0], expected, atol=1e-4)


def test_a_classifier_computes_the_same():
    """Its norm after pooling has the name of the encoder's."""
    state = mae_st_state(classes=5)
    weights = from_state_dict(state, heads=2, grid=(2, 3))
    assert (weights.architecture.classes, weights.architecture.pool) == (5, "mean")
    logits = jax.jit(classifier(weights).apply)({"params": weights.params}, IN_PATCHES)
    np.testing.assert_allclose(logits[0], MaeSt(state).logits(VIDEO), atol=1e-4)
    assert np.abs(logits).max() > 0.1


@pytest.mark.parametrize("classes", [0, 5])
def test_out(classes, tmp_path):
    """All as it came, but that the position of a cls token is a part of it."""
    state, path = mae_st_state(classes), tmp_path / "mae_st.npz"
    weights = from_state_dict(state, heads=2, decoder_heads=2, grid=(2, 3))
    write_weights(path, weights)
    assert_same_weights(read_weights(path), weights)
    expected = dict(state)
    for start in ("",) if classes else ("", "decoder_"):
        expected[f"{start}cls_token"] = (
            state[f"{start}cls_token"] + state[f"{start}pos_embed_class"]
        )
        expected[f"{start}pos_embed_class"] = np.zeros_like(state[f"{start}pos_embed_class"])
    assert_same_state(to_state_dict(weights, "mae_st"), expected)


def test_with_a_loss_predictor(tmp_path):
    weights = random_weights(dataclasses.replace(MODEL, target_values=48))
    write_weights(tmp_path / "a.npz", weights, "hpm")
    assert_same_weights(read_weights(tmp_path / "a.npz"), weights)
    with pytest.raises(WeightsError, match="the head reads the cls token, and mae_st's averages"):
        to_state_dict(
            random_weights(dataclasses.replace(VIDEO_ENCODER, layout="mae_st", classes=3))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed_temporal": None}, "pos_embed_temporal is missing"),
        ({"pos_embed_spatial": np.zeros((1, 7, 16), np.float32)}, "7 positions, expected 2 x 3"),
        ({"blocks.1.attn.k.bias": None}, r"blocks\.1\.attn\.qkv\.bias .* key is missing"),
        ({"decoder_pred.weight": np.zeros((7, 8), np.float32)}, r"expected 96 rows.*or 48"),
    ],
)
def test_wrong_weights_say_why(change, message):
    state = {name: v for name, v in (mae_st_state() | change).items() if v is not None}
    with pytest.raises(WeightsError, match=message):
        from_state_dict(state, heads=2, grid=(2, 3))
