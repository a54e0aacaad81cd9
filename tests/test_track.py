"""Label propagation: DAVIS's layout, affinities against plain loops, and J and F."""

import jax
import numpy as np
import pytest
from PIL import Image
from small import changed, task_options

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.config.track import TrackData
from hpm_jax.data.davis import read_clips
from hpm_jax.data.records import DataError
from hpm_jax.evaluation.tracking import boundary, propagate, score_object, stretched, within
from hpm_jax.tasks.track import copied, measure, patch_shares

SIZE = (32, 32)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0]


def moving_squares(number, frames=6):
    """Two squares with a texture of their own that move by one patch of 4 a frame."""
    rng = np.random.default_rng(number)
    texture = [rng.integers(120, 256, (12, 12)) for _ in range(2)]
    ground = rng.integers(0, 6, SIZE)
    for time in range(frames):
        image, objects = ground.copy(), np.zeros(SIZE, np.uint8)
        for k, (top, left) in enumerate(((0, 4 * time), (16, 20 - 4 * time)), 1):
            left = min(max(left, 0), SIZE[1] - 12)
            image[top : top + 12, left : left + 12] = texture[k - 1]
            objects[top : top + 12, left : left + 12] = k
        yield image.astype(np.uint8), objects


def write_clips(root, clips=2, frames=6):
    for number in range(clips):
        for time, (image, objects) in enumerate(moving_squares(number, frames)):
            for kind, array, ending in (
                ("JPEGImages", image, "png"),
                ("Annotations", objects, "png"),
            ):
                path = root / kind / "480p" / f"clip_{number}" / f"{time:05d}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(array)
                if kind == "Annotations":
                    picture.putpalette(PALETTE)
                picture.save(path)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("davis"))


def data(root, **changes):
    return TrackData(path=str(root), channels=1, mean=(0.5,), std=(0.5,), **changes)


# --- the clips


def test_the_layout(root, tmp_path):
    clips = read_clips(data(root))
    assert [clip.name for clip in clips] == ["clip_0", "clip_1"] and len(clips[0].frames) == 6
    image, objects = list(moving_squares(1))[3]
    np.testing.assert_array_equal(clips[1].frame(3)[..., 0], image)
    np.testing.assert_array_equal(clips[1].objects(3), objects)
    left_out = read_clips(data(root, ignore_index=2))[1].objects(3)
    np.testing.assert_array_equal(left_out, np.where(objects == 2, -1, objects.astype(int)))
    listed = write_clips(tmp_path, clips=2, frames=3)
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("clip_1\n")
    assert [clip.name for clip in read_clips(data(listed))] == ["clip_1"]
    with pytest.raises(DataError, match=r"config.data.split = 'train'.*has no 2017/train.txt"):
        read_clips(data(listed, split="train"))
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("clip_9\n")
    with pytest.raises(DataError, match=r"the clip clip_9 is in the list, and .* does not exist"):
        read_clips(data(listed))


