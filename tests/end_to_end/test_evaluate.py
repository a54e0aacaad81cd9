"""Classifiers scored with the heads that they have, and what cannot be scored."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from small import task_options
from small_weights import ENCODER, VIDEO_ENCODER, random_weights

from hpm_jax.config import ConfigError, Data, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.weights import WeightsError
from hpm_jax.convert.write import write_weights
from hpm_jax.data.records import DataError
from hpm_jax.data.scored import places_in_model, read_class_names, scored_split
from hpm_jax.data.views import test_shape as shape_of_test
from hpm_jax.data.views import test_view as view_for_test
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks.evaluate import evaluate, outputs_in_order
from hpm_jax.tasks.finetune import finetune

CLASSIFIER = dataclasses.replace(ENCODER, classes=7, pool="mean")
SIZE = {"image_size": (12, 20), "source": "folder"}


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned")
    changes = {
        "optimizer": {"epochs": 2, "batch_size": 128, "warmup_epochs": 0.5},
        "evaluation": {"every_epochs": 1.0, "batch_size": 64},
        "augment": {"policy": "", "erase": 0.0, "mixup": 0.0, "cutmix": 0.0},
    }
    assert finetune(freeze(inherit(task_options("finetune", pretrained, **changes))), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "classifier.safetensors"
    write_weights(path, random_weights(CLASSIFIER))
    return path


def images_in(folder, classes, count=1):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (14, 22, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def config_of(init_from, **changes):
    return freeze(inherit(task_options("evaluate", init_from, **changes)))


@pytest.mark.parametrize("folder", ["checkpoints", "best"])
def test_a_run_has_the_accuracy_that_it_reported(tuned, tmp_path, capsys, folder):
    lines = [line for line in read_lines(tuned / "metrics.jsonl") if "top1" in line]
    step = int(load_run(tuned, folder).state.step)
    expected = next(line for line in lines if line["step"] == step)
    config = config_of(tuned / folder if folder == "best" else tuned)
    assert config.split == "test", "its own held-out images, not those that it was trained on"
    assert evaluate(config, tmp_path) == 0
    found = json.loads((tmp_path / "evaluate.json").read_text())
    assert (found["top1"], found["top5"]) == (expected["top1"], expected["top5"])
    assert found["loss"] == pytest.approx(expected["test_loss"], rel=1e-5)
    assert f"top-1 {found['top1']:.3%}" in capsys.readouterr().out
    assert f"| {found['count']} | {found['top1']:.3%} |" in (tmp_path / "report.md").read_text()


def test_a_pre_training_run_has_no_head(pretrained, tmp_path):
    with pytest.raises(WeightsError, match="has no head, so it classifies nothing: fine-tune it"):
        evaluate(config_of(pretrained), tmp_path)


def test_a_folder_with_another_number_of_classes(classifier_file, tmp_path):
    images_in(tmp_path / "data", ["cat", "dog"])
    config = config_of(classifier_file, data=SIZE | {"path": str(tmp_path / "data")})
    with pytest.raises(DataError, match=r"has 2 classes, and the model 7.*--config\.classes=FILE"):
        evaluate(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["txt", "json", "folder"])
def test_some_of_the_classes(classifier_file, tmp_path, kind):
    names = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]
    place = tmp_path / f"classes.{kind}"
    if kind == "txt":
        place.write_text("".join(f"{name} in words\n" for name in names))
    elif kind == "json":
        place.write_text(json.dumps(names))
    else:
        images_in(place, names)
    assert read_class_names(place) == tuple(names)
    images_in(tmp_path / "data" / "val", ["fox", "cat"], count=5)
    losses = []
    for restrict in (True, False):
        changes = {"data": SIZE | {"path": str(tmp_path / "data")}, "restrict": restrict}
        config = config_of(classifier_file, classes=str(place), **changes)
        assert evaluate(config, tmp_path / f"out{restrict}") == 0
        found = json.loads((tmp_path / f"out{restrict}" / "evaluate.json").read_text())
        assert found["count"] == 10
        losses.append(found["loss"])
    assert losses[0] < losses[1], "fewer classes to choose among"


def test_which_outputs_are_chosen_among():
    np.testing.assert_array_equal(outputs_in_order(np.array([4, 2]), 6, True), [4, 2])
    np.testing.assert_array_equal(outputs_in_order(np.array([4, 2]), 6, False), [4, 2, 0, 1, 3, 5])
    assert outputs_in_order(np.arange(6), 6, True) is None


def test_where_classes_are_in_the_model():
    """As many are the same; numbers are places; names need the model's."""
    assert places_in_model(["b", "c"], 2, None, "x").tolist() == [0, 1]
    assert places_in_model(["3", "11"], 400, None, "x").tolist() == [3, 11]
    assert places_in_model(["c", "a"], 3, ("a", "b", "c"), "x").tolist() == [2, 0]
    with pytest.raises(DataError, match=r"1 classes that are not among the model's 3, .*'d'"):
        places_in_model(["c", "d"], 3, ("a", "b", "c"), "x")
    with pytest.raises(DataError, match=r"config\.classes names 2 classes, and the model has 3"):
        places_in_model(["a"], 3, ("a", "b"), "x")


