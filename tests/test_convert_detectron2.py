"""The encoder under the names of detectron2's ViTDet, and the options that describe it."""

import dataclasses

import numpy as np
import pytest
from small_weights import DECODER, ENCODER, VIDEO_ENCODER, random_weights

from hpm_jax.convert import __main__ as command
from hpm_jax.convert.about import About
from hpm_jax.convert.to_detectron2 import detectron2_state, overrides
from hpm_jax.convert.weights import WeightsError

SQUARE = dataclasses.replace(ENCODER, grid=(1, 4, 4))
ABOUT = About("runs/x", (0.4, 0.5, 0.6), (0.2,) * 3, 0.875, "bicubic")


def shapes_of_vit(a):
    """The parameters of `detectron2.modeling.ViT` without relative positions."""
    width, side = a.width, a.patch_size
    yield "patch_embed.proj.weight", (width, a.channels, side, side)
    yield "patch_embed.proj.bias", (width,)
    yield "pos_embed", (1, int(a.cls_token) + a.grid[1] ** 2, width)
    for block in range(a.depth):
        for name, shape in (
            ("norm1.weight", (width,)),
            ("norm1.bias", (width,)),
            ("attn.qkv.weight", (3 * width, width)),
            ("attn.qkv.bias", (3 * width,)),
            ("attn.proj.weight", (width, width)),
            ("attn.proj.bias", (width,)),
            ("norm2.weight", (width,)),
            ("norm2.bias", (width,)),
            ("mlp.fc1.weight", (4 * width, width)),
            ("mlp.fc1.bias", (4 * width,)),
            ("mlp.fc2.weight", (width, 4 * width)),
            ("mlp.fc2.bias", (width,)),
        ):
            yield f"blocks.{block}.{name}", shape


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("decoder", [{}, DECODER])
def test_names_and_shapes_are_those_of_its_code(decoder, cls_token):
    a = dataclasses.replace(SQUARE, **decoder, cls_token=cls_token)
    found = detectron2_state(random_weights(a))
    expected = {f"backbone.net.{name}": shape for name, shape in shapes_of_vit(a)}
    assert {name: value.shape for name, value in found.items()} == expected
    assert all(value.dtype == np.float32 for value in found.values())


def test_options_describe_the_encoder():
    lines = dict(line.split("=", 1) for line in overrides(SQUARE, ABOUT))
    net = {key.removeprefix("model.backbone.net."): value for key, value in lines.items()}
    assert net["embed_dim"] == str(SQUARE.width) and net["depth"] == str(SQUARE.depth)
    assert net["pretrain_img_size"] == str(4 * SQUARE.patch_size)
    assert net["pretrain_use_cls_token"] == "True" and net["mlp_ratio"] == "4"
    assert lines["model.pixel_mean"] == "[102.0,127.5,153.0]"
    large = dataclasses.replace(SQUARE, depth=12)
    windowed = next(line for line in overrides(large, ABOUT) if "window_block" in line)
    assert windowed.endswith("=[0,1,3,4,6,7,9,10]")
    assert not any(" " in line for line in overrides(large, ABOUT))


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (ENCODER, "detectron2 resizes positions of a square"),
        (VIDEO_ENCODER, "detectron2 has no encoders of videos"),
        (dataclasses.replace(SQUARE, layer_scale=0.1), r"without layer_scale = 0.1"),
    ],
)
def test_what_its_transformer_does_not_have_is_refused(a, message):
    assert a.grid != (1, 4, 4) or a.layer_scale
    with pytest.raises(WeightsError, match=message):
        detectron2_state(random_weights(a))


def test_a_folder_from_the_command(pretrained, tmp_path):
    torch = pytest.importorskip("torch")
    target = tmp_path / "vitdet"
    command.main([str(pretrained), str(target), "--names", "detectron2"])
    content = torch.load(target / "model.pth", weights_only=True)
    assert content["model"]["backbone.net.pos_embed"].shape == (1, 17, 16)
    lines = (target / "overrides.txt").read_text().splitlines()
    assert lines[-1] == f"train.init_checkpoint={target / 'model.pth'}"
    assert "model.backbone.net.in_chans=1" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.pth", "--names", "detectron2"], "--names detectron2 writes a folder"),
        (["x", "--names", "detectron2", "--check"], "--check has nothing to compare with"),
    ],
)
def test_commands_that_cannot_be(pretrained, tmp_path, words, message):
    with pytest.raises(SystemExit, match=message):
        command.main([str(pretrained), str(tmp_path / words[0]), *words[1:]])
