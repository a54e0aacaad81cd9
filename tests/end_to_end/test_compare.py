"""Comparisons: cells that are ordinary runs, seeds at once, what is refused and what is kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import changed, parts_of, small_options

from hpm_jax.compare.arms import arm_configs, operations, parse_contrasts, with_seed
from hpm_jax.compare.cells import cell_path, read_cell, write_cell
from hpm_jax.compare.finetuning import stratified
from hpm_jax.compare.run import load_params, save_params
from hpm_jax.compare.train import draw_batches, train_seeds
from hpm_jax.config import ConfigError, defaults, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.sources import SOURCES
from hpm_jax.evaluation.fillings import FILLINGS, fill, fill_interpolated
from hpm_jax.run.build import build_method, build_optimizer
from hpm_jax.step.schedules import PretrainTimetable
from hpm_jax.step.step import make_train_step
from hpm_jax.tasks.compare import compare, known_cells

MAE = {"mask": {"strategy": "random"}, "losses": (), "teacher": "none"}
HPM = {"mask": {"strategy": "hard(schedule='step')"}}


def options(**changes):
    config = defaults("compare")
    config.base = changed(small_options(), {"optimizer": {"epochs": 1, "warmup_epochs": 0.1}})
    config.arms = {"mae": MAE, "hpm": HPM}
    config.order = ("mae", "hpm")
    config.contrasts = ("hpm > mae: hard patches pay",)
    config.update(seeds=(0, 1), chunk=4, measures=("logistic", "held_out"), held_out_images=64)
    config.update(bank_images=200, checkpoints=(0.5, 1.0))
    return changed(config, changes)


def frozen(**changes):
    return freeze(inherit(options(**changes)))


@pytest.fixture(scope="module")
def records():
    return SOURCES["digits"](frozen().base.data).train


def trained(config, seeds, batches, records, shares=(1.0,)):
    return train_seeds(config, seeds, batches, len(records), shares, 4, lambda _: None)


def test_several_seeds_at_once_are_as_one_by_one(records):
    config = arm_configs(frozen())["hpm"]
    batches = draw_batches(config, records, (3, 5), 25)
    both = trained(config, (3, 5), batches, records, (0.5, 1.0))
    for row, seed in enumerate((3, 5)):
        one = {name: x[row : row + 1] for name, x in batches.items()}
        alone = trained(config, (seed,), one, records, (0.5, 1.0))[0]
        assert [x.step for x in alone.snapshots] == [x.step for x in both[row].snapshots]
        assert alone.curve["n_hard"] == both[row].curve["n_hard"]
        np.testing.assert_allclose(alone.curve["loss"], both[row].curve["loss"], rtol=1e-4)
        ours, theirs = (x.snapshots[-1].state.params for x in (alone, both[row]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), ours, theirs)
    assert both[0].curve["loss"] != both[1].curve["loss"]


def test_a_cell_is_the_run_that_main_makes_with_its_seed(records):
    config = with_seed(arm_configs(frozen())["hpm"], 5)
    drawn = draw_batches(config, records, (5,), 25)
    cell = trained(config, (5,), drawn, records)[0]
    parts = parts_of(config)
    state, timetable = parts.state, PretrainTimetable(config, len(records), config.hidden_units)
    step = jax.jit(make_train_step(parts.model, build_method(config), build_optimizer(config)))
    batches = train_batches(records, config)
    for index in range(timetable.steps):
        state, _ = step(state, next(batches)["image"], jax.random.key(5), timetable.at(index))
    batches.close()
    assert cell.steps == timetable.steps
    ours = cell.snapshots[-1].state.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, state.params)


def test_every_arm_gets_the_same_start_and_the_same_images(records):
    configs = arm_configs(frozen())
    drawn = [draw_batches(config, records, (0,), 3) for config in configs.values()]
    jax.tree.map(np.testing.assert_array_equal, *drawn)
    encoders = [parts_of(config).state.params["encoder"] for config in configs.values()]
    jax.tree.map(np.testing.assert_array_equal, *encoders)


def test_at_equal_flops_the_cheaper_arm_gets_more_epochs():
    configs = arm_configs(frozen(budget="flops", base={"optimizer": {"epochs": 10}}))
    spent = [operations(config) * config.optimizer.epochs for config in configs.values()]
    assert configs["mae"].optimizer.epochs > configs["hpm"].optimizer.epochs == 10
    assert spent[0] == pytest.approx(spent[1], rel=0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison of which one cell is lost and run again."""
    folder = tmp_path_factory.mktemp("comparison")
    assert compare(frozen(), folder) == 0
    before = {path.name: path.read_text() for path in (folder / "results").glob("*_*.json")}
    cell_path(folder / "results", "hpm", 1).unlink()
    assert compare(frozen(), folder) == 0
    after = {path.name: path.read_text() for path in (folder / "results").glob("*_*.json")}
    return folder, before, after


def test_a_comparison_goes_on_with_the_cells_that_are_missing(finished):
    folder, before, after = finished
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"hpm_1.json"}
    again, lost = (json.loads(cells["hpm_1.json"]) for cells in (after, before))
    for cell in (again, lost):
        del cell["cost"]
    assert again == lost
    text = (folder / "results" / "results.md").read_text()
    assert "raw_pixels" in text and "random_weights" in text and "| hpm |" in text


