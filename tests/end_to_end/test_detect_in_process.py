"""Detection runs in one process: what they start from, what they leave, what they refuse."""

import json
import shutil

import jax
import numpy as np
import pytest
from small import changed, task_options
from small_blobs import CLASSES, write_blobs

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import WeightsError
from hpm_jax.data.records import DataError
from hpm_jax.run.build_dense import build_detect_recipe, build_detector
from hpm_jax.run.devices import all_devices
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.run.prepared import prepare
from hpm_jax.tasks.detect import detect, load_start
from hpm_jax.tasks.detect_evaluate import detect_evaluate

pytest.importorskip("pycocotools")

RECIPE = {
    "data": {"image_size": (32, 32), "max_objects": 4, "mask_cells": 16},
    "augment": {"scale": (0.9, 1.2)},
    "model": {
        "window": 4,
        "global_blocks": 1,
        "channels": 8,
        "box_width": 16,
        "anchor_scale": 4.0,
        "level_proposals": 32,
        "test_level_proposals": 32,
        "proposals": 16,
        "sampled_anchors": 16,
        "sampled_proposals": 16,
        "drop_path": 0.1,
        "box_head": "2fc",
    },
    "optimizer": {
        "epochs": 2,
        "batch_size": 8,
        "absolute_learning_rate": 1e-3,
        "warmup_epochs": 0.5,
    },
    "run": {"log_every_steps": 1},
    "evaluation": {
        "every_epochs": 1.0,
        "batch_size": 8,
        "pictures": 2,
        "detections": 10,
        "candidates": 40,
        "lowest_score": 0.01,
    },
}


def options(pretrained, root, **changes):
    config = changed(task_options("detect", pretrained, **RECIPE), {"data": {"path": str(root)}})
    return changed(config, changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_blobs(tmp_path_factory.mktemp("blobs"), {"train": 8, "val": 3})


@pytest.fixture(scope="module")
def run(pretrained, root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("detected")
    config = freeze(inherit(options(pretrained, root)))
    assert detect(config, workdir) == 0
    return config, workdir


def test_sizes_are_inherited_and_the_data_is_not(run):
    config, _ = run
    assert config.data.source == "coco" and config.data.channels == 1
    assert (config.model.width, config.model.depth, config.model.patch_size) == (16, 1, 4)


def test_it_leaves_scores_pictures_and_a_report(run):
    _, workdir = run
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "box_ap" in line]
    assert [round(line["epoch"]) for line in lines] == [1, 2]
    assert all(0 <= lines[-1][name] <= 1 for name in ("box_ap", "box_ap50", "mask_ap"))
    written = json.loads((workdir / "detection.json").read_text())
    assert written["box_ap"] == lines[-1]["box_ap"] and written["step"] == lines[-1]["step"]
    assert [one["name"] for one in written["classes"]] == list(CLASSES)
    assert sum(one["objects"] for one in written["classes"]) > 4
    text = (workdir / "report.md").read_text()
    assert "| AP of boxes |" in text and "| disc |" in text and "| AP50 of masks |" in text
    assert "rebuilt" not in text
    assert len(sorted((workdir / "pictures").glob("step_*.png"))) == 2
    page = (workdir / "report.html").read_text()
    assert "Object detection" in page and "What it predicts" in page and "square" in page
    assert json.loads((workdir / "classes.json").read_text()) == list(CLASSES)


def test_a_finished_run_is_scored_on_another_split(run, root, pretrained, tmp_path):
    """The val split gives the scores of training, and so does a folder with nothing else."""
    _, workdir = run
    moved = tmp_path / "elsewhere"
    shutil.copytree(root / "val", moved / "test")
    (moved / "annotations").mkdir()
    annotations = moved / "annotations" / "test.json"
    shutil.copy(root / "annotations" / "val.json", annotations)
    limits = {"detections": 10, "candidates": 40, "lowest_score": 0.01, "pictures": 1}
    changes = {"data": {"path": str(moved), "test_split": "test"}, "evaluation": limits}
    scored = freeze(inherit(task_options("detect_evaluate", workdir, **changes)))
    assert detect_evaluate(scored, tmp_path / "scored") == 0
    found, before = (
        json.loads((there / "detection.json").read_text())
        for there in (tmp_path / "scored", workdir)
    )
    assert found == before
    assert "| disc |" in (tmp_path / "scored" / "report.md").read_text()
    assert "Scores of a detector" in (tmp_path / "scored" / "report.html").read_text()
    document = json.loads(annotations.read_text())
    document["categories"][0]["name"] = "ring"
    annotations.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"has 2 categories, .*ring.*, \.\.\., and the run in"):
        detect_evaluate(scored, tmp_path / "other")
    with pytest.raises(WeightsError, match="is the workdir of a pretrain, which detects nothing"):
        detect_evaluate(freeze(task_options("detect_evaluate", pretrained)), tmp_path / "none")
    with pytest.raises(ConfigError, match=r"config.init_from is empty: name the workdir of a det"):
        freeze(task_options("detect_evaluate", ""))


