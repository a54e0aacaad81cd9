"""Weights of videos that cannot be used: the messages say why."""

import dataclasses

import numpy as np
import pytest
from small_weights import DECODER, VIDEO_ENCODER, random_weights, video_mae_state

from hpm_jax.convert.state_dict import from_state_dict, to_state_dict
from hpm_jax.convert.weights import WeightsError

SIZES = {"heads": 4, "decoder_heads": 2, "grid": (4, 4)}  # of the golden model
MODEL = dataclasses.replace(VIDEO_ENCODER, **DECODER, loss_predictor=True)
CLASSIFIER = dataclasses.replace(VIDEO_ENCODER, classes=7, pool="mean")


@pytest.fixture(scope="module")
def official():
    return video_mae_state()


WRONG = {
    "missing": (
        lambda state: {"decoder.norm.bias": None},
        r"decoder\.norm\.bias is missing",
    ),
    "missing bias": (
        lambda state: {"encoder.blocks.1.attn.q_bias": None},
        r"blocks\.1\.attn\.q_bias is missing",
    ),
    "missing link": (
        lambda state: {"encoder_to_decoder.weight": None},
        r"encoder_to_decoder\.weight is missing",
    ),
    "missing patches": (
        lambda state: {"encoder.patch_embed.proj.weight": None},
        r"patch_embed\.proj\.weight \(width, channels, frames, p, p\) of a video; found none",
    ),
    "a key bias": (
        lambda state: {"encoder.blocks.0.attn.qkv.bias": np.zeros(144, np.float32)},
        r"blocks\.0\.attn\.qkv\.bias is no part .*--drop",
    ),
    "learned positions": (
        lambda state: {"encoder.pos_embed": np.zeros((1, 128, 48), np.float32)},
        r"pos_embed is no part",
    ),
    "another size": (
        lambda state: {"decoder.blocks.0.mlp.fc1.weight": np.zeros((64, 32), np.float32)},
        r"decoder\.blocks\.0\.mlp\.fc1\.weight has shape \(64, 32\), expected \(128, 32\), "
        r"by the width of encoder_to_decoder\.weight",
    ),
    "another width": (
        lambda state: {"encoder.blocks.0.attn.v_bias": np.zeros(47, np.float32)},
        r"blocks\.0\.attn\.v_bias has shape \(47,\), expected \(48,\), "
        r"by the width of patch_embed\.proj\.weight",
    ),
    "another target": (
        lambda state: {"decoder.head.weight": np.zeros((300, 32), np.float32)},
        r"decoder\.head\.weight has shape \(300, 32\): expected 384 rows.*or 192",
    ),
    "oblong patches": (
        lambda state: {"encoder.patch_embed.proj.weight": np.zeros((48, 3, 2, 8, 4), np.float32)},
        r"patch_embed\.proj\.weight has shape \(48, 3, 2, 8, 4\): expected .*square patches",
    ),
    "two models": (
        lambda state: {f"backbone.{name}": value for name, value in state.items()},
        r"found encoder\.patch_embed\.proj\.weight, backbone\.encoder\.patch_embed",
    ),
    "not finite": (
        lambda state: {"mask_token": np.full((1, 1, 32), np.nan, np.float32)},
        "mask_token has 32 values that are infinite or not",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_weights_say_why(official, kind):
    change, message = WRONG[kind]
    state = official | change(official)
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(WeightsError, match=message):
        from_state_dict(state, **SIZES)


@pytest.mark.parametrize(
    ("architecture", "names", "message"),
    [
        (MODEL, "timm", r"'timm' do not fit the layout 'videomae'.*use 'videomae', or \"hpm\""),
        (CLASSIFIER, "hpm", 'no decoder: use "videomae"'),
        (
            dataclasses.replace(VIDEO_ENCODER, layout="mae", grid=(1, 3, 5)),
            "timm",
            "patches have 2 frames, and names 'timm' are for images",
        ),
    ],
)
def test_names_that_do_not_fit(architecture, names, message):
    with pytest.raises(WeightsError, match=message):
        to_state_dict(random_weights(architecture), names)
