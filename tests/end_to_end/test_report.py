"""The table of results and the probes on augmented images, from a small encoder to their files."""

import json

import numpy as np
import pytest
from small import small_config, task_options

from hpm_jax.config import ConfigError, Features, freeze
from hpm_jax.config.inherit import finetune_config, inherit
from hpm_jax.convert.read import read_weights, starting_weights
from hpm_jax.convert.weights import random_weights
from hpm_jax.data import pipeline
from hpm_jax.data.sources import SOURCES
from hpm_jax.evaluation.features import FeatureExtractor, frozen_encoder, pool
from hpm_jax.run.devices import all_devices
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks.probe import probe
from hpm_jax.tasks.report import report


@pytest.fixture(scope="module")
def table(pretrained, tmp_path_factory):
    config = freeze(inherit(task_options("report", pretrained, probes={"epochs": 4})))
    workdir = tmp_path_factory.mktemp("report")
    assert report(config, workdir) == 0
    return config, workdir


def test_the_table_has_a_row_for_each_number(table):
    config, workdir = table
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    probes = config.probes
    counts = {name: sum(row["probe"] == name for row in rows) for name in probes.names}
    assert counts == {
        "baselines": 4,  # raw pixels and random weights, by logistic regression and by kNN
        "knn": len(probes.neighbors),
        "few_shot": len(probes.shots),
        "linear": 1,
        "logistic": 1,
    }
    text = (workdir / "report.md").read_text()
    for row in rows:
        assert 0.1 < row["accuracy"] <= 1, "a tenth is chance, and pixels tell digits apart"
        assert f"| {row['title']} | {row['accuracy']:.2%}" in text
        assert f"--config.probes.names=\"('{row['probe']}',)\"" in row["command"]
        assert row["command"] in text


def test_what_has_been_measured_stays(table):
    config, workdir = table
    before = json.loads((workdir / "report.json").read_text())
    before["rows"][0]["accuracy"] = 0.123
    (workdir / "report.json").write_text(json.dumps(before))
    assert report(config, workdir) == 0
    after = json.loads((workdir / "report.json").read_text())
    assert [row["accuracy"] for row in after["rows"]] == [r["accuracy"] for r in before["rows"]]


