"""Evaluates a pre-trained encoder in one table: kNN, few-shot, linear, logistic, fine-tuning.

    python -m hpm_jax.main --config configs/report.py --config.init_from=runs/quickstart \
        --workdir runs/quickstart_report

`init_from` is the workdir of a run, or a weights file (docs/weights.md). The data is that of the
pre-training, unless `config.data.source` and its options are given. Writes `report.md` and
`report.json`, with a command for each row. Variants: finetune=10 also fine-tunes for 10 epochs;
attentive=1 also trains an attentive probe, whose features are all tokens of all images.
Other encoders: --config.weights=teacher or random; --config.features.block=6,
--config.features.pool=mean, --config.data.image_size="(64,64)".

Papers: kNN as DINO and HPM, linear probes as HPM (CVPR 2023), few-shot as big_vision.
Expected: docs/results.md has the tables of four encoders on CIFAR-10.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the quick probes; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), finetune=0, attentive=0)
    config = defaults("report")
    config.finetune.epochs = chosen["finetune"]
    if chosen["attentive"]:
        config.probes.names = (*config.probes.names, "attentive")
    return config
