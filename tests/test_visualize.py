"""Pictures: visible patches are pasted, normalised ones put back, hidden kinds told apart."""

import io

import jax
import numpy as np
import pytest
from PIL import Image
from small import MAE, parts_of, schedule, small_config

from hpm_jax.step.step import student_pass
from hpm_jax.tokens import gather, patchify
from hpm_jax.visualize import view as views
from hpm_jax.visualize.compare import table
from hpm_jax.visualize.curves import draw_curves
from hpm_jax.visualize.pictures import draw
from hpm_jax.visualize.view import HARD, HIDDEN, VISIBLE, make_view


def view_of(config, n_hard=6):
    parts = parts_of(config)
    view = jax.jit(make_view(parts.model, parts.method))
    seen = view(parts.state, parts.images[:3], schedule(n_hard))
    return parts, jax.tree.map(np.asarray, seen)


def test_fates_and_pasted_patches():
    parts, view = view_of(small_config())
    for status in view.status.reshape(3, -1):
        assert [(status == kind).sum() for kind in (VISIBLE, HIDDEN, HARD)] == [4, 6, 6]
    assert (np.isnan(view.true) == (view.status == VISIBLE)).all()
    rebuilt = patchify(view.rebuilt, (1, 4, 4))
    images = patchify(parts.images[:3] / np.float32(255), (1, 4, 4))
    visible = view.status.reshape(3, -1) == VISIBLE
    np.testing.assert_allclose(rebuilt[visible], images[visible], atol=1e-6)
    assert np.abs(rebuilt[~visible] - images[~visible]).max() > 0.1


@pytest.mark.parametrize("target", ["pixels", "normalized_pixels"])
def test_a_perfect_prediction_is_drawn_as_the_image_itself(monkeypatch, target):
    config = small_config(target=target)
    parts = parts_of(config)

    def perfect(model, method, state, params, masked):
        values = gather(method.target_of(masked.patches), masked.mask.hide)
        return student_pass(model, method, state, params, masked)._replace(values=values)

    monkeypatch.setattr(views, "student_pass", perfect)
    view = make_view(parts.model, parts.method)(parts.state, parts.images[:3], schedule(0))
    np.testing.assert_allclose(view.rebuilt, parts.images[:3] / 255, atol=1e-4)


@pytest.mark.parametrize("options", [{}, MAE], ids=["hpm", "mae"])
def test_drawing(options):
    parts, view = view_of(small_config(**options))
    png = draw(parts.images[:3], view, "epoch 1", "a note")
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert image.shape[1] == 80 * 1.5 * (6 if not options else 5)
    orange = (np.abs(image.astype(int) - (0xE4, 0x57, 0x2E)).max(-1) < 12).any()
    assert orange == (not options), "only hard patches are orange"


def test_curves_of_two_runs(tmp_path):
    lines = [
        {"step": s, "epoch": s / 2, "knn": s / 10, "reconstruction": 1 / (s + 1)} for s in range(5)
    ]
    draw_curves({"one": lines, "two": lines[:3]}, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 300
    draw_curves({"nothing": []}, tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()


def test_a_table_of_runs():
    runs = {
        "a": [
            {"epoch": 1.0, "rank_me": 2.0, "knn": 0.5},
            {"epoch": 2.0, "rank_me": 3.0, "knn": 0.75},
        ],
        "b": [],
    }
    rows = table(runs).splitlines()
    assert rows[2].startswith("| a | 2 | 75.0% |") and rows[3].startswith("| b | not yet |")
