"""Pre-trains a masked autoencoder: read it from top to bottom."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax

from hpm_jax.config import Config
from hpm_jax.convert.assign import assign
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import masked_autoencoder_params
from hpm_jax.data.fingerprint import check_data
from hpm_jax.data.pipeline import BrokenImages, train_batches
from hpm_jax.data.sources import Splits
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.models.decoders import SelfAttention
from hpm_jax.run.build import (
    Start,
    batch_inputs,
    build_flops,
    build_fresh_params,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
from hpm_jax.run.console import Console
from hpm_jax.run.devices import all_devices, check_batch
from hpm_jax.run.frozen import check_frozen
from hpm_jax.run.loop import Experiment, Training
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.method import Method
from hpm_jax.step.schedules import PretrainTimetable, Schedule
from hpm_jax.step.stages import make_next_stage
from hpm_jax.step.state import Params, param_shapes
from hpm_jax.step.step import make_train_step
from hpm_jax.tasks.data import load_data
from hpm_jax.tasks.finish import finish_run
from hpm_jax.tasks.observe import make_observer


def pretrain(config: Config, workdir: str | Path) -> int:
    """Starts or resumes a pre-training run.

    Args:
        config: from `hpm_jax.config.freeze`.
        workdir: folder of the run; if it holds a checkpoint, the run resumes from it.

    Returns:
        The exit code: 0 at the end of the run, 143 or 130 if a signal stopped it.
    """
    console = Console()
    # --- data, devices, workdir: all are checked before anything is compiled
    devices = all_devices(config.run.fsdp)
    check_batch(config, devices)
    splits = load_data(config)
    for term in config.terms:
        term.check_data(splits)
    model = build_model(config, devices.gather)
    method, optimizer = build_method(config), build_optimizer(config)
    start = Start(params=load_start(config, model, method, console.say), frozen=load_frozen(method))
    workdir = open_workdir(workdir, config)
    check_data(workdir, splits, config.run.accept_new_data)
    check_frozen(workdir, start["frozen"])
    timetable = PretrainTimetable(config, len(splits.train), config.hidden_units)
    stages = config.teacher.stages
    facts = describe(config, splits, timetable, devices.count)
    console.say("\n".join(facts))

    # --- model and training step
    flops = build_flops(config)
    experiment = Experiment(
        init=build_init(config, model, method, optimizer),
        start=start,
        step=make_train_step(model, method, optimizer, config.optimizer.accumulation),
        inputs=batch_inputs(config, method),
        batches=functools.partial(
            train_batches,
            splits.train,
            config,
            repeats=config.teacher.every_steps if config.stored_scores else 1,
        ),
        broken=BrokenImages(splits.train, config.data.max_broken, config.data.max_pixels),
        timetable=timetable,
        flops=lambda schedule: flops.student + (flops.teacher if schedule.n_hard else 0),
        summary=functools.partial(summarize, config.hidden_units),
        observe_every=config.evaluation.every_epochs,
        observe_first=True,
        next_stage=make_next_stage(build_fresh_params(model, method)) if stages else None,
        guard=config.guard,
    )

    # --- train: every yielded state is evaluated and drawn
    with Training(experiment, config.seed, config.run, workdir, devices, console) as training:
        observe = make_observer(config, model, method, splits, training, facts)
        for state in training:
            observe(state)

    # --- report
    return finish_run(training.outcome, workdir, facts, EXPLANATION, console)


def load_start(
    config: Config, model: MaskedAutoencoder, method: Method, say: Callable[[str], None]
) -> Params:
    """Loads the parameters of `config.init_from` and checks them; {} without `init_from`."""
    if not config.init_from:
        return {}
    weights = read_weights(config.init_from, config.weights)
    given = dict(masked_autoencoder_params(weights))
    new = ["predictor", "replacing_token"]
    if weights.architecture.decoder != str(config.decoder.architecture):
        given = {"encoder": given["encoder"]}
        new += ["decoder_input", "reconstructor"]
    elif given["reconstructor"]["head"]["kernel"].shape[-1] != method.target_width:
        given["reconstructor"] = dict(given["reconstructor"])
        del given["reconstructor"]["head"]  # its target has another size
        new.append("reconstructor/head")
    dropped = ("predictor", "replacing_token", "terms")
    params, matching = assign(param_shapes(model), given, new, dropped)
    say(matching.sentence(config.init_from))
    return params


def summarize(hidden: int, numbers: dict[str, float], schedule: Schedule) -> str:
    """Formats the numbers of a step."""
    ranked = f"ranked {numbers['ranked_correctly']:.0%}  " if "ranked_correctly" in numbers else ""
    return f"loss {numbers['loss']:.3f}  {ranked}hard {schedule.n_hard}/{hidden}"


EXPLANATION = (
    "Logistic regression and kNN, of standardised features, need labels; the rest does not. Raw "
    "pixels and random weights are what they are to beat. A held-out loss that falls means that "
    "the model rebuilds images it has not seen better; its masks are random and fixed, so runs "
    "with different mask strategies can be compared by it, and the training losses cannot. RankMe "
    "counts the dimensions that the features use: a collapse shows as a fall towards 1."
)


def describe(
    config: Config, splits: Splits, timetable: PretrainTimetable, devices: int
) -> list[str]:
    """Describes the run in a few lines."""
    model, mask = config.model, config.mask
    labels = f"{len(splits.classes)} classes" if splits.classes else "no labels"
    clips = config.data.frames > 1
    what = "videos" if clips else "images"
    height, width = config.data.image_size
    t, h, w = config.grid
    of, cut = (f"{config.data.frames} frames of ", f"{t} x ") if clips else ("", "")
    units = f"{config.hidden_units} of {config.unit.count} tubes"
    hidden = f"{config.hidden} of {config.patches} patches"
    masks = f"{mask.strategy} masks, {units if mask.unit == 'tube' else hidden} hidden"
    terms = " + ".join(map(str, config.terms))
    usual = config.decoder == SelfAttention()
    decoder = "" if usual else f"; decoder {config.decoder}"
    kind = jax.devices()[0].device_kind
    where = config.data.name if config.data.source == "tfds" else config.data.path
    return [
        f"data: {config.data.source} {where}".rstrip()
        + f", {len(splits.train)} {what} to train on and {len(splits.test)} to test, {labels}",
        f"model: width {model.width}, {model.depth} blocks, {of}{height} x {width} pixels in "
        f"{cut}{h} x {w} patches, {model.dtype}",
        f"method: {masks}; target {config.target}{decoder}; loss {terms}; teacher {config.teacher}",
        f"run: {config.optimizer.epochs} epochs, {timetable.steps} steps of "
        f"{config.optimizer.batch_size} {what} on {devices} x {kind}",
    ]
