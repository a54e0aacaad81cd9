"""Draws every mask strategy on the same photographs, in one picture.

    python -m hpm_jax.visualize.masks photo.jpg another.jpg --out masks.png
    python -m hpm_jax.visualize.masks photo.jpg --run runs/cifar10_hpm --out masks.png

There is a column for each strategy and a row for each photograph. Hidden patches are grey, or
orange if they are chosen by predicted losses, attention or features. Strategies that read these
need `--run`, the workdir of a pre-training run, whose image size and patches are then used.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from hpm_jax.config import Data
from hpm_jax.data.views import test_view
from hpm_jax.errors import one_sentence
from hpm_jax.masking import Context, Strategy, hidden_count, select
from hpm_jax.masking.strategy import Readings
from hpm_jax.run.load import LoadedRun, load_run
from hpm_jax.step.mask import choose_mask, run_network
from hpm_jax.step.method import own
from hpm_jax.step.schedules import AT_RANDOM
from hpm_jax.step.step import Masked, student_pass
from hpm_jax.tokens import Grid, Tokenizer, grid_of
from hpm_jax.visualize.sheet import draw_sheet
from hpm_jax.visualize.view import FATE_COLORS, patch_status

VIEWS = 2  # of disjoint masks: the first is drawn
SIDE = 112  # of a panel, pixels
COLUMNS = 8
MASKS = 50  # random masks per image, to train the state of a strategy


def draw_masks(
    images: np.ndarray,
    names: list[str],
    tokenizer: Tokenizer,
    ratio: float,
    readings: dict[str, Readings] | None = None,
    states: dict[str, Any] | None = None,
) -> Image.Image:
    """The sheet, the images themselves first.

    Args:
        images: uint8 `[B, H, W, C]`.
        names: of the images.
        ratio: the mask ratio.
        readings: outputs of each network; strategies that need others are left out.
        states: states of strategies by name; strategies whose state is missing are left out.
    """
    patches = tokenizer(jnp.asarray(images))
    grid = grid_of((1, *images.shape[1:3]), tokenizer.patch_size)
    hidden = hidden_count(patches.shape[1], ratio)
    columns = {"photograph": list(images[..., :3])}
    for name, strategy in drawable(readings or {}, states or {}).items():
        views = VIEWS if name == "disjoint" else 1
        context = Context(
            patches=jnp.repeat(patches, views, axis=0),
            grid=grid,
            tokenizer=tokenizer,
            hidden=hidden,
            n_hard=jnp.int32(strategy.n_hard(1.0, 1, hidden)),
            readings=readings or {},
            state=(states or {}).get(name),
            views=views,
        )
        hide = select(strategy.scores(jax.random.key(0), context), hidden).hide[::views]
        status = patch_status(np.asarray(hide), strategy.hard(context), patches.shape[1])
        columns[str(strategy)] = painted(images, status, grid)
    title = f"{ratio:.0%} of {patches.shape[1]} patches hidden by each strategy"
    note = "grey: hidden; orange: hidden by what the strategy reads, at the end of its schedule"
    return below(
        [
            draw_sheet(
                [{label: [columns[name][row] for name in part] for row, label in enumerate(names)}],
                part,
                "" if start else title,
                note if start + COLUMNS >= len(columns) else "",
                SIDE,
            )
            for start in range(0, len(columns), COLUMNS)
            for part in [list(columns)[start : start + COLUMNS]]
        ]
    )


def below(sheets: list[Image.Image]) -> Image.Image:
    """Stacks sheets vertically on white."""
    width, height = max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)
    page, top = Image.new("RGB", (width, height), "white"), 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    return page


def drawable(readings: dict[str, Readings], states: dict[str, Any]) -> dict[str, Strategy]:
    """Returns the strategies, at defaults, whose readings and state exist; random first."""
    found = {"random": Strategy.parse_call("random", "strategy")}
    for name in dict.fromkeys(plug.name for plug in Strategy.plugs.values()):
        strategy = Strategy.parse_call(name, "strategy")
        there = all(
            read in readings.get(who, {}) for who in strategy.networks for read in strategy.reads
        )
        stateless = type(strategy).init_state is Strategy.init_state
        if (stateless or name in states) and (there or not strategy.reads):
            found[name] = strategy
    # those that any image has, then those that need a run
    return dict(sorted(found.items(), key=lambda x: bool(x[1].reads or x[0] in states)))


def painted(images: np.ndarray, status: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """Paints hidden patches in the colours of the legend, uint8 `[H, W, 3]` per image."""
    colors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in FATE_COLORS], np.uint8)
    _, h, w = grid
    scale = images.shape[1] // h, images.shape[2] // w
    large = status.reshape(-1, h, w).repeat(scale[0], 1).repeat(scale[1], 2)
    return list(np.where(large[..., None] > 0, colors[large], images[..., :3]))


def readings_of(run: LoadedRun, images: np.ndarray) -> dict[str, Readings]:
    """Returns the outputs of the run's teacher, student and strategy network for the images."""
    assert run.method is not None
    patches = run.method.patches(jnp.asarray(images))
    reads = ("features", "attention") + (("predicted_loss",) * run.model.loss_predictor)
    networks = {"teacher": run.state.teacher, "student": run.state.params}
    if "own" in run.method.strategy.networks:
        networks["own"] = own(run.state, "mask").state
    return {
        name: run_network(run.model, run.method, params, patches, reads=reads)
        for name, params in networks.items()
        if params is not None
    }


