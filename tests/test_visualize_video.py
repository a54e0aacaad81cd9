"""Pictures of clips: what is hidden, where and when it is shown, and the files that come of it."""

import io
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence
from small import parts_of, schedule, small_config

from hpm_jax import random
from hpm_jax.run.ahead import compiler_threads
from hpm_jax.run.build import build_method
from hpm_jax.run.devices import all_devices
from hpm_jax.step.mask import choose_mask
from hpm_jax.step.schedules import PretrainTimetable
from hpm_jax.step.step import student_pass
from hpm_jax.tasks import observe
from hpm_jax.tokens import gather, patchify
from hpm_jax.visualize import view as views
from hpm_jax.visualize.clips import animate, draw_strip, panels_of
from hpm_jax.visualize.report import write_report
from hpm_jax.visualize.sheet import draw_sheet
from hpm_jax.visualize.view import HARD, HIDDEN, VISIBLE, View, make_view

PATCH = (2, 4, 4)  # clips of 4 frames of 16 x 16 are a grid of (2, 4, 4)
COLORS = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
CLIPS = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), dtype=np.uint8)


def video(unit="tube", **changes):
    options = {
        "data": {"source": "synthetic", "frames": 4, "channels": 3} | COLORS,
        "model": {"tubelet": 2, "layout": "videomae"},
        "mask": {"unit": unit, "ratio": 0.75, "strategy": "hard(start=0.5)"},
        "target": "channel_normalized_pixels",
        "evaluation": {"pool": "mean"},
    }
    return small_config(**options | changes)


def by_patch(pixels):
    return np.asarray(patchify(np.asarray(pixels), PATCH))


@pytest.mark.parametrize(
    ("unit", "stride", "size"), [("tube", 1, 2), ("patch", 2, 1)], ids=["tubes", "rarely"]
)
def test_the_mask_is_that_of_training(unit, stride, size):
    """Whatever is hidden as one, and however often the teacher runs."""
    parts = parts_of(video())
    method = build_method(video(unit, teacher=f"moving_average(frame_stride={stride})"))
    five, key = schedule(5), random.stream(jax.random.key(0), "pictures", 0)

    @jax.jit
    def both(state, clips, schedule):
        mask = choose_mask(parts.model, method, state, method.patches(clips), key, schedule)
        return make_view(parts.model, method)(state, clips, schedule), mask.hide

    view, hide = jax.tree.map(np.asarray, both(parts.state, CLIPS, five))
    assert view.status.shape == view.predicted.shape == view.true.shape == (3, 2, 4, 4)
    fates = view.status.reshape(3, -1)
    for status, hidden in zip(fates, hide, strict=True):
        assert set(np.flatnonzero(status != VISIBLE)) == set(hidden)
        assert (status == HARD).sum() == 5 * size and (status == HIDDEN).sum() > 0
    units = view.predicted.mean(1) if unit == "tube" else view.predicted
    hard = (view.status[:, 0] if unit == "tube" else view.status) == HARD
    for losses, chosen in zip(units, hard, strict=True):
        assert losses[chosen].min() >= losses[~chosen].max()
    assert (np.isnan(view.true) == (view.status == VISIBLE)).all()

    rebuilt, clips = by_patch(view.rebuilt), by_patch(CLIPS / np.float32(255))
    visible = fates == VISIBLE
    np.testing.assert_allclose(rebuilt[visible], clips[visible], atol=1e-6)
    assert np.abs(rebuilt[~visible] - clips[~visible]).max() > 0.1