def test_what_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected JPEGImages/480p/<clip>/\*.jpg"):
        read_clips(data(tmp_path))
    write_clips(tmp_path, clips=1, frames=3)
    maps = tmp_path / "Annotations" / "480p" / "clip_0"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(maps / "00001.png")
    with pytest.raises(DataError, match=r"00001.png has 4 x 4 pixels .* 00001.png has 32 x 32"):
        read_clips(data(tmp_path))[0].objects(1)
    (maps / "00001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"00001.png is no map of objects"):
        read_clips(data(tmp_path))[0].objects(1)
    (tmp_path / "JPEGImages" / "480p" / "clip_0" / "00002.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"00002.png cannot be read"):
        read_clips(data(tmp_path))[0].frame(2)
    (maps / "00000.png").unlink()
    with pytest.raises(DataError, match=r"00000.png does not exist: the first frame of a clip"):
        read_clips(data(tmp_path))


# --- propagation


def test_affinities_against_plain_loops():
    rng = np.random.default_rng(0)
    grid, count = (3, 4), 12
    target = rng.normal(size=(count, 5))
    sources = rng.normal(size=(2, count, 5))
    target /= np.linalg.norm(target, axis=-1, keepdims=True)
    sources /= np.linalg.norm(sources, axis=-1, keepdims=True)
    labels = rng.dirichlet(np.ones(3), size=(2, count))
    near = np.stack([within(grid, 1)] * 2)
    found = jax.jit(propagate, static_argnums=(4, 5))(
        *(x.astype(np.float32) for x in (target, sources, labels)), near, 3, 0.1
    )
    for n in range(count):
        y, x = divmod(n, 4)
        reached = [
            (np.exp(target[n] @ sources[c, m] / 0.1), c, m)
            for c in range(2)
            for m in range(count)
            if abs(m // 4 - y) <= 1 and abs(m % 4 - x) <= 1
        ]
        best = sorted(reached, reverse=True)[:3]
        total = sum(weight for weight, *_ in best)
        expected = sum(weight * labels[c, m] for weight, c, m in best) / total
        np.testing.assert_allclose(found[n], expected, atol=1e-4)
    assert within(grid, 0).all() and within(grid, 2)[0].sum() == 9


def test_shares_of_patches():
    objects = np.zeros((4, 6), np.int16)
    objects[:2, :2] = 1
    found = patch_shares(objects, (2, 2), 2).reshape(2, 2, 2)
    np.testing.assert_allclose(found[..., 1], [[2 / 3, 0], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-6)


def test_values_are_stretched_for_each_object():
    values = np.array([[[0.9, 0.1], [0.5, 0.0]]])
    np.testing.assert_allclose(stretched(values), [[[1.0, 1.0], [0.0, 0.0]]])


# --- scores


def f_by_definition(truth, predicted, tolerance):
    """Boundary pixels of one mask that have one of the other within reach, by plain loops."""

    def edges(mask):
        h, w = mask.shape
        found = []
        for y in range(h):
            for x in range(w):
                down, right = min(y + 1, h - 1), min(x + 1, w - 1)
                others = (mask[down, x], mask[y, right], mask[down, right])
                if any(bool(other) != bool(mask[y, x]) for other in others):
                    found.append((y, x))
        return found

    reach = np.ceil(tolerance * np.hypot(*truth.shape))
    a, b = edges(truth), edges(predicted)
    if not a or not b:
        return float(not a and not b)

    def matched(some, others):
        close = [min(np.hypot(y - v, x - u) for v, u in others) <= reach for y, x in some]
        return sum(close) / len(close)

    recall, precision = matched(a, b), matched(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("tolerance", [0.008, 0.05, 0.2])
def test_f_is_its_definition(tolerance):
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = np.zeros((20, 24), bool)
        top, left = rng.integers(0, 10, 2)
        truth[top : top + 8, left : left + 9] = True
        predicted = np.roll(truth, rng.integers(-4, 5, 2), axis=(0, 1)) ^ (
            rng.random((20, 24)) < 0.02
        )
        found = score_object(truth, predicted, tolerance)
        assert found.boundary == pytest.approx(f_by_definition(truth, predicted, tolerance))
        union = (truth | predicted).sum()
        assert found.region == pytest.approx((truth & predicted).sum() / union)


def test_empty_masks():
    empty, some = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    some[2:5, 2:5] = True
    assert score_object(empty, empty, 0.008) == (1.0, 1.0)
    assert score_object(some, empty, 0.008) == score_object(empty, some, 0.008) == (0.0, 0.0)
    assert score_object(some, some, 0.008) == (1.0, 1.0)
    assert boundary(np.ones((4, 4), bool)).sum() == 0, "the frame's edge is no boundary"


# --- the task


def options(pretrained, root, **changes):
    config = task_options(
        "track",
        pretrained,
        data={"path": str(root), "image_size": SIZE},
        propagation={"frames": 2, "radius": 4, "neighbors": 1},
        evaluation={"batch_size": 8, "pictures": 1},
    )
    return changed(config, changes)


def test_the_last_frame_does_not_count(root, pretrained):
    """J of the copy, by hand: over frames 1 to 4 of 6, and over objects."""
    config = freeze(inherit(options(pretrained, root)))
    scores, pictures = measure(config, read_clips(config.data), copied, draws=True)
    frames = [objects for _, objects in moving_squares(0)]
    expected = []
    for k in (1, 2):
        pairs = [((one == k) & (frames[0] == k), (one == k) | (frames[0] == k)) for one in frames]
        expected.append(np.mean([both.sum() / either.sum() for both, either in pairs[1:5]]))
    assert scores["region"] == pytest.approx(np.mean(expected))
    assert [one.place for one in pictures] == [4]


def test_clips_without_further_maps(pretrained, tmp_path):
    write_clips(tmp_path, clips=1, frames=3)
    for time in (1, 2):
        (tmp_path / "Annotations" / "480p" / "clip_0" / f"{time:05d}.png").unlink()
    config = freeze(inherit(options(pretrained, tmp_path)))
    with pytest.raises(DataError, match=r"no object of the 1 clips of .* is annotated in a frame"):
        measure(config, read_clips(config.data), copied, draws=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"block": 0}}, "blocks count from 1"),
        ({"data": {"mean": (0.5, 0.5)}}, "expected 1 values, one a channel"),
        ({"propagation": {"temperature": 0.0}}, "expected a number from 0.001"),
        ({"init_from": ""}, "config.init_from is empty"),
    ],
)
def test_configs_that_cannot_run(pretrained, root, changes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(inherit(options(pretrained, root, **changes)))
