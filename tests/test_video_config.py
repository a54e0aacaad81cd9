"""Configs of clips: what they come to, and what cannot be."""

import jax
import numpy as np
import pytest
from small import task_options

from hpm_jax.config import ConfigError, defaults, freeze
from hpm_jax.masking.schedule import hard_count
from hpm_jax.run.build import (
    build_classifier,
    build_model,
)
from hpm_jax.step.state import param_shapes


def clips_of_16(layout="videomae", **changes):
    """The defaults, of 16 frames of 224 x 224, in 8 slots of 14 x 14 patches."""
    config = defaults()
    config.data.update(source="synthetic", frames=16)
    config.model.update(layout=layout, tubelet=2)
    config.evaluation.pool = "mean"
    config.mask.update(ratio=0.9)
    for name, change in changes.items():
        if isinstance(change, dict):
            config[name].update(change)
        else:
            config[name] = change
    return config


def test_numbers_of_videomae():
    config = freeze(clips_of_16(mask={"unit": "tube"}, losses=("ranking(pairs='tubes')",)))
    assert config.grid == (8, 14, 14) and config.patch_size == (2, 16, 16)
    assert (config.patches, config.values) == (1568, 1536)
    assert (config.hidden_units, config.hidden) == (176, 1408)
    assert hard_count(config.optimizer.epochs - 1, config.optimizer.epochs, 176) == 88
    assert config.data.train_shape == (16, 224, 224, 3) and config.stored_scores is None
    assert rebuilt(config) == (512, 1536)


def test_numbers_of_mae_st():
    config = freeze(
        clips_of_16(
            "mae_st",
            target="normalized_pixels(frames='one')",
            data={"clips": 4},
            optimizer={"batch_size": 128},
            teacher="moving_average(every_steps=4)",
            losses=("ranking(pairs='all')",),
        )
    )
    assert (config.hidden, config.patches - config.hidden) == (1412, 156)
    assert config.data.train_shape == (4, 16, 224, 224, 3)
    assert config.clips == 512 and config.stored_scores == (512, 1568)
    assert rebuilt(config) == (512, 768), "16 x 16 x 3 values of one frame"


RANKING, AVERAGE = "ranking({})", "moving_average({})"


def rebuilt(config):
    """The shape of the map from the decoder to what a hidden patch becomes."""
    model = build_model(config).clone(depth=1, decoder_depth=1)
    return param_shapes(model)["reconstructor"]["head"]["kernel"].shape


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.layout", "mae", "'mae' has positions for one frame, and 16 frames make 8: "),
        ("model.layout", "video_mae", "layout = 'video_mae' .* did you mean 'videomae'"),
        ("model.layout", "sincos", "'sincos' .*: choose from mae, videomae, mae_st"),
        ("model.tubelet", 3, "frames 16 is not a multiple of the patch size 3: use 15 or 18"),
        ("model.tubelet", 0, "config.model.tubelet = 0: expected a number above 0"),
        ("model.tubelet", 3, "config.model.tubelet = 3, config.model.patch_size = 16: frames 16"),
        ("mask.unit", "tubes", "config.mask.unit = 'tubes' .* did you mean 'tube'"),
        ("mask.ratio", 1.0, "config.mask.ratio = 1.0: expected a number above 0 below 1"),
        ("mask.ratio", 0.9999, "mask ratio 0.9999 hides 1568 of 1568"),
        ("mask.views", 0, "config.mask.views = 0: expected a number from 1 to 64"),
        ("losses", RANKING.format("pairs='sample'"), "pairs = 'sample' .* did you mean 'sampled'"),
        (
            "losses",
            RANKING.format("pairs='tubes'"),
            "'tubes'.* which ranks tubes, and config.mask.unit = 'patch'",
        ),
        ("losses", RANKING.format("distances=0"), "ranking.distances = 0: expected a number above"),
        ("teacher", AVERAGE.format("frame_stride=3"), "= 3 does not divide the 8 frames"),
        ("teacher", AVERAGE.format("frame_stride=16"), "= 16 does not divide the 8 frames"),
        ("teacher", AVERAGE.format("frame_stride=0"), "frame_stride = 0: expected a number above"),
        ("teacher", AVERAGE.format("every_steps=0"), "every_steps = 0: expected a number above 0"),
        ("evaluation.pool", "cls", "no cls token: --config.evaluation.pool=mean"),
        ("data.frames", 0, "config.data.frames = 0: expected a number from 1"),
        ("data.clips", 0, "config.data.clips = 0: expected a number from 1"),
        ("data.sampling", "segment", "did you mean 'segments'"),
        ("data.crop", "multiscale", "did you mean 'multi_scale'"),
        ("target", "channel_normalised_pixels", "did you mean 'channel_normalized_pixels'"),
        ("target", "pixels(frames='first')", "frames = 'first' .*: choose from all, one"),
    ],
)
def test_what_cannot_run(path, value, message):
    config = clips_of_16()
    config.update_from_flattened_dict({path: (value,) if path == "losses" else value})
    with pytest.raises(ConfigError, match=message):
        freeze(config)


def test_one_tube_cannot_be_ranked():
    """Its patches could, but there is no other tube to compare it with."""
    config = clips_of_16(mask={"unit": "tube", "ratio": 0.005}, losses=("ranking(pairs='tubes')",))
    with pytest.raises(ConfigError, match=r"config\.mask\.ratio = 0\.005 hides 1 tube"):
        freeze(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "mae"}, "'mae' has positions for one frame"),
        ({"layout": "maest"}, "did you mean 'mae_st'"),
        ({"pool": "cls"}, "config.model.pool = 'cls', and the layout 'videomae' has no cls token"),
    ],
)
def test_what_cannot_be_finetuned(changes, message):
    config = finetune_options()
    config.model.update(changes)
    with pytest.raises(ConfigError, match=message):
        freeze(config)


def finetune_options():
    return task_options(
        "finetune",
        "runs/x",
        data={"source": "synthetic", "frames": 16},
        model={"layout": "videomae", "tubelet": 2},
    )


def test_a_classifier_of_clips():
    """VideoMAE's 86.2 million, less the last norm, with the norm and the head of fine-tuning."""
    params = param_shapes(build_classifier(freeze(finetune_options()), classes=400))
    assert "positions" not in params["encoder"] and "norm" not in params["encoder"]["transformer"]
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
    assert count == 86_227_200 + 768 * 400 + 400
