"""Computes cells: an arm and a seed, trained and measured; baselines are only measured."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

import hpm_jax
from hpm_jax.compare.cells import Cell, Checkpoint, pack
from hpm_jax.compare.data import Measured
from hpm_jax.compare.finetuning import measure_finetuning, measure_pixels_of_shares
from hpm_jax.compare.masks import kept_images, masks_at_the_end
from hpm_jax.compare.rebuilding import make_rebuild, measure_rebuilding
from hpm_jax.compare.representation import make_encode, measure_pixels, measure_representation
from hpm_jax.compare.train import Snapshot, Trained, without_optimizer
from hpm_jax.config.compare import Compare
from hpm_jax.config.pretrain import Config
from hpm_jax.evaluation.fillings import measure_fillings
from hpm_jax.fields import as_dict
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.run.build import (
    Start,
    build_flops,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
from hpm_jax.step.method import Method
from hpm_jax.step.schedules import PretrainTimetable
from hpm_jax.step.state import Params, TrainState

REBUILDING = {"held_out", "explained", "ranking"}


class Arm(NamedTuple):
    """An arm with the parts that are built and compiled once for all of its seeds."""

    name: str
    config: Config
    model: MaskedAutoencoder
    method: Method
    encode: Callable[..., Any]
    rebuild: Callable[..., Any]


def build_arm(name: str, config: Config) -> Arm:
    """Builds the arm of a config."""
    model, method = build_model(config), build_method(config)
    return Arm(name, config, model, method, make_encode(model, method), make_rebuild(model, method))


def first_state(config: Config, seed: int) -> TrainState:
    """Returns the state of a run before its first step."""
    model, method = build_model(config), build_method(config)
    init = build_init(config, model, method, build_optimizer(config))
    state = jax.jit(init)(jax.random.key(seed), Start(frozen=load_frozen(method)))
    return without_optimizer(jax.tree.map(np.asarray, state))


def measure(
    options: Compare, arm: Arm, taken: Snapshot, measured: Measured, seed: int
) -> Checkpoint:
    """Computes the measures of every checkpoint."""
    whose = f"arm {arm.name}, seed {seed}, after step {taken.step}"
    correct = measure_representation(
        options, arm.encode, taken.state.params, measured, arm.config.patches, whose
    )
    numbers = {name: float(bits.mean()) for name, bits in correct.items()}
    if REBUILDING & set(options.measures):
        images = measured.test.pixels[: options.held_out_images]
        numbers |= measure_rebuilding(arm.rebuild, taken.state, images)
    return Checkpoint(
        step=taken.step,
        epoch=taken.epoch,
        measures=numbers,
        correct={name: pack(bits) for name, bits in correct.items()},
        test_images=len(measured.test.labels),
    )


def measure_once(
    options: Compare, arm: Arm, params: Params, measured: Measured, seed: int
) -> dict[str, Any]:
    """Computes the measures of the final state, as the fields of a cell."""
    if "finetune" not in options.measures:
        return {}
    bits = measure_finetuning(options.finetune, arm.model, arm.method, params, measured, seed)
    return _as_fields(bits, measured)


def _as_fields(bits: dict[str, np.ndarray], measured: Measured) -> dict[str, Any]:
    """Which test images are classified correctly, as the fields of a cell."""
    return {
        "measures": {name: float(each.mean()) for name, each in bits.items()},
        "correct": {name: pack(each) for name, each in bits.items()},
        "test_images": len(measured.test.labels),
    }


def trained_cell(
    options: Compare, comparison: str, arm: Arm, seed: int, trained: Trained, measured: Measured
) -> Cell:
    """Measures a trained seed."""
    began = time.perf_counter()
    checkpoints = [measure(options, arm, taken, measured, seed) for taken in trained.snapshots]
    once = measure_once(options, arm, trained.snapshots[-1].state.params, measured, seed)
    images = trained.steps * arm.config.optimizer.batch_size
    masks = {}
    if trained.steps:
        last, n_hard = trained.snapshots[-1].state, int(trained.curve["n_hard"][-1])
        masks = masks_at_the_end(arm.model, arm.method, last, measured.test.pixels, n_hard)
    return Cell(
        comparison=comparison,
        version=hpm_jax.__version__,
        arm=arm.name,
        seed=seed,
        design=options.design,
        config=as_dict(arm.config),
        machine=machine_name(),
        steps=trained.steps,
        images=images,
        flops=_flops(arm.config, trained.curve, images),
        cost={
            "seconds_per_step": trained.seconds_per_step,
            "train_seconds": trained.seconds_per_step * trained.steps,
            "measure_seconds": time.perf_counter() - began,
        },
        curve=trained.curve,
        checkpoints=checkpoints,
        masks=masks,
        **once,
    )


def random_cell(options: Compare, comparison: str, arm: Arm, seed: int, measured: Measured) -> Cell:
    """Measures the initial weights of this seed; fine-tuning them is training from scratch."""
    start = Snapshot(0, 0.0, first_state(arm.config, seed))
    nothing = Trained([start], {"step": [0.0]}, 0, 0.0)
    random = arm._replace(name="random_weights")
    return trained_cell(options, comparison, random, seed, nothing, measured)


def pixels_cell(options: Compare, comparison: str, arm: Arm, measured: Measured) -> Cell:
    """Measures raw pixels in place of features, and fillings in place of a decoder."""
    began = time.perf_counter()
    correct, penalty = measure_pixels(options, measured)
    numbers = {name: float(bits.mean()) for name, bits in correct.items()}
    numbers["penalty"] = penalty
    if REBUILDING & set(options.measures):
        numbers |= measure_fillings(arm.method, first_state(arm.config, 0), measured.test.pixels)
    point = Checkpoint(
        step=0,
        epoch=0.0,
        measures=numbers,
        correct={name: pack(bits) for name, bits in correct.items()},
        test_images=len(measured.test.labels),
    )
    once: dict[str, Any] = {}
    if "finetune" in options.measures:
        bits = measure_pixels_of_shares(options.finetune, measured, options.penalty)
        once = _as_fields(bits, measured)
    return Cell(
        comparison=comparison,
        version=hpm_jax.__version__,
        arm="raw_pixels",
        seed=0,
        design=options.design,
        config=as_dict(arm.config),
        machine=machine_name(),
        steps=0,
        images=0,
        flops=0.0,
        cost={"measure_seconds": time.perf_counter() - began},
        curve={"step": [0.0]},
        checkpoints=[point],
        masks=kept_images(measured.test.pixels),
        **once,
    )


def machine_name() -> str:
    """Returns the hardware of a cell: "2 x cpu (AMD EPYC 9B14)"."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "cpu":
        return f"{jax.device_count()} x {kind}"
    facts = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", facts.read_text()) if facts.exists() else []
    return f"{os.cpu_count()} x {kind}" + (f" ({names[0]})" if names else "")


def steps_of(config: Config, epoch_images: int) -> int:
    """Returns the number of steps of a run."""
    return PretrainTimetable(config, epoch_images, config.hidden_units).steps


def save_params(path: Path, params: Params) -> None:
    """Saves parameters to a file of arrays, for further measures of a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {"/".join(name): np.asarray(value) for name, value in flatten_dict(params).items()}
    there = path.with_name(f"{path.stem}.part.npz")
    np.savez(there, **flat)  # type: ignore[arg-type]  # of its own keywords
    there.replace(path)


def load_params(path: Path) -> Params:
    """Inverts `save_params`."""
    with np.load(path) as arrays:
        return unflatten_dict({tuple(name.split("/")): arrays[name] for name in arrays.files})


def _flops(config: Config, curve: dict[str, list[float]], images: int) -> float:
    """Returns the operations of the training; the teacher's only in steps in which it ran."""
    flops, steps = build_flops(config), curve["step"]
    if not images:
        return 0.0
    lengths = np.diff([0.0, *steps])
    looked = float(np.sum(lengths * (np.array(curve["n_hard"]) > 0)) / steps[-1])
    return images * (flops.student + flops.teacher * looked)
