"""The picture of all mask strategies: which are drawn, and where."""

import numpy as np
import pytest
from PIL import Image

from hpm_jax.masking import STRATEGIES
from hpm_jax.run.load import load_run
from hpm_jax.visualize import masks

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
GREY = np.array([154, 154, 154])


def test_strategies_that_read_are_drawn_with_a_run(pretrained):
    """All but `reducible`, which keeps a network that only a run of its own has trained."""
    run = load_run(pretrained)
    seen, states = masks.readings_of(run, IMAGES), masks.states_of(run, IMAGES)
    assert states.keys() == {"group_hard"} and states["group_hard"]["weight"].sum() > 0
    drawn = masks.drawable(seen, states)
    assert drawn.keys() == STRATEGIES.keys() - {"reducible"} and next(iter(drawn)) == "random"
    reading = {name for name, plug in STRATEGIES.items() if plug.reads}
    assert masks.drawable({}, {}).keys() == STRATEGIES.keys() - reading - {"group_hard"}


def test_the_picture(tmp_path, monkeypatch):
    """Panels stand below their names, `COLUMNS` in a row; hidden patches are grey."""
    monkeypatch.setattr(masks, "SIDE", 32)
    path = tmp_path / "photo.png"
    Image.fromarray(IMAGES[0].repeat(3, axis=-1)).resize((32, 32)).save(path)
    options = ["--out", str(tmp_path / "masks.png"), "--size", "32", "--patch", "8"]
    masks.main([str(path), *options])
    sheet = np.asarray(Image.open(tmp_path / "masks.png"))
    drawn = 1 + len(masks.drawable({}, {}))
    hidden = (sheet == GREY).all(axis=-1).sum() / (8 * 8)
    assert hidden == pytest.approx(12 * (drawn - 1), rel=0.02)
