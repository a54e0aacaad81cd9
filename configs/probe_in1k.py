"""Linear probe on ImageNet-1k, by HPM's protocol or MAE's; and an attentive probe.

    python -m hpm_jax.main --config configs/probe_in1k.py:hpm --config.init_from=runs/hpm_b200 \
        --workdir runs/hpm_b200_linear --config.data.source=folder \
        --config.data.path=/data/imagenet

Variants: the protocol hpm (the default: SGD, batches of 2048), mae (LARS, batches of 16384) or
attentive (AdamW, batches of 1024); size=B (the default), L or H, which only changes mae's epochs;
epochs=; and sweep=0. Each trains a sweep of learning rates at once, the published one in its
middle, on the same features: the encoder dominates the cost. The setting is chosen on training
images held out for it, and then scored on the validation images. sweep=0 trains the published
setting alone, on all training images. Images are cropped as BYOL's: once, without retries.

Papers: HPM (CVPR 2023; scripts/linprob.sh), MAE (CVPR 2022, appendix A), attentive probing: CAE.
Expected top-1: MAE B 67.8, L 76.0 and H 77.2 after 1600 epochs (official README), attentive MAE B
74.2 (CAE's README). This config has not been run here to its end.
"""

import ml_collections

from hpm_jax.config import check_choice, defaults, parse_variant

PROTOCOLS = {
    # optimizer, head, batch size, epochs of B, base learning rates, weight decays
    "hpm": ("sgd", "linear", 2048, 100, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0.0, 1e-5, 1e-4)),
    "mae": ("lars", "linear", 16384, 90, (1e-2, 3e-2, 1e-1, 3e-1, 1.0), (0.0,)),
    "attentive": ("adamw", "attentive", 1024, 50, (3e-5, 1e-4, 3e-4, 1e-3), (0.0, 1e-2, 1e-1)),
}
PUBLISHED = {"hpm": 1e-3, "mae": 1e-1}  # base learning rates, without weight decay
EPOCHS = {("mae", "L"): 50, ("mae", "H"): 50}  # larger models are trained shorter


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full protocol; `variant` is the text after the colon."""
    chosen = parse_variant(variant, PROTOCOLS, protocol="hpm", size="B", epochs=0, sweep=1)
    protocol, size = chosen["protocol"], check_choice("size", chosen["size"], ("B", "L", "H"))
    kind, head, batch_size, epochs, rates, decays = PROTOCOLS[protocol]
    config = defaults("probe")
    config.data.update(source="tfds", name="imagenet2012", test_split="validation")
    config.data.update(image_size=(224, 224), test_crop=0.875, crop="byol", crop_scale=(0.08, 1.0))
    if not chosen["sweep"]:
        rate = PUBLISHED[check_choice("protocol with sweep=0", protocol, PUBLISHED)]
        rates, decays, config.choose_on = (rate,), (0.0,), 0.0
    config.head = head
    config.features.update(pool="cls", dtype="bfloat16")
    config.optimizer.update(
        kind=kind,
        epochs=chosen["epochs"] or EPOCHS.get((protocol, size), epochs),
        batch_size=batch_size,
        base_learning_rates=rates,
        weight_decays=decays,
        warmup_epochs=10.0,
    )
    config.evaluation.every_epochs = 5.0
    config.run.update(workers=16, log_every_steps=50)
    return config
