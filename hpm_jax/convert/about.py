"""Metadata of weights for other formats: preprocessing, classes, and the run that made them."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from hpm_jax.convert import preprocessing
from hpm_jax.convert.read import BEST
from hpm_jax.convert.weights import Weights, WeightsError
from hpm_jax.data.scored import read_class_names
from hpm_jax.data.transforms import resampling
from hpm_jax.run.workdir import read_config
from hpm_jax.storage import as_path
from hpm_jax.text_files import NOTE_BYTES, read_json, read_text


class About(NamedTuple):
    """Metadata of weights besides their architecture; None or () if unknown."""

    source: str
    mean: tuple[float, ...]  # of each channel, of values from 0 to 1
    std: tuple[float, ...]
    test_crop: float  # test crop as a fraction of the short side
    interpolation: str  # bicubic or bilinear
    classes: tuple[str, ...] = ()
    mask_ratio: float | None = None
    target: Any = None  # of pre-training: a plug, such as NormalizedPixels
    config: Any = None  # all options of the run
    versions: tuple[tuple[str, str], ...] = ()
    command: str = ""  # command line of the run
    results: tuple[str, ...] = ()  # lines of the table in the run's report.md


def about(source: str | Path, weights: Weights) -> About:
    """Returns the metadata from a run's workdir, a published model's folder, or by convention.

    Raises:
        WeightsError: if the normalisation of images is unknown.
    """
    path = as_path(source)
    run = path.parent if path.name == BEST and (path.parent / "config.json").exists() else path
    if not (run / "versions.json").exists():
        return _of_file(path, weights)
    config = read_config(run)
    data, report = config.data, run / "report.md"
    text = read_text(report, NOTE_BYTES, WeightsError) if report.exists() else ""
    line = re.search(r"^`(python -m hpm_jax\.\S+ .*)`$", text, re.M)
    table = re.search(r"(?:^\|.*\n)+", text, re.M)
    named = run / "classes.json"
    pretraining = config.task == "pretrain"
    return About(
        source=str(source),
        mean=data.mean,
        std=data.std,
        test_crop=data.test_crop,
        interpolation=resampling(data).name.lower(),
        classes=read_class_names(named) if weights.architecture.classes and named.exists() else (),
        mask_ratio=config.mask.ratio if pretraining else None,
        target=config.target if pretraining else None,
        config=config,
        versions=tuple(read_json(run / "versions.json", WeightsError).items()),
        command=line[1] if line else "",
        results=tuple(table[0].splitlines()) if table else (),
    )


def _of_file(path: Path, weights: Weights) -> About:
    a = weights.architecture
    size = (a.grid[1] * a.patch_size, a.grid[2] * a.patch_size)
    known = preprocessing.normalization(path, a)
    if not known:
        raise WeightsError(
            f"{path} does not tell how its images of {a.channels} channel(s) were normalised: "
            "convert the workdir of the run, which does"
        )
    video = a.grid[0] * a.tubelet > 1
    return About(
        source=str(path),
        mean=known["mean"],
        std=known["std"],
        test_crop=preprocessing.test_crop(path, a, size),
        interpolation="bilinear" if video else "bicubic",
    )
