"""Settings that several configs share."""

from ml_collections import ConfigDict

from hpm_jax.options import defaults

MIXING_PAYS = 30  # epochs: a shorter run learns more from images as they are


def finetune_small(epochs: int, batch_size: int, base_learning_rate: float) -> ConfigDict:
    """Fine-tuning for small data and small images; `hpm_jax.inherit` fills in the rest."""
    config = defaults("finetune")
    config.data.crop_scale = (0.3, 1.0)  # small images do not survive crops of 8 %
    config.optimizer.update(epochs=epochs, batch_size=batch_size, warmup_epochs=0.1 * epochs)
    config.optimizer.base_learning_rate = base_learning_rate
    config.model.unroll = 0
    if epochs < MIXING_PAYS:
        config.augment.update(policy="", erase=0.0, mixup=0.0, cutmix=0.0)
        config.model.drop_path = 0.0
    return config
