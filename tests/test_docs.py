"""Commands, links and anchors of the README, the pages of docs/ and the configs' docstrings."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        ROOT / "launch" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
GENERATED = {  # by docs/hooks/site.py
    ROOT / "docs" / "reference" / "options.md",
    ROOT / "docs" / "repository" / "launch" / "colab.ipynb.md",
}


def texts():
    """Pages and configs, each command in one line."""
    for path in (*PAGES, *CONFIGS):
        yield re.sub(r"\s*\\\n\s*", " ", path.read_text())


def commands():
    """Every `python -m hpm_jax.main --config configs/...`, as its words."""
    for text in texts():
        for line in re.findall(r"python -m hpm_jax\.main (--config configs/[^`\n]+)", text):
            # the shell fills in variables, and modules are of the reader
            if "$" not in line and "config.modules" not in line:
                yield line.strip()


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_parse(command, monkeypatch):
    from absl import flags
    from ml_collections import config_flags

    from hpm_jax.config import freeze

    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    words = shlex.split(command)
    words[1] = str(ROOT / words[1])
    monkeypatch.setattr("sys.argv", ["main", *words])  # where overrides are looked for
    assert values(["main", *words]) == ["main"], "nothing is left over"
    assert values.workdir.startswith(("runs/", "/shared/runs/", "gs://bucket/runs/"))
    freeze(values.config)


def test_configs_that_are_named_exist():
    for text in texts():
        for name in re.findall(r"configs/\w+\.py", text):
            assert (ROOT / name).exists(), name


def modules():
    """Every module that a command names."""
    name = re.compile(r"-m ((?:hpm_jax|benchmarks)(?:\.[a-z_]+)+)")
    return sorted({found for text in texts() for found in name.findall(text)})


@pytest.mark.parametrize("name", modules())
def test_modules_that_are_named_exist(name):
    path = ROOT.joinpath(*name.split("."))
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def anchors(path):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", without_fences(path.read_text()), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[ \-]+", "-", heading) for heading in plain}


def without_fences(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", without_fences(page.read_text()).replace("\n", " ")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() or target in GENERATED, link
        assert not anchor or anchor in anchors(target), link


def test_every_config_is_in_the_table():
    table = (ROOT / "docs" / "recipes.md").read_text()
    for path in CONFIGS:
        assert f"| [{path.stem}](../configs/{path.name}) |" in table


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    named = {
        page
        for section in yaml.safe_load(text)["nav"]
        for pages in section.values()
        for page in ([pages] if isinstance(pages, str) else (p for e in pages for p in e.values()))
    }
    there = {
        str(path.relative_to(ROOT / "docs")) for path in PAGES if ROOT / "docs" in path.parents
    }
    assert named == there | {str(path.relative_to(ROOT / "docs")) for path in GENERATED}


def hook():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "hooks" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_has_copies_of_what_pages_link_to():
    site = hook()
    assert site.relink("[a](../launch/README.md)", "launching.md") == (
        "[a](repository/launch/README.md)"
    )
    assert site.relink("[a](../../hpm_jax/plugs.py)", "reference/run.md") == (
        "[a](../repository/hpm_jax/plugs.py.md)"
    )
    assert site.relink("[a](../masks.md#x)", "reference/run.md") == "[a](../masks.md#x)"
    assert site.relink("[a](data.md)", "launching.md") == "[a](data.md)"


def test_links_show_the_titles_of_pages():
    site = hook()
    assert site.titles("see [masks.md](masks.md#cost).", "video.md") == (
        "see [Mask strategies](masks.md#cost)."
    )
    assert site.titles("[masks.md](../masks.md)", "reference/run.md") == (
        "[Mask strategies](../masks.md)"
    )
    assert site.titles("[the masks](masks.md)", "video.md") == "[the masks](masks.md)"


def test_the_page_of_options_has_every_option():
    text = hook().options()
    assert "| `config.optimizer.batch_size` |" in text or "| `optimizer.batch_size` |" in text
    assert "### `hard`" in text and "## Task `finetune`" in text
