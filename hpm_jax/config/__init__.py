"""Every option of every task, with its default, as frozen dataclasses."""

import dataclasses

import ml_collections

from hpm_jax.config.compare import Compare as Compare
from hpm_jax.config.evaluation import Budget as Budget
from hpm_jax.config.evaluation import Evaluate as Evaluate
from hpm_jax.config.evaluation import Features as Features
from hpm_jax.config.evaluation import Probe as Probe
from hpm_jax.config.evaluation import ProbeOptimizer as ProbeOptimizer
from hpm_jax.config.evaluation import Probes as Probes
from hpm_jax.config.evaluation import Report as Report
from hpm_jax.config.evaluation import Scoring as Scoring
from hpm_jax.config.finetune import Accuracy as Accuracy
from hpm_jax.config.finetune import Augment as Augment
from hpm_jax.config.finetune import ClassifierModel as ClassifierModel
from hpm_jax.config.finetune import Finetune as Finetune
from hpm_jax.config.finetune import FinetuneOptimizer as FinetuneOptimizer
from hpm_jax.config.finetune import Regularize as Regularize
from hpm_jax.config.parse import freeze as freeze
from hpm_jax.config.parse import parse_variant as parse_variant
from hpm_jax.config.pretrain import Config as Config
from hpm_jax.config.pretrain import Evaluation as Evaluation
from hpm_jax.config.pretrain import MaskOptions as MaskOptions
from hpm_jax.config.pretrain import Model as Model
from hpm_jax.config.shared import Data as Data
from hpm_jax.config.shared import OnGrid as OnGrid
from hpm_jax.config.shared import Optimizer as Optimizer
from hpm_jax.config.shared import Run as Run
from hpm_jax.errors import ConfigError as ConfigError
from hpm_jax.errors import check_choice as check_choice
from hpm_jax.errors import nearest as nearest
from hpm_jax.fields import short

TASKS: dict[str, type] = {
    "pretrain": Config,
    "finetune": Finetune,
    "report": Report,
    "probe": Probe,
    "evaluate": Evaluate,
    "compare": Compare,
}

# How training images are cut differs from task to task.
OWN_DATA = ("crop", "crop_scale", "clips", "repeats")

# What a task that starts from a pre-trained encoder takes over from it, unless it is given.
INHERITED = {
    "data": [field.name for field in dataclasses.fields(Data) if field.name not in OWN_DATA],
    "model": ["patch_size", "tubelet", "width", "depth", "heads", "layout"],
    "features": ["pool"],
}

# Options that may differ when a workdir is gone on with: they change no result.
FREE = (
    "run",
    "evaluation",
    "data.path",
    "data.max_broken",
    "model.remat",
    "model.unroll",
    "model.attention",
)


def defaults(task: str = "pretrain") -> ml_collections.ConfigDict:
    """Every option at its default, as the ConfigDict that config files start from.

    Args:
        task: a name in `TASKS`. All but "pretrain" start from a pre-trained encoder: what they
            inherit from it (`INHERITED`) is None here, and stays so unless a config sets it.
    """
    config = ml_collections.ConfigDict(short(TASKS[task]()), convert_dict=True)
    for section, names in INHERITED.items() if task != "pretrain" else ():
        for name in names:
            if name in config.get(section, {}):
                kind = type(config[section][name])
                config[section][name] = ml_collections.config_dict.placeholder(kind)
    return config