def test_the_numbers_of_a_cell_belong_to_its_weights(finished, tmp_path):
    folder, _, _ = finished
    params = load_params(folder / "weights" / "hpm_1.npz")
    save_params(tmp_path / "x.npz", params)
    jax.tree.map(np.testing.assert_array_equal, params, load_params(tmp_path / "x.npz"))
    cell = read_cell(cell_path(folder / "results", "hpm", 1))
    assert cell.steps == 25 and [point["step"] for point in cell.checkpoints] == [12, 25]
    assert (
        cell.measures == {}
        and cell.flops > read_cell(cell_path(folder / "results", "mae", 1)).flops
    )


def test_what_does_not_belong_is_named_and_left_alone(finished, tmp_path):
    folder, _, _ = finished
    for path in (folder / "results").glob("*_*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    cell = read_cell(cell_path(tmp_path, "hpm", 0))
    write_cell(tmp_path, dataclasses.replace(cell, version="0.0.1"))
    changed = cell.config | {"losses": ("absolute",)}
    write_cell(tmp_path, dataclasses.replace(cell, seed=1, config=changed))
    write_cell(tmp_path, dataclasses.replace(cell, arm="hpmm"))
    write_cell(tmp_path, dataclasses.replace(cell, arm="mae", design="another"))
    cell_path(tmp_path, "mae", 1).write_text("{")
    said = []
    now = frozen()
    cells = known_cells(tmp_path, now, arm_configs(now), said.append)
    assert set(cells) == {("raw_pixels", 0), ("random_weights", 0), ("random_weights", 1)}
    told = " ".join(said)
    for words in ("0.0.1", "config.losses was", "did you mean 'hpm'", "another", "mae_1.json"):
        assert words in told
    assert len(said) == 5 and len(list(tmp_path.glob("*_*.json"))) == 8
    accepted = known_cells(tmp_path, frozen(versions=("0.0.1",)), arm_configs(now), said.append)
    assert ("hpm", 0) in accepted


def test_a_design_is_what_cells_must_share():
    same = [frozen(), frozen(arms={"mae": MAE}, order=(), contrasts=()), frozen(seeds=(7,))]
    assert len({each.design for each in same}) == 1
    others = [frozen(penalty=0.1), frozen(base={"optimizer": {"epochs": 2}})]
    others += [frozen(base={"model": {"depth": 2}}), frozen(bank_images=100)]
    assert len({each.design for each in [*others, same[0]]}) == 5


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"only": ("hpn",)}, "config.only = 'hpn'"),
        ({"order": ("hpm", "mea")}, "did you mean 'mae'"),
        ({"contrasts": ("hpm > mea: x",)}, "did you mean 'mae'"),
        ({"contrasts": ("hpm beats mae",)}, "better > worse"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1, 1)}, "different numbers"),
        ({"primary": "knn"}, "is not measured"),
        ({"arms": {}, "order": (), "contrasts": ()}, "config.arms is empty"),
        ({"arms": {"mae": {"optimizer": {"epochs": 9}}}}, "config.differ names 'optimizer'"),
        ({"arms": {"mae": {"mask": {"strategy": "rendom"}}}}, "did you mean 'random'"),
        ({"arms": {"mae": HPM | {"teacher": "none"}}}, "config.arms.mae: "),
        ({"arms": {"raw_pixels": MAE}}, "taken by a baseline"),
        ({"arms": {"mae": {"mask": {"ratioo": 0.5}}}}, "did you mean 'ratio'"),
        ({"margin": 0.0}, "config.margin"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(changes, words):
    config = options(**({"order": (), "contrasts": ()} | changes if "arms" in changes else changes))
    if "arms" in changes:
        del config.arms
        config.arms = changes["arms"]
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        freeze(inherit(config))


def test_an_arm_may_differ_where_the_comparison_says_so():
    config = options(differ=("optimizer",))
    config.arms = {"mae": MAE, "hpm": HPM | {"optimizer": {"epochs": 2}}}
    configs = arm_configs(freeze(inherit(config)))
    assert [configs[name].optimizer.epochs for name in ("mae", "hpm")] == [1, 2]


def test_contrasts_are_read_from_sentences():
    (found,) = parse_contrasts(("hpm > mae: a claim: with a colon",), ("hpm", "mae"))
    assert found == ("hpm", "mae", "a claim: with a colon")


def test_fillings_keep_what_is_seen_and_interpolate_a_slope():
    method = build_method(frozen().base)
    rows, columns = np.indices((16, 16))
    slope = (0.3 * rows + 0.7 * columns)[None, ..., None].astype(np.float32)
    from hpm_jax.tokens import patchify

    patches = np.asarray(patchify(jnp.asarray(slope), method.tokenizer.patch_size))
    keep = np.array([[0, 3, 5, 12, 15]])  # the corners, so that everything is inside of the hull
    for filling in FILLINGS.values():
        filled = fill(method, patches, keep, filling)
        np.testing.assert_allclose(filled[:, keep[0]], patches[:, keep[0]], rtol=1e-6)
    filled = fill(method, patches, keep, fill_interpolated)
    np.testing.assert_allclose(filled, patches, atol=1e-4)


def test_a_share_of_the_labels_is_a_share_of_every_class():
    labels = np.repeat(np.arange(10), np.arange(10, 110, 10))
    chosen = stratified(labels, 0.1)
    np.testing.assert_array_equal(np.bincount(labels[chosen]), np.arange(1, 11))
    np.testing.assert_array_equal(chosen, stratified(labels, 0.1))
