"""Settings that several configs share."""

from ml_collections import ConfigDict

from hpm_jax.config import defaults
from hpm_jax.config.video_recipes import PRETRAINING
from hpm_jax.models.sizes import SIZES, VIDEO_SIZES

MIXING_PAYS = 30  # epochs: shorter runs learn more from unmixed images


def finetune_small(epochs: int, batch_size: int, base_learning_rate: float) -> ConfigDict:
    """Fine-tuning for small data and small images; `hpm_jax.config.inherit` fills in the rest."""
    config = defaults("finetune")
    config.data.crop_scale = (0.3, 1.0)  # small images do not survive crops of 8 %
    config.optimizer.update(epochs=epochs, batch_size=batch_size, warmup_epochs=0.1 * epochs)
    config.optimizer.base_learning_rate = base_learning_rate
    peak = base_learning_rate * batch_size / 256
    config.optimizer.floor = min(config.optimizer.floor, peak)
    config.model.unroll = 0
    if epochs < MIXING_PAYS:
        config.augment.update(policy="", erase=0.0, mixup=0.0, cutmix=0.0)
        config.model.drop_path = 0.0
    return config


def imagenet(size: str) -> ConfigDict:
    """Pre-training on ImageNet-1k in bfloat16; a config adds the method and its optimizer.

    Args:
        size: of the model, a name in `SIZES`.
    """
    config = defaults()
    config.data.update(source="tfds", name="imagenet2012", test_split="validation")
    config.model.update(SIZES[size], dtype="bfloat16")
    config.evaluation.update(every_epochs=10.0, bank_images=10000, test_images=5000)
    config.run.update(workers=16, log_every_steps=50)
    return config


def mae_test_crop(pixels: int) -> float:
    """`data.test_crop` for square images in MAE's and HPM's evaluation (util/datasets.py)."""
    return 224 / 256 if pixels <= 224 else 1.0


def videomae(size: str, epochs: int, data: str = "k400") -> ConfigDict:
    """VideoMAE's pre-training of clips of 16 x 224 x 224, masked with random tubes.

    Args:
        size: S, B, L or H.
        epochs: number of epochs of the schedule.
        data: the recipe's data set: k400, ssv2 or ucf101.
    """
    recipe = PRETRAINING[data, size]
    config = defaults()
    config.data.source = "video_csv"
    config.data.test_split = "val"
    config.data.update(frames=16, sampling="dense", image_size=(224, 224))
    config.data.frame_stride = recipe.frame_stride
    config.data.update(crop="multi_scale", flip=0.0, test_crop=1.0)
    config.model.update(VIDEO_SIZES[size], tubelet=2, layout="videomae", dtype="bfloat16")
    config.target = "channel_normalized_pixels"
    config.mask.update(strategy="random", unit="tube", ratio=recipe.ratio)
    config.losses = ()
    config.teacher = "none"
    config.optimizer.update(
        epochs=epochs,
        batch_size=recipe.batch_size,
        base_learning_rate=recipe.base_learning_rate,
        floor=1e-5 * recipe.batch_size / 256,
        warmup_epochs=40.0,
        weight_decay=0.05,
        b2=0.95,
        clip_norm=0.0,
    )
    # each evaluation decodes these videos again, so their number is small
    config.evaluation.update(every_epochs=20.0, bank_images=4000, test_images=1000, pool="mean")
    config.evaluation.update(batch_size=64, pictures=3)
    config.run.update(workers=16, log_every_steps=50)
    return config


def hpm_on_video(config: ConfigDict) -> ConfigDict:
    """Hard tubes instead of random ones, with a teacher that sees every second frame of the grid.

    Teacher, schedule and clipping are those of the image recipe. `config` is changed in place.
    """
    config.mask.strategy = "hard(start=0.0, end=0.5)"
    config.losses = ("ranking(pairs='tubes')",)
    config.teacher = "moving_average(frame_stride=2)"
    config.optimizer.clip_norm = 5.0
    return config
