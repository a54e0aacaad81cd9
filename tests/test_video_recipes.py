"""Every recipe on videos comes to the published numbers, whatever it starts from."""

import json

import pytest
from shipped_configs import load

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit

# base rate, batch, clips a video, epochs, layer decay, drop path, head dropout, floor for 256
# videos, devices of the script; from VideoMAE's scripts
FINETUNING = {
    "k400,size=S": (5e-4, 384, 2, 150, 0.75, 0.1, 0.0, 1e-6, 32),
    "k400,size=B": (1e-3, 512, 1, 100, 0.75, 0.1, 0.0, 1e-6, 64),
    "k400,size=B,pretraining=1600": (5e-4, 384, 2, 75, 0.75, 0.1, 0.0, 1e-6, 64),
    "k400,size=L": (2e-3, 128, 2, 35, 0.75, 0.1, 0.0, 1e-6, 64),
    "k400,size=H": (1e-3, 512, 2, 50, 0.75, 0.2, 0.5, 1e-5, 64),
    "ssv2,size=S": (1e-3, 384, 2, 40, 0.7, 0.1, 0.0, 1e-6, 32),
    "ssv2,size=B,pretraining=800": (5e-4, 512, 1, 50, 0.75, 0.1, 0.0, 1e-6, 64),
    "ssv2,size=B,pretraining=2400": (5e-4, 384, 2, 30, 0.75, 0.1, 0.0, 1e-6, 64),
    "ucf101": (5e-4, 128, 2, 100, 0.7, 0.2, 0.5, 1e-5, 8),
}
# batch, epochs, decoder depth, ratio, base rate, frame stride
PRETRAINING = {
    ("videomae_k400", "S,epochs=1601"): (1024, 1601, 4, 0.9, 1.5e-4, 4),
    ("videomae_k400", "B"): (2048, 801, 4, 0.9, 1.5e-4, 4),
    ("videomae_k400", "L,epochs=1601"): (512, 1601, 12, 0.9, 1.5e-4, 4),
    ("videomae_k400", "H,epochs=1601"): (1024, 1601, 12, 0.9, 1.5e-4, 4),
    ("hpm_k400", "S"): (1024, 801, 4, 0.9, 1.5e-4, 4),
    ("hpm_ssv2", "S,method=videomae,epochs=2401"): (2048, 2401, 4, 0.9, 1.5e-4, 2),
    ("hpm_ssv2", "B,method=videomae"): (2048, 801, 4, 0.9, 1.5e-4, 2),
    ("hpm_ucf101", "videomae"): (192, 3201, 4, 0.75, 3e-4, 4),
}


def another_run(folder):
    """A workdir of a pre-training in which everything a fine-tuning could take over is odd."""
    data = {"source": "folder", "path": "/other", "frames": 8, "frame_stride": 7, "flip": 0.1}
    data |= {"sampling": "segments", "test_crop": 0.5, "mean": [0.1] * 3, "std": [0.9] * 3}
    data |= {"image_size": [64, 64], "crop_ratio": [1.0, 1.0], "interpolation": "bicubic"}
    data |= {"test_clips": 4, "test_crops": 1, "train_split": "x", "test_split": "y"}
    model = {"patch_size": 16, "tubelet": 2, "width": 32, "depth": 2, "heads": 2}
    model |= {"layout": "videomae"}
    folder.mkdir(exist_ok=True)
    options = {"task": "pretrain", "data": data, "model": model}
    (folder / "config.json").write_text(json.dumps(options))
    return folder


def finetuning(variant, folder):
    options = load("finetune_video", variant)
    options.init_from = str(another_run(folder))
    options.data.path = "/data/videos"
    return freeze(inherit(options))


