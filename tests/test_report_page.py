"""The page of a run: its snapshots, its curves, its tables, and how it reports damage."""

import json
import re

import jax
import numpy as np
import pytest
from small import MAE, parts_of, schedule, small_config

from hpm_jax.run.workdir import open_workdir
from hpm_jax.visualize import charts, gallery
from hpm_jax.visualize.report import write_report
from hpm_jax.visualize.report_page import main, measured, report_page
from hpm_jax.visualize.snapshot import read_snapshots, snapshot
from hpm_jax.visualize.view import HARD, HIDDEN, VISIBLE, View, make_view


def snapshot_of(config, step=3):
    parts = parts_of(config)
    images = parts.images[:2]
    view = jax.jit(make_view(parts.model, parts.method))(parts.state, images, schedule(6))
    view = jax.tree.map(np.asarray, view)
    return view, json.loads(snapshot(images, view, step, step / 2, "a title", "a note"))


def workdir_of(folder, config, steps=(0, 3)):
    """A workdir with snapshots and numbers, as a run leaves it."""
    workdir = open_workdir(folder / "run", config)
    lines = []
    for step in steps:
        _, found = snapshot_of(config, step)
        (workdir / "pictures" / f"step_{step:07d}.json").write_text(json.dumps(found))
        lines.append({"step": step, "epoch": step / 2, "knn": 0.5 + step / 100, "rank_me": 2.0})
    lines[0] |= {"raw_pixels/knn": 0.9}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    return workdir


def data_of(page):
    """What the script of a page reads."""
    return json.loads(re.search(r'id="snapshots">(.*?)</script>', page, re.DOTALL)[1])


def test_a_snapshot_has_the_numbers_of_its_view():
    view, found = snapshot_of(small_config())
    assert (found["step"], found["epoch"], found["title"]) == (3, 1.5, "a title")
    assert [item["name"] for item in found["items"]] == ["image 1", "image 2"]
    for index, item in enumerate(found["items"]):
        assert item["grid"] == [4, 4]
        assert item["status"] == view.status[index].ravel().tolist()
        assert {VISIBLE, HIDDEN, HARD} == set(item["status"])
        np.testing.assert_allclose(item["predicted"], view.predicted[index].ravel(), rtol=1e-3)
        hidden = view.status[index].ravel() != VISIBLE
        assert [value is not None for value in item["true"]] == hidden.tolist()
        true = [value for value in item["true"] if value is not None]
        np.testing.assert_allclose(true, view.true[index].ravel()[hidden], rtol=1e-3)


def test_a_snapshot_of_a_clip_has_some_of_its_frames():
    shape = (2, 6, 2, 3)  # clips, slots of two frames, rows, columns
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 12, 4, 6, 3), dtype=np.uint8)
    status = rng.integers(0, 2, shape)
    true = np.where(status, rng.random(shape), np.nan)
    view = View(images / np.float32(255), status, None, true)
    items = json.loads(snapshot(images, view, 0, 0.0, "", ""))["items"]
    assert [item["name"] for item in items[:4]] == [
        f"clip 1, frame {frame}" for frame in (1, 5, 7, 11)
    ]
    assert len(items) == 8 and items[5]["status"] == status[1, 2].ravel().tolist()
    assert all(item["predicted"] is None and item["grid"] == [2, 3] for item in items)


def test_a_large_picture_is_made_smaller():
    images = np.zeros((1, 64, 512, 3), np.uint8)
    view = View(images / 255, np.zeros((1, 4, 32), int), None, np.full((1, 4, 32), np.nan))
    uri = json.loads(snapshot(images, view, 0, 0.0, "", ""))["items"][0]["input"]
    assert uri.startswith("data:image/webp;base64,") and len(uri) < 2000


def test_the_page_of_a_run(tmp_path):
    config = small_config()
    workdir = workdir_of(tmp_path, config)
    facts = ["run: 4 epochs", "Warning: the <labels> are all the same"]
    write_report(workdir, "python -m hpm_jax.main --config x.py", facts, "How to read it.")
    page = (workdir / "report.html").read_text()
    assert '<p class="lead">Pre-training: 4 epochs</p>' in page
    assert '<ul class="warnings"><li>the &lt;labels&gt; are all the same</li></ul>' in page
    assert "raw pixels 90.0% · random weights 50.0%" in page and "53.0%" in page
    assert "How to read it." in page and "--config x.py" in page
    assert '<th scope="row" class="word">model.width</th><td class="word">16</td>' in page
    assert f'<td class="word">{jax.__version__}</td>' in page
    data = data_of(page)
    assert data["steps"] == [0, 3]
    assert (
        data["runs"][0]["frames"][1]["items"][0]["status"]
        == (snapshot_of(config)[1]["items"][0]["status"])
    )
    again = report_page(workdir)
    assert again == page, "it can be made again"
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith("data:")


