"""docs/results.md says what the cells say."""

import importlib.util
import json
import statistics
from pathlib import Path

import pytest

from benchmarks.dense_tasks import tables
from hpm_jax.compare.arms import arm_configs, parse_contrasts
from hpm_jax.compare.cells import BASELINES, read_cell, value
from hpm_jax.compare.masks import draw_arms
from hpm_jax.compare.statistics import analyse
from hpm_jax.compare.table import contrast_table, describe, main_table
from hpm_jax.config import freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.tasks.compare import known_cells

ROOT = Path(__file__).parent.parent
COMPARISONS = (  # config and variant
    "compare_cifar10",
    "compare_teacher",
    "compare_teacher:cheaper",
    "compare_digits",
    "compare_methods",
)
VIEWS = ("whole", "parts", "contrast")
AGREEMENTS = {
    "bfloat16": "the full one in bfloat16",
    "late": "the full one, three steps ago",
    "parts": "in parts",
}


def cells_of(name):
    file, _, variant = name.partition(":")
    spec = importlib.util.spec_from_file_location("c", ROOT / "configs" / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant) if variant else module.get_config()
    if config.base.data.source == "tfds":
        config.base.data.source = "folder"
    options = freeze(inherit(config))
    said = []
    configs = arm_configs(options)
    cells = known_cells(ROOT / options.results, options, configs, said.append)
    assert not said, "every committed cell belongs to the comparison"
    return options, configs, cells


@pytest.fixture(scope="module")
def comparison():
    return cells_of("compare_cifar10")


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_document_has_the_tables_of_the_cells(name):
    options, configs, cells = cells_of(name)
    text = (ROOT / "docs" / "results.md").read_text()
    contrasts = parse_contrasts(options.contrasts, configs)
    results = analyse(cells, contrasts, options.primary, options.margin)
    measures = [name for name in options.measures if name != "finetune"]
    main = main_table(cells, dict.fromkeys(configs, ""), measures).markdown()
    contrast = contrast_table(results, describe(options.primary)).markdown()
    for table in (main, contrast):
        for line in table.splitlines():
            assert line in text or "no cell of" in line, line


def test_pre_training_is_worth_something_in_this_setting(comparison):
    """Else no contrast of this comparison could mean anything."""
    _, configs, cells = comparison
    floor = max(value(cell, "logistic") for (arm, _), cell in cells.items() if arm in BASELINES)
    for (arm, seed), cell in cells.items():
        if arm in configs and arm != "block":
            assert value(cell, "logistic") > floor + 0.02, (arm, seed)


def test_every_cell_saw_as_many_images(comparison):
    _, configs, cells = comparison
    assert len({cell.images for (arm, _), cell in cells.items() if arm in configs}) == 1


def test_a_cell_is_small_and_whole():
    for path in (ROOT / "results").glob("compare_*/*_[0-9]*.json"):
        assert path.stat().st_size < 64_000
        assert read_cell(path).checkpoints


def test_the_document_has_the_numbers_of_the_mismatch():
    text = (ROOT / "docs" / "results.md").read_text()
    seeds = json.loads((ROOT / "results" / "mismatch.json").read_text()).values()
    for rows in zip(*seeds, strict=True):
        mean = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
        correlations = (f"{mean[f'{view}_correlation']:.2f}" for view in VIEWS)
        pairs = (f"{mean[f'{view}_pairs']:.1%}".replace("%", " %") for view in VIEWS)
        assert f"| {rows[0]['step']} | {' | '.join([*correlations, *pairs])} |" in text
    for name, title in AGREEMENTS.items():
        key = f"{name}_agreement"
        half, end = (f"{statistics.fmean(rows[i][key] for rows in seeds):.1%}" for i in (5, -1))
        assert f"| {title} | {half.replace('%', ' %')} | {end.replace('%', ' %')} |" in text


def test_the_document_has_the_numbers_of_the_noisy_television():
    text = (ROOT / "docs" / "results.md").read_text()
    found = json.loads((ROOT / "results" / "noisy_television.json").read_text())
    for arm in found.values():
        shares = " | ".join(f"{100 * row['noise_hidden']:.1f} %" for row in arm["masks"])
        clean = " | ".join(f"{100 * arm['clean'][name]:.1f} %" for name in ("logistic", "knn"))
        assert f" | {shares} | {clean} |" in text


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_masks_of_committed_cells_can_be_drawn(name):
    """Cells are read by later versions, so the names of their parts stay."""
    _, configs, cells = cells_of(name)
    assert draw_arms(cells, dict.fromkeys(configs, ""))


def test_the_document_has_the_tables_of_dense_tasks():
    found = json.loads((ROOT / "results" / "dense_tasks.json").read_text())
    text = (ROOT / "docs" / "results.md").read_text()
    for line in tables(found).splitlines():
        assert line in text, line