def states_of(run: LoadedRun, images: np.ndarray) -> dict[str, Any]:
    """Returns the states of strategies: that of the run, and for others newly trained ones.

    New states are updated with the run's student on random masks of the images.
    """
    assert run.method is not None
    states = {}
    for name, kind in Strategy.plugs.items():
        plug = Strategy.parse_call(name, "strategy")
        if type(run.method.strategy) is kind:
            states[name] = own(run.state, "mask").state
        elif kind.observe is not Strategy.observe:
            states[name] = observed(run, plug, jnp.asarray(images))
    return {name: state for name, state in states.items() if state is not None}


def observed(run: LoadedRun, plug: Strategy, images: Array) -> Any:
    """Returns the state of a strategy after `MASKS` random masks of each image."""
    assert run.method is not None
    masking = run.method.at_random
    patches = masking.patches(images)

    @jax.jit
    def update(state: Any, key: Array) -> Any:
        mask = choose_mask(run.model, masking, run.state, patches, key, AT_RANDOM)
        masked = Masked(patches, mask)
        outputs = student_pass(run.model, masking, run.state, run.state.params, masked)
        return plug.update_state(state, run.state.params, plug.observe(outputs))

    state = plug.init_state(run.state.params, masking.setting)
    for key in jax.random.split(jax.random.key(1), MASKS):
        state = update(state, key)
    return state


def main(argv: list[str] | None = None) -> None:
    """Draws the requested file."""
    parser = argparse.ArgumentParser(prog="python -m hpm_jax.visualize.masks", description=__doc__)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--out", default="masks.png")
    parser.add_argument("--run", help="workdir of a pre-training run")
    parser.add_argument("--size", type=int, default=224, help="image size in pixels, without a run")
    parser.add_argument("--patch", type=int, default=16, help="patch size in pixels, without a run")
    parser.add_argument("--ratio", type=float, default=0.75)
    options = parser.parse_args(argv)
    with one_sentence(ValueError, OSError):
        run = load_run(options.run) if options.run else None
        data = run.config.data if run else Data(image_size=(options.size,) * 2)
        patch = (1, options.patch, options.patch)
        method = run.method if run else None
        tokenizer = method.tokenizer if method else Tokenizer(patch, data.mean, data.std)
        files = [Path(photo) for photo in options.photos]
        view = test_view(data)
        images = np.stack([view({"image": file.read_bytes()})["image"] for file in files])
        readings = readings_of(run, images) if run else None
        states = states_of(run, images) if run else None
        names = [file.stem[:12] for file in files]
        draw_masks(images, names, tokenizer, options.ratio, readings, states).save(options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
