"""The demo: its masks, what it shows of a photograph, and what it refuses."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from hpm_jax.demo import __main__ as command
from hpm_jax.demo.masks import hide_hard, hide_rectangle, read_mask
from hpm_jax.demo.model import DemoError, shipped_model
from hpm_jax.demo.show import explained, read_whole, show
from hpm_jax.visualize.view import VISIBLE


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A picture of a disc over a slope."""
    y, x = np.mgrid[:120, :160] / 120
    disc = (x - 0.6) ** 2 + (y - 0.5) ** 2 < 0.1
    pixels = np.stack([x / 1.4, y, np.where(disc, 0.9, 0.2)], axis=-1)
    path = tmp_path_factory.mktemp("photos") / "disc.png"
    Image.fromarray(np.uint8(255 * pixels)).save(path)
    return path


def test_hard_patches_are_those_of_the_highest_predicted_loss():
    predicted = np.arange(16.0)[None].repeat(2, 0)
    status = hide_hard(predicted, ratio=0.75, share=0.5, seed=0)
    assert (status > 0).sum(axis=1).tolist() == [12, 12]
    assert (status == 2).sum(axis=1).tolist() == [6, 6] and (status[:, 10:] == 2).all()
    assert (hide_hard(predicted, 0.75, 0.0, 0) < 2).all()
    with pytest.raises(DemoError, match=r"--ratio=1.0: mask ratio 1.0 hides 16 of 16 patches"):
        hide_hard(predicted, ratio=1.0, share=0.5, seed=0)


def test_masks_of_one_s_own(tmp_path):
    wanted = np.zeros((4, 4), np.uint8)
    wanted[1, 2] = 255
    for times in (1, 3):
        Image.fromarray(wanted.repeat(times, 0).repeat(times, 1)).save(tmp_path / "mask.png")
        status = read_mask(tmp_path / "mask.png", (4, 4), images=2)
        assert status.tolist() == (wanted > 0).astype(int).reshape(1, -1).repeat(2, 0).tolist()
    assert hide_rectangle("0.5,0,1,0.5", (4, 4), 1).reshape(4, 4).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    ("size", "message"),
    [((5, 4), r"5 x 4 pixels: expected 4 x 4, a pixel for each patch, or a multiple"), (None, "")],
)
def test_a_mask_of_another_size(tmp_path, size, message):
    path = tmp_path / "mask.png"
    if size:
        Image.new("L", size).save(path)
    else:
        path.write_bytes(b"no picture")
        message = "cannot be read as a picture"
    with pytest.raises(DemoError, match=message):
        read_mask(path, (4, 4), images=1)


@pytest.mark.parametrize("text", ["0,0,1", "0.5,0,0.5,1", "0,0,1,2", "a,b,c,d"])
def test_rectangles_that_are_none(text):
    with pytest.raises(DemoError, match="expected left,top,right,bottom as shares of the image"):
        hide_rectangle(text, (4, 4), 1)


def test_nothing_is_left_to_see():
    with pytest.raises(DemoError, match="hides 16 of 16 patches: expected at least one hidden"):
        hide_rectangle("0,0,1,1", (4, 4), 1)


def test_explained_variance():
    target = np.random.default_rng(0).normal(size=(2, 5, 3))
    mean = target.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(explained(target, target), 1)
    np.testing.assert_allclose(explained(np.broadcast_to(mean, target.shape), target), 0, atol=1e-9)


def test_what_is_shown_of_a_photograph(photo):
    demo = shipped_model()
    rows, columns = demo.model.grid[1:]
    image = np.asarray(Image.open(photo).resize(demo.data.image_size))[None]
    seen = read_whole(demo, image)
    status = hide_rectangle("0.25,0.25,0.75,0.75", (rows, columns), 1)
    found = show(demo, image, seen.predicted, status)
    assert 0 < seen.attention.sum() < 1.0001  # the cls token attends to itself, too
    assert found.view.rebuilt.shape == image.shape and np.isfinite(found.view.rebuilt).all()
    visible = found.view.status.reshape(rows, columns) == VISIBLE
    assert np.isnan(found.view.true[0][visible]).all()
    assert np.isfinite(found.view.true[0][~visible]).all()
    side = demo.data.image_size[0] // rows
    pasted = visible.repeat(side, 0).repeat(side, 1)
    np.testing.assert_allclose(found.view.rebuilt[0][pasted], image[0][pasted] / 255, atol=1e-5)
    assert 0.5 < found.interpolated[0] <= 1, "a slope is a straight line"


def test_the_command_leaves_a_picture_and_a_page(photo, tmp_path, capsys):
    out = tmp_path / "demo.png"
    command.main([str(photo), "--ratio=0.5", f"--out={out}"])
    told = capsys.readouterr().out
    assert re.search(
        r"disc +50% hidden +variance of hidden patches explained: +-?[0-9.]+% by", told
    )
    assert Image.open(out).width > 300
    page = out.with_suffix(".html").read_text()
    data = json.loads(re.search(r'id="snapshots">(.*?)</script>', page, re.DOTALL)[1])
    (frame,) = data["runs"][0]["frames"]
    assert frame["label"] == "50% hidden" and frame["items"][0]["name"] == "disc"
    assert frame["items"][0]["attention"].startswith("data:image/")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio=0.5", "--hide=0,0,0.5,0.5"], "--ratio and --hide both say what is hidden"),
        (["--hard=2"], "--hard=2.0: expected a share from 0 to 1"),
        (["--init_from=nowhere"], "nowhere is not the workdir of a run"),
    ],
)
def test_options_that_do_not_go_together(photo, options, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        command.main([str(photo), *options])


def test_a_photograph_that_is_none(tmp_path):
    (tmp_path / "a.jpg").write_text("no photograph")
    with pytest.raises(SystemExit, match=r"error: .*a\.jpg cannot be read as an image"):
        command.main([str(tmp_path / "a.jpg")])
