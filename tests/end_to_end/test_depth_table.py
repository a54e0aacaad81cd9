"""The depth probe as a task: one table, with raw pixels and the mean depth."""

import json

from PIL import Image
from test_depth import options, write_rooms

from hpm_jax.config import freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.tasks.depth_probe import depth_probe


def test_one_table(pretrained, tmp_path, tmp_path_factory):
    root = write_rooms(tmp_path_factory.mktemp("rooms"))
    config = freeze(inherit(options(pretrained, root)))
    assert depth_probe(config, tmp_path) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["measured"]
    titles = ["mean depth", "student weights, block 1", "random weights, block 1", "raw pixels"]
    assert [row["encoder"] for row in rows] == titles
    by_title = {row["encoder"]: row for row in rows}
    assert by_title["raw pixels"]["rmse"] < 0.6 * by_title["mean depth"]["rmse"]
    assert 0 < by_title["raw pixels"]["delta1"] <= by_title["raw pixels"]["delta2"] <= 1
    assert "| mean depth | no image |" in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "Depth from frozen patches" in page and "What it predicts" in page
    with Image.open(tmp_path / "pictures" / "step_0000000.png") as png:
        assert min(png.size) > 100
    before = (tmp_path / "report.json").read_text()
    assert depth_probe(config, tmp_path) == 0
    assert (tmp_path / "report.json").read_text() == before
