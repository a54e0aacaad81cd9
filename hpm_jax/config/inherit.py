"""Options that a config leaves unset are inherited from the pre-training that it starts from."""

import dataclasses
from pathlib import Path
from typing import Any

import ml_collections

from hpm_jax.config import Finetune, Report, freeze
from hpm_jax.config.recipes import finetune_small
from hpm_jax.config.tasks import find_task, resolve
from hpm_jax.errors import ConfigError
from hpm_jax.storage import as_path
from hpm_jax.text_files import read_json

# Options that locate the images. They are inherited all together or not at all.
DATA_LOCATION = (
    "source",
    "path",
    "name",
    "train_split",
    "test_split",
    "holdout",
    "synthetic_images",
)


def inherit(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a copy of `config` whose unset options are inherited from `config.init_from`.

    For a workdir or its `best` folder, data and model sizes come from `config.json`; for a weights
    file, the sizes come from the weights. Other unset options stay None, and `freeze` sets them to
    their defaults.
    """
    given, config = config, config.copy_and_resolve_references()
    task = find_task(config)
    if not (config.get("init_from") and (task.inherits or task.complete)):
        return config
    source = as_path(config.init_from)
    found = _of_workdir(source) or _of_weights(source)
    located = given.get("data", {}).get("source") is not None
    for section, names in task.inherits.items():
        for name in names:
            skip = section == "data" and name in DATA_LOCATION and located
            value = found.get(section, {}).get(name)
            if config[section][name] is None and value is not None and not skip:
                config[section][name] = tuple(value) if isinstance(value, list) else value
    if task.complete is not None:
        resolve(task.complete)(config, given, found)
    return config


def complete_evaluation(
    config: ml_collections.ConfigDict, given: ml_collections.ConfigDict, found: dict[str, Any]
) -> None:
    """Sets what is scored by default: a run's own test split, or a file with its authors' crop.

    Args:
        config: changed in place.
        given: the config before anything was inherited.
        found: the options of `init_from`, by section.
    """
    if given.data.source is None and found["data"].get("source"):
        config.split = "test"
    if config.data.test_crop is None:
        from hpm_jax.convert.preprocessing import test_crop

        source = as_path(config.init_from)
        config.data.test_crop = test_crop(source, found["architecture"], config.data.image_size)


def _of_workdir(path: Path) -> dict[str, Any]:
    """Returns the options of a run of this package; {} for a file or any other folder."""
    there = (path.parent if path.name == "best" else path) / "config.json"
    advice = "put a copy of it back, or name a file of weights"
    options = read_json(there, ConfigError, advice) if path.is_dir() and there.exists() else {}
    if "task" not in options:
        return {}
    # the feature that the run itself was evaluated with: that of kNN, or that of its head
    pools = [options.get(section, {}).get("pool") for section in ("model", "evaluation")]
    return options | {"features": {"pool": pools[0] or pools[1]}}


def _of_weights(path: Path) -> dict[str, Any]:
    from hpm_jax.convert.preprocessing import normalization
    from hpm_jax.convert.read import read_weights

    a = read_weights(path).architecture
    frames, *size = (count * side for count, side in zip(a.grid, a.patch, strict=True))
    return {
        "architecture": a,
        "model": dataclasses.asdict(a),
        "data": {
            "image_size": size,
            "frames": frames,
            "channels": a.channels,
            **normalization(path, a),
        },
        "features": {"pool": "both" if a.token_layout.cls_token else "mean"},
    }


def finetune_config(report: Report) -> Finetune:
    """Returns the fine-tuning config of a report: its encoder and data, the small-data recipe."""
    config = finetune_small(**dataclasses.asdict(report.finetune))
    config.update(init_from=report.init_from, weights=report.weights, seed=report.seed)
    config.data.update(dataclasses.asdict(report.data) | {"crop_scale": config.data.crop_scale})
    return freeze(inherit(config))
