"""Values without a sense are refused at once, in a sentence that says what one may give."""

import dataclasses
import math
import typing

import pytest

from hpm_jax.config import TASKS, ConfigError, freeze
from hpm_jax.fields import ANY, Bounds, build
from hpm_jax.losses.reconstruction import Objective
from hpm_jax.losses.term import Term
from hpm_jax.main import parse
from hpm_jax.masking import Strategy
from hpm_jax.models.decoders import Decoder
from hpm_jax.models.segment_decoders import SegmentDecoder
from hpm_jax.targets.target import Target
from hpm_jax.teachers.teacher import Teacher


class Number(typing.NamedTuple):
    """A number, or a tuple of some, that a config or a call holds."""

    name: str
    kind: typing.Any  # int or float
    length: int  # of the tuple; 0 for a number alone
    bounds: Bounds

    def put(self, value):
        return (value,) * self.length if self.length else value


def numbers(owner, prefix=""):
    """Every number among the options of a dataclass, sections included."""
    for field in dataclasses.fields(owner):
        name, kind, length = prefix + field.name, field.type, 0
        if dataclasses.is_dataclass(kind) and not hasattr(kind, "parse_call"):
            yield from numbers(kind, f"{name}.")
        if typing.get_origin(kind) is tuple:
            kinds = typing.get_args(kind)
            kind, length = kinds[0], 1 if kinds[-1] is Ellipsis else len(kinds)
        if kind in (int, float):
            yield Number(name, kind, length, field.metadata.get("bounds", ANY))


TASK_NUMBERS = [(task, number) for task in TASKS for number in numbers(TASKS[task].options)]
FAMILIES = (Strategy, Target, Objective, Decoder, Term, Teacher, SegmentDecoder)
PLUGS = [plug for family in FAMILIES for plug in family.plugs.values()]
PLUG_NUMBERS = [(plug, number) for plug in PLUGS for number in numbers(plug)]
NON_FINITE = (math.nan, math.inf, -math.inf)
HUGE = 10**400  # more than a float holds


def set_number(task, number, value):
    """Freezes a task's config in which one number is another one."""
    starts = {} if task in ("pretrain", "compare") else {"init_from": "runs/x"}
    options = inner = {"task": task} | starts
    if task == "compare":
        options["arms"] = {"hpm": {}}
    *sections, last = number.name.split(".")
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = number.put(value)
    return freeze(options)


def beyond(number):
    """The nearest values that are out of the bounds, with the bounds as a person reads them."""
    low, high, above, below, _ = number.bounds
    step = 1 if number.kind is int else 1e-3
    values = [above, below]
    values += [] if low is None else [low - step]
    values += [] if high is None else [high + step]
    return [number.kind(value) for value in values if value is not None]


def test_every_number_has_bounds_on_both_sides():
    for owner, number in TASK_NUMBERS + PLUG_NUMBERS:
        low, high, above, below, _ = number.bounds
        assert (low, above) != (None, None), f"{owner}: {number.name} has no lower bound"
        assert (high, below) != (None, None), f"{owner}: {number.name} has no upper bound"


@pytest.mark.parametrize(("task", "number"), TASK_NUMBERS, ids=lambda x: getattr(x, "name", x))
def test_numbers_of_tasks(task, number):
    for value in beyond(number):
        with pytest.raises(ConfigError) as refusal:
            set_number(task, number, value)
        assert f"config.{number.name} = {value}: expected a number {number.bounds}" in str(
            refusal.value
        )
    for value in NON_FINITE if number.kind is float else ():
        with pytest.raises(ConfigError) as refusal:
            set_number(task, number, value)
        assert f"config.{number.name} = {value}: expected a finite number" in str(refusal.value)


@pytest.mark.parametrize(("plug", "number"), PLUG_NUMBERS, ids=lambda x: x.name)
def test_numbers_of_plugs(plug, number):
    name = plug.name
    for value in beyond(number):
        with pytest.raises(ConfigError) as refusal:
            plug.parse_call(f"{name}({number.name}={number.put(value)})", "config.x")
        assert f"{name}.{number.name} = {value}: expected a number {number.bounds}" in str(
            refusal.value
        )
    for value in NON_FINITE if number.kind is float else ():
        with pytest.raises(ConfigError) as refusal:
            build(plug, {number.name: number.put(value)}, name)
        assert f"{name}.{number.name} = {value}: expected a finite number" in str(refusal.value)


