"""The options of a comparison: arms times seeds, what is measured, and what is claimed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpm_jax.config.pretrain import Config
from hpm_jax.config.shared import TaskOptions
from hpm_jax.fields import as_dict, option, positive, result_options

MEASURES = ("logistic", "knn", "patch", "held_out", "explained", "ranking", "finetune")
BUDGETS = ("images", "flops")

# What an arm may change of the base without `differ`: its masks, its target, its losses.
METHOD = ("mask", "target", "objective", "losses", "teacher")


@dataclasses.dataclass(frozen=True)
class FinetuneBudget:
    """Fine-tuning in every cell, and the same from scratch with the random weights."""

    shares: tuple[float, ...] = option((0.01, 0.1), "of the labels", above=0, high=1)
    steps: int = positive(400, "of each fine-tuning run, whatever the share")
    batch_size: int = positive(64, "of fine-tuning")
    learning_rate: float = positive(1e-3, "of AdamW, after a linear warm-up over a tenth")
    weight_decay: float = option(0.05, "of AdamW", low=0)


@dataclasses.dataclass(frozen=True)
class Compare(TaskOptions):
    """A comparison of pre-training methods."""

    task: str = option("compare", "what the run does")
    base: Config = Config()  # what all arms share
    arms: Mapping[str, Any] = option({}, "by name, the options of `base` that the arm changes")
    order: tuple[str, ...] = option((), "of the arms, in tables and in time; () for the alphabet's")
    differ: tuple[str, ...] = option((), "sections in which arms may differ beside their method")
    contrasts: tuple[str, ...] = option(
        (), "'better > worse: what is claimed' each, registered before anything is measured"
    )
    seeds: tuple[int, ...] = option((0, 1, 2), "of each arm", low=0, high=2**32 - 1)
    only: tuple[str, ...] = option((), "the arms that this machine runs; () for all")
    versions: tuple[str, ...] = option((), "earlier ones of hpm_jax whose cells count")
    results: str = option("", "the folder of the cells; '' for WORKDIR/results")
    budget: str = option("images", "what all arms get as much of", choices=BUDGETS)
    together: int = positive(1, "seeds that one compiled step trains at once")
    chunk: int = positive(25, "steps in one call of the device")
    measures: tuple[str, ...] = option(MEASURES, "of each cell", choices=MEASURES)
    checkpoints: tuple[float, ...] = option(
        (0.8, 0.9, 1.0), "shares of the run whose measures are averaged", above=0, high=1
    )
    penalty: float = positive(1e-3, "of the logistic regression, the same in every cell")
    neighbors: int = positive(20, "of kNN")
    bank_images: int = option(0, "labelled training images of logistic and kNN; 0 for all", low=0)
    held_out_images: int = positive(5000, "test images that are rebuilt")
    finetune: FinetuneBudget = FinetuneBudget()
    primary: str = option("logistic", "the measure of the registered contrasts", choices=MEASURES)
    margin: float = option(0.01, "differences within it count as none", above=0, below=1)

    @property
    def design(self) -> str:
        """A hash of everything that makes two cells comparable; arms and seeds are not in it.

        Options at their defaults are not in it either, so that a new option leaves old cells valid.
        """
        names = ("budget", "checkpoints", "penalty", "neighbors", "bank_images", "held_out_images")
        shared = {name: getattr(self, name) for name in names} | {
            "finetune": as_dict(self.finetune)
        }
        shared |= {f"base.{name}": value for name, value in results_of(self.base).items()}
        text = json.dumps(shared, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def results_of(base: Config) -> dict[str, Any]:
    """The options that results depend on, of all arms alike, where they are not the defaults."""
    usual = result_options(Config())
    return {
        name: value
        for name, value in result_options(base).items()
        if value != usual[name] and name.split(".")[0] not in (*METHOD, "seed", "modules")
    }
