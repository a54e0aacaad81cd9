"""The published recipes for videos, as numbers: pre-training, fine-tuning, and their accuracy.

From the scripts of VideoMAE (NeurIPS 2022, scripts/ and MODEL_ZOO.md of MCG-NJU/VideoMAE) and from
FINETUNE.md of mae_st (NeurIPS 2022). A peak learning rate is base x batch / 256.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from hpm_jax.config import defaults
from hpm_jax.config.shared import IMAGENET_MEAN, IMAGENET_STD
from hpm_jax.errors import ConfigError


class Pretraining(NamedTuple):
    """The settings of VideoMAE's pre-training that depend on data set and size."""

    batch_size: int  # videos: nodes x 8 devices x videos a device
    epochs: tuple[int, ...]  # of the released checkpoints; schedules span one more
    base_learning_rate: float = 1.5e-4
    ratio: float = 0.9  # of tubes that are hidden
    frame_stride: int = 4


PRETRAINING: dict[tuple[str, str], Pretraining] = {
    ("k400", "S"): Pretraining(1024, (1600,)),
    ("k400", "B"): Pretraining(2048, (800, 1600)),
    ("k400", "L"): Pretraining(512, (1600,)),
    ("k400", "H"): Pretraining(1024, (1600,)),
    ("ssv2", "S"): Pretraining(2048, (2400,), frame_stride=2),
    ("ssv2", "B"): Pretraining(2048, (800, 2400), frame_stride=2),
    ("ssv2", "L"): Pretraining(512, (), frame_stride=2),  # not published: as on Kinetics
    ("ssv2", "H"): Pretraining(1024, (), frame_stride=2),
    ("ucf101", "B"): Pretraining(192, (3200,), base_learning_rate=3e-4, ratio=0.75),
}


class Finetuning(NamedTuple):
    """One published fine-tuning and its accuracy."""

    data: str
    size: str
    pretraining: int  # epochs of the pre-trained checkpoint
    base_learning_rate: float
    batch_size: int  # videos
    clips: int  # of each video
    epochs: int
    layer_decay: float
    drop_path: float
    devices: int  # number of devices in the script; each mixes its own clips
    top1: float  # by the official README
    head_dropout: float = 0.0
    floor: float = 1e-6  # scaled by batch / 256, as the rate is


FINETUNING = (
    Finetuning("k400", "S", 1600, 5e-4, 384, 2, 150, 0.75, 0.1, 32, 79.0),
    Finetuning("k400", "B", 800, 1e-3, 512, 1, 100, 0.75, 0.1, 64, 80.0),
    Finetuning("k400", "B", 1600, 5e-4, 384, 2, 75, 0.75, 0.1, 64, 81.5),
    Finetuning("k400", "L", 1600, 2e-3, 128, 2, 35, 0.75, 0.1, 64, 85.2),
    Finetuning("k400", "H", 1600, 1e-3, 512, 2, 50, 0.75, 0.2, 64, 86.6, 0.5, 1e-5),
    Finetuning("ssv2", "S", 2400, 1e-3, 384, 2, 40, 0.7, 0.1, 32, 66.8),
    Finetuning("ssv2", "B", 800, 5e-4, 512, 1, 50, 0.75, 0.1, 64, 69.6),
    Finetuning("ssv2", "B", 2400, 5e-4, 384, 2, 30, 0.75, 0.1, 64, 70.8),
    Finetuning("ucf101", "B", 3200, 5e-4, 128, 2, 100, 0.7, 0.2, 8, 91.3, 0.5, 1e-5),
)
# 2 videos per device; the number of devices is not published and taken from VideoMAE's L
MAE_ST = Finetuning("k400", "L", 400, 2.4e-3, 128, 2, 50, 0.75, 0.2, 64, 84.35, 0.3)


def find_finetuning(data: str, size: str, pretraining: int = 0) -> Finetuning:
    """Returns VideoMAE's recipe for a data set, a size, and pre-training epochs (0: the first).

    Raises:
        ConfigError: if none is published.
    """
    of_data = [recipe for recipe in FINETUNING if recipe.data == data]
    for recipe in of_data:
        if recipe.size == size and pretraining in (0, recipe.pretraining):
            return recipe
    known = ", ".join(f"size={r.size},pretraining={r.pretraining}" for r in of_data)
    after = f" after {pretraining} epochs" if pretraining else ""
    raise ConfigError(
        f"no recipe of VideoMAE's is published for {data}, size={size}{after}: take that of "
        f"another, which fits weights of any size ({known})."
    )


def finetuning_config(recipe: Finetuning) -> ConfigDict:
    """VideoMAE's fine-tuning of clips of 16 x 224 x 224, complete except for the data path.

    The sizes of the model are those of the weights.
    """
    config = defaults("finetune")
    # the pre-training may have other data, so the location of the videos is not inherited
    config.data.update(source="video_csv", train_split="train", test_split="val")
    config.data.update(frames=16, image_size=(224, 224), channels=3)
    config.data.update(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear")
    config.data.update(crop="resized", crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3))
    config.data.update(clips=recipe.clips, repeats="frames")
    config.data.update(test_crop=1.0, test_crops=3)  # short side 224, crop 224
    if recipe.data == "ssv2":
        # these labels distinguish left from right
        config.data.update(sampling="segments", frame_stride=2, flip=0.0, test_clips=2)
    else:
        config.data.update(sampling="linspace", frame_stride=4, flip=0.5, test_clips=5)
    config.model.update(layout="videomae", dtype="bfloat16")
    config.model.update(pool="mean", keep_norm=False, head_std=2e-5)
    config.model.update(drop_path=recipe.drop_path, head_dropout=recipe.head_dropout)
    config.augment.update(policy="rand-m7-n4-mstd0.5-inc1", color_jitter=0.0)
    config.augment.update(erase=0.25, erase_mode="pixel", erase_count=1, label_smoothing=0.1)
    config.augment.update(mixup=0.8, cutmix=1.0, cutmix_minmax=(), mixup_mode="batch")
    config.augment.update(mix_probability=1.0, switch_probability=0.5, mix_groups=recipe.devices)
    config.optimizer.update(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        base_learning_rate=recipe.base_learning_rate,
        counted_clips=1,
        floor=recipe.floor * recipe.batch_size / 256,
        warmup_epochs=5.0,
        weight_decay=0.05,
        b1=0.9,
        b2=0.999,
        clip_norm=0.0,
        layer_decay=recipe.layer_decay,
    )
    # a test batch of 8 videos in 15 views is 0.3 GB, and every worker prefetches one
    config.evaluation.update(every_epochs=5.0, batch_size=8)
    config.run.update(workers=16, prefetch=1, log_every_steps=50)
    return config


def mae_st_finetuning() -> ConfigDict:
    """mae_st's fine-tuning, as differences from VideoMAE's (FINETUNE.md, main_finetune.py).

    Clips are taken at different times and count in the linear scaling rule. The pre-trained norm
    is used after pooling. Tests average 10 x 3 views (main_test.py).
    """
    config = finetuning_config(MAE_ST)
    config.data.update(mean=(0.45,) * 3, std=(0.225,) * 3)
    config.data.update(sampling="mae_st", repeats="times", test_clips=10)
    config.model.update(layout="mae_st", dtype="float32", keep_norm=True)
    config.augment.policy = "rand-m7-mstd0.5-inc1"
    config.optimizer.update(counted_clips=MAE_ST.clips, floor=1e-6, clip_norm=5.0)
    return config
