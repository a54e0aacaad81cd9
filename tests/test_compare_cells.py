"""Cells are written whole, read back, and never mixed with cells of another design."""

import dataclasses
import json

import numpy as np
import pytest

from hpm_jax.compare.cells import (
    Cell,
    CellError,
    correctness,
    pack,
    read_cell,
    read_cells,
    unpack,
    value,
    write_cell,
)

BITS = np.random.default_rng(0).random((4, 13)) < 0.5


def example(arm="hpm", seed=0, design="abc") -> Cell:
    points = [
        {
            "step": step,
            "epoch": step / 10,
            "measures": {"logistic": float(bits.mean()), "held_out": 0.5 + step},
            "correct": {"logistic": pack(bits)},
            "test_images": 13,
        }
        for step, bits in enumerate(BITS[:3])
    ]
    return Cell(
        comparison="compare_small",
        version="0.1.0",
        arm=arm,
        seed=seed,
        design=design,
        config={"mask": {"ratio": 0.75}},
        machine="2 x CPU",
        steps=30,
        images=960,
        flops=1e9,
        cost={"seconds_per_step": 0.3, "train_seconds": 9.0, "measure_seconds": 2.0},
        curve={"step": [0, 10], "loss": [1.0, 0.5]},
        checkpoints=points,
        measures={"finetune_1": 0.25},
        correct={"finetune_1": pack(BITS[3])},
        test_images=13,
    )


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_bits_survive(n):
    bits = np.random.default_rng(n).random(n) < 0.5
    np.testing.assert_array_equal(unpack(pack(bits), n), bits)


@pytest.mark.parametrize("text, n", [("!!", 3), ("AAAA", 8), ("AA==", 9)])
def test_wrong_bits_are_refused(text, n):
    with pytest.raises(CellError):
        unpack(text, n)


def test_cells_survive(tmp_path):
    path = write_cell(tmp_path / "new", example())
    assert path.name == "hpm_0.json"
    assert read_cell(path) == example()
    assert [file.name for file in path.parent.iterdir()] == ["hpm_0.json"]


def test_means_over_checkpoints():
    cell = example()
    assert value(cell, "held_out") == pytest.approx(1.5)
    assert value(cell, "finetune_1") == 0.25
    assert value(cell, "knn") is None and correctness(cell, "held_out") is None
    np.testing.assert_allclose(correctness(cell, "logistic"), BITS[:3].mean(axis=0))
    np.testing.assert_array_equal(correctness(cell, "finetune_1"), BITS[3])
    assert correctness(cell, "logistic").mean() == pytest.approx(value(cell, "logistic"))


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


BROKEN = {
    "half a file": (lambda path: path.write_text(path.read_text()[:99]), "cannot be read"),
    "a list": (lambda path: path.write_text("[]"), "format is not 1"),
    "next format": (lambda path: change(path, format=2), "format is not 1"),
    "new field": (lambda path: change(path, colour=2), "colour"),
    "text": (lambda path: change(path, steps="many"), "steps = 'many', expected int"),
    "no checkpoint": (lambda path: change(path, checkpoints=[]), "no checkpoint"),
    "no measures": (lambda path: change(path, checkpoints=[{"step": 1}]), "'measures'"),
    "few bits": (lambda path: change(path, test_images=99), "99 test images need 13"),
    "other seed": (lambda path: change(path, seed=5), "give it that name"),
    "other design": (lambda path: change(path, design="xyz"), "its design is xyz, not abc"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_cell_of_the_design_is_left_out_and_named(tmp_path, kind):
    breaks, words = BROKEN[kind]
    for seed in range(2):
        write_cell(tmp_path, example(seed=seed))
    path = tmp_path / "hpm_1.json"
    breaks(path)
    before, said = path.read_bytes(), []
    cells = read_cells(tmp_path, "abc", said.append)
    assert list(cells) == [("hpm", 0)]
    assert len(said) == 1 and str(path) in said[0] and words in said[0]
    assert path.read_bytes() == before


def test_other_files_are_no_cells(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    write_cell(tmp_path, example(arm="random_loss", seed=12))
    said = []
    assert list(read_cells(tmp_path, "abc", said.append)) == [("random_loss", 12)] and not said
    assert read_cells(tmp_path / "none", "abc", said.append) == {}


def test_an_old_cell_is_replaced(tmp_path):
    write_cell(tmp_path, example())
    path = write_cell(tmp_path, dataclasses.replace(example(), steps=31))
    assert read_cell(path).steps == 31
