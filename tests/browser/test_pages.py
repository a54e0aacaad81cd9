"""The pages of runs in a real browser: what moves, what is read, and what is never asked for."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).parents[2]
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}


class Page:
    """A page as a person has it before them."""

    def __init__(self, driver, path, size=None, script=True):
        self.driver = driver
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size or DESKTOP)
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
        driver.get_log("browser"), driver.get_log("performance")  # of the page before
        driver.get(path.as_uri())

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def sources(self, kind, run=0):
        return [
            image.get_attribute("src")
            for image in self.all(f'.item[data-run="{run}"] img[data-kind="{kind}"]')
        ]

    def requests(self):
        """The addresses that the browser has asked for."""
        messages = [json.loads(x["message"])["message"] for x in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture
def page(chromium, hpm_run):
    return Page(chromium, hpm_run / "report.html")


@pytest.fixture(scope="module")
def side_by_side(hpm_run, mae_run, tmp_path_factory):
    """The page that the command of two runs writes."""
    there = tmp_path_factory.mktemp("compare")
    subprocess.run(
        [
            *(sys.executable, "-m", "hpm_jax.visualize.compare", str(hpm_run), str(mae_run)),
            *("--out", str(there / "both.png")),
        ],
        cwd=ROOT,
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    return there / "both.html"


def snapshots_of(workdir):
    return [json.loads(path.read_text()) for path in sorted(workdir.glob("pictures/*.json"))]


def test_the_slider_changes_the_pictures_by_keyboard(page, hpm_run):
    slider, label = page.one("input[type=range]"), page.one("output")
    snapshots = snapshots_of(hpm_run)
    assert len(snapshots) == 3
    last = page.sources("rebuilt")
    assert last == [item["rebuilt"] for item in snapshots[-1]["items"]]
    slider.send_keys(Keys.ARROW_LEFT)
    assert page.sources("rebuilt") == [item["rebuilt"] for item in snapshots[-2]["items"]] != last
    assert label.text.startswith(f"step {snapshots[-2]['step']} ")
    assert slider.get_attribute("aria-valuetext") == label.text
    assert page.one(".about").text == snapshots[-2]["title"]
    slider.send_keys(Keys.HOME)
    assert label.text == "step 0 · epoch 0"
    assert float(page.one("svg .now").get_attribute("x1")) == 46, "curves show where that is"


def test_the_slider_changes_the_pictures_by_pointer(page):
    slider, before = page.one("input[type=range]"), page.sources("mask")
    place = -slider.size["width"] // 2 + 4
    ActionChains(page.driver).move_to_element_with_offset(slider, place, 0).click().perform()
    assert page.one("output").text.startswith("step 0 ")
    assert page.sources("mask") != before


def test_the_steps_play(page):
    button = page.one(".controls button")
    button.click()
    assert page.one("output").text.startswith("step 0 ")
    assert button.get_attribute("aria-label") == "Pause"
    button.click()
    assert button.get_attribute("aria-label") == "Play the steps"


def test_the_numbers_of_the_patch_under_the_pointer(page, hpm_run):
    item = snapshots_of(hpm_run)[-1]["items"][1]
    rows, columns = item["grid"]
    picture = page.all('.item[data-item="1"] .picture')[1]
    for patch in (0, next(p for p in range(rows * columns) if item["true"][p] is not None)):
        row, column = divmod(patch, columns)
        x = picture.size["width"] * ((column + 0.5) / columns - 0.5)
        y = picture.size["height"] * ((row + 0.5) / rows - 0.5)
        ActionChains(page.driver).move_to_element_with_offset(picture, int(x), int(y)).perform()
        told = page.one(".readout").text
        assert told.startswith(f"image 2, row {row + 1}, column {column + 1}: ")
        assert f"predicted loss {three(page, item['predicted'][patch])} (rank" in told
        assert ("true loss" in told) == (item["true"][patch] is not None)
    assert f"true loss {three(page, item['true'][patch])} (rank" in told
    status = ("visible", "hidden", "hidden because hard")[item["status"][patch]]
    assert f": {status} ·" in told
    spots = page.all('.item[data-item="1"] .spot.on')
    assert len(spots) == 5 and len(page.all(".spot.on")) == 5
    assert abs(spots[0].rect["x"] - page.all('.item[data-item="1"] .picture')[0].rect["x"]) < (
        (column + 0.5) * spots[0].rect["width"]
    )


def three(page, value):
    return page.run("return arguments[0].toPrecision(3)", value)


def test_patches_by_keyboard(page):
    item = page.all(".item")[0]
    page.run("arguments[0].focus()", item)
    assert page.one(".readout").text.startswith("image 1, row 1, column 1: ")
    item.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert page.one(".readout").text.startswith("image 1, row 3, column 2: ")
    style = page.run("return getComputedStyle(arguments[0]).outlineStyle", item)
    assert style == "solid", "the focus is seen"


def test_patches_by_touch(chromium, hpm_run):
    page = Page(chromium, hpm_run / "report.html", PHONE)
    picture = page.one(".picture")
    page.run("arguments[0].scrollIntoView({block: 'center'})", picture)
    box = page.run(
        "const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width, b.height]",
        picture,
    )
    point = {"x": box[0] + 0.6 * box[2], "y": box[1] + 0.1 * box[3]}
    for kind, points in (("touchStart", [point]), ("touchEnd", [])):
        page.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
        )
    assert page.one(".readout").text.startswith("image 1, row 1, column 3: ")


@pytest.mark.parametrize("which", ["report", "compare"])
def test_one_file_that_asks_for_nothing(chromium, hpm_run, side_by_side, which):
    path = hpm_run / "report.html" if which == "report" else side_by_side
    page = Page(chromium, path)
    slider = page.one("input[type=range]")
    slider.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    for image in page.all("img"):
        page.run("arguments[0].scrollIntoView()", image)
        page.run("return arguments[0].decode()", image)
        assert page.run("return arguments[0].naturalWidth", image) > 0
        assert image.get_attribute("alt")
    assert page.all("img")
    errors = [line for line in page.driver.get_log("browser") if line["level"] == "SEVERE"]
    assert not errors
    asked = page.requests()
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)
    assert [url for url in asked if url.startswith("file://")] == [path.as_uri()]
    assert path.stat().st_size < 4_000_000


@pytest.mark.parametrize("which", ["report", "compare"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_fits_its_window(chromium, hpm_run, side_by_side, size, which):
    page = Page(chromium, hpm_run / "report.html" if which == "report" else side_by_side, size)
    page.run("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    page.run("document.querySelector('.item').focus()")
    assert page.run("return document.documentElement.scrollWidth") <= size["width"]
    beyond = page.run(
        """return [...document.querySelectorAll('main *')].filter((element) =>
        !element.closest('.wide') && !element.closest('svg') &&
        element.getBoundingClientRect().right > innerWidth + 1).map((x) => x.outerHTML)"""
    )
    assert not beyond


@pytest.mark.parametrize("which", ["report", "compare"])
def test_what_a_screen_reader_hears(chromium, hpm_run, side_by_side, which):
    page = Page(chromium, hpm_run / "report.html" if which == "report" else side_by_side)
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [node for node in tree if not node["ignored"]]
    # everything that the keyboard reaches, every picture and every heading
    controls = [node for node in nodes if is_focusable(node) and role(node) != "RootWebArea"]
    assert {"button", "slider", "group"} <= {role(node) for node in controls}
    pictures = [node for node in nodes if role(node) in ("image", "heading")]
    assert len(pictures) > 10
    for node in controls + pictures:
        assert node.get("name", {}).get("value", "").strip(), node
    levels = page.run(
        "return [...document.querySelectorAll('h1,h2,h3')].map((x) => Number(x.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.run("return document.documentElement.lang") == "en"


def role(node):
    return node["role"]["value"]


def is_focusable(node):
    return any(x["name"] == "focusable" and x["value"]["value"] for x in node["properties"])


def test_without_a_script_the_last_pictures_are_there(chromium, hpm_run):
    page = Page(chromium, hpm_run / "report.html", script=False)
    assert page.sources("rebuilt") == [
        item["rebuilt"] for item in snapshots_of(hpm_run)[-1]["items"]
    ]
    for image in page.all("img"):
        assert page.run("return arguments[0].naturalWidth", image) > 0
    assert not page.one(".controls").is_displayed()
    assert page.one("svg").is_displayed()


def test_light_and_dark(chromium, hpm_run):
    found = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        page = Page(chromium, hpm_run / "report.html")
        script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        found.append([brightness(color) for color in page.run(script)])
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    (light_paper, light_ink), (dark_paper, dark_ink) = found
    assert light_paper > 200 > 60 > light_ink and dark_paper < 60 < 200 < dark_ink


def brightness(color):
    parts = color.removeprefix("rgba(").removeprefix("rgb(").rstrip(")").split(",")
    return sum(map(float, parts[:3])) / 3


def test_names_of_runs_are_text(page, hpm_run):
    assert page.one("h1").text == "hpm <b>run&lt;" == hpm_run.name


def test_runs_side_by_side(chromium, side_by_side, hpm_run, mae_run):
    page = Page(chromium, side_by_side)
    assert [head.text for head in page.all(".run h3")] == [hpm_run.name, mae_run.name]
    first = snapshots_of(hpm_run)[0], snapshots_of(mae_run)[0]
    page.one("input[type=range]").send_keys(Keys.HOME)
    for run, snapshot in enumerate(first):
        assert page.sources("rebuilt", run) == [item["rebuilt"] for item in snapshot["items"]]
    page.run("document.querySelector('.item').focus()")
    told = page.one(".readout").text
    assert f"{hpm_run.name}: " in told and f"{mae_run.name}: " in told
    assert len(page.all("svg")[0].find_elements(By.TAG_NAME, "polyline")) == 2
    table = page.one("table").text
    assert hpm_run.name in table and mae_run.name in table


def test_the_slider_of_the_demo_moves_over_masks(chromium, tmp_path):
    from hpm_jax.demo import __main__ as demo

    demo.main([f"--out={tmp_path / 'demo.png'}"])
    page = Page(chromium, tmp_path / "demo.html")
    slider, label = page.one("input[type=range]"), page.one("output")
    assert page.one("input[type=range]").get_attribute("aria-label") == "Share of hidden patches"
    assert label.text == "90% hidden"
    before = page.sources("mask")
    slider.send_keys(Keys.ARROW_LEFT)
    assert label.text == "75% hidden" and page.sources("mask") != before
    assert len(page.sources("attention")) == 2
    assert all(page.run("return arguments[0].naturalWidth", x) > 0 for x in page.all("img"))
    assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
