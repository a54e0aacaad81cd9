"""The options of a comparison: arms, seeds, measures and registered contrasts."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpm_jax.config.pretrain import Config
from hpm_jax.config.shared import TaskOptions
from hpm_jax.fields import as_dict, option, positive, result_options

MEASURES = ("logistic", "knn", "patch", "held_out", "explained", "ranking", "finetune")
WITHOUT_FINETUNING = MEASURES[:-1]  # fine-tuning costs as much as a cell
BUDGETS = ("images", "flops")

# Sections of the base that an arm may change without `differ`.
METHOD = ("mask", "target", "objective", "losses", "teacher", "decoder")


@dataclasses.dataclass(frozen=True)
class FinetuneBudget:
    """Fine-tuning in every cell, and the same from scratch with random weights."""

    shares: tuple[float, ...] = option((0.01, 0.1), "fractions of the labels", above=0, high=1)
    steps: int = positive(400, "number of steps of each fine-tuning run, for every fraction")
    batch_size: int = positive(64, "number of images per fine-tuning step", high=10**7)
    learning_rate: float = positive(
        1e-3, "peak learning rate of AdamW, after a linear warm-up over a tenth", high=1e3
    )
    weight_decay: float = option(0.05, "weight decay of AdamW", low=0, high=1e3)


@dataclasses.dataclass(frozen=True)
class Compare(TaskOptions):
    """A comparison of pre-training methods."""

    task: str = option("compare", "name of the task")
    base: Config = Config()  # what all arms share
    arms: Mapping[str, Any] = option(
        {}, "name of each arm and the options of `base` that it changes"
    )
    order: tuple[str, ...] = option(
        (), "order of the arms in tables and in time; () is alphabetical"
    )
    differ: tuple[str, ...] = option((), "sections besides the method in which arms may differ")
    contrasts: tuple[str, ...] = option(
        (), "claims registered before any measurement, each 'better > worse: claim'"
    )
    seeds: tuple[int, ...] = option((0, 1, 2), "random seeds of each arm", low=0, high=2**32 - 1)
    only: tuple[str, ...] = option((), "arms that this machine runs; () for all")
    versions: tuple[str, ...] = option((), "earlier versions of hpm_jax whose cells are accepted")
    results: str = option("", "folder of the cells; '' for WORKDIR/results")
    budget: str = option("images", "training budget that is equal for all arms", choices=BUDGETS)
    together: int = positive(1, "number of seeds that one compiled step trains at once", high=10**4)
    chunk: int = positive(25, "number of steps per device call", high=10**6)
    measures: tuple[str, ...] = option(MEASURES, "measures of each cell", choices=MEASURES)
    checkpoints: tuple[float, ...] = option(
        (0.8, 0.9, 1.0),
        "points of the run whose measures are averaged, as fractions",
        above=0,
        high=1,
    )
    penalty: float = option(
        1e-3, "L2 penalty of the logistic regression, the same in every cell", low=1e-9, high=1e3
    )
    neighbors: int = positive(20, "number of neighbours of kNN", high=10**6)
    bank_images: int = option(
        0,
        "number of labelled training images for logistic regression and kNN; 0 for all",
        low=0,
        high=10**9,
    )
    held_out_images: int = positive(5000, "number of test images that are reconstructed")
    finetune: FinetuneBudget = FinetuneBudget()
    primary: str = option("logistic", "measure of the registered contrasts", choices=MEASURES)
    margin: float = option(0.01, "largest difference that counts as none", above=0, below=1)

    @property
    def design(self) -> str:
        """A hash of everything that makes two cells comparable; it excludes arms and seeds.

        It also excludes options at their defaults, so that a new option leaves old cells valid.
        """
        names = ("budget", "checkpoints", "penalty", "neighbors", "bank_images", "held_out_images")
        shared = {name: getattr(self, name) for name in names} | {
            "finetune": as_dict(self.finetune)
        }
        shared |= {f"base.{name}": value for name, value in results_of(self.base).items()}
        text = json.dumps(shared, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def results_of(base: Config) -> dict[str, Any]:
    """The options shared by all arms that results depend on and that are not at their defaults."""
    usual = result_options(Config())
    return {
        name: value
        for name, value in result_options(base).items()
        if value != usual[name] and name.split(".")[0] not in (*METHOD, "seed", "modules")
    }
