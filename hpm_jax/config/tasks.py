"""The registry of tasks: each task is one entry of `TASKS`.

To add a task of your own, call `register_task` in a module that `config.modules` names.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hpm_jax.config.compare import Compare
from hpm_jax.config.depth import DepthProbe
from hpm_jax.config.detect import Detect, DetectEvaluate
from hpm_jax.config.evaluation import Evaluate, Probe, Report
from hpm_jax.config.finetune import Finetune
from hpm_jax.config.pretrain import Config
from hpm_jax.config.segment import Segment, SegmentEvaluate, SegmentProbe
from hpm_jax.config.shared import Data, TaskOptions
from hpm_jax.config.track import Track
from hpm_jax.errors import check_choice
from hpm_jax.models.layouts import VARIANT
from hpm_jax.plugs import import_modules

# A function, or "module:name" of one. Only the module of the selected task is imported, so the
# command starts quickly and the modules may import this package.
Function = Callable[..., Any] | str


class Task(NamedTuple):
    """A task that a config can name: its options and its functions."""

    options: type[TaskOptions]  # a frozen dataclass, all of whose fields have defaults
    run: Function  # (config, workdir) -> the exit code of the command
    check: Function | None = None  # (config) -> None; raises a `ConfigError` for what cannot run
    # by section, the options inherited from `config.init_from` unless a config sets them
    inherits: Mapping[str, tuple[str, ...]] = {}
    # (config, given, found) -> None: sets further options from `init_from`; see `config/inherit.py`
    complete: Function | None = None
    # (config, workdir) -> `Parts`, for a task whose workdir holds a model; see `hpm_jax.run.load`
    build: Function | None = None


# Training crops differ between tasks.
TASK_SPECIFIC_DATA = ("crop", "crop_scale", "clips", "repeats")
DATA = tuple(
    field.name for field in dataclasses.fields(Data) if field.name not in TASK_SPECIFIC_DATA
)
# The options of an encoder on which its parameters depend.
ENCODER = ("patch_size", "tubelet", "width", "depth", "heads", "layout", *VARIANT)
# Label maps are other data than those of pre-training.
SEGMENT_DATA = ("image_size", "channels", "mean", "std", "value_range")

TASKS: dict[str, Task] = {
    "pretrain": Task(
        options=Config,
        run="hpm_jax.tasks.pretrain:pretrain",
        check="hpm_jax.config.checks.pretrain:check_pretrain",
        build="hpm_jax.run.load:pretraining_parts",
    ),
    "finetune": Task(
        options=Finetune,
        run="hpm_jax.tasks.finetune:finetune",
        check="hpm_jax.config.checks.finetune:check_finetune",
        inherits={"data": DATA, "model": ENCODER},
        build="hpm_jax.run.load:finetuning_parts",
    ),
    "segment": Task(
        options=Segment,
        run="hpm_jax.tasks.segment:segment",
        check="hpm_jax.config.checks.segment:check_segment",
        inherits={"data": SEGMENT_DATA, "model": ENCODER},
        build="hpm_jax.run.load:segmentation_parts",
    ),
    "segment_evaluate": Task(
        options=SegmentEvaluate,
        run="hpm_jax.tasks.segment_evaluate:segment_evaluate",
        check="hpm_jax.config.checks.segment:check_segment_evaluate",
    ),
    "segment_probe": Task(
        options=SegmentProbe,
        run="hpm_jax.tasks.segment_probe:segment_probe",
        check="hpm_jax.config.checks.segment:check_segment_probe",
        inherits={"data": SEGMENT_DATA},
    ),
    "depth_probe": Task(
        options=DepthProbe,
        run="hpm_jax.tasks.depth_probe:depth_probe",
        check="hpm_jax.config.checks.depth:check_depth_probe",
        inherits={"data": SEGMENT_DATA},
    ),
    "detect": Task(
        options=Detect,
        run="hpm_jax.tasks.detect:detect",
        check="hpm_jax.config.checks.detect:check_detect",
        inherits={"data": SEGMENT_DATA, "model": ENCODER},
        build="hpm_jax.run.load:detection_parts",
    ),
    "detect_evaluate": Task(
        options=DetectEvaluate,
        run="hpm_jax.tasks.detect_evaluate:detect_evaluate",
        check="hpm_jax.config.checks.detect:check_detect_evaluate",
    ),
    "track": Task(
        options=Track,
        run="hpm_jax.tasks.track:track",
        check="hpm_jax.config.checks.track:check_track",
        inherits={"data": ("image_size", "channels", "mean", "std")},
    ),
    "report": Task(
        options=Report,
        run="hpm_jax.tasks.report:report",
        check="hpm_jax.config.checks.evaluation:check_report",
        inherits={"data": DATA, "features": ("pool",)},
    ),
    "probe": Task(
        options=Probe,
        run="hpm_jax.tasks.probe:probe",
        check="hpm_jax.config.checks.evaluation:check_probe",
        inherits={"data": DATA, "features": ("pool",)},
    ),
    "evaluate": Task(
        options=Evaluate,
        run="hpm_jax.tasks.evaluate:evaluate",
        check="hpm_jax.config.checks.evaluation:check_evaluate",
        inherits={"data": DATA},
        complete="hpm_jax.config.inherit:complete_evaluation",
    ),
    "compare": Task(
        options=Compare,
        run="hpm_jax.tasks.compare:compare",
        check="hpm_jax.config.checks.compare:check_compare",
    ),
}


def register_task(name: str, task: Task) -> None:
    """Adds a task; a module that is imported again, as in a notebook, may replace its own.

    Raises:
        ValueError: if another module has a task of that name.
    """
    there = TASKS.get(name)
    if there and _origin(there.options) != _origin(task.options):
        raise ValueError(f"{name!r} is the task {'.'.join(_origin(there.options))}")
    TASKS[name] = task


def find_task(config: Mapping[str, Any]) -> Task:
    """Returns the task that a config names, after importing the config's modules.

    Args:
        config: a ConfigDict, or a dict read from config.json.

    Raises:
        ConfigError: for a module that cannot be imported, or an unknown task.
    """
    import_modules(config.get("modules") or ())
    return TASKS[check_choice("config.task", config.get("task", "pretrain"), TASKS)]


def resolve(function: Function) -> Callable[..., Any]:
    """Returns the function itself; "module:name" is imported."""
    if not isinstance(function, str):
        return function
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


def _origin(options: type) -> tuple[str, str]:
    return options.__module__, options.__name__
