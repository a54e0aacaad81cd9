"""Any number of classes of an image: lists, targets, precision and the regularizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_regularizers import KEY, MODEL, NONE, PLAIN, SCHEDULE

from hpm_jax.config import ConfigError, Data, defaults, freeze
from hpm_jax.data.fingerprint import fingerprint
from hpm_jax.data.sources import SOURCES, Arrays, DataError, Splits
from hpm_jax.evaluation.precision import average_precision, mean_average_precision
from hpm_jax.regularizers import Inputs, LabelConsistency
from hpm_jax.step.criterion import CRITERIA, binary_cross_entropy, smooth_each
from hpm_jax.step.finetune_step import classification_loss, make_finetune_step, prepare
from hpm_jax.step.optimizer import FINETUNE_DECAYED, make_optimizer
from hpm_jax.step.state import fresh_state, init_params
from hpm_jax.tasks.data import check_labels, check_many_labels

MANY = dataclasses.replace(PLAIN, criterion=CRITERIA["many"])


def write_images(folder, count, split, rng):
    """Writes images and their list: "above" and "left" are where they are bright."""
    lines = ["path,labels"] if split == "train" else []
    for number in range(count):
        above, left = rng.integers(0, 2, 2)
        pixels = rng.integers(0, 60, (16, 16))
        pixels[:8] += 150 * above
        pixels[:, :8] += 40 * left
        name = f"{split}_{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        names = ["above"] * above + ["left"] * left
        lines.append(f"{name},{';'.join(names)}")
    (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")


def write_lists(folder):
    """Writes 64 images to train on and 24 to test, and returns the folder."""
    rng = np.random.default_rng(0)
    write_images(folder, 64, "train", rng)
    write_images(folder, 24, "val", rng)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_lists(tmp_path_factory.mktemp("lists"))


def splits_of(path):
    return SOURCES["multi_label"](Data(source="multi_label", path=str(path)))


def test_lists(data):
    splits = splits_of(data)
    assert splits.classes == ("above", "left")
    assert len(splits.train) == 64 and len(splits.test) == 24
    lines = (data / "train.csv").read_text().splitlines()[1:]
    for index, line in enumerate(lines):
        example = splits.train[index]
        expected = [name in line.split(",")[1] for name in splits.classes]
        np.testing.assert_array_equal(example["labels"], expected)
        assert example["labels"].dtype == np.uint8 and example["label"] == -1
    assert splits.train.name(0).endswith("train_0.png")
    check_many_labels(splits)


def test_other_labels_are_other_data(data):
    splits = splits_of(data)
    table = splits.train.table.copy()
    table[3] = ~table[3]
    changed = splits._replace(train=dataclasses.replace(splits.train, table=table))
    before, after = fingerprint(splits), fingerprint(changed)
    assert before["test"] == after["test"] and before["train"] != after["train"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no images: expected a line"),
        ("a.png,above\nb.png,left", r"train.csv, line 2: there is no .*b.png"),
        ("a.png,above\na.png,left", r"line 2: .*a.png is there twice, first in line 1"),
        ("a.png", r"line 1 has 1 columns: expected two"),
        ("a.png,above,left", r"line 1 has 3 columns: expected two"),
    ],
)
def test_lines_that_are_wrong(tmp_path, text, message):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        splits_of(tmp_path)


def test_a_test_list_has_the_classes_of_the_training_list(data, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((data / "train_0.png").read_bytes())
    (tmp_path / "train.csv").write_text("a.png,above\n")
    (tmp_path / "val.csv").write_text("b.png,below\n")
    with pytest.raises(DataError, match="has classes that the training data lacks: below"):
        splits_of(tmp_path)
    with pytest.raises(DataError, match=r"holds no train.csv: give the folder of the lists"):
        splits_of(tmp_path / "elsewhere")


def test_one_class_and_many_are_not_mixed_up(data):
    splits = splits_of(data)
    with pytest.raises(DataError, match=r"fine-tuning takes them by --config.labels=many"):
        check_labels(splits)
    arrays = Arrays(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2))
    with pytest.raises(DataError, match="the training images have no lists of classes"):
        check_many_labels(Splits(arrays, arrays, ("a", "b")))


def test_binary_cross_entropy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 3)).astype(np.float32), rng.integers(0, 2, (6, 3))
    targets = smooth_each(labels.astype(np.uint8), 3, 0.1)
    np.testing.assert_allclose(targets, np.where(labels, 0.95, 0.05), rtol=1e-6)
    share = 1 / (1 + np.exp(-np.float64(logits)))
    expected = -(targets * np.log(share) + (1 - targets) * np.log(1 - share)).mean()
    np.testing.assert_allclose(binary_cross_entropy(logits, targets), expected, rtol=1e-5)
    far = binary_cross_entropy(np.float32([[200.0, -200.0]]), np.float32([[0.0, 0.0]]))
    np.testing.assert_allclose(far, 100)


def test_average_precision():
    """Precision at each positive image: 1/1, 2/3; equal scores are one group."""
    scores, positive = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(-scores, positive) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert average_precision(np.zeros(4), positive) == pytest.approx(0.5)
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))
    labels = np.stack([positive, np.zeros(4, bool)], axis=1)
    both = np.stack([scores, scores], axis=1)
    assert mean_average_precision(both, labels) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    for decimals in (1, 8):
        scores, positive = rng.normal(size=50).round(decimals), rng.random(50) < 0.3
        expected = metrics.average_precision_score(positive, scores)
        assert average_precision(scores, positive) == pytest.approx(expected)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: init_params(MODEL, jax.random.key(1)))()


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    return images, rng.integers(0, 2, (8, 5)).astype(np.uint8)


def test_mask_sub_learns_from_sigmoids(params, batch):
    recipe = dataclasses.replace(MANY, mask_sub=0.5)
    prepared = prepare(MODEL, recipe, *batch, KEY, 0)
    loss, (metrics, _) = jax.jit(classification_loss(MODEL, recipe))(params, prepared, SCHEDULE)
    logits, again = (
        jax.jit(MODEL.apply)({"params": params}, prepared.patches, keep)
        for keep in (None, prepared.keep)
    )
    first = binary_cross_entropy(logits, jnp.asarray(batch[1], jnp.float32))
    second = binary_cross_entropy(again, jax.nn.sigmoid(logits))
    np.testing.assert_allclose(metrics["mask_sub"], second, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.5 * (first + second), rtol=1e-5)


@pytest.mark.parametrize("labels", ["one", "many"])
def test_label_consistency(params, batch, labels):
    term = LabelConsistency(ratio=0.5, supervision=2.0, consistency=3.0)
    patches = jax.random.normal(KEY, (8, 16, 16))
    keep = term.draw_for(jax.random.key(2), patches)
    assert keep.shape == (8, 8) and term.forward_passes == 1.5
    logits = jax.jit(MODEL.apply)({"params": params}, patches)
    targets = jnp.asarray(batch[1], jnp.float32)
    inputs = Inputs(patches, logits, keep, None, targets, CRITERIA[labels])
    found = jax.jit(lambda p: term(MODEL, p, inputs))(params)
    again = np.float64(jax.jit(MODEL.apply)({"params": params}, patches, keep))
    z, y = np.float64(logits), np.float64(targets)
    if labels == "many":
        p, q = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-again))
        supervised = -(y * np.log(q) + (1 - y) * np.log(1 - q)).mean()
    else:
        p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (z, again))
        supervised = -(y * np.log(q)).sum(axis=1).mean()
    expected = 2 * supervised + 3 * np.square(p - q).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_parts_of_a_batch_add_up(params, batch):
    """The step is the same in one part and in two."""
    recipe = dataclasses.replace(
        MANY,
        augment=dataclasses.replace(NONE, mixup=0.8, label_smoothing=0.1),
        regularizers=(LabelConsistency(),),
    )
    optimizer = make_optimizer(0.9, 0.999, 1e-8, 0.05, None, FINETUNE_DECAYED)
    state = fresh_state(params, optimizer)
    found = [
        jax.jit(make_finetune_step(MODEL, recipe, optimizer, parts))(state, *batch, KEY, SCHEDULE)
        for parts in (1, 2)
    ]
    for name, value in found[0][1].items():
        assert np.isfinite(value)
        if name != "gradient_norm":
            np.testing.assert_allclose(found[1][1][name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_sup_end": 0.2}, "has no largest logit to suppress"),
        ({"terms": ("virtual_adversarial",)}, "perturbs a distribution over classes"),
    ],
)
def test_refused(change, message):
    config = defaults("finetune")
    config.update(init_from="runs/x", labels="many")
    config.regularize.update(change)
    with pytest.raises(ConfigError, match=message):
        freeze(config)