@pytest.mark.parametrize("frames", ["all", "one"])
@pytest.mark.parametrize("target", ["pixels", "channel_normalized_pixels"])
def test_a_perfect_prediction_is_drawn_as_the_clip_itself(monkeypatch, target, frames):
    """Where one frame of a patch is rebuilt, it stands in both."""
    target = f"{target}(frames={frames!r})"
    parts = parts_of(video(target=target))
    method = build_method(video("patch", target=target))

    def perfect(model, method, state, params, masked):
        values = gather(method.target_of(masked.patches), masked.mask.hide)
        return student_pass(model, method, state, params, masked)._replace(values=values)

    monkeypatch.setattr(views, "student_pass", perfect)
    view = jax.jit(make_view(parts.model, method))(parts.state, CLIPS, schedule(0))
    expected = CLIPS / 255
    if frames == "one":  # of frames 0 to 3 the first and the last
        hidden = np.asarray(view.status != VISIBLE).repeat(2, 1).repeat(4, 2).repeat(4, 3)
        expected = np.where(hidden[..., None], expected[:, [0, 0, 3, 3]], expected)
    np.testing.assert_allclose(view.rebuilt, expected, atol=1e-4)


def made_by_hand():
    """Two clips of 4 frames of 8 x 8, each frame of one colour; the grid is (2, 2, 2)."""
    shade = np.array([[40, 90, 140, 190], [60, 110, 160, 210]], np.uint8)
    clips = np.zeros((2, 4, 8, 8, 3), np.uint8)
    clips[..., 0] = shade[..., None, None]
    status = np.full((2, 2, 2, 2), VISIBLE)
    status[0, 1, 0, 1], status[1, 0, 1, 0] = HARD, HIDDEN
    predicted = np.zeros((2, 2, 2, 2))
    predicted[0, 1, 0, 1], predicted[0, 0, 1, 1] = 8.0, 4.0
    predicted[1, 0, 1, 0] = 0.5
    true = np.where(status == VISIBLE, np.nan, 1.0)
    return clips, View(np.ones(clips.shape, np.float32), status, predicted, true)


def near(pixels, color, error=2):
    """Where pixels have a colour, all but exactly."""
    return (np.abs(pixels.astype(int) - color) <= error).all(-1)


def test_panels_show_everything_at_its_place_and_time():
    clips, view = made_by_hand()
    panels = panels_of(clips, view)
    assert list(panels) == ["input", "masked", "rebuilt", "predicted loss", "true loss", "mask"]
    np.testing.assert_array_equal(panels["input"], clips)
    places = {
        0: (slice(2, 4), slice(0, 4), slice(4, 8)),
        1: (slice(0, 2), slice(4, 8), slice(0, 4)),
    }
    masked, mask = clips.copy(), np.full(clips.shape, 0xF2, np.uint8)
    for clip, place in places.items():
        masked[clip][place] = 153  # 0.6 grey
        mask[clip][place] = (0xE4, 0x57, 0x2E) if clip == 0 else 0x9A
        # the two ends of magma
        heat = panels["predicted loss"][clip]
        hottest = near(heat, (252, 253, 191))
        assert hottest[place].all() and hottest.sum() == 2 * 4 * 4
        assert near(heat[-1 - place[0].start, -1, 0], (0, 0, 3))
        losses = panels["true loss"][clip]
        assert near(losses, (0xF2,) * 3).sum() == 4 * 8 * 8 - 2 * 4 * 4
        assert near(losses[place], (0, 0, 3)).all()
    np.testing.assert_array_equal(panels["masked"], masked)
    assert near(panels["mask"], mask).all()
    # half of the clip's highest, though the highest of its time: the middle of magma
    assert near(panels["predicted loss"][0, 0, -1, -1], (183, 55, 121))


def has(picture, color, error=2):
    """Whether a colour fills a panel or more of a picture."""
    return near(np.asarray(picture.convert("RGB")), color, error).sum() > 1000


def test_a_strip_has_a_frame_for_each_slot():
    clips, view = made_by_hand()
    png = Image.open(io.BytesIO(draw_strip(clips, view, "epoch 1", "a note")))
    for shade, shown in zip(clips[0, :, 0, 0, 0], (True, False, False, True), strict=True):
        assert has(png, (shade, 0, 0)) == shown
    assert has(png, (0xE4, 0x57, 0x2E)) and has(png, (0x9A,) * 3), "a mask"
    assert png.width > 2 * 128 and png.height > 2 * 6 * 128


