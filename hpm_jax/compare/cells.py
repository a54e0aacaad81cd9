"""The cells of a comparison: one JSON file for each finished pair of an arm and a seed."""

import base64
import binascii
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from hpm_jax.errors import UserError
from hpm_jax.storage import write

FORMAT = 1
BASELINES = ("raw_pixels", "random_weights")
DETERMINISTIC = ("raw_pixels",)  # one cell, of seed 0, stands for every seed
_NAME = re.compile(r"(.+)_(\d+)\.json")


class CellError(UserError, ValueError):
    """A file that is not a cell, or cells that cannot be compared."""


class Checkpoint(TypedDict):
    """What was measured at one checkpoint."""

    step: int
    epoch: float
    measures: dict[str, float]
    correct: dict[str, str]  # see `pack`
    test_images: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """One finished run of a comparison, with everything that the results are computed from.

    Attributes:
        design: hash of what all arms share: data, budget and measures.
        config: the whole config of the arm.
        images: training images seen. `flops`: operations of the whole training.
        cost: `seconds_per_step`, `train_seconds`, `measure_seconds`.
        curve: numbers by name, as lists as long as the list `step`.
        checkpoints: the last ones of the run; their mean counts.
        measures, correct, test_images: what is measured once, at the end.
        masks: of the first test images at the end, see `hpm_jax/compare/masks.py`; of raw pixels,
            the images themselves.
    """

    comparison: str
    version: str
    arm: str
    seed: int
    design: str
    config: dict[str, Any]
    machine: str
    steps: int
    images: int
    flops: float
    cost: dict[str, float]
    curve: dict[str, list[float]]
    checkpoints: list[Checkpoint]
    measures: dict[str, float] = dataclasses.field(default_factory=dict)
    correct: dict[str, str] = dataclasses.field(default_factory=dict)
    test_images: int = 0
    masks: dict[str, Any] = dataclasses.field(default_factory=dict)


Cells = dict[tuple[str, int], Cell]


def pack(correct: np.ndarray) -> str:
    """Bits `[N]` bool as base64 text, 8 bits a byte, the first image in the highest bit."""
    return base64.b64encode(np.packbits(np.asarray(correct, bool)).tobytes()).decode()


def unpack(text: str, n: int) -> np.ndarray:
    """The bits `[n]` bool that `pack` was given.

    Raises:
        CellError: for text that is not base64, or of another number of bits.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as reason:
        raise CellError(f"bits of {n} test images are not base64: {reason}") from reason
    if len(data) != -(-n // 8):
        raise CellError(f"{len(data)} bytes of bits: {n} test images need {-(-n // 8)}")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=n).astype(bool)


def correctness(cell: Cell, measure: str) -> np.ndarray | None:
    """How often each test image is classified correctly, `[N]` in 0..1; None without bits.

    It is the mean over the checkpoints, or what was measured once.
    """
    sources = [(point["correct"], point["test_images"]) for point in cell.checkpoints]
    sources.append((cell.correct, cell.test_images))
    bits = [unpack(texts[measure], n) for texts, n in sources if measure in texts]
    return np.mean(bits, axis=0) if bits else None


def value(cell: Cell, measure: str) -> float | None:
    """The mean over the checkpoints, or what was measured once; None if it was not measured."""
    sources = [point["measures"] for point in cell.checkpoints] + [cell.measures]
    values = [source[measure] for source in sources if measure in source]
    return float(np.mean(values)) if values else None


def cell_path(folder: Path, arm: str, seed: int) -> Path:
    """Where the cell of an arm and a seed is kept."""
    return folder / f"{arm}_{seed}.json"


def write_cell(folder: Path, cell: Cell) -> Path:
    """Writes a whole cell or nothing, and returns its path.

    Raises:
        StorageError: where it cannot be written.
    """
    path = cell_path(folder, cell.arm, cell.seed)
    folder.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps({"format": FORMAT} | dataclasses.asdict(cell), indent=1) + "\n")
    return path


def read_cell(path: Path) -> Cell:
    """Reads and checks one cell.

    Raises:
        CellError: for a file that is broken, of another format or under another cell's name.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, ValueError) as reason:
        raise CellError(f"it cannot be read ({reason}): delete it to measure it again") from reason
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise CellError(f"its format is not {FORMAT}: delete it to measure it again")
    try:
        cell = Cell(**found)
        _check(cell)
    except CellError as reason:
        raise CellError(f"{reason}; delete it to measure it again") from reason
    except (TypeError, KeyError, AttributeError) as reason:
        raise CellError(f"it is not a whole cell ({reason}): delete it to measure it again") from (
            reason
        )
    if path.name != cell_path(path.parent, cell.arm, cell.seed).name:
        raise CellError(f"it holds the cell {cell.arm}_{cell.seed}: give it that name")
    return cell


def _check(cell: Cell) -> None:
    """Types of all fields, finite budgets, and bits as long as there are test images."""
    types: dict[Any, Any] = {float: (int, float), int: int, str: str}
    for field in dataclasses.fields(cell):
        kind: Any = getattr(field.type, "__origin__", field.type)
        found = getattr(cell, field.name)
        if not isinstance(found, types.get(kind, kind)) or isinstance(found, bool):
            raise CellError(f"{field.name} = {str(found)[:40]!r}, expected {kind.__name__}")
    if not cell.checkpoints or not math.isfinite(cell.flops):
        raise CellError("it has no checkpoint, or no finite flops")
    for point in cell.checkpoints:
        sum(point["measures"].values())
        _check_bits(point["correct"].values(), point["test_images"])
    sum(cell.measures.values())
    _check_bits(cell.correct.values(), cell.test_images)


def _check_bits(texts: Iterable[str], n: int) -> None:
    for text in texts:
        unpack(text, n)


def read_cells(folder: Path, design: str, say: Callable[[str], None]) -> Cells:
    """All cells of one design in a folder, by arm and seed.

    A file that is no such cell is left out and left alone; `say` gets one sentence about it.
    """
    cells: Cells = {}
    for path in sorted(folder.glob("*.json")):
        if not _NAME.fullmatch(path.name):
            continue  # results.json
        try:
            cell = read_cell(path)
        except CellError as reason:
            say(f"{path} is left out: {reason}.")
            continue
        if cell.design != design:
            say(
                f"{path} is left out: its design is {cell.design}, not {design}; data, budget or "
                "measures have changed: delete it to run it again, or use another folder."
            )
            continue
        cells[cell.arm, cell.seed] = cell
    return cells
