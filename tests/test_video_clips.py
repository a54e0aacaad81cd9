"""Which frames and which part of them make a clip, against formulas of their own."""

import functools

import numpy as np
import pytest
from scipy import stats
from small_videos import numbered, numbers_in
from small_videos import video_data as options

from hpm_jax.data.clips import SAMPLINGS, reach
from hpm_jax.data.rand_augment import parse_policy
from hpm_jax.data.transforms import multi_scale_box
from hpm_jax.data.views import FramesInMemory, center_crop
from hpm_jax.data.views import test_view as make_test_view
from hpm_jax.data.views import train_view as make_train_view


def drawn(count, draws=300, seed=0, **data):
    data = options(**data)
    rng = np.random.default_rng(seed)
    return np.stack([SAMPLINGS[data.sampling].random(rng, count, data) for _ in range(draws)])


def spread(count, clips, **data):
    data = options(**data)
    return SAMPLINGS[data.sampling].spread(count, data, clips)


# --- times


def test_dense_clips_are_a_stride_apart_from_anywhere():
    clips = drawn(50, frames=8, frame_stride=4, draws=4000)
    np.testing.assert_array_equal(np.diff(clips), np.full((4000, 7), 4))
    starts = np.bincount(clips[:, 0], minlength=19)
    assert len(starts) == 19, "0 to 50 - 32"
    assert stats.chisquare(starts).pvalue > 0.01


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10, 28, 29, 31, 32])
def test_short_videos_repeat_the_last_frame_in_reach(count):
    """As kinetics.py walks: on by a stride while there is a frame, else stay."""
    expected, place = [], 0
    for _ in range(8):
        expected.append(place)
        if place + 4 < count:
            place += 4
    clips = drawn(count, frames=8, frame_stride=4, draws=5)
    np.testing.assert_array_equal(clips, np.tile(expected, (5, 1)))
    for clips in (1, 3):
        found = spread(count, clips, frames=8, frame_stride=4)
        np.testing.assert_array_equal(found, np.tile(expected, (clips, 1)))


def test_dense_clips_for_testing_cover_the_video():
    clips = spread(100, 5, frames=8, frame_stride=4)
    np.testing.assert_array_equal(clips[:, 0], np.linspace(0, 68, 5))
    np.testing.assert_array_equal(clips - clips[:, :1], np.tile(np.arange(8) * 4, (5, 1)))
    assert spread(100, 1, frames=8, frame_stride=4)[0, 0] == 34, "one is in the middle"


@pytest.mark.parametrize("count", [64, 67, 16, 9, 3, 1])
def test_segments_hold_one_frame_each(count):
    clips = drawn(count, sampling="segments", frames=16, draws=4000)
    assert clips.min() >= 0 and clips.max() == count - 1
    assert (np.diff(clips) >= 0).all()
    length = count / 16
    for segment in range(16):
        first, last = int(segment * length), int(np.ceil((segment + 1) * length)) - 1
        assert set(clips[:, segment]) == set(range(first, last + 1))
    # the expectation of a uniform place, to whole frames
    uniform = (np.arange(16)[:, None] + np.linspace(0, 1, 1000, endpoint=False)) * length
    np.testing.assert_allclose(clips.mean(0), np.floor(uniform).mean(1), atol=0.1 + count / 500)


def test_segments_for_testing_are_those_of_videomae():
    """ssv2.py: int(tick / 2 + tick x) alone; with int(tick x) before it where there are two."""
    for count in (16, 37, 50, 117):
        tick = count / 16
        middles = [int(tick / 2 + tick * x) for x in range(16)]
        starts = [int(tick * x) for x in range(16)]
        found = functools.partial(spread, count, sampling="segments", frames=16)
        np.testing.assert_array_equal(found(1), [middles])
        np.testing.assert_array_equal(found(2), [starts, middles])
        thirds = np.floor((np.arange(16) + np.array([[0], [1 / 3], [2 / 3]])) * tick + 1e-9)
        np.testing.assert_array_equal(found(3), thirds)


def test_a_video_of_a_clips_reach_is_read_as_it_is():
    for sampling, stride in (("dense", 3), ("segments", 1)):
        data = {"sampling": sampling, "frame_stride": 3, "frames": 5}
        assert reach(options(**data)) == 5 * stride
        np.testing.assert_array_equal(
            drawn(5 * stride, draws=2, **data), np.tile(np.arange(5) * stride, (2, 1))
        )


# --- boxes


