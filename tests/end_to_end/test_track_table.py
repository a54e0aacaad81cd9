"""Label propagation as a task: one table, with raw pixels and a copy of the first frame."""

import json

from PIL import Image
from test_track import options, write_clips

from hpm_jax.config import freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.tasks.track import track


def test_one_table(pretrained, tmp_path, tmp_path_factory):
    """Raw pixels are perfect features here: squares keep their texture and move by patches."""
    root = write_clips(tmp_path_factory.mktemp("davis"))
    config = freeze(inherit(options(pretrained, root)))
    assert config.data.mean == (0.5,) and config.data.channels == 1
    assert track(config, tmp_path) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["measured"]
    titles = ["student weights, block 1", "random weights, block 1", "raw pixels"]
    assert [row["encoder"] for row in rows] == [*titles, "first frame, copied"]
    perfect, copy = rows[2], rows[3]
    assert perfect["region"] > 0.9 and perfect["boundary"] > 0.95, perfect
    assert perfect["region_recall"] == perfect["boundary_recall"] == 1
    assert copy["region"] < 0.6 * perfect["region"]
    assert "| first frame, copied |" in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "Objects followed by frozen patches" in page and "What it predicts" in page
    with Image.open(tmp_path / "pictures" / "step_0000000.png") as png:
        assert min(png.size) > 100
    before = (tmp_path / "report.json").read_text()
    assert track(config, tmp_path) == 0
    assert (tmp_path / "report.json").read_text() == before
