"""Segmentation runs in one process: what they start from, what they leave, what they refuse."""

import json
import shutil

import jax
import numpy as np
import pytest
from small import changed, task_options
from small_scenes import CLASSES, VOID, write_scenes

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import WeightsError
from hpm_jax.data.records import DataError
from hpm_jax.run.build_dense import build_segment_recipe, build_segmenter
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks.segment import load_start, segment, spread
from hpm_jax.tasks.segment_evaluate import segment_evaluate
from hpm_jax.visualize.segments import palette

RECIPE = {
    "data": {"image_size": (16, 16), "ignore_index": VOID},
    "augment": {"scale": (0.9, 1.1), "photometric": False},
    "model": {"drop_path": 0.0},
    "optimizer": {
        "epochs": 10,
        "batch_size": 8,
        "absolute_learning_rate": 1e-2,
        "warmup_epochs": 1.0,
        "layer_decay": 1.0,
    },
    "evaluation": {"every_epochs": 5.0, "batch_size": 16, "pictures": 2},
}


def options(pretrained, root, **changes):
    config = changed(task_options("segment", pretrained, **RECIPE), {"data": {"path": str(root)}})
    return changed(config, changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), {"train": 8, "val": 2})


@pytest.fixture(scope="module")
def run(pretrained, root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("segmented")
    config = freeze(inherit(options(pretrained, root)))
    assert segment(config, workdir) == 0
    return config, workdir


def test_sizes_are_inherited_and_the_data_is_not(run):
    config, _ = run
    assert config.data.source == "label_maps" and config.data.channels == 1
    assert config.data.mean == (0.5,) and config.data.image_size == (16, 16)
    assert (config.model.width, config.model.depth, config.model.patch_size) == (16, 1, 4)


def test_it_leaves_scores_pictures_and_a_report(run):
    _, workdir = run
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "miou" in line]
    assert [round(line["epoch"]) for line in lines] == [5, 10]
    last = lines[-1]
    assert 0 < last["miou"] <= 1 and 0 < last["pixel_accuracy"] <= 1
    assert {"iou/sky", "iou/road", "iou/car"} <= last.keys()
    written = json.loads((workdir / "segmentation.json").read_text())
    assert written["miou"] == last["miou"] and written["step"] == last["step"]
    assert [one["name"] for one in written["classes"]] == list(CLASSES)
    assert written["classes"][1]["iou"] == last["iou/road"]
    text = (workdir / "report.md").read_text()
    assert "| mean IoU |" in text and "| road |" in text and "curves.png" in text
    assert "rebuilt" not in text
    assert len(sorted((workdir / "pictures").glob("step_*.png"))) == 2
    page = (workdir / "report.html").read_text()
    assert "Semantic segmentation" in page and "What it predicts" in page and "road" in page
    assert json.loads((workdir / "classes.json").read_text()) == list(CLASSES)


def test_it_learns_more_than_the_commonest_class(run):
    _, workdir = run
    last = json.loads((workdir / "segmentation.json").read_text())
    assert last["pixel_accuracy"] > max(one["share"] for one in last["classes"])


def test_its_encoder_is_read_again(run, pretrained, root):
    config, workdir = run
    state = load_run(workdir).state
    weights = read_weights(workdir)
    jax.tree.map(np.testing.assert_array_equal, weights.params["encoder"], state.params["encoder"])
    again = freeze(inherit(options(workdir, root)))
    assert again.model == config.model
    assert set(load_start(again, build_segmenter(again, 3), print)) == {"encoder"}
    assert int(load_run(workdir, "best").state.step) in (5, 10)


def test_a_finished_run_is_left_as_it_is(run):
    config, workdir = run
    before = (workdir / "metrics.jsonl").read_text()
    assert segment(config, workdir) == 0
    assert (workdir / "metrics.jsonl").read_text() == before
    assert "| road |" in (workdir / "report.md").read_text()


def test_a_finished_run_is_scored_on_another_split(run, root, tmp_path):
    """The val split gives the scores of training; a copy of it elsewhere the same."""
    _, workdir = run
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    for kind in ("images", "labels"):
        (moved / kind / "val").rename(moved / kind / "test")
        shutil.rmtree(moved / kind / "train")
    changes = {"evaluation": {"batch_size": 16, "pictures": 1}}
    changes["data"] = {"path": str(moved), "test_split": "test"}
    scored = freeze(inherit(task_options("segment_evaluate", workdir, **changes)))
    assert segment_evaluate(scored, tmp_path / "scored") == 0
    found, before = (
        json.loads((there / "segmentation.json").read_text())
        for there in (tmp_path / "scored", workdir)
    )
    assert found == before
    text = (tmp_path / "scored" / "report.md").read_text()
    assert "| road |" in text and "3 classes" in text and "mean IoU" in text
    assert "What it predicts" in (tmp_path / "scored" / "report.html").read_text()
    (moved / "classes.txt").write_text("sky\ncar\nroad\n")
    with pytest.raises(DataError, match=r"names 3 classes, sky, car, road, ..., and the run"):
        segment_evaluate(scored, tmp_path / "other")