@pytest.mark.parametrize("variant", FINETUNING)
def test_fine_tuning_of_videomae(variant, tmp_path):
    rate, batch, clips, epochs, decay, drop, dropout, floor, devices = FINETUNING[variant]
    config = finetuning(variant, tmp_path / "run")
    o, model, augment, data = config.optimizer, config.model, config.augment, config.data
    assert (o.base_learning_rate, o.batch_size, o.epochs) == (rate, batch, epochs)
    assert o.learning_rate == pytest.approx(rate * batch / 256)
    assert o.floor == pytest.approx(floor * batch / 256)
    assert (o.layer_decay, o.warmup_epochs, o.weight_decay) == (decay, 5, 0.05)
    assert (o.b1, o.b2, o.clip_norm) == (0.9, 0.999, 0)
    assert (model.drop_path, model.head_dropout, model.keep_norm) == (drop, dropout, False)
    assert (model.pool, model.head_std, model.layout) == ("mean", 2e-5, "videomae")
    assert (model.width, model.depth, model.tubelet) == (32, 2, 2), "of the weights"
    assert (augment.policy, augment.erase) == ("rand-m7-n4-mstd0.5-inc1", 0.25)
    assert (augment.mixup, augment.cutmix, augment.label_smoothing) == (0.8, 1.0, 0.1)
    assert (augment.mix_groups, augment.mixup_mode) == (devices, "batch")
    assert (data.clips, data.repeats, data.interpolation) == (clips, "frames", "bilinear")
    assert_224(data)
    assert data.mean == (0.485, 0.456, 0.406) and data.std == (0.229, 0.224, 0.225)
    if variant.startswith("ssv2"):
        assert (data.sampling, data.flip, data.test_clips) == ("segments", 0.0, 2)
    else:
        assert (data.sampling, data.frame_stride, data.flip) == ("linspace", 4, 0.5)
        assert data.test_clips == 5


def assert_224(data):
    """16 frames, short side 224 and crop 224, three of them in tests, all of the run's own data."""
    assert (data.frames, data.image_size, data.channels) == (16, (224, 224), 3)
    assert (data.test_crop, data.test_crops) == (1.0, 3)
    assert (data.crop, data.crop_scale, data.crop_ratio) == ("resized", (0.08, 1.0), (3 / 4, 4 / 3))
    assert (data.source, data.path, data.train_split, data.test_split) == (
        *("video_csv", "/data/videos"),
        *("train", "val"),
    )


def test_fine_tuning_of_mae_st(tmp_path):
    config = finetuning("k400,recipe=mae_st", tmp_path / "run")
    o, model, augment, data = config.optimizer, config.model, config.augment, config.data
    assert (o.base_learning_rate, o.epochs, o.clip_norm, o.layer_decay) == (2.4e-3, 50, 5.0, 0.75)
    assert o.learning_rate == pytest.approx(2.4e-3 * 2 * o.batch_size / 256), "counts clips"
    assert (o.floor, o.warmup_epochs, o.weight_decay) == (1e-6, 5, 0.05)
    assert (model.drop_path, model.head_dropout, model.keep_norm) == (0.2, 0.3, True)
    assert (model.layout, model.dtype) == ("mae_st", "float32")
    assert (augment.policy, augment.mix_groups) == ("rand-m7-mstd0.5-inc1", 64)
    assert (augment.mixup, augment.cutmix, augment.label_smoothing) == (0.8, 1.0, 0.1)
    assert (data.clips, data.repeats, data.sampling, data.frame_stride) == (2, "times", "mae_st", 4)
    assert data.mean == (0.45,) * 3 and data.std == (0.225,) * 3
    assert (data.flip, data.test_clips) == (0.5, 10)
    assert_224(data)


@pytest.mark.parametrize(("name", "variant"), PRETRAINING)
def test_pre_training(name, variant):
    batch, epochs, depth, ratio, rate, stride = PRETRAINING[name, variant]
    config = freeze(load(name, variant))
    o = config.optimizer
    assert (o.batch_size, o.epochs, o.base_learning_rate) == (batch, epochs, rate)
    assert o.learning_rate == pytest.approx(rate * batch / 256)
    assert o.floor == pytest.approx(1e-5 * batch / 256) and o.warmup_epochs == 40
    assert (config.model.decoder_depth, config.mask.ratio) == (depth, ratio)
    assert (config.data.frames, config.data.sampling, config.data.frame_stride) == (
        *(16, "dense"),
        stride,
    )


