"""The tables, figures and pages of a comparison, from cells that are made up."""

import dataclasses
import io
import json
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from hpm_jax.compare.cells import Cell, pack
from hpm_jax.compare.page import PageDesign, write_page
from hpm_jax.compare.statistics import Contrast, analyse, paired
from hpm_jax.compare.table import (
    Table,
    contrast_table,
    describe,
    exploratory_table,
    main_table,
    p_text,
    remarks,
    values,
)

IMAGES = 400
LEVELS = {"hpm": 0.60, "random_loss": 0.59, "mae": 0.45, "random_weights": 0.3, "raw_pixels": 0.25}
ARMS = {"hpm": "hard patches", "random_loss": "random masks, with loss", "mae": "random masks"}
CONTRASTS = [
    Contrast("random_loss", "mae", "the loss helps"),
    Contrast("hpm", "random_loss", "hard masks help"),
]
DESIGN = PageDesign(
    title="HPM & MAE on <small> images",
    arms=ARMS,
    contrasts=CONTRASTS,
    primary="logistic",
    secondary=["knn", "held_out", "finetune_1"],
    margin=0.01,
    command="python -m hpm_jax.compare --config configs/compare.py",
    notes=["Made-up numbers."],
)


def make_cell(arm, seed):
    rng = np.random.default_rng((zlib.crc32(arm.encode()), seed))
    is_trained = arm in ARMS
    points = []
    for step in (80, 90, 100) if is_trained else (0,):
        bits = rng.random(IMAGES) < LEVELS[arm]
        measures = {"logistic": float(bits.mean()), "knn": LEVELS[arm] - 0.1 + 0.01 * seed}
        if is_trained:
            measures["held_out"] = 0.5 + 0.01 * rng.normal()
        correct = {"logistic": pack(bits)}
        points.append(
            {"step": step, "epoch": step / 10, "measures": measures}
            | {"correct": correct, "test_images": IMAGES}
        )
    curve = {"step": [0, 50, 100], "loss": [1.0, 0.6, 0.5], "n_hard": [0, 4, 8]}
    if arm == "hpm":
        curve["ranked_correctly"] = [0.5, 0.6, 0.7]
    return Cell(
        "compare_small",
        "0.1.0",
        arm,
        seed,
        "abc",
        {},
        "2 x CPU",
        100 * is_trained,
        3200 * is_trained,
        {"hpm": 2.3e9, "random_loss": 2.3e9, "mae": 1e9}.get(arm, 0.0),
        {"seconds_per_step": 0.25, "train_seconds": 1800.0, "measure_seconds": 360.0}
        if is_trained
        else {},
        curve if is_trained else {},
        points,
        {"finetune_1": 0.3 + 0.01 * seed} if is_trained else {},
    )


def make_cells(seeds=3, arms=tuple(LEVELS)):
    return {
        (arm, seed): make_cell(arm, seed)
        for arm in arms
        for seed in range(1 if arm == "raw_pixels" else seeds)
    }


def row_of(table, name):
    (row,) = (row for row in table.rows if row[0] == name)
    return dict(zip(table.header, row, strict=True))


def test_main_table_holds_the_numbers_of_the_cells():
    cells = make_cells()
    table = main_table(cells, ARMS, ["logistic", "held_out", "finetune_1"])
    assert [row[0] for row in table.rows] == [*ARMS, "raw_pixels", "random_weights"]
    numbers = np.array(
        [
            np.mean([point["measures"]["logistic"] for point in cells["hpm", seed].checkpoints])
            for seed in range(3)
        ]
    )
    row = row_of(table, "hpm")
    expected = f"{100 * numbers.mean():.1f} ± {100 * numbers.std(ddof=1):.1f}"
    assert row["logistic regression, %"] == expected
    assert row["fine-tuned, 1 % of the labels, %"] == "31.0 ± 1.0"
    assert re.fullmatch(r"0\.\d{4} ± 0\.\d{4}", row["held-out loss (lower is better)"])
    assert (row["images"], row["relative FLOPs"], row["seconds a step"]) == (
        "3,200",
        "2.30",
        "0.25",
    )
    assert row_of(table, "mae")["relative FLOPs"] == "1.00"
    pixels = row_of(table, "raw_pixels")
    assert (pixels["seeds"], pixels["images"], pixels["held-out loss (lower is better)"]) == (
        "1",
        "-",
        "-",
    )
    assert "±" not in pixels["logistic regression, %"]