def test_its_losses_are_written(run):
    _, workdir = run
    line = next(line for line in read_lines(workdir / "metrics.jsonl") if "loss" in line)
    parts = ("objectness", "region_boxes", "classes", "boxes", "masks")
    assert line["loss"] == pytest.approx(sum(line[f"loss_{part}"] for part in parts), rel=1e-5)


def test_its_encoder_is_read_again(run, root):
    config, workdir = run
    state = load_run(workdir).state
    weights = read_weights(workdir)
    jax.tree.map(np.testing.assert_array_equal, weights.params["encoder"], state.params["encoder"])
    again = freeze(inherit(options(workdir, root)))
    assert again.model == config.model
    start = load_start(again, build_detector(again, 2), print)
    jax.tree.map(np.testing.assert_array_equal, start["encoder"], state.params["encoder"])
    assert int(load_run(workdir, "best").state.step) in (1, 2)


def test_what_matched_is_said(pretrained, root, capsys):
    config = freeze(inherit(options(pretrained, root)))
    start = load_start(config, build_detector(config, 2), print)
    said = capsys.readouterr().out
    assert start["encoder"]["positions"].shape == (1, 8 * 8, 16)
    assert "positions resized from 4 x 4 to 8 x 8" in said
    assert "new: pyramid, regions, boxes" in said or "new: boxes" in said
    assert said.rstrip().endswith("dropped: encoder/cls_token, encoder/transformer/norm")
    random = freeze(inherit(options(pretrained, root, weights="random")))
    assert load_start(random, build_detector(random, 2), print) == {}


def test_its_step_can_be_planned(pretrained, root):
    """On eight devices, of which two share the parameters."""
    config = freeze(inherit(options(pretrained, root, run={"fsdp": 2})))
    planned = prepare(config, all_devices(fsdp=2))
    key = jax.eval_shape(lambda: jax.random.key(0))
    schedule = planned.timetable(8).at(0)
    lowered = planned.step.lower(planned.state, *planned.inputs.values(), key, schedule)
    state, metrics = lowered.out_info
    assert jax.tree.structure(state) == jax.tree.structure(planned.state)
    assert metrics["loss"].shape == () and planned.flops > 1e6


def test_relative_positions_are_new_and_serve_this_task_alone(pretrained, root, tmp_path, capsys):
    changed_model = {"relative_positions": True}
    config = freeze(
        inherit(options(pretrained, root, model=changed_model, optimizer={"epochs": 1}))
    )
    model = build_detector(config, 2)
    load_start(config, model, print)
    assert "row_offsets" in capsys.readouterr().out
    assert detect(config, tmp_path) == 0
    with pytest.raises(WeightsError, match="was trained with relative positions"):
        read_weights(str(tmp_path))


def test_a_frozen_encoder_drops_no_paths(pretrained, root):
    changed = options(pretrained, root)
    changed.model.update(frozen=True, drop_path=0.1)
    config = freeze(inherit(changed))
    assert build_detect_recipe(config).drop_path == 0 and build_detector(config, 2).frozen


def test_wrong_data_ends_a_run_in_one_sentence(pretrained, tmp_path):
    root = write_blobs(tmp_path / "blobs", {"train": 8, "val": 2}, masks=False)
    with pytest.raises(DataError, match=r"have no mask, which config.model.masks = True needs"):
        detect(freeze(inherit(options(pretrained, root))), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": ""}, "config.init_from is empty"),
        ({"data": {"crop_scale": (0.5, 1.0)}}, r"config.data.crop_scale = .* has no effect"),
        ({"data": {"frames": 4}}, "config.data.frames = 4 has no effect"),
        ({"data": {"image_size": (36, 32)}}, "multiples of 8, twice the patch size"),
        ({"model": {"patch_size": 2}}, "config.model.patch_size = 2: .* a power of two"),
        ({"model": {"rotary_base": 100.0}}, "windows of attention have no rotary positions"),
        (
            {"model": {"relative_positions": True, "attention": "cudnn"}},
            "has no relative positions",
        ),
        ({"model": {"relative_positions": True, "frozen": True}}, "set one of them to False"),
        ({"model": {"global_blocks": 9}}, r"global_blocks = 9 is more than the .*depth = 1"),
        ({"model": {"box_head": "3fc"}}, "config.model.box_head = '3fc'"),
        ({"augment": {"scale": (2.0, 0.5)}}, "expected the smaller one first"),
        ({"optimizer": {"milestones": (0.9, 0.5)}}, "expected rising numbers"),
        ({"optimizer": {"base_learning_rate": 1e-3}}, "contradict each other"),
    ],
)
def test_configs_that_cannot_run(pretrained, root, changes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(inherit(options(pretrained, root, **changes)))
