"""Fine-tuning runs: what they start from, what they leave, and what they refuse."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import changed, small_config, task_options
from small_weights import ENCODER, random_weights

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.assign import assign, overlay
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import WeightsError
from hpm_jax.convert.write import write_weights
from hpm_jax.data.pipeline import evaluation_batches
from hpm_jax.data.sources import Arrays, DataError, Splits
from hpm_jax.evaluation.accuracy import scores
from hpm_jax.run.build import build_classifier
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks.data import check_labels
from hpm_jax.tasks.evaluate import evaluate
from hpm_jax.tasks.finetune import finetune, last_norm, load_start

RECIPE = {
    "data": {"crop_scale": (0.7, 1.0)},
    "augment": {"policy": "", "erase": 0.0, "mixup": 0.0, "cutmix": 0.0},
    "optimizer": {
        "epochs": 6,
        "batch_size": 128,
        "base_learning_rate": 2e-2,
        "warmup_epochs": 1.0,
    },
    "evaluation": {"every_epochs": 3.0, "batch_size": 64},
}


def options(pretrained, **changes):
    return changed(task_options("finetune", pretrained, **RECIPE), changes)


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned")
    config = freeze(inherit(options(pretrained)))
    assert finetune(config, workdir) == 0
    return config, workdir


def test_what_is_open_is_inherited(tuned):
    config, _ = tuned
    before = small_config()
    assert config.data.source == "digits" and config.data.image_size == (16, 16)
    assert config.data.mean == (0.5,) and config.data.flip == 0.0
    assert config.data.crop_scale == (0.7, 1.0), "the recipe's own stays"
    assert (config.model.width, config.model.depth, config.model.heads) == (16, 1, 2)
    assert config.model.patch_size == before.model.patch_size


def test_a_place_for_data_is_taken_whole_or_not_at_all(pretrained):
    config = options(pretrained, data={"source": "synthetic"})
    found = inherit(config)
    assert found.data.source == "synthetic" and found.data.holdout is None
    assert found.data.image_size == (16, 16)
    assert freeze(found).data.holdout == 0.1


def test_it_learns_and_leaves_what_it_should(tuned):
    _, workdir = tuned
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "top1" in line]
    assert [round(line["epoch"]) for line in lines] == [3, 6]
    assert lines[-1]["top1"] > 0.6, "a tenth would be chance"
    assert lines[-1]["top1"] <= lines[-1]["top5"] <= 1
    assert lines[-1]["top1"] * 180 == pytest.approx(round(lines[-1]["top1"] * 180)), "of 180 images"
    text = (workdir / "report.md").read_text()
    assert "top-1 accuracy" in text and "curves.png" in text
    assert json.loads((workdir / "classes.json").read_text()) == list("0123456789")


def test_best_and_last_are_kept(tuned):
    config, workdir = tuned
    last, best = load_run(workdir), load_run(workdir, "best")
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "top1" in line]
    winner = max(lines, key=lambda line: line["top1"])
    assert int(best.state.step) == winner["step"] and int(last.state.step) == lines[-1]["step"]
    weights = read_weights(workdir)
    assert weights.architecture.classes == 10 and weights.architecture.pool == config.model.pool


def test_a_finished_run_is_left_as_it_is(tuned):
    config, workdir = tuned
    before = (workdir / "metrics.jsonl").read_text()
    assert finetune(config, workdir) == 0
    assert (workdir / "metrics.jsonl").read_text() == before


def test_an_average_and_regularizers_are_resumed(pretrained, tmp_path, capsys):
    """From the checkpoint before the last one the same end is reached, bit for bit."""
    optimizer = {"epochs": 2, "warmup_epochs": 1.0, "average": 0.8}
    changes = {"optimizer": optimizer, "evaluation": {"every_epochs": 1.0}}
    changes |= {"model": {"head_dropout": 0.2}}
    changes |= {"regularize": {"terms": ("virtual_adversarial(size=0.05)", "counterfactual")}}
    config = freeze(inherit(options(pretrained, **changes)))
    assert finetune(config, tmp_path) == 0
    assert json.loads((tmp_path / "frozen.json").read_text()).keys() == {"counterfactual"}
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if "top1" in line]
    assert all(0 < line["average_top1"] <= line["average_top5"] <= 1 for line in lines)
    assert "averaged weights" in capsys.readouterr().out
    first = load_run(tmp_path).state
    averaged, plain = (read_weights(tmp_path, which).params for which in ("teacher", "student"))
    assert not np.array_equal(averaged["head"]["kernel"], plain["head"]["kernel"])
    shutil.rmtree(tmp_path / "checkpoints" / str(int(first.step)))
    assert finetune(config, tmp_path) == 0
    assert "going on from step" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, load_run(tmp_path).state, first)

    scored = freeze(inherit(task_options("evaluate", tmp_path, weights="teacher")))
    assert evaluate(scored, tmp_path / "scored") == 0
    found = json.loads((tmp_path / "scored" / "evaluate.json").read_text())
    assert found["top1"] == lines[-1]["average_top1"]


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_what_matched_is_said(pretrained, pool, capsys):
    config = freeze(inherit(options(pretrained, model={"pool": pool})))
    model = build_classifier(config, 10)
    start = load_start(config, model, print)
    said = capsys.readouterr().out
    assert "matched" in said and "head" in said.split("new:")[1].split(";")[0]
    assert "predictor" in said.split("dropped:")[1]
    taken = start["encoder"]["transformer"]["blocks"]["attention"]["qkv"]["kernel"]
    given = load_run(pretrained).state.params["encoder"]["transformer"]["blocks"]
    np.testing.assert_array_equal(taken, given["attention"]["qkv"]["kernel"])
    assert ("norm" in start["encoder"]["transformer"]) == (pool == "cls")
    assert "norm" not in start and "head" not in start


def test_the_pre_trained_norm_is_kept_after_pooling(pretrained, capsys):
    config = freeze(inherit(options(pretrained, model={"pool": "mean", "keep_norm": True})))
    start = load_start(config, build_classifier(config, 10), print)
    given = load_run(pretrained).state.params["encoder"]["transformer"]["norm"]
    assert start["norm"].keys() == given.keys()
    for name, value in given.items():
        np.testing.assert_array_equal(start["norm"][name], value)
    assert "norm" not in start["encoder"]["transformer"]
    assert "norm" not in capsys.readouterr().out.split("new:")[1].split(";")[0]


def test_a_norm_that_is_not_there_cannot_be_kept():
    with pytest.raises(ConfigError, match="keep_norm = True, and weights has no norm after"):
        last_norm({"encoder": {"transformer": {"blocks": {}}}}, "weights")


def test_positions_follow_the_grid(pretrained, capsys):
    config = freeze(inherit(options(pretrained, data={"image_size": (24, 32)})))
    start = load_start(config, build_classifier(config, 10), print)
    assert start["encoder"]["positions"].shape == (1, 1 + 6 * 8, 16)
    assert "positions resized from 4 x 4 to 6 x 8" in capsys.readouterr().out


def test_random_weights_take_nothing(pretrained):
    config = freeze(inherit(options(pretrained, weights="random")))
    assert load_start(config, build_classifier(config, 10), print) == {}


def test_weights_of_another_size(pretrained):
    config = freeze(inherit(options(pretrained, model={"width": 32})))
    with pytest.raises(WeightsError, match=r"cls_token: found \(1, 1, 16\), expected \(1, 1, 32\)"):
        load_start(config, build_classifier(config, 10), print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": ""}, "config.init_from is empty"),
        ({"weights": "techer"}, "did you mean 'teacher'"),
        ({"model": {"drop_path": 1.0}}, "config.model.drop_path = 1.0"),
        ({"model": {"head_dropout": 1.0}}, "config.model.head_dropout = 1.0"),
        ({"optimizer": {"average": -0.1}}, "config.optimizer.average = -0.1"),
        ({"augment": {"policy": "rnd-m9"}}, "rnd"),
        ({"optimizer": {"layer_decay": 1.5}}, "config.optimizer.layer_decay = 1.5"),
        ({"regularize": {"mask_sub": 1.0}}, "config.regularize.mask_sub = 1.0"),
    ],
)
def test_configs_that_cannot_run(pretrained, changes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(inherit(options(pretrained, **changes)))


def test_a_workdir_that_is_none(tmp_path):
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        inherit(options(tmp_path))


def records(labels):
    labels = np.asarray(labels)
    return Arrays(np.zeros((len(labels), 8, 8, 1), np.uint8), labels)


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        ([0, 0], [0], ("cat",), "one class, 'cat'"),
        ([-1, -1], [-1], (), "no labels"),
        ([0, 1], [0, -1], ("cat", "dog"), "image 1 of the test split has no label"),
        ([0, 1], [2, 1], ("cat", "dog"), "image 0 of the test split has the label 2: expected"),
        ([0, 5], [0, 1], ("cat", "dog"), "image 1 of the training split has the label 5"),
    ],
)
def test_labels_that_teach_nothing(train, test, classes, message):
    with pytest.raises(DataError, match=message):
        check_labels(Splits(records(train), records(test), classes))


def test_holes_and_leftovers():
    shapes = {"encoder": {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}, "head": jnp.zeros(5)}
    given = {"encoder": {"a": np.ones((2, 3)), "b": np.ones(4)}, "decoder": np.ones(2)}
    start, matching = assign(shapes, given, new=("head",), dropped=("decoder",))
    assert matching == (["encoder/a", "encoder/b"], ["head"], ["decoder"])
    merged = overlay(shapes, start)
    assert float(merged["encoder"]["b"].sum()) == 4 and float(merged["head"].sum()) == 0
    with pytest.raises(WeightsError, match=r"head: found nothing, expected \(5,\)"):
        assign(shapes, given, dropped=("decoder",))
    with pytest.raises(WeightsError, match=r"decoder: found \(2,\), expected nothing"):
        assign(shapes, given, new=("head",))
    given["encoder"]["b"] = np.ones(3)
    with pytest.raises(WeightsError, match=r"encoder/b: found \(3,\), expected \(4,\)"):
        assign(shapes, given, new=("head",), dropped=("decoder",))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 12])
def test_every_image_is_counted_once(processes, batch_size):
    config = small_config()
    images = np.zeros((31, 16, 16, 1), np.uint8)
    source = Arrays(images, np.arange(31))
    seen, batches = [], []
    for rows in np.arange(batch_size).reshape(processes, -1):
        found = list(evaluation_batches(source, config.data, config.run, batch_size, rows))
        batches.append(len(found))
        for batch in found:
            assert batch["image"].shape[0] == batch_size // processes
            seen += batch["label"][batch["weight"] > 0].tolist()
    assert sorted(seen) == list(range(31))
    assert len(set(batches)) == 1, "every process takes part in every batch"


def test_scores_are_sums_over_what_has_weight():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 12)).astype(np.float32)
    labels = rng.integers(0, 12, 40).astype(np.int32)
    weights = (rng.random(40) < 0.7).astype(np.float32)
    labels[weights == 0] = -1
    found = jax.jit(scores)(logits, labels, weights)
    order = np.argsort(-logits, axis=1)
    real = np.flatnonzero(weights)
    assert float(found["count"]) == len(real)
    assert float(found["top1"]) == sum(order[i, 0] == labels[i] for i in real)
    assert float(found["top5"]) == sum(labels[i] in order[i, :5] for i in real)
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -sum(log[i, labels[i]] for i in real)
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_tie_is_no_hit():
    tied = jnp.zeros((1, 3))
    found = scores(tied, jnp.zeros(1, jnp.int32), jnp.ones(1))
    assert float(found["top1"]) == 0, "a model that says the same of all classes knows nothing"


def test_a_classifier_is_tuned_again_with_a_new_head(tuned, capsys):
    _, workdir = tuned
    config = freeze(inherit(options(workdir)))
    start = load_start(config, build_classifier(config, 10), print)
    assert set(start) == {"encoder"} and "head of their own" in capsys.readouterr().out


def test_the_best_checkpoint_is_inherited_from_as_its_run_is(tuned):
    config, workdir = tuned
    found = freeze(inherit(options(workdir / "best")))
    assert (found.data.source, found.model) == (config.data.source, config.model)
    assert set(load_start(found, build_classifier(found, 10), print)) == {"encoder"}


def test_a_folder_of_hugging_face_tells_the_sizes_by_its_weights(tmp_path):
    weights = random_weights(dataclasses.replace(ENCODER, grid=(1, 4, 4)))
    write_weights(tmp_path / "model.safetensors", weights)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "vit", "num_attention_heads": 4})
    )
    found = inherit(options(tmp_path))
    a = weights.architecture
    assert (found.model.width, found.model.depth, found.model.heads) == (a.width, a.depth, a.heads)
    assert found.data.image_size == tuple(side * a.patch_size for side in a.grid[1:])
