"""Scores of segmentation: the confusion matrix, what it defines, and sliding windows."""

import dataclasses

import jax
import numpy as np
import pytest
from small_scenes import CLASSES, VOID, write_scenes

from hpm_jax.config import defaults, freeze
from hpm_jax.data.records import DataError
from hpm_jax.data.segmented import Segmented
from hpm_jax.data.sources import SOURCES
from hpm_jax.evaluation.confusion import count_pixels, scores_of, sum_over_processes
from hpm_jax.evaluation.segmenting import SegmentMeter, in_threads, segmenter_logits
from hpm_jax.evaluation.windows import Window, softmax, tile
from hpm_jax.models.segmenter import enlarge_logits
from hpm_jax.run.build import build_tokenizer
from hpm_jax.run.build_dense import build_segmenter
from hpm_jax.run.devices import all_devices
from hpm_jax.step.state import init_params

NAN = float("nan")


def test_the_confusion_matrix_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth = rng.integers(-1, 5, (3, 20, 30)).astype(np.int16)
    predicted = rng.integers(0, 5, truth.shape).astype(np.int16)
    predicted[truth == 2] = 2
    matrix = count_pixels(truth, predicted, 5)
    known = truth >= 0
    expected = metrics.confusion_matrix(truth[known], predicted[known], labels=range(5))
    assert matrix.dtype == np.int64 and matrix.sum() == known.sum()
    np.testing.assert_array_equal(matrix, expected)
    scores = scores_of(matrix)
    jaccard = metrics.jaccard_score(truth[known], predicted[known], average=None)
    np.testing.assert_allclose(scores.iou, jaccard)
    assert scores.miou == pytest.approx(jaccard.mean())
    assert scores.pixel_accuracy == pytest.approx((truth == predicted)[known].mean())
    recall = metrics.balanced_accuracy_score(truth[known], predicted[known])
    assert scores.mean_class_accuracy == pytest.approx(recall)
    assert scores.share.sum() == pytest.approx(1)