def test_pre_training_of_mae_st():
    config = freeze(load("videomae_k400", "H,recipe=mae_st"))
    assert (config.model.patch_size, config.optimizer.epochs, config.data.clips) == (14, 400, 4)
    assert (config.data.repeats, config.data.sampling) == ("times", "mae_st")
    assert freeze(load("videomae_k400", "L,recipe=mae_st")).model.patch_size == 16


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("ssv2,size=L", "no recipe of VideoMAE's is published for ssv2, size=L: .*size=S,pretr"),
        ("k400,pretraining=900", "for k400, size=B after 900 epochs: .*size=B,pretraining=1600"),
        ("ucf", "did you mean 'ucf101'"),
        ("k400,size=XL", "size = 'XL'"),
        ("ssv2,recipe=mae_st", "published for k400,size=L,pretraining=400, not for ssv2,"),
        ("k400,recipe=maest", "did you mean 'mae_st'"),
    ],
)
def test_recipes_that_are_not_published(variant, message):
    with pytest.raises(ConfigError, match=message):
        load("finetune_video", variant)


def test_test_crops_and_groups_of_images():
    """MAE and HPM test above 224 pixels on the whole short side; a group for each device."""
    for variant, crop, groups in (
        ("B", 0.875, 8),
        ("L,recipe=mae", 0.875, 32),
        ("H,recipe=mae,pixels=448", 1.0, 64),
        ("B,recipe=mae,pixels=192", 0.875, 32),
    ):
        options = load("finetune_in1k", variant)
        options.init_from = "runs/x"
        options.model.patch_size = 14 if variant.startswith("H") else 16
        config = freeze(options)
        assert (config.data.test_crop, config.augment.mix_groups) == (crop, groups)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("augment.mix_groups", 5, "mix_groups = 5 does not divide config.optimizer.batch_size"),
        ("augment.mix_groups", 5, "--config.augment.mix_groups=4, or another batch"),
        ("augment.mix_groups", 0, "config.augment.mix_groups = 0: expected a number from 1"),
        ("augment.mix_groups", 384, "= 384 leaves one image in each group"),
        ("augment.mixup_mode", "pairs", "did you mean 'pair'"),
        ("augment.mixup", -0.1, "config.augment.mixup = -0.1: expected a number from 0"),
        ("augment.cutmix_minmax", (0.2,), "cutmix_minmax = .0.2,.: expected the smallest and"),
        ("augment.cutmix_minmax", (0.8, 0.2), "expected the smallest and the largest side"),
        ("augment.cutmix_minmax", (0.5, 0.501), "leaves no whole number of pixels"),
        ("augment.color_jitter", 0.4, "color_jitter = 0.4 and config.augment.policy = 'rand"),
        ("augment.color_jitter", -1.0, "color_jitter = -1.0: expected a number from 0 to 1"),
        ("augment.erase_mode", "noise", "erase_mode = 'noise' .*: choose from pixel, const, rand"),
        ("augment.erase_count", 0, "config.augment.erase_count = 0: expected a number from 1"),
        (
            "model.head_dropout",
            1.0,
            "head_dropout = 1.0: expected a number from 0 below 1",
        ),
        ("optimizer.counted_clips", 3, "counted_clips = 3: expected 1, or the 1 of"),
        ("data.sampling", "linspce", "did you mean 'linspace'"),
        ("data.repeats", "frame", "did you mean 'frames'"),
        ("data.interpolation", "bicubci", "did you mean 'bicubic'"),
    ],
)
def test_what_cannot_run(path, value, message):
    options = load("finetune_in1k", "B")
    options.init_from = "runs/x"
    options.update_from_flattened_dict({path: value})
    with pytest.raises(ConfigError, match=message):
        freeze(options)


def test_a_norm_to_keep_is_that_after_pooling():
    options = load("finetune_in1k", "B")
    options.init_from = "runs/x"
    options.model.update(keep_norm=True, pool="cls")
    with pytest.raises(ConfigError, match="keep_norm = True keeps the norm after pooling, and"):
        freeze(options)


def test_groups_matter_only_where_images_are_mixed():
    options = load("finetune_in1k", "B")
    options.init_from = "runs/x"
    options.augment.update(mixup=0.0, cutmix=0.0, mix_groups=5)
    freeze(options)
