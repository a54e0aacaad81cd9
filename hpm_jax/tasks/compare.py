"""A comparison, from a config to a page: read it from top to bottom."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hpm_jax
from hpm_jax.compare.arms import arm_configs, parse_contrasts
from hpm_jax.compare.cells import BASELINES, Cell, Cells, cell_path, read_cells, value, write_cell
from hpm_jax.compare.data import load_measured
from hpm_jax.compare.masks import draw_arms
from hpm_jax.compare.page import PageDesign, write_page
from hpm_jax.compare.run import (
    build_arm,
    first_state,
    load_params,
    measure_once,
    pixels_cell,
    random_cell,
    save_params,
    steps_of,
    trained_cell,
)
from hpm_jax.compare.train import draw_batches, train_seeds
from hpm_jax.config import freeze
from hpm_jax.config.compare import Compare
from hpm_jax.config.pretrain import Config
from hpm_jax.errors import ConfigError, nearest
from hpm_jax.evaluation.fillings import FILLINGS
from hpm_jax.fields import as_dict, result_options
from hpm_jax.run.console import Console
from hpm_jax.storage import write
from hpm_jax.tasks.data import check_labels, load_data
from hpm_jax.tasks.finish import command

Say = Callable[[str], None]


def compare(options: Compare, workdir: str | Path) -> int:
    """Runs the missing cells, and makes the page of all existing cells.

    Args:
        options: from `hpm_jax.config.freeze`.
        workdir: folder for weights and, unless `options.results` names another folder, for cells.
            Existing cells are not run again, whichever machine wrote them.

    Returns:
        The exit code of the command.
    """
    console = Console()
    workdir = Path(workdir)
    folder = Path(options.results) if options.results else workdir / "results"
    comparison = folder.name if options.results else workdir.name

    # --- existing and missing cells
    configs = arm_configs(options)
    cells = known_cells(folder, options, configs, console.say)
    wanted = [name for name in configs if not options.only or name in options.only]
    matrix = [("raw_pixels", 0), *(("random_weights", seed) for seed in options.seeds)]
    matrix += [(name, seed) for seed in options.seeds for name in wanted]
    left = [cell for cell in matrix if not cell_path(folder, *cell).exists()]
    short = [] if "finetune" not in options.measures else lacking_finetuning(cells, matrix)
    console.say(
        f"{len(configs)} arms x {len(options.seeds)} seeds, design {options.design}: {len(cells)} "
        f"cells in {folder}, {len(left)} to run here, {len(short)} to fine-tune"
    )
    if cells:
        write_results(folder, options, configs)
    if not left and not short:
        console.say(f"done: read {folder / 'results.md'}")
        return 0

    # --- the data is checked before anything is trained
    splits = load_data(options.base)
    check_labels(splits)
    for config in configs.values():
        for term in config.terms:
            term.check_data(splits)
    workdir.mkdir(parents=True, exist_ok=True)
    write(workdir / "config.json", json.dumps(as_dict(options), indent=2) + "\n")
    measured = load_measured(options, splits)
    first = build_arm("first", next(iter(configs.values())))

    def finish(cell: Cell) -> None:
        write_cell(folder, cell)
        numbers = cell.checkpoints[-1]["measures"] | cell.measures
        shown = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        console.say(f"{cell.arm}, seed {cell.seed}: {shown}")

    # --- the baselines
    if not cell_path(folder, "raw_pixels", 0).exists():
        finish(pixels_cell(options, comparison, first, measured))
    for seed in options.seeds:
        if not cell_path(folder, "random_weights", seed).exists():
            finish(random_cell(options, comparison, first, seed, measured))

    # --- the matrix: all arms of one seed, then the next seed, so that pairs are complete early
    longest = max(steps_of(config, len(splits.train)) for config in configs.values())
    for seeds in _groups(options.seeds, options.together):
        batches, drawn_for = None, options.base
        for name in wanted:
            due = [seed for seed in seeds if not cell_path(folder, name, seed).exists()]
            if not due:
                continue
            arm = build_arm(name, configs[name])
            if batches is None or not same_batches(arm.config, drawn_for):
                batches = draw_batches(arm.config, splits.train, seeds, longest)
                drawn_for = arm.config
            rows = [seeds.index(seed) for seed in due]
            runs = train_seeds(
                arm.config,
                due,
                batches if due == seeds else {name: x[rows] for name, x in batches.items()},
                len(splits.train),
                options.checkpoints,
                options.chunk,
                console.say,
            )
            for seed, trained in zip(due, runs, strict=True):
                save_params(weights_path(workdir, name, seed), trained.snapshots[-1].state.params)
                finish(trained_cell(options, comparison, arm, seed, trained, measured))
        write_results(folder, options, configs)

    # --- measures that existing cells lack
    for name, seed in short:
        arm = first if name == "random_weights" else build_arm(name, configs[name])
        path = weights_path(workdir, name, seed)
        if name == "random_weights":
            params = first_state(arm.config, seed).params
        elif path.exists():
            params = load_params(path)
        else:
            console.say(f"{name}, seed {seed} is not fine-tuned: its weights, {path}, are gone")
            continue
        once = measure_once(options, arm, params, measured, seed)
        finish(dataclasses.replace(cells[name, seed], **once))
    write_results(folder, options, configs)
    console.say(f"done: read {folder / 'results.md'}")
    return 0


def same_batches(one: Config, other: Config) -> bool:
    """Whether two arms train on the same crops of the same images, in the same batches."""
    return one.data == other.data and one.optimizer.batch_size == other.optimizer.batch_size


def lacking_finetuning(cells: Cells, matrix: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Returns the existing cells without fine-tuning; raw pixels have nothing to fine-tune."""
    return [
        cell
        for cell in matrix
        if cell in cells and cell[0] != "raw_pixels" and not cells[cell].measures
    ]


