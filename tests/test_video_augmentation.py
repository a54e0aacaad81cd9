"""Dense sampling, repeated clips and RandAugment of videos against the official codes' rules."""

import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats
from small_videos import numbered, numbers_in
from small_videos import video_data as options

from hpm_jax.data import views
from hpm_jax.data.clips import SAMPLINGS
from hpm_jax.data.color_jitter import draw_color_jitter
from hpm_jax.data.geometry import Box, cut
from hpm_jax.data.rand_augment import apply, parse_policy
from hpm_jax.data.transforms import CROPS, resampling
from hpm_jax.data.views import train_view

POLICY = parse_policy("rand-m9-n3-p1-mstd0.5")
WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}


def drawn(sampling, count, draws=2000):
    data, rng = options(sampling=sampling, frames=16, frame_stride=4), np.random.default_rng(0)
    return np.stack([SAMPLINGS[sampling].random(rng, count, data) for _ in range(draws)])


def spread(sampling, count, clips):
    data = options(sampling=sampling, frames=16, frame_stride=4)
    return SAMPLINGS[sampling].spread(count, data, clips)


# --- times


def test_linspace_ends_with_the_last_frame_of_its_reach():
    clips = drawn("linspace", 100)
    steps = [math.floor(64 * place / 15) for place in range(15)] + [63]
    np.testing.assert_array_equal(clips - clips[:, :1], np.tile(steps, (2000, 1)))
    starts = np.bincount(clips[:, 0], minlength=36)
    assert len(starts) == 36, "0 to 99 - 64"
    assert stats.chisquare(starts).pvalue > 0.01


@pytest.mark.parametrize("count", [1, 3, 4, 17, 30, 63, 64])
def test_linspace_of_a_short_video_covers_it(count):
    """As many frames as the stride allows from end to end, then the last one again."""
    few = count // 4
    gap = count / (few - 1) if few > 1 else 0
    expected = [min(int(place * gap + 1e-9), count - 1) for place in range(few)]
    expected += [count - 1] * (16 - few)
    np.testing.assert_array_equal(drawn("linspace", count, 3), np.tile(expected, (3, 1)))


@pytest.mark.parametrize("count", [300, 101, 65, 40, 3])
def test_videomae_tests_on_every_fourth_frame(count):
    kept = list(range(0, count, 4))
    kept += [kept[-1]] * max(0, 16 - len(kept))
    starts = [int(clip * max(len(kept) - 16, 0) / 4) for clip in range(5)]
    expected = [kept[start : start + 16] for start in starts]
    np.testing.assert_array_equal(spread("linspace", count, 5), expected)


def test_mae_st_starts_anywhere_and_ends_within_the_reach():
    clips = drawn("mae_st", 100)
    assert (clips[:, -1] - clips[:, 0] >= 63).all() and clips.max() <= 99
    assert set(np.diff(clips).ravel()) <= {4, 5}, "63 / 15 frames apart"
    assert clips[:, 0].min() == 0 and clips[:, 0].max() == 35
    np.testing.assert_array_equal(spread("mae_st", 100, 4)[:, 0], [0, 12, 24, 36])
    assert spread("mae_st", 101, 1)[0, 0] == 18
    short = drawn("mae_st", 10, 2)
    np.testing.assert_array_equal(short[0], np.minimum((np.arange(16) * 4.2).astype(int), 9))


# --- repeats


@pytest.mark.parametrize(("repeats", "distinct"), [("frames", 1), ("times", 5)])
def test_repeats_are_of_the_same_frames_or_of_new_times(repeats, distinct):
    data = options(clips=8, repeats=repeats, image_size=(32, 32), **WHOLE)
    video = np.stack([numbered(number, 32, 32) for number in range(60)])
    starts = numbers_in(train_view(data)({"image": video}, np.random.default_rng(0))["image"])[:, 0]
    assert len(set(starts)) >= distinct and (distinct > 1 or len(set(starts)) == 1)