@pytest.mark.parametrize("form", ["--config={}", "--config={}:B,epochs=3", "-config\n{}"])
def test_a_config_file_of_fifty_gigabytes(tmp_path, form):
    path = tmp_path / "config.py"
    with path.open("wb") as file:
        file.truncate(50 * 2**30)  # takes no space on the disk
    with pytest.raises(SystemExit, match=r"error: .*config.py has 53,687,091,200 bytes"):
        parse(["main", *form.format(path).split("\n")])


ORDER = "expected the smaller one first"
SENSELESS = [
    # --- what a review of the package has found to train, or to end in a traceback
    ("pretrain", "optimizer.b1", 1.5, "expected a number from 0 below 1"),
    ("pretrain", "optimizer.b2", 1.0, "expected a number from 0 below 1"),
    ("pretrain", "optimizer.eps", 0.0, "expected a number from 1e-20 to 1"),
    ("pretrain", "optimizer.clip_norm", -1.0, "expected a number from 0"),
    ("pretrain", "optimizer.weight_decay", -0.05, "expected a number from 0 to 1000"),
    ("pretrain", "optimizer.epochs", 0, "expected a number from 1"),
    ("pretrain", "optimizer.warmup_epochs", -1.0, "expected a number from 0"),
    ("pretrain", "optimizer.warmup_epochs", 200.0, "is not shorter than the run of 200 epochs"),
    ("pretrain", "optimizer.base_learning_rate", 0.0, "expected more than 0"),
    ("pretrain", "optimizer.batch_size", 2.5, "expected int"),
    ("pretrain", "optimizer.accumulation", 3, "equal parts"),
    ("pretrain", "teacher", "moving_average(ramp_epochs=-5)", "expected a number from 0"),
    ("pretrain", "teacher", "moving_average(start=1.5)", "expected a number from 0 to 1"),
    ("pretrain", "teacher", "moving_average(every_steps=0)", "expected a number above 0"),
    ("pretrain", "teacher", "moving_average(frame_stride=2)", "does not divide the 1 frames"),
    ("pretrain", "data.std", (0.2, 0.0, 0.2), "expected a number from 1e-06 to 1e+06"),
    ("pretrain", "data.mean", (), "expected 3 values"),
    ("pretrain", "data.crop_ratio", (0.0, 1.0), "expected a number from 0.001 to 1000"),
    ("pretrain", "data.crop_scale", (0.9, 0.2), "expected 0 < low <= high <= 1"),
    ("pretrain", "data.test_crop", 1e-9, "expected a number from 0.1 to 1"),
    ("pretrain", "data.test_clips", 10**9, "expected a number from 1 to 1000"),
    ("pretrain", "data.image_size", (0, 224), "expected a number from 1"),
    ("pretrain", "data.image_size", (224, 223), "width 223 is not a multiple of the patch size"),
    ("pretrain", "data.flip", -0.5, "expected a number from 0 to 1"),
    ("pretrain", "data.holdout", 1.0, "expected a number from 0 below 1"),
    ("pretrain", "data.sampling", "densely", "did you mean 'dense'"),
    ("pretrain", "run.threads", -3, "expected a number from 1 to 1024"),
    ("pretrain", "run.workers", -1, "expected a number from 0 to 1024"),
    ("pretrain", "run.prefetch", 0, "expected a number from 1"),
    ("pretrain", "run.keep_checkpoints", 0, "expected a number from 1"),
    ("pretrain", "run.log_every_steps", 0, "expected a number from 1"),
    ("pretrain", "seed", -1, "expected a number from 0"),
    ("pretrain", "model.heads", 7, "config.model.heads = 7"),
    ("pretrain", "model.heads", 0, "expected a number above 0"),
    ("pretrain", "model.width", -768, "expected a number from 4"),
    ("pretrain", "model.dtype", "float16", "did you mean 'bfloat16'"),
    ("pretrain", "evaluation.temperature", 1e-300, "expected a number from 0.001 to 1000"),
    ("pretrain", "evaluation.neighbors", 0, "expected a number above 0"),
    ("pretrain", "losses", ("ranking(weight=0.0)", "reconstruction(weight=0.0)"), "nothing to lea"),
    ("finetune", "init_from", "", "name the workdir of a pre-training run"),
    ("finetune", "augment.mix_groups", 3, "does not divide config.optimizer.batch_size"),
    ("finetune", "augment.cutmix_minmax", (0.8, 0.2), "expected the smallest and the largest"),
    ("finetune", "augment.policy", "rand-m9-mstdnan", "no part 'mstdnan'"),
    ("finetune", "augment.erase_count", 10**9, "expected a number from 1 to 1000"),
    ("finetune", "optimizer.layer_decay", 0.0, "expected a number above 0 to 1"),
    ("report", "finetune.base_learning_rate", 0.0, "expected a number above 0"),
    ("report", "probes.names", ("kn",), "did you mean 'knn'"),
    ("probe", "optimizer.base_learning_rates", (), "need one value or more each"),
    ("probe", "optimizer.warmup_epochs", 100.0, "is not shorter than the run of 100 epochs"),
    ("probe", "choose_on", 1.0, "expected a number from 0 below 1"),
    ("pretrain", "mask.ratio", -math.inf, "expected a finite number above 0 below 1"),
    ("pretrain", "model.width", 2147483648, "expected a number from 4 to 65536"),
    ("pretrain", "model.width", HUGE, "a number of 1329 bits: expected a number from 4 to 65536"),
    ("pretrain", "optimizer.b1", -HUGE, "a number of 1329 bits: expected a number from 0 below 1"),
    ("pretrain", "optimizer.b1", -math.inf, "expected a finite number from 0 below 1"),
    ("pretrain", "data.std", (0.2, math.nan, 0.2), "expected a finite number from 1e-06"),
    ("pretrain", "data.std", (0.2, None, 0.2), "expected float"),
    ("pretrain", "data.crop_ratio", (1.5, 0.5), "expected the smaller one first"),
    ("pretrain", "data.image_size", (32768, 32768), "bytes of each example, expected at most"),
    ("pretrain", "data.test_crops", 1000000, "expected a number from 1 to 1000"),
    ("pretrain", "optimizer.floor", 0.01, "is above the peak learning rate of 0.0012"),
    ("finetune", "optimizer.floor", 0.5, "is above the peak learning rate of 0.002"),
    ("finetune", "augment.policy", "rand-n1000000000", "is not like n2"),
    ("finetune", "augment.policy", f"rand-mstd{10**400}", "is not like mstd0.5"),
    ("probe", "optimizer.floor", 2.0, "expected at most 1, as a share of each"),
    ("probe", "optimizer.base_learning_rates", (0.1, -0.1), "expected a number above 0"),
    ("probe", "optimizer.weight_decays", (), "need one value or more each"),
    ("probe", "features.block", 0, "blocks count from 1, or from the end"),
    ("report", "features.block", 0, "blocks count from 1, or from the end"),
    ("report", "probes.neighbors", (10, 0), "expected a number from 1 to"),
    ("report", "probes.neighbors", (), "give one number or more, or leave baselines and knn out"),
    ("report", "probes.shots", (), "give one number or more, or leave few_shot out"),
    ("report", "probes.names", (), "so there is nothing to measure"),
    ("compare", "neighbors", 0, "expected a number above 0"),
    ("compare", "finetune.shares", (0.1, 1.5), "expected a number above 0 to 1"),
    ("compare", "finetune.shares", (), "give one share of the labels or more"),
    ("compare", "checkpoints", (), "give one share of the run or more"),
    ("compare", "seeds", (), "expected different numbers, at least one"),
    # --- masks
    ("pretrain", "mask.ratio", -0.5, "expected a number above 0 below 1"),
    ("pretrain", "mask.ratio", 0.9999, "hides 196 of 196 patches"),
    ("pretrain", "mask.counted", 0.0, "expected a number above 0 to 1"),
    ("pretrain", "mask.views", 0, "expected a number from 1 to 64"),
    ("pretrain", "mask.strategy", "simmim(cell=1000)", "expected a number from 1 to 64"),
    ("pretrain", "mask.strategy", "large_block(size=100000)", "expected a number from 1 to 64"),
    ("pretrain", "mask.strategy", "beit_block(aspect=(3.0, 0.3))", f"aspect = 3, 0.3, {ORDER}"),
    ("pretrain", "mask.strategy", "inverse_block(aspect=(2.0, 0.5))", f"aspect = 2, 0.5, {ORDER}"),
    ("pretrain", "mask.strategy", "green(wide=0.5)", f"narrow, wide = 0.5, 0.5, {ORDER}"),
    ("pretrain", "mask.strategy", "purple(narrow=3.0)", f"narrow, wide = 3, 2, {ORDER}"),
    ("pretrain", "mask.strategy", "entropy(bins=1)", "expected a number from 2 to 256"),
    ("pretrain", "mask.strategy", "attention(noise=-1.0)", "expected a number from 0"),
]


@pytest.mark.parametrize(("task", "name", "value", "sentence"), SENSELESS)
def test_senseless_values(task, name, value, sentence):
    with pytest.raises(ConfigError) as refusal:
        set_number(task, Number(name, None, 0, ANY), value)
    found = str(refusal.value)
    assert sentence in found and name.split(".")[-1] in found and "\n" not in found