def test_an_animation_has_all_frames_and_loops():
    clips, view = made_by_hand()
    gif = Image.open(io.BytesIO(animate(clips, view, "epoch 1", "a note")))
    assert gif.n_frames == 4 and gif.info["loop"] == 0
    for frame, picture in enumerate(ImageSequence.Iterator(gif)):
        assert picture.info["duration"] == 120
        for other in range(4):
            assert has(picture, (clips[0, other, 0, 0, 0], 0, 0), error=10) == (other == frame)
        assert has(picture, (252, 253, 191), error=10), "the heat map is part of it"
    assert gif.width == 10 + 4 * (160 + 3) - 3 + 10


def test_a_clip_that_stands_still_keeps_its_frames():
    clips, view = made_by_hand()
    still = np.repeat(clips[:, :1], 4, axis=1)
    gif = Image.open(io.BytesIO(animate(still, view._replace(predicted=None), "epoch 1", "")))
    assert gif.n_frames == 4


@pytest.mark.parametrize(("side", "shown"), [(16, 160), (48, 144), (100, 100), (224, 112)])
def test_panels_are_enlarged_or_reduced_by_whole_numbers(side, shown):
    panel = np.zeros((side, side // 2, 3), np.uint8)
    panel[: side // 2] = (0, 200, 0)
    sheet = np.asarray(draw_sheet([{"": [panel]}], [""], "", "", 160))
    rows, columns = np.nonzero((sheet == (0, 200, 0)).all(-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (shown // 2, shown // 2)


def test_an_observer_writes_both_files_and_the_report_shows_them(monkeypatch, tmp_path):
    config = video()
    parts, devices = parts_of(config), all_devices()
    pictures = {}
    writer = SimpleNamespace(
        write=lambda step, numbers: None,
        write_picture=lambda step, name, png: pictures.update({name: png}),
    )
    evaluate = lambda state: {"rank_me": 1.0}  # noqa: E731
    evaluate.images = CLIPS
    evaluate.baselines, evaluate.labelled = lambda state: {}, False
    evaluate.compile_ahead = lambda threads, state: None
    monkeypatch.setattr(observe, "Evaluator", lambda *_: evaluate)
    (tmp_path / "pictures").mkdir()
    timetable = PretrainTimetable(config, 640, config.hidden_units)
    training = SimpleNamespace(
        workdir=tmp_path,
        devices=devices,
        timetable=timetable,
        goes_on=False,
        compiler=compiler_threads(),
        shapes=jax.eval_shape(lambda: parts.state),
        writer=writer,
        console=SimpleNamespace(say=lambda line: None),
    )
    observer = observe.make_observer(config, parts.model, parts.method, None, training, [])
    for step in (0, 5, 9):
        observer(parts.state.replace(step=np.int32(step)))
    png = (tmp_path / "pictures" / "step_0000009.png").read_bytes()
    assert Image.open(io.BytesIO(png)).format == "PNG" and pictures["pictures"] == png
    assert Image.open(tmp_path / "pictures" / "step_0000009.gif").n_frames == 4
    write_report(tmp_path, "a command", [], "")
    report = (tmp_path / "report.md").read_text()
    shown = [
        line.split("(")[1].rstrip(")") for line in report.splitlines() if "(pictures/s" in line
    ]
    assert shown == [f"pictures/step_000000{s}.{kind}" for s in (0, 9) for kind in ("gif", "png")]


def test_what_a_picture_says_of_itself():
    note = observe.explain(build_method(video()))
    assert "normalised" in note and "one frame" not in note and "teacher" not in note
    config = video("patch", target="pixels(frames='one')", teacher="moving_average(frame_stride=2)")
    note = observe.explain(build_method(config))
    assert "hidden ones are predictions" in note and "one frame" in note and "one in 2" in note