def test_without_a_loss_predictor_there_is_no_such_panel(tmp_path):
    page = report_page(workdir_of(tmp_path, small_config(**MAE)))
    assert "true loss" in page and ">predicted loss<" not in page


def test_damaged_snapshots_are_named_and_left_out(tmp_path):
    workdir = workdir_of(tmp_path, small_config(), steps=(0, 3, 6))
    pictures = workdir / "pictures"
    (pictures / "step_0000003.json").write_text('{"step": 3')
    found = json.loads((pictures / "step_0000006.json").read_text())
    found["items"][0]["status"].pop()
    (pictures / "step_0000006.json").write_text(json.dumps(found))
    said = []
    assert [one["step"] for one in read_snapshots(workdir, said.append)] == [0]
    assert "step_0000003.json is damaged" in said[0] and "not whole" in said[1]
    page = report_page(workdir)
    assert "step_0000006.json has an item that is not whole" in page
    assert data_of(page)["steps"] == [0]


def test_a_run_that_has_measured_nothing(tmp_path):
    workdir = open_workdir(tmp_path / "run", small_config())
    page = report_page(workdir)
    assert "Nothing has been measured." in page and 'id="snapshots"' not in page
    with pytest.raises(SystemExit, match=r"error: .* it has no config\.json"):
        main([str(tmp_path)])


def test_many_steps_are_thinned_to_a_size():
    _, found = snapshot_of(small_config())
    found["items"][0]["rebuilt"] = "data:image/png;base64," + "A" * 10_000
    many = [found | {"step": step} for step in range(100)]
    kept = [one["step"] for one in gallery.thin(many, 500_000)]
    assert kept[0] == 0 and kept[-1] == 99 and 20 < len(kept) < 50
    assert len(gallery.thin(many[:3], 10**9)) == 3
    elements, _ = gallery.gallery({"run": many * 10})
    assert any("not in this file" in element for element in elements)


def test_the_end_of_a_script_cannot_be_written_into_it(tmp_path):
    workdir = workdir_of(tmp_path, small_config())
    path = workdir / "pictures" / "step_0000003.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"title": "</script><b>"}))
    page = report_page(workdir)
    assert data_of(page)["runs"][0]["frames"][1]["title"] == "</script><b>"
    assert "</script><b>" not in page


def test_curves_are_where_their_numbers_are():
    lines = [{"epoch": float(e), "knn": 0.2 + 0.02 * e, "rank_me": float("nan")} for e in range(11)]
    figures = charts.charts({"a": lines, "b": [*lines[:3], {"epoch": 3.0, "knn": "?"}]})
    assert len(figures) == 1, "what is not finite is no curve"
    lines = re.findall(r'<polyline class="(s\d)" points="([^"]*)"', figures[0])
    assert [color for color, _ in lines] == ["s0", "s1"]
    points = [tuple(map(float, point.split(","))) for point in lines[0][1].split()]
    assert len(points) == 11 and len(lines[1][1].split()) == 3
    assert points[0][0] == charts.LEFT and points[-1][0] == charts.WIDTH - charts.RIGHT
    assert np.allclose(np.diff(np.array(points), axis=0), [30.2, -14.9], atol=0.2)
    assert "a: 20.0% at epoch 0, 40.0% at epoch 10." in figures[0]


@pytest.mark.parametrize(
    "low, high", [(0.0, 1.0), (0.5, 0.5), (0.0, 0.0), (-3.0, 1e6), (99.1, 99.2)]
)
def test_ticks_cover_their_range(low, high):
    found = charts.ticks(low, high, 4)
    assert 2 <= len(found) <= 7 and found == sorted(set(found))
    margin = 1e-6 * max(1.0, abs(high))
    assert found[0] <= low + margin and found[-1] >= high - margin


def test_long_curves_are_averaged():
    found = charts.points_of([{"epoch": e, "knn": 1.0} for e in range(10_000)], "knn")
    assert len(found) == charts.POINTS and found[0][0] < found[-1][0] < 10_000


def test_numbers_of_a_report_stand_beside_their_baselines():
    rows = [
        {"probe": "baselines", "title": "raw pixels, kNN, k = 20", "accuracy": 0.9},
        {"probe": "knn", "title": "kNN, k = 10", "accuracy": 0.5},
        {"probe": "knn", "title": "kNN, k = 20", "accuracy": 0.6},
        {"probe": "linear", "title": "linear probe", "accuracy": 0.7},
    ]
    found = [tuple(number) for number in measured(rows)]
    assert found == [
        ("kNN, k = 20", "60.00%", "raw pixels 90.00%"),
        ("linear probe", "70.00%", ""),
    ]