def known_cells(folder: Path, options: Compare, configs: dict[str, Config], say: Say) -> Cells:
    """Returns the cells of this comparison; other files in the folder are reported and ignored.

    A cell belongs to it if its design, the options of its arm and the version of the package are
    the same.
    """
    cells = read_cells(folder, options.design, say)
    accepted = {hpm_jax.__version__, *options.versions}
    fitting = {}
    for (name, seed), cell in cells.items():
        path = cell_path(folder, name, seed)
        if name not in configs and name not in BASELINES:
            say(f"{path} is left out: no arm is called {name!r}{nearest(name, configs)}")
        elif cell.version not in accepted:
            say(
                f"{path} is left out: version {cell.version} measured it, and this is "
                f"{hpm_jax.__version__}; where nothing that matters changed in between, "
                f"--config.versions=\"('{cell.version}',)\" lets it in"
            )
        elif name in configs and (changed := differences(cell.config, configs[name])):
            say(f"{path} is left out: its arm was another ({changed}); give the new one a new name")
        else:
            fitting[name, seed] = cell
    return fitting


def differences(config: dict[str, Any], now: Config) -> str:
    """Returns the options in which a cell's run differs, of those that affect results; or ""."""
    try:
        old, new = result_options(freeze(config)), result_options(now)
    except ConfigError as error:
        return str(error)
    found = [
        f"config.{name} was {old.get(name)!r}"
        for name in new
        if name != "seed" and old.get(name) != new[name]
    ]
    return "; ".join(found)


def write_results(folder: Path, options: Compare, configs: dict[str, Config]) -> None:
    """Writes tables, figure and page of all existing cells."""
    cells = known_cells(folder, options, configs, silent)  # ignored files were already reported
    design = PageDesign(
        title=f"{folder.name}: {len(configs)} arms",
        arms={name: describe(config) for name, config in configs.items()},
        contrasts=parse_contrasts(options.contrasts, configs),
        primary=options.primary,
        secondary=secondary_measures(options),
        margin=options.margin,
        command=command(),
        notes=baselines_of_rebuilding(cells),
        options=options,
    )
    masks = draw_arms(cells, design.arms)
    write_page(folder, cells, design, {"Masks": masks} if masks else {})


def secondary_measures(options: Compare) -> tuple[str, ...]:
    """Returns the names of all measures except the primary one."""
    shares = [f"finetune_{100 * share:g}" for share in options.finetune.shares]
    found: list[str] = []
    for name in options.measures:
        found += shares if name == "finetune" else [name]
    return tuple(name for name in found if name != options.primary)


def baselines_of_rebuilding(cells: Cells) -> tuple[str, ...]:
    """Returns baselines that fill or rank hidden patches without a model."""
    notes = []
    pixels = cells.get(("raw_pixels", 0))
    filled = {name: pixels and value(pixels, f"explained_{name}") for name in FILLINGS}
    if all(share is not None for share in filled.values()):
        words = ", ".join(f"{name} {share:.1%}" for name, share in filled.items())
        notes.append(f"Variance of hidden patches explained by filling them with pixels: {words}.")
    ranked = [value(cell, "contrast") for cell in cells.values()]
    known = [share for share in ranked if share is not None]
    if known:
        notes.append(
            f"Pairs of hidden patches whose order by loss their own contrast says: "
            f"{min(known):.1%} to {max(known):.1%}."
        )
    return tuple(notes)


def describe(config: Config) -> str:
    """Describes an arm briefly."""
    terms = " + ".join(str(term) for term in config.losses) or "reconstruction alone"
    return f"masks {config.mask.strategy}, losses {terms}, teacher {config.teacher}"


def weights_path(workdir: Path, name: str, seed: int) -> Path:
    """Returns the path of a cell's final weights, kept for further measures."""
    return workdir / "weights" / f"{name}_{seed}.npz"


def silent(_: str) -> None:
    """Discards a message."""


def _groups(seeds: tuple[int, ...], size: int) -> Iterator[list[int]]:
    for start in range(0, len(seeds), size):
        yield list(seeds[start : start + size])