def test_lists_of_classes_that_are_none(tmp_path):
    with pytest.raises(DataError, match="is neither a file nor a folder"):
        read_class_names(tmp_path / "nothing")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(DataError, match="has the class 'a' twice"):
        read_class_names(tmp_path / "twice.txt")
    (tmp_path / "dict.json").write_text("{}")
    with pytest.raises(DataError, match="is no list of names"):
        read_class_names(tmp_path / "dict.json")


def test_only_the_test_split_is_read(tmp_path):
    """Of a list of videos too: the training list need not be there."""
    images_in(tmp_path / "images" / "val", ["a", "b"])
    data = Data(source="folder", path=str(tmp_path / "images"))
    records, classes = scored_split(data, "any")
    assert len(records) == 2 and classes == ("a", "b")
    (tmp_path / "clip.mp4").write_bytes(b"")
    (tmp_path / "val.csv").write_text("clip.mp4 17\nclip.mp4 3\n")
    data = dataclasses.replace(data, source="video_csv", path=str(tmp_path))
    records, classes = scored_split(data, "any")
    assert classes == ("3", "17") and records.labels.tolist() == [1, 0]


def test_images_without_labels(classifier_file, tmp_path):
    images_in(tmp_path / "data", ["."])
    config = config_of(classifier_file, data=SIZE | {"path": str(tmp_path / "data")})
    with pytest.raises(DataError, match=r"images without a label: .*0\.png; put them into folders"):
        evaluate(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"image_size": (13, 20)}}, "height 13 is not a multiple"),
        ({"data": {"frames": 2}}, "the classifier is for images"),
        ({"split": "tests"}, "did you mean 'test'"),
        ({"weights": "random"}, "config.weights = 'random'"),
    ],
)
def test_configs_that_cannot_run(classifier_file, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(config_of(classifier_file, **changes), tmp_path / "out")


def test_what_a_file_is_scored_on_by_default(classifier_file, tmp_path):
    """Its own size, normalised as its authors did."""
    config = config_of(classifier_file)
    assert config.data.image_size == (12, 20) and config.data.test_crop == 0.875
    assert config_of(classifier_file, data={"image_size": (240, 240)}).data.test_crop == 1.0
    video = dataclasses.replace(VIDEO_ENCODER, layout="mae_st", classes=5, pool="mean")
    write_weights(tmp_path / "video.safetensors", random_weights(video))
    data = config_of(tmp_path / "video.safetensors").data
    assert (data.frames, data.test_crop, data.mean, data.std) == (
        4,
        1.0,
        (0.45,) * 3,
        (0.225,) * 3,
    )


def test_several_crops_of_an_image():
    """Left, middle and right, each a clip of one frame."""
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32], pixels[:, 32:] = 100, 200
    data = Data(image_size=(16, 16), test_crop=1.0)
    crops = view_for_test(data, crops=3)({"image": pixels})["image"]
    assert crops.shape == shape_of_test(data, crops=3) == (3, 1, 16, 16, 3)
    assert [int(crop.mean()) for crop in crops] == [0, 100, 200]