def test_features_are_written_and_read(pretrained, tmp_path, monkeypatch):
    """The second report has no need of the encoder, and the same numbers; others are refused."""
    path = tmp_path / "features.npz"

    def run(workdir, names, **changes):
        changes = {"probes": {"names": names}, "features_file": str(path)} | changes
        return report(freeze(inherit(task_options("report", pretrained, **changes))), workdir)

    def numbers(workdir):
        return [
            row["accuracy"] for row in json.loads((workdir / "report.json").read_text())["rows"]
        ]

    assert run(tmp_path / "a", ("knn", "few_shot")) == 0
    written = path.read_bytes()
    monkeypatch.setattr("hpm_jax.tasks.report.FeatureExtractor", None)
    assert run(tmp_path / "b", ("knn", "few_shot")) == 0
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b") and path.read_bytes() == written
    row = json.loads((tmp_path / "b" / "report.json").read_text())["rows"][0]
    assert row["accuracy"] <= row["top5"] <= 1 and f"top-5 {row['top5']:.2%}" in row["note"]
    for changes, message in (
        ({"weights": "random", "seed": 1}, "was made with other options: weights is"),
        ({"features": {"pool": "mean"}}, "features.pool is 'both' there and 'mean' here"),
        ({"data": {"test_crop": 0.5}}, "data.test_crop is 1.0 there and 0.5 here"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(tmp_path / next(iter(changes)), ("knn",), **changes)
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="holds no features that can be read"):
        run(tmp_path / "d", ("knn",))


def test_features_are_the_pre_trained_model_s(pretrained):
    """Through the run's own model, image by image, in the order of the split."""
    config = freeze(inherit(task_options("report", pretrained)))
    run, splits = load_run(pretrained), SOURCES["digits"](config.data)
    extractor = FeatureExtractor(config, read_weights(pretrained), all_devices(), "tokens")
    features, labels, unread = extractor(splits.test)
    assert len(features) == len(labels) == len(splits.test) and not unread
    images, expected_labels, _ = pipeline.test_images(splits.test, np.arange(20), small_config())
    expected = run.model.apply(
        {"params": run.state.params}, run.method.patches(images), method="encode"
    )
    np.testing.assert_allclose(features[:20], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(labels[:20], expected_labels)


def test_pooling():
    tokens = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(pool(tokens, "cls"), tokens[:, 0])
    np.testing.assert_allclose(pool(tokens, "mean"), tokens[:, 1:].mean(1), rtol=1e-6)
    assert pool(tokens, "both").shape == (3, 8)
    np.testing.assert_array_equal(pool(tokens, "tokens"), tokens)


def test_blocks_and_resolutions(pretrained):
    weights = random_weights(read_weights(pretrained).architecture, seed=0)
    for block, depth in ((-1, 1), (1, 1)):
        encoder, _ = frozen_encoder(weights, (1, 16, 16), Features(block=block))
        assert encoder.stack["depth"] == depth
    for block in (0, 2, -2):
        with pytest.raises(ConfigError, match=f"block = {block} does not exist"):
            frozen_encoder(weights, (1, 16, 16), Features(block=block))
    encoder, params = frozen_encoder(weights, (1, 24, 16), Features())
    assert encoder.grid == (1, 6, 4) and params["positions"].shape == (1, 25, 16)
    with pytest.raises(ConfigError, match="height 18 is not a multiple"):
        frozen_encoder(weights, (1, 18, 16), Features())


def test_a_block_in_the_middle_is_what_the_next_one_reads():
    """Two blocks cut after the first are one block with the same parameters."""
    import jax

    from hpm_jax.convert.weights import Architecture

    sizes = Architecture((1, 4, 4), 4, 1, width=16, depth=2, heads=2)
    weights = random_weights(sizes, seed=3)
    patches = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    encoder, params = frozen_encoder(weights, (1, 16, 16), Features(block=1))
    first = encoder.apply({"params": params}, patches)
    blocks = weights.params["encoder"]["transformer"]["blocks"]
    one = jax.tree.map(lambda x: x[:1], blocks)
    same = dict(params) | {"transformer": dict(params["transformer"]) | {"blocks": one}}
    np.testing.assert_array_equal(first, encoder.apply({"params": same}, patches))
    last, _ = frozen_encoder(weights, (1, 16, 16), Features())
    whole = last.apply({"params": weights.params["encoder"]}, patches)
    assert np.abs(np.asarray(whole - first)).max() > 1e-2


def test_weights_student_teacher_random(pretrained):
    student, teacher = (
        starting_weights(str(pretrained), which, 0) for which in ("student", "teacher")
    )
    fresh = starting_weights(str(pretrained), "random", 0)
    again, other = (starting_weights(str(pretrained), "random", seed) for seed in (0, 1))

    def kernel(weights):
        return weights.params["encoder"]["patch_embedding"]["projection"]["kernel"]

    np.testing.assert_array_equal(kernel(student), kernel(teacher))  # before the first step
    np.testing.assert_array_equal(kernel(fresh), kernel(again))
    assert not np.array_equal(kernel(other), kernel(student))
    assert not np.array_equal(kernel(fresh), kernel(other))


def test_the_fine_tuning_of_a_report(pretrained):
    config = freeze(inherit(task_options("report", pretrained, finetune={"epochs": 3})))
    found = finetune_config(config)
    assert found.init_from == str(pretrained) and found.optimizer.epochs == 3
    assert found.data.image_size == (16, 16) and found.data.source == "digits"
    assert found.augment.mixup == 0.0, "a short run learns from images as they are"


@pytest.fixture(scope="module")
def probed(pretrained, tmp_path_factory):
    changes = {
        "optimizer": {
            "epochs": 4,
            "batch_size": 128,
            "warmup_epochs": 1.0,
            "base_learning_rates": (1e-6, 1.0),
        },
        "evaluation": {"every_epochs": 2.0, "batch_size": 64},
        "choose_on": 0.2,
    }
    config = freeze(inherit(task_options("probe", pretrained, **changes)))
    workdir = tmp_path_factory.mktemp("probe")
    assert probe(config, workdir) == 0
    return config, workdir


def test_a_sweep_on_augmented_images(probed):
    _, workdir = probed
    found = json.loads((workdir / "settings.json").read_text())
    settings = found["settings"]
    rates = [setting["learning_rate"] for setting in settings]
    np.testing.assert_allclose(rates, [0.5e-6, 0.5])
    assert settings[found["chosen"]]["held_out"] == max(s["held_out"] for s in settings)
    assert found["chosen"] == 1, "a rate that is too small loses"
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "top1" in line]
    assert lines[-1]["top1"] == settings[1]["test"] > 0.15
    assert "top-1" in (workdir / "report.md").read_text()


def test_one_setting_on_all_training_images(pretrained, tmp_path, capsys):
    """Nothing is chosen, so nothing is held out."""
    optimizer = {"epochs": 2, "batch_size": 128, "warmup_epochs": 1.0}
    changes = {"optimizer": optimizer, "choose_on": 0.0, "data": {"crop": "byol"}}
    config = freeze(inherit(task_options("probe", pretrained, **changes)))
    assert probe(config, tmp_path) == 0
    found = json.loads((tmp_path / "settings.json").read_text())
    assert found["chosen"] == 0 and found["settings"][0]["held_out"] is None
    said = " ".join(capsys.readouterr().out.split())
    train = len(SOURCES["digits"](config.data).train)
    assert f"{train} images to train on, 0 to choose by" in said


def test_a_finished_sweep_is_left_as_it_is(probed):
    config, workdir = probed
    before = (workdir / "metrics.jsonl").read_text()
    assert probe(config, workdir) == 0
    assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("report", {"probes": {"names": ("knm",)}}, "did you mean 'knn'"),
        ("report", {"features_file": "x.npy"}, "config.features_file = 'x.npy': expected"),
        ("report", {"features": {"pool": "max"}}, "config.features.pool = 'max'"),
        (
            "report",
            {"probes": {"neighbors": (0,)}},
            "config.probes.neighbors = 0: expected a number from 1",
        ),
        ("probe", {"head": "liner"}, "did you mean 'linear'"),
        ("probe", {"optimizer": {"kind": "sdg"}}, "did you mean 'sgd'"),
        ("probe", {"optimizer": {"weight_decays": ()}}, "need one value or more"),
        ("probe", {"choose_on": 1.0}, "config.choose_on = 1.0"),
        (
            "probe",
            {"choose_on": 0.0, "optimizer": {"weight_decays": (0.0, 1e-4)}},
            "config.choose_on = 0 leaves no images to choose one of 2 settings by",
        ),
    ],
)
def test_configs_that_cannot_run(pretrained, task, changes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(inherit(task_options(task, pretrained, **changes)))