def test_classes_that_are_absent():
    """Class 1 is predicted and never true: IoU 0, no accuracy. Class 2 is neither: no score."""
    scores = scores_of(np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(scores.iou, [0.75, 0, NAN])
    np.testing.assert_allclose(scores.accuracy, [0.75, NAN, NAN])
    assert scores.miou == 0.375 and scores.mean_class_accuracy == 0.75
    assert scores.pixel_accuracy == 0.75


def test_pixels_that_are_left_out_alone():
    matrix = count_pixels(np.full((4, 4), -1), np.zeros((4, 4), int), 3)
    assert matrix.sum() == 0
    with pytest.raises(DataError, match="no pixel of the test split has a class"):
        scores_of(matrix)


def test_counts_beyond_32_bits_add_exactly():
    matrix = np.array([[2**40 + 1, 0], [3, 2**33]])
    np.testing.assert_array_equal(sum_over_processes(matrix), matrix)
    part = count_pixels(np.zeros(7, np.int16), np.zeros(7, np.int16), 2)
    assert (matrix + part)[0, 0] == 2**40 + 8


def test_sums_over_processes(monkeypatch):
    """Bytes travel, as arrays of jax would lose the upper half of each count."""
    from jax.experimental import multihost_utils

    matrix = np.array([[2**40 + 1, 5], [3, 2**33]])
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(
        multihost_utils,
        "process_allgather",
        lambda x: np.stack([np.asarray(jax.numpy.asarray(x))] * 3),
    )
    np.testing.assert_array_equal(sum_over_processes(matrix), 3 * matrix)


# --- windows


@pytest.mark.parametrize(
    ("size", "starts"),
    [
        ((512, 512), [(0, 0)]),
        ((512, 683), [(0, 0), (0, 171)]),  # MMSegmentation: ceil((683 - 512) / 341) + 1 windows
        ((512, 1024), [(0, 0), (0, 341), (0, 512)]),
        ((300, 520), [(0, 0), (0, 8)]),
    ],
)
def test_windows_cover_an_image(size, starts):
    windows = tile(size, (512, 512), 2 / 3)
    assert [(w.top, w.left) for w in windows] == starts
    seen = np.zeros(size, int)
    for top, left, height, width in windows:
        assert (height, width) == (min(512, size[0]), min(512, size[1]))
        seen[top : top + height, left : left + width] += 1
    assert seen.min() >= 1
    assert windows[0] == Window(0, 0, min(512, size[0]), min(512, size[1]))


def test_loading_ahead_keeps_the_order():
    found = [one.result() for one in in_threads(lambda x: x * x, range(20), 3)]
    assert found == [x * x for x in range(20)]


class Setup:
    """A random segmenter, and scenes of two sizes to score it on."""

    def __init__(self, root, **evaluation):
        write_scenes(root, {"train": 1, "val": 3}, size=(24, 32))
        write_scenes(root, {"test": 1}, size=(14, 40))
        for kind in ("images", "labels"):
            (root / kind / "test" / "scene_0.png").rename(root / kind / "val" / "wide.png")
        config = defaults("segment")
        config.init_from = "runs/x"
        config.data.update(path=str(root), image_size=(16, 16), ignore_index=VOID)
        config.model.update(patch_size=4, width=16, depth=1, heads=2, head_std=1.0)
        config.evaluation.update(batch_size=8, **evaluation)
        self.config = freeze(config)
        self.model = build_segmenter(self.config, len(CLASSES))
        params = jax.jit(lambda: init_params(self.model, jax.random.key(3)))()
        self.variables = {"params": params}
        self.tokenizer = build_tokenizer(self.config)
        records = SOURCES["label_maps"](self.config.data).test
        self.records = Segmented(records, self.config.data, len(CLASSES))

    def meter(self, **changes):
        scoring = dataclasses.replace(self.config.evaluation, **changes)
        config = dataclasses.replace(self.config, evaluation=scoring)
        logits = segmenter_logits(self.model, self.tokenizer)
        return SegmentMeter(config, logits, self.records, all_devices())

    def pixel_logits(self, pixels):
        """Logits of a window at the size of the crop, by the device's own enlargement."""
        patches = self.tokenizer(pixels[None])
        logits = self.model.apply(self.variables, patches)
        return np.asarray(enlarge_logits(logits, (16, 16)))[0]

    def expected(self, pixels, flip):
        """Plain loops over windows at the size of the image: the mean of their logits."""
        height, width = pixels.shape[:2]
        fill = np.rint(255 * np.array(self.config.data.mean)).astype(np.uint8)
        padded = np.tile(fill, (max(height, 16), max(width, 16), 1))
        padded[:height, :width] = pixels[:, ::-1] if flip else pixels
        sums = np.zeros((*padded.shape[:2], len(CLASSES)))
        counts = np.zeros((*padded.shape[:2], 1))
        for top in sorted({*range(0, padded.shape[0] - 15, 10), padded.shape[0] - 16}):
            for left in sorted({*range(0, padded.shape[1] - 15, 10), padded.shape[1] - 16}):
                window = padded[top : top + 16, left : left + 16]
                sums[top : top + 16, left : left + 16] += self.pixel_logits(window)
                counts[top : top + 16, left : left + 16] += 1
        found = (sums / counts)[:height, :width]
        return found[:, ::-1] if flip else found


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(tmp_path_factory.mktemp("scenes"))


def test_sliding_windows_against_plain_loops(setup):
    found = list(setup.meter().segment(setup.variables, np.arange(4)))
    assert [one.place for one in found] == [0, 1, 2, 3]
    assert found[3].predicted.shape == (14, 40), "shorter than the window, and padded"
    matrix = np.zeros((3, 3), np.int64)
    for one in found:
        expected = setup.expected(one.pixels, False)
        near = np.sort(expected, axis=-1)[..., -1] - np.sort(expected, axis=-1)[..., -2] < 1e-4
        assert ((one.predicted == expected.argmax(axis=-1)) | near).all()
        matrix += count_pixels(one.truth, one.predicted, 3)
    assert len(np.unique(found[0].predicted)) > 1
    assert setup.meter()(setup.variables).numbers() == scores_of(matrix).numbers()


def test_mirrored_views_are_averaged(setup):
    one = next(iter(setup.meter(flip=True).segment(setup.variables, np.array([1]))))
    votes = sum(softmax(setup.expected(one.pixels, flip)) for flip in (False, True))
    near = np.sort(votes, axis=-1)[..., -1] - np.sort(votes, axis=-1)[..., -2] < 1e-4
    assert ((one.predicted == votes.argmax(axis=-1)) | near).all()


def test_scores_do_not_depend_on_the_size_of_batches(setup):
    several = {"scales": (0.75, 1.0), "flip": True}
    found = [setup.meter(batch_size=size, **several)(setup.variables) for size in (8, 40)]
    np.testing.assert_array_equal(found[0].iou, found[1].iou)


def test_unreadable_images_are_named(tmp_path):
    setup = Setup(tmp_path)
    path = tmp_path / "images/val/scene_1.png"
    path.write_bytes(path.read_bytes()[:60])
    meter = setup.meter()
    assert [one.place for one in meter.segment(setup.variables, np.arange(4))] == [0, 2, 3]
    assert len(meter.unread) == 1 and str(path) in meter.unread[0]
    assert list(meter.segment(setup.variables, np.array([1]))) == [], "a picture of it alone"
    meter(setup.variables)
    assert len(meter.unread) == 1
