"""The quick start with seeds and baselines: HPM, random masks and MAE on handwritten digits.

    python -m hpm_jax.compare --config configs/compare_digits.py --workdir runs/compare_digits

The base is configs/quickstart.py, with three seeds. Beside the features of the encoder (logistic
regression, kNN) it measures what is explained of hidden patches, and fine-tuning with five labelled
images of each class beside the same from scratch. Finished cells are in results/compare_digits.

Papers: HPM (CVPR 2023), MAE (CVPR 2022).
"""

import importlib.util
from pathlib import Path

import ml_collections

from hpm_jax.config import defaults

ARMS = {
    "hpm": {},
    "random": {"mask": {"strategy": "random"}, "teacher": "none"},
    "mae": {"mask": {"strategy": "random"}, "losses": (), "teacher": "none"},
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The comparison; it has no variants."""
    del variant
    config = defaults("compare")
    config.base = quickstart()
    config.arms = ARMS
    config.order = tuple(ARMS)
    config.contrasts = (
        "hpm > random: hard patches beat random ones",
        "random > mae: predicting losses helps even with random masks",
    )
    config.measures = ("logistic", "knn", "held_out", "explained", "ranking", "finetune")
    config.penalty = 1e-2
    config.finetune.shares = (1 / 30,)  # five images of each class
    config.finetune.steps = 100
    config.results = "results/compare_digits"
    return config


def quickstart() -> ml_collections.ConfigDict:
    """The config that lies beside this one."""
    path = Path(__file__).with_name("quickstart.py")
    spec = importlib.util.spec_from_file_location("quickstart", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()
