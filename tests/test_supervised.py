"""The term on labels: against plain formulas, refused without labels, and fed by the data."""

import jax
import numpy as np
import pytest
from small import MAE, small_config

from hpm_jax.config import ConfigError
from hpm_jax.data.sources import Arrays, DataError, Splits
from hpm_jax.losses import Term
from hpm_jax.losses.supervised import accuracy, cross_entropy
from hpm_jax.plugs import register

SUPERVISED = ("supervised(classes=10, label_smoothing=0.1)",)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_leaves_images_without_labels_out(smoothing):
    logits, labels = normal(5, 4), np.int32([2, -1, 0, 3, -1])
    share = np.exp(np.float64(logits))
    share /= share.sum(axis=1, keepdims=True)
    losses = []
    for row, label in enumerate(labels):
        target = np.full(4, smoothing / 4)
        target[label] += 1 - smoothing
        losses.append(-(target * np.log(share[row])).sum())
    expected = np.mean(np.array(losses)[labels >= 0])
    np.testing.assert_allclose(cross_entropy(logits, labels, smoothing), expected, rtol=1e-5)
    correct = [share[row].argmax() == label for row, label in enumerate(labels) if label >= 0]
    np.testing.assert_allclose(accuracy(logits, labels), np.mean(correct))
    assert accuracy(np.eye(4, dtype=np.float32), np.int32([0, 1, 3, -1])) == np.float32(2 / 3)


def test_without_any_label_nothing_is_learnt():
    labels = np.full(3, -1, np.int32)
    loss, slope = jax.value_and_grad(lambda x: cross_entropy(x, labels))(normal(3, 4))
    assert loss == 0 and not slope.any() and accuracy(normal(3, 4), labels) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"label_key": "none"}}, "needs labels, and config.data.label_key = 'none'"),
        ({"losses": ("supervised(pool='cls')",), "model": {"layout": "videomae"},
          "evaluation": {"pool": "mean"}}, "has no cls token: pool='mean'"),
        ({"losses": ("supervised(view='all')",)}, "view = 'all'"),
    ],
)  # fmt: skip
def test_refused_when_the_config_is_read(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**{**MAE, "losses": SUPERVISED, **changes})


def test_data_without_labels_are_refused():
    (term,) = small_config(**MAE | {"losses": SUPERVISED}).losses
    images = np.zeros((4, 2, 2, 1), np.uint8)
    some, none = (Arrays(images, np.int32(labels)) for labels in ([-1, 0, -1, 2], [-1] * 4))
    term.check_data(Splits(some, none, ("a", "b", "c")))  # of some images
    for records, classes in ((none, ()), (none, ("a", "b"))):
        with pytest.raises(
            DataError, match=r"supervised.*, and the training images have none: put"
        ):
            term.check_data(Splits(records, some, classes))
    many = tuple(map(str, range(11)))
    with pytest.raises(DataError, match="have 11 classes and its head 10: classes=11"):
        term.check_data(Splits(some, none, many))


def test_other_annotations_are_refused():
    @register("reads_depth")
    class ReadsDepth(Term):
        annotations = ("depth",)

        def __call__(self, outputs):
            return outputs.losses.mean(), {}

    try:
        with pytest.raises(ConfigError, match="reads 'depth' of each example: expected one of la"):
            small_config(**MAE | {"losses": ("reads_depth",)})
    finally:
        del Term.plugs["reads_depth"]


@pytest.mark.parametrize("view", ["whole", "visible"])
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_features(view, pool):
    """Of the whole image after cls and registers, or of what is visible."""
    from test_terms import outputs_of

    whole = normal(3, 1 + 12, 16, seed=9)
    outputs = outputs_of(whole_features=whole)
    term = Term.parse_call(f"supervised(view={view!r}, pool={pool!r})", "x")
    tokens = whole if view == "whole" else outputs.features
    expected = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(axis=1)
    np.testing.assert_allclose(term.features(outputs), expected, rtol=1e-5, atol=1e-6)