def test_the_same_frames_are_augmented_anew():
    data = options(clips=3, repeats="frames", frames=2)
    still = np.random.default_rng(0).integers(0, 256, (9, 40, 50, 3), dtype=np.uint8)
    clips = train_view(data, POLICY)({"image": still}, np.random.default_rng(1))["image"]
    assert (clips[0] != clips[1]).any() and (clips[1] != clips[2]).any()


# --- pixels


def test_rand_augment_comes_before_the_crop_and_fills_with_128(monkeypatch):
    """A shift brings grey from outside the frame into a crop of its left half."""
    monkeypatch.setattr(views, "draw", lambda *_: [("TranslateX", -1.0)])
    box = Box(0, 0, 20, 20)
    monkeypatch.setitem(CROPS, "resized", lambda *_: box)
    data = options(frames=2, image_size=(20, 20), flip=0.0)
    video = np.random.default_rng(0).integers(0, 100, (9, 20, 40, 3), dtype=np.uint8)
    clip = train_view(data, POLICY)({"image": video}, np.random.default_rng(0))["image"]
    moved = [apply(frame, [("TranslateX", -1.0)], False, (128,) * 3) for frame in video]
    assert any((clip[0] == frame[:, :20]).all() for frame in moved)
    assert (clip[:, :, :17] == 128).all() and (clip[:, :, 18:] < 128).all(), "0.45 of 40 pixels"


def test_images_are_cropped_first_and_filled_with_the_mean(monkeypatch):
    monkeypatch.setattr(views, "draw", lambda *_: [("TranslateX", -1.0)])
    data = options(frames=1, image_size=(20, 20), mean=(0.2, 0.4, 0.6), **WHOLE)
    image = np.zeros((40, 40, 3), np.uint8)
    crop = train_view(data, POLICY)({"image": image}, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(crop[0, :8], np.tile([51, 102, 153], (8, 1)))
    assert (crop[:, 10:] == 0).all(), "0.45 of the 20 pixels of the crop"


def test_videos_are_bilinear_and_images_bicubic():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for frames, interpolation, method in (
        (4, "auto", Image.Resampling.BILINEAR),
        (1, "auto", Image.Resampling.BICUBIC),
        (4, "bicubic", Image.Resampling.BICUBIC),
        (1, "bilinear", Image.Resampling.BILINEAR),
    ):
        data = options(frames=frames, interpolation=interpolation, image_size=(50, 44))
        assert resampling(data) == method
        expected = np.asarray(Image.fromarray(image).resize((44, 50), method))
        np.testing.assert_array_equal(
            cut(image, Box(0, 0, 30, 40), data.image_size, resampling(data)), expected
        )


# --- colours


def test_color_jitter_is_three_enhancements_in_a_random_order():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    rng, orders = np.random.default_rng(3), set()
    for seed in range(30):
        changed = draw_color_jitter(np.random.default_rng(seed), 0.4)(image)
        rng = np.random.default_rng(seed)
        order, factors = rng.permutation(3), rng.uniform(0.6, 1.4, 3)
        picture = Image.fromarray(image)
        for number in order:
            enhancement = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            picture = enhancement[number](picture).enhance(factors[number])
        np.testing.assert_array_equal(changed, np.asarray(picture))
        orders.add(tuple(order))
    assert len(orders) == 6


def test_color_jitter_changes_all_frames_alike_and_knows_grey():
    data = options(frames=3, clips=2, repeats="frames", **WHOLE)
    still = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8), 9, 0)
    clips = train_view(data, None, 0.4)({"image": still}, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(clips, np.broadcast_to(clips[:, :1], clips.shape))
    assert (clips[0] != clips[1]).any()
    grey = options(frames=1, channels=1)
    assert train_view(grey, None, 0.4)({"image": still[0]}, np.random.default_rng(0))[
        "image"
    ].shape == (16, 16, 1)
