"""docs/results.md says what the cells say."""

import importlib.util
from pathlib import Path

import pytest

from hpm_jax.compare.arms import arm_configs, parse_contrasts
from hpm_jax.compare.cells import BASELINES, read_cell, value
from hpm_jax.compare.statistics import analyse
from hpm_jax.compare.table import contrast_table, describe, main_table
from hpm_jax.config import freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.tasks.compare import known_cells

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "compare_cifar10"


@pytest.fixture(scope="module")
def comparison():
    spec = importlib.util.spec_from_file_location("c", ROOT / "configs" / "compare_cifar10.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.base.data.source = "folder"
    options = freeze(inherit(config))
    said = []
    configs = arm_configs(options)
    cells = known_cells(FOLDER, options, configs, said.append)
    assert not said, "every committed cell belongs to the comparison"
    return options, configs, cells


def test_the_document_has_the_tables_of_the_cells(comparison):
    options, configs, cells = comparison
    text = (ROOT / "docs" / "results.md").read_text()
    contrasts = parse_contrasts(options.contrasts, configs)
    results = analyse(cells, contrasts, options.primary, options.margin)
    measures = [name for name in options.measures if name != "finetune"]
    main = main_table(cells, dict.fromkeys(configs, ""), measures).markdown()
    contrast = contrast_table(results, describe(options.primary)).markdown()
    for table in (main, contrast):
        for line in table.splitlines():
            assert line in text, line


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
    for path in FOLDER.glob("*_[0-9]*.json"):
        assert path.stat().st_size < 64_000
        assert read_cell(path).checkpoints