def test_contrast_tables_hold_the_numbers_of_the_analysis():
    cells = make_cells(5)
    results = analyse(cells, CONTRASTS, "logistic", 0.01)
    table = contrast_table(results, describe("logistic"))
    row = row_of(table, "random_loss - mae")
    found = results[0].found
    means = values(cells, "random_loss", "logistic") - values(cells, "mae", "logistic")
    assert row["difference, points"] == f"{100 * means.mean():+.2f}"
    assert row["95 % interval"] == f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    assert row["detectable, points"] == f"{100 * results[0].detectable:.2f}"
    assert (row["verdict"], row["claim"]) == ("held", "the loss helps")
    assert exploratory_table({"knn": results}).header == ["contrast", "kNN, points"]
    losses = analyse(cells, CONTRASTS, "held_out", 0.01, rises=False)
    row = row_of(exploratory_table({"held_out": losses}), "random_loss - mae")
    found = paired(values(cells, "random_loss", "held_out"), values(cells, "mae", "held_out"))
    assert row["held-out loss (lower is better)"] == (
        f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    )


def test_how_numbers_are_written():
    assert describe("scratch_10").title == "from scratch, 10 % of the labels"
    assert not describe("test_loss").rises and describe("new_probe").percent
    assert describe("knn").text(-0.00001, signed=True) == "-0.00"
    assert [p_text(p) for p in (np.nan, 0.0002, 0.0234)] == ["-", "< 0.001", "0.023"]
    table = Table(["a", "b"], [["x|y", "1"]])
    assert table.markdown() == "| a | b |\n| --- | --: |\n| x\\|y | 1 |"


def test_missing_arms_and_single_seeds_are_said_in_words(tmp_path):
    cells = make_cells(1, ("hpm", "random_loss", "raw_pixels"))
    cells |= {("other", 0): dataclasses.replace(make_cell("hpm", 0), arm="other")}
    said = remarks(cells, ARMS)
    assert "No finished cell: contrasts with it are open. Arms: mae." in said
    assert "One seed: no deviation and no interval. Arms: hpm, random_loss." in said
    assert "Cells of other are left out: it is no arm of this comparison." in said
    assert not any("raw_pixels" in line for line in said)
    write_page(tmp_path, cells, DESIGN)
    for name in ("results.md", "results.html"):
        text = (tmp_path / name).read_text()
        assert all(line in text for line in said)
        assert "no cell of mae" in text and "one seed: no interval" in text
        assert "nan" not in re.sub('base64,[^"]+', "", text)
    cells = make_cells(3)
    del cells["hpm", 1]
    assert remarks(cells, ARMS) == ["2 of 3 seeds: contrasts use common seeds. Arms: hpm."]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "new"
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, format="png")
    results = write_page(folder, make_cells(), DESIGN, {"Masks of HPM": file.getvalue()})
    return folder, results


def test_html_needs_no_other_file(page):
    folder, _ = page
    text = (folder / "results.html").read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    sources = re.findall(r'src="([^"]{22})', text)
    assert sources == ["data:image/png;base64,"] * 3
    assert "<h1>HPM &amp; MAE on &lt;small&gt; images</h1>" in text
    assert DESIGN.command in text and "Made-up numbers." in text


def test_markdown_names_files_that_are_there(page):
    folder, results = page
    text = (folder / "results.md").read_text()
    assert text.startswith("# HPM & MAE on <small> images\n")
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert pictures == ["results.png", "curves.png", "picture_0.png"]
    for name in pictures:
        assert Image.open(folder / name).size[0] >= 8
    assert contrast_table(results, describe("logistic")).markdown() in text
    assert "exploratory" in text and "equivalent within ± 1 point (" in text
    assert "2 x CPU; 4.5 hours of training, 0.9 hours of measuring" in text
    assert "last 3 checkpoints" in text


def test_json_holds_all_numbers(page):
    folder, results = page
    found = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    first = found["contrasts"][0]
    assert first["found"]["low"] == results[0].found.low
    assert first["verdict"] == results[0].verdict
    assert first["contrast"] == CONTRASTS[0]._asdict()
    assert found["exploratory"].keys() == set(DESIGN.secondary)
    assert "verdict" not in found["exploratory"]["knn"][0]
    assert len(found["cells"]) == 3 * 4 + 1
    weights = next(cell for cell in found["cells"] if cell["arm"] == "random_weights")
    assert weights["measures"]["held_out"] is None


def test_same_cells_same_files(page, tmp_path):
    folder, _ = page
    write_page(tmp_path, make_cells(), DESIGN)
    for name in ("results.png", "curves.png", "results.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_page_without_cells_says_so(tmp_path):
    write_page(tmp_path, {}, DESIGN)
    text = (tmp_path / "results.md").read_text()
    assert "There is no finished cell yet." in text and "no cell of hpm and random_loss" in text