def test_multi_scale_boxes():
    """Ten pairs of sizes as often as each other, at thirteen places as often as each other."""
    rng = np.random.default_rng(0)
    boxes = [multi_scale_box(rng, 240, 320) for _ in range(20000)]
    sizes = [240, 210, 180, 158]
    pairs = {(h, w): 0 for i, h in enumerate(sizes) for w in sizes[max(0, i - 1) : i + 2]}
    assert len(pairs) == 10
    places = {(2, 2): 0}
    places |= {(r, c): 0 for r in (0, 2, 4) for c in (0, 2, 4)}
    places |= {(r, c): 0 for r in (1, 3) for c in (1, 3)}
    assert len(places) == 13
    for box in boxes:
        pairs[box.height, box.width] += 1
        row = [k * ((240 - box.height) // 4) for k in range(5)].index(box.top)
        column = [k * ((320 - box.width) // 4) for k in range(5)].index(box.left)
        if box.height < 240:  # else all rows are one
            places[row, column] += 1
    assert stats.chisquare(list(pairs.values())).pvalue > 0.01
    assert stats.chisquare(list(places.values())).pvalue > 0.01


def test_multi_scale_boxes_stay_inside():
    rng = np.random.default_rng(0)
    for height, width in ((35, 51), (9, 4), (3, 3), (1, 1)):
        for _ in range(300):
            box = multi_scale_box(rng, height, width)
            assert box.height > 0 and 0 <= box.top <= height - box.height
            assert box.width > 0 and 0 <= box.left <= width - box.width


# --- views

WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}


def train_view(*arguments):
    view = make_train_view(*arguments)
    return lambda stored, rng: view({"image": stored}, rng)["image"]


def seen_in_test(stored, data, **many):
    return make_test_view(data, **many)({"image": stored})["image"]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("crop", ["resized", "multi_scale"])
def test_every_frame_of_a_clip_is_cut_alike(crop):
    """A still video gives a still clip, and each of several its own crop."""
    data = options(frames=6, crop=crop, clips=3, image_size=(24, 32))
    still = np.repeat(noise(1, 50, 60, 3), 40, axis=0)
    clips = train_view(data)(still, np.random.default_rng(1))
    assert clips.shape == (3, 6, 24, 32, 3) == data.train_shape
    for clip in clips:
        np.testing.assert_array_equal(clip, np.broadcast_to(clip[:1], clip.shape))
    assert (clips[0] != clips[1]).any() and (clips[1] != clips[2]).any()


def test_several_clips_have_times_of_their_own():
    data = options(clips=5, **WHOLE, flip=0.0, image_size=(32, 32))
    video = np.stack([numbered(number, 32, 32) for number in range(60)])
    clips = numbers_in(train_view(data)(video, np.random.default_rng(0)))
    np.testing.assert_array_equal(np.diff(clips), np.full((5, 3), 2))
    assert len(set(clips[:, 0])) > 2


def test_a_flip_mirrors_all_frames():
    data = options(frames=4, **WHOLE, image_size=(32, 32))
    video, view = noise(8, 32, 32, 3), train_view(data)
    for seed in range(8):
        clip = view(video, np.random.default_rng(seed))
        plain = video[:8:2]
        mirrored = (clip == plain[:, :, ::-1]).all()
        assert mirrored or (clip == plain).all()
    flips = [(view(video, np.random.default_rng(s)) != video[:8:2]).any() for s in range(200)]
    assert 60 < sum(flips) < 140


def test_rand_augment_changes_all_frames_alike():
    """Also where an operation is drawn with a random sign, and each clip by a draw of its own."""
    data = options(frames=6, clips=2, flip=0.0, **WHOLE)
    still = np.repeat(noise(1, 16, 16, 3), 20, axis=0)
    view = train_view(data, parse_policy("rand-m9-n3-p1-mstd0.5"))
    differ = 0
    for seed in range(20):
        clips = view(still, np.random.default_rng(seed))
        np.testing.assert_array_equal(clips, np.broadcast_to(clips[:, :1], clips.shape))
        assert (clips[0, 0] != still[0]).any()
        differ += (clips[0] != clips[1]).any()
    assert differ > 10


@pytest.mark.parametrize("size", [(40, 80), (80, 40)])
def test_crops_for_testing_run_along_the_longer_side(size):
    """Each pixel's value is its place along that side."""
    ramp = np.broadcast_to(np.arange(80)[:, None], (80, 40)).astype(np.uint8)
    ramp = ramp if size == (80, 40) else ramp.T
    video = np.broadcast_to(ramp[None, ..., None], (20, *size, 3))
    data = options(image_size=(40, 40), test_crop=1.0, frames=3)
    views = seen_in_test(video, data, clips=2, crops=3)
    assert views.shape == (6, 3, 40, 40, 3)
    corners = views[:, 0, 0, 0, 0]
    np.testing.assert_array_equal(corners, [0, 20, 40, 0, 20, 40])
    assert seen_in_test(video, data).shape == (3, 40, 40, 3)
    assert seen_in_test(video, data)[0, 0, 0, 0] == 20, "one is in the centre"


def test_clips_for_testing_stand_in_order():
    video = np.stack([numbered(number, 32, 48) for number in range(60)])
    data = options(image_size=(32, 48), test_crop=1.0, frames=4, frame_stride=2)
    views = numbers_in(seen_in_test(video, data, clips=3, crops=2))
    starts = np.repeat([0, 26, 52], 2)
    np.testing.assert_array_equal(views, starts[:, None] + np.arange(4) * 2)
    np.testing.assert_array_equal(numbers_in(seen_in_test(video, data)), 26 + np.arange(4) * 2)


def test_a_clip_is_cropped_as_an_image_is():
    data = options(image_size=(16, 20), frames=2, frame_stride=1)
    video = noise(2, 30, 50, 3)
    clip = seen_in_test(video, data)
    still = options(image_size=(16, 20), frames=1, interpolation="bilinear")
    for frame, image in zip(clip, video, strict=True):
        np.testing.assert_array_equal(frame, center_crop({"image": image}, still)["image"])


def test_an_image_is_a_video_of_one_frame():
    image = noise(16, 16, 3)
    video = FramesInMemory(image)
    assert (len(video), video.height, video.width) == (1, 16, 16)
    clip = seen_in_test(image, options(frames=3, test_crop=1.0, image_size=(16, 16)))
    np.testing.assert_array_equal(clip, np.stack([image] * 3))


def test_several_crops_of_an_image_that_is_read_once():
    data = options(frames=1, clips=3)
    views = train_view(data)(noise(40, 40, 3), np.random.default_rng(0))
    assert views.shape == data.train_shape == (3, 1, 16, 16, 3)
    assert (views[0] != views[1]).any()


def test_grey_clips():
    data = options(channels=1, frames=2)
    video = noise(9, 20, 20, 3)
    assert train_view(data)(video, np.random.default_rng(0)).shape == (2, 16, 16, 1)
    assert seen_in_test(video, data).shape == (2, 16, 16, 1)