def test_other_runs_segment_nothing(pretrained, tmp_path):
    scored = freeze(task_options("segment_evaluate", pretrained))
    with pytest.raises(WeightsError, match="is the workdir of a pretrain, which segments nothing"):
        segment_evaluate(scored, tmp_path)
    with pytest.raises(ConfigError, match=r"config.init_from is empty: name the workdir of a seg"):
        freeze(task_options("segment_evaluate", ""))


def test_what_matched_is_said(pretrained, root, capsys):
    config = freeze(inherit(options(pretrained, root, data={"image_size": (24, 32)})))
    start = load_start(config, build_segmenter(config, 3), print)
    said = capsys.readouterr().out
    assert start["encoder"]["positions"].shape == (1, 1 + 6 * 8, 16)
    assert "positions resized from 4 x 4 to 6 x 8" in said and "new: head" in said
    given = load_run(pretrained).state.params["encoder"]["transformer"]["norm"]
    np.testing.assert_array_equal(start["encoder"]["transformer"]["norm"]["scale"], given["scale"])


def test_baselines_take_no_weights(pretrained, root, capsys):
    for changes in ({"weights": "random"}, {"model": {"raw_pixels": True}}):
        config = freeze(inherit(options(pretrained, root, **changes)))
        assert load_start(config, build_segmenter(config, 3), print) == {}
    said = capsys.readouterr().out
    assert "weights: random" in said and "raw pixels" in said


def test_a_run_on_raw_pixels(pretrained, root, tmp_path):
    changes = {
        "optimizer": {"epochs": 2},
        "evaluation": {"every_epochs": 2.0, "pictures": 0},
        "model": {"raw_pixels": True},
    }
    config = freeze(inherit(options(pretrained, root, **changes)))
    assert segment(config, tmp_path) == 0
    assert set(load_run(tmp_path).state.params) == {"head"}
    assert "linear layer on the pixels of each patch" in (tmp_path / "report.md").read_text()
    with pytest.raises(WeightsError, match="was trained on raw pixels: it has no encoder"):
        read_weights(tmp_path)


def test_a_frozen_encoder_drops_no_paths(pretrained, root):
    changes = {"model": {"frozen": True, "drop_path": 0.1}}
    config = freeze(inherit(options(pretrained, root, **changes)))
    assert build_segment_recipe(config).drop_path == 0 and build_segmenter(config, 3).frozen
    assert build_segment_recipe(freeze(inherit(options(pretrained, root)))).accumulation == 1


def test_wrong_labels_end_a_run_in_one_sentence(pretrained, tmp_path):
    from PIL import Image

    root = write_scenes(tmp_path / "scenes", {"train": 8, "val": 2})
    wrong = np.full((24, 32), 7, np.uint8)
    Image.fromarray(wrong).save(root / "labels/train/scene_7.png")  # beyond the first ones
    config = freeze(inherit(options(pretrained, root)))
    with pytest.raises(DataError, match=r"labels/train/scene_7.png has the value 7 in row 0"):
        segment(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": ""}, "config.init_from is empty"),
        ({"data": {"crop_scale": (0.5, 1.0)}}, "config.data.crop_scale = .* has no effect"),
        ({"data": {"frames": 4}}, "config.data.frames = 4 has no effect"),
        ({"data": {"classes": 1}}, "config.data.classes = 1: expected two"),
        ({"data": {"image_size": (15, 16)}}, "height 15 is not a multiple of the patch size 4"),
        ({"data": {"value_range": (0.0, 1.0)}, "augment": {"photometric": True}}, "8-bit images"),
        ({"augment": {"scale": (2.0, 0.5)}}, "expected the smaller one first"),
        ({"model": {"frozen": True, "raw_pixels": True}}, "has no encoder"),
        ({"evaluation": {"scales": ()}}, "give one factor or more"),
        ({"optimizer": {"decay": "poly"}}, "config.optimizer.decay = 'poly'"),
        ({"optimizer": {"base_learning_rate": 1e-3}}, "contradict each other"),
    ],
)
def test_configs_that_cannot_run(pretrained, root, changes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(inherit(options(pretrained, root, **changes)))


def test_pictures_are_spread_over_the_split():
    assert spread(10, 4).tolist() == [0, 3, 6, 9]
    assert spread(2, 4).tolist() == [0, 1] and spread(5, 0).tolist() == []


@pytest.mark.parametrize("classes", [2, 11, 20, 150])
def test_classes_have_colours_of_their_own(classes):
    colors = palette(classes)
    assert colors.shape == (classes, 3) and colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) > 0.9 * classes
