"""What a checkpoint does not tell, and checkpoints that cannot be used: the messages say why."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small_weights import DECODER, ENCODER, official_state, random_weights

from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import from_state_dict, to_state_dict
from hpm_jax.convert.weights import WeightsError, masked_autoencoder, masked_autoencoder_params
from hpm_jax.convert.write import write_weights

SIZES = {"heads": 4, "decoder_heads": 4}  # of the official model, which follow no rule


@pytest.fixture(scope="module")
def official():
    return official_state()


@pytest.mark.parametrize(
    ("width", "heads"),
    [(768, 12), (1280, 16), (192, 3), (128, 4), (512, 8), (64, 1), (96, None), (48, None)],
)
def test_heads_by_width(width, heads):
    architecture = dataclasses.replace(ENCODER, width=width, depth=1, grid=(1, 2, 2))
    state = to_state_dict(random_weights(architecture), "timm")
    if heads is None:
        with pytest.raises(WeightsError, match=f"width is {width}.*--heads"):
            from_state_dict(state)
    else:
        assert from_state_dict(state).architecture.heads == heads
    assert from_state_dict(state, heads=2).architecture.heads == 2


@pytest.mark.parametrize(("width", "heads"), [(512, 16), (64, 2), (96, 3), (256, 0)])
def test_decoder_heads_by_width(width, heads):
    """Weights of an unknown decoder are still good for their encoder."""
    sizes = DECODER | {"decoder_width": width}
    weights = random_weights(dataclasses.replace(ENCODER, width=64, grid=(1, 2, 2), **sizes))
    weights = from_state_dict(to_state_dict(weights, "hpm"))
    assert weights.architecture.decoder_heads == heads
    if heads:
        assert masked_autoencoder(weights).decoder_heads == heads
    else:
        with pytest.raises(WeightsError, match=r"decoder's width is 256.*--decoder-heads"):
            masked_autoencoder(weights)


def test_grid():
    state = to_state_dict(random_weights(ENCODER), "timm")
    with pytest.raises(WeightsError, match=r"15 positions.*no square.*--grid"):
        from_state_dict(state, heads=4)
    with pytest.raises(WeightsError, match=r"15 positions.*expected 4 x 4 = 16"):
        from_state_dict(state, heads=4, grid=(4, 4))
    assert from_state_dict(state, heads=4, grid=(3, 5)).architecture.grid == (1, 3, 5)


def poisoned(state):
    value = state["blocks.1.mlp.fc1.weight"].copy()
    value[3, :2] = np.nan, np.inf
    return {"blocks.1.mlp.fc1.weight": value}


WRONG = {
    "another size": (
        lambda state: {"blocks.2.attn.qkv.weight": np.zeros((96, 32), np.float32)},
        r"blocks\.2\.attn\.qkv\.weight has shape \(96, 32\), expected \(144, 48\)",
    ),
    "another length": (
        lambda state: {"decoder_pos_embed": np.zeros((1, 26, 32), np.float32)},
        r"decoder_pos_embed has shape \(1, 26, 32\), expected \(1, 37, 32\)",
    ),
    "missing": (lambda state: {"norm.bias": None}, r"norm\.bias is missing"),
    "missing block": (
        lambda state: {name: None for name in state if name.startswith("blocks.1.")},
        r"blocks\.1\.norm1\.weight.* and 6 more is missing",
    ),
    "missing patches": (
        lambda state: {"patch_embed.proj.weight": None},
        r"patch_embed\.proj\.weight is missing",
    ),
    "unknown": (
        lambda state: {"blocks.0.ls1.gamma": np.zeros(48, np.float32)},
        r"blocks\.0\.ls1\.gamma is no part .*--drop",
    ),
    "decoder alone": (
        lambda state: {name: None for name in state if not name.startswith("decoder")},
        "a decoder without an encoder",
    ),
    "no weights": (lambda state: {name: None for name in state}, "one cls_token.*found none"),
    "two models": (
        lambda state: {f"backbone.{name}": value for name, value in state.items()},
        r"expected one cls_token.*found cls_token, backbone\.cls_token",
    ),
    "unknown wrapper": (
        lambda state: {"cls_token": None, "teacher.cls_token": state["cls_token"]},
        r"nothing but module.*found teacher\.cls_token",
    ),
    "not finite": (poisoned, r"blocks\.1\.mlp\.fc1\.weight has 2 values that are infinite or not"),
    "integers": (
        lambda state: {"norm.bias": np.zeros(48, np.int32)},
        r"norm\.bias holds int32, expected floats",
    ),
    "a number": (
        lambda state: {"norm.bias": np.float32(3)},
        r"norm\.bias has shape \(\), expected",
    ),
    "video": (
        lambda state: {"patch_embed.proj.weight": np.zeros((48, 3, 2, 8, 8), np.float32)},
        r"shape \(48, 3, 2, 8, 8\): expected \(width, channels, p, p\)",
    ),
    "learned decoder positions": (
        lambda state: {"decoder_pos_embed": state["decoder_pos_embed"] + np.float32(1e-3)},
        r"decoder_pos_embed differs by up to 0\.001.*--drop decoder mask_token",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_weights_say_why(official, kind):
    change, message = WRONG[kind]
    state = official | change(official)
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(WeightsError, match=message):
        from_state_dict(state, **SIZES)


def test_drop_a_decoder(official):
    state = official | {"decoder_pos_embed": official["decoder_pos_embed"] * 2}
    weights = from_state_dict(state, heads=4, drop=["decoder", "mask_token"])
    assert weights.architecture.decoder_width == 0


def test_drop(official):
    extra = {"head_dist.weight": np.zeros((5, 48), np.float32)}
    weights = from_state_dict(official | extra, **SIZES, drop=["head_dist."])
    expected = from_state_dict(official, **SIZES)
    jax.tree.map(np.testing.assert_array_equal, weights.params, expected.params)


def test_learned_positions_make_no_masked_autoencoder(official):
    moved = official["pos_embed"].copy()
    moved[0, 0, 0] = 0.01  # of the cls token, which should be zero
    weights = from_state_dict(official | {"pos_embed": moved}, **SIZES)
    with pytest.raises(WeightsError, match=r"pos_embed differs by up to 0.01"):
        masked_autoencoder_params(weights)
    assert weights.params["encoder"]["positions"][0, 0, 0] == np.float32(0.01)
    with pytest.raises(WeightsError, match="no decoder"):
        masked_autoencoder_params(random_weights(ENCODER))
    with pytest.raises(WeightsError, match='no decoder: use "timm"'):
        to_state_dict(random_weights(ENCODER), "hpm")


def truncated(path):
    write_weights(path, random_weights(ENCODER))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.safetensors", truncated, "is not whole, or no file of weights.*again"),
        ("a.npz", truncated, "is not whole, or no file of weights.*again"),
        ("a.npz", lambda path: path.write_text("<html>"), "no file of weights"),
        ("a.pth", Path.touch, "is empty"),
        ("a.onnx", Path.touch, r"ends in '\.onnx': expected one of \.safetensors, \.pth"),
        ("a.npz", lambda path: None, "there is no .*a.npz"),
        ("folder", Path.mkdir, "folder has no config.json"),
    ],
)
def test_wrong_files_say_why(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / name)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", cls_token=np.array([print], dtype=object))
    with pytest.raises(WeightsError, match="allow_pickle=False"):
        read_weights(tmp_path / "a.npz")


def test_torch_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_text("x")
    with pytest.raises(WeightsError, match="PyTorch is not installed: pip install torch"):
        read_weights(tmp_path / "a.pth")


def test_no_teacher_in_plain_files(tmp_path):
    write_weights(tmp_path / "a.npz", random_weights(ENCODER))
    with pytest.raises(WeightsError, match="one set of weights: a teacher is in"):
        read_weights(tmp_path / "a.npz", which="teacher")
    with pytest.raises(WeightsError, match="weights 'ema' do not exist: choose from student, "):
        read_weights(tmp_path / "a.npz", which="ema")
