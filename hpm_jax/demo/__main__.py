"""Hides patches of photographs by predicted loss, and reconstructs them.

    python -m hpm_jax.demo photo.jpg another.png
    python -m hpm_jax.demo photo.jpg --ratio=0.5 --hard=1
    python -m hpm_jax.demo photo.jpg --hide=0.3,0.3,0.7,0.7
    python -m hpm_jax.demo photo.jpg --mask=mask.png
    python -m hpm_jax.demo photo.jpg --init_from=runs/mine

Without photographs it uses two that come with scikit-learn. It writes demo.png, and demo.html with
a slider over mask ratios. The default model is small (64 x 64 pixels) and ships with the package.
"""

import argparse
import importlib.resources
from pathlib import Path

import numpy as np

from hpm_jax.demo.draw import draw, make_page
from hpm_jax.demo.masks import hide_hard, hide_rectangle, read_mask
from hpm_jax.demo.model import DemoError, DemoModel, model_of_run, shipped_model
from hpm_jax.demo.show import Shown, read_whole, show
from hpm_jax.errors import one_sentence
from hpm_jax.storage import as_path, reported, write
from hpm_jax.text_files import printable
from hpm_jax.visualize.attention import heated
from hpm_jax.visualize.photographs import read_photograph

RATIOS = (0.3, 0.5, 0.75, 0.9)
SAMPLES = ("china.jpg", "flower.jpg")


def main(argv: list[str] | None = None) -> None:
    """Runs the command; an error is printed as one sentence."""
    options = _parser().parse_args(argv)
    with one_sentence():
        _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hpm_jax.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photos", nargs="*", type=Path, help="image files")
    parser.add_argument("--ratio", type=float, help=f"mask ratio; default: all of {RATIOS}")
    parser.add_argument(
        "--hard",
        type=float,
        default=0.5,
        help="fraction of the hidden patches chosen by predicted loss",
    )
    parser.add_argument("--mask", type=Path, help="picture whose white parts are hidden")
    parser.add_argument(
        "--hide", help="rectangle to hide: left,top,right,bottom as fractions of the image"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the randomly hidden patches"
    )
    parser.add_argument("--init_from", type=Path, help="workdir of a pre-training run")
    parser.add_argument(
        "--out", default="demo.png", help="output picture; the page is written beside it"
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    if not 0 <= options.hard <= 1:
        raise DemoError(f"--hard={options.hard}: expected a share from 0 to 1")
    given = [name for name in ("ratio", "mask", "hide") if getattr(options, name) is not None]
    if len(given) > 1:
        raise DemoError(f"--{given[0]} and --{given[1]} both say what is hidden: give one of them")
    demo = model_of_run(options.init_from) if options.init_from else shipped_model()
    photos = options.photos or [_sample(name) for name in SAMPLES]
    images = np.stack([read_photograph(path, demo.data) for path in photos])
    names = [printable(path.stem)[:16] for path in photos]
    predicted, attention = read_whole(demo, images)
    shown = {
        label: show(demo, images, predicted, status)
        for label, status in _masks(options, demo, predicted).items()
    }
    maps = attention.reshape(-1, *demo.model.grid[1:])
    heat = [heated(image, weights) for image, weights in zip(images, maps, strict=True)]
    _say(names, shown)
    out = as_path(options.out)
    with reported(out):
        draw(images, names, shown, heat).save(out)
    write(out.with_suffix(".html"), make_page(images, names, shown, heat))
    print(f"wrote {out} and {out.with_suffix('.html')}")


def _sample(name: str) -> Path:
    return Path(str(importlib.resources.files("sklearn.datasets.images") / name))


def _masks(
    options: argparse.Namespace, demo: DemoModel, predicted: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the masks by label."""
    grid, count = demo.model.grid[1:], len(predicted)
    if options.mask:
        return {"your mask": read_mask(options.mask, grid, count)}
    if options.hide:
        return {"your rectangle": hide_rectangle(options.hide, grid, count)}
    ratios = RATIOS if options.ratio is None else (options.ratio,)
    return {
        f"{ratio:.0%} hidden": hide_hard(predicted, ratio, options.hard, options.seed)
        for ratio in ratios
    }


def _say(names: list[str], shown: dict[str, Shown]) -> None:
    """Prints the numbers, a line for each photograph and mask."""
    width = max(map(len, names))
    for label, one in shown.items():
        for place, name in enumerate(names):
            print(
                f"{name:{width}}  {label:>14}  variance of hidden patches explained: "
                f"{one.explained[place]:6.1%} by the model, {one.interpolated[place]:6.1%} by "
                "interpolation"
            )
    last = list(shown.values())[-1]
    if np.isfinite(last.ranked):
        print(f"pairs of hidden patches ranked correctly by predicted loss: {last.ranked:.1%}")


if __name__ == "__main__":
    main()
