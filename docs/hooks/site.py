"""What the site has besides the pages of docs/: every option, and the files that pages link to.

`mkdocs build` imports this file (`hooks` in mkdocs.yml).

- `reference/options.md` is written from the options themselves, as `python -m hpm_jax.options` is.
- A link whose text is the name of a page gets the title of that page.
- A link to a file of the repository outside docs/ leads to a page with its text, so that the site
  is complete on a machine without the repository.
"""

import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")
PICTURES = (".png", ".gif", ".jpg")
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".json": "json"}
MOST_LETTERS = 200_000  # of a file that is shown
QUIET = "---\nsearch:\n  exclude: true\n---\n\n"  # source texts would drown the pages in a search


def outside(page: str, target: str) -> str | None:
    """The path in the repository that a page of docs/ links to, or None for one inside docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith(("docs/", "..")) else path


def address(path: str) -> str:
    """Where the site has a file of the repository, below docs/: a picture or a page."""
    if (ROOT / path).is_dir():
        path = posixpath.join(path, "README.md")
    if path.endswith((*PICTURES, ".md")):
        return posixpath.join("repository", path)
    return posixpath.join("repository", path + ".md")


def titles(markdown: str, page: str) -> str:
    """`[masks.md](masks.md)` becomes `[Mask strategies](masks.md)`."""

    def replace(found: re.Match[str]) -> str:
        path = ROOT / "docs" / posixpath.dirname(page) / found[1]
        first = path.read_text().partition("\n")[0] if path.exists() else ""
        return f"[{first[2:]}]{found[2]}" if first.startswith("# ") else found[0]

    return re.sub(r"\[[\w/]+\.md\](?=\(([\w/.]+\.md))(\([^)]*\))", replace, markdown)


def relink(markdown: str, page: str) -> str:
    """Links to files outside docs/ become links to their copies."""

    def replace(found: re.Match[str]) -> str:
        path = outside(page, found[2])
        if path is None:
            return found[0]
        target = posixpath.relpath(address(path), posixpath.dirname(page) or ".")
        return f"{found[1]}{target}{found[3] or ''})"

    return LINK.sub(replace, markdown)


def listing(path: str) -> str:
    """A page about a folder without README.md, or a file that is no page."""
    found = ROOT / path
    if found.is_dir():
        names = sorted(x.name + "/" * x.is_dir() for x in found.iterdir() if x.name[0] not in "._")
        return f"{QUIET}# {path}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    if path.endswith(".ipynb"):
        return notebook(found)
    text = found.read_text()[:MOST_LETTERS]
    fence = "`" * 6
    return f"{QUIET}# {path}\n\n{fence}{LANGUAGES.get(found.suffix, 'text')}\n{text}\n{fence}\n"


def notebook(path: Path) -> str:
    """A notebook as a page: its text, and its code in blocks."""
    cells = json.loads(path.read_text())["cells"]
    texts = ("".join(cell["source"]) for cell in cells)
    code = (cell["cell_type"] == "code" for cell in cells)
    parts = (
        f"```python\n{x}\n```" if is_code else x for x, is_code in zip(texts, code, strict=True)
    )
    return plain("\n\n".join(parts)) + "\n"


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages before anything is rendered."""
    files.append(File.generated(config, "reference/options.md", content=options()))
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for found in LINK.finditer(page.content_string):
            path = outside(page.src_uri, found[2])
            if path is not None:
                add(files, config, path)
    return files


def add(files: Files, config: Any, path: str) -> None:
    """One file of the repository, once."""
    where = address(path)
    if files.get_file_from_path(where) is not None:
        return
    source = ROOT / path / "README.md" if (ROOT / path).is_dir() else ROOT / path
    if path.endswith(PICTURES):
        files.append(File.generated(config, where, abs_src_path=str(source)))
    elif source.suffix == ".md" and source.exists():
        text = source.read_text()
        files.append(File.generated(config, where, content=QUIET + plain(text)))
    else:
        files.append(File.generated(config, where, content=listing(path)))


def plain(markdown: str) -> str:
    """The text of another folder's page: its relative links would lead nowhere here."""
    markdown = re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]*\)", r"\1", markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called for every page."""
    if page.file.src_uri.startswith("repository/"):
        return markdown
    return relink(titles(markdown, page.file.src_uri), page.file.src_uri)


def options() -> str:
    """Every option of every task, and every plug, as Markdown."""
    sys.path.insert(0, str(ROOT))
    from hpm_jax.config import TASKS
    from hpm_jax.fields import describe
    from hpm_jax.options import FAMILIES

    lines = [
        "# Options",
        "",
        "`python -m hpm_jax.options` prints the same. Each option is set as `--config.NAME=VALUE`.",
    ]
    for name, task in TASKS.items():
        lines += ["", f"## Task `{name}`", "", *table(describe(task.options))]
    for family in FAMILIES:
        heading = family.kind[0].upper() + family.kind[1:]
        lines += ["", f"## {heading}", "", "Named as `name` or `name(option=value)`."]
        for name, plug in {plug.name: plug for plug in family.plugs.values()}.items():
            first = (plug.__doc__ or "").strip().splitlines()[0]
            lines += ["", f"### `{name}`", "", cell(first), "", *table(describe(plug))]
    return "\n".join(lines) + "\n"


def table(rows: Any) -> list[str]:
    """Rows of `hpm_jax.fields.describe`; nothing for none."""
    lines = [
        f"| `{row.name}` | `{row.default}` | {cell(str(row.bounds or ''))} | {cell(row.help)} |"
        for row in rows
    ]
    return ["| option | default | bounds | |", "| --- | --- | --- | --- |", *lines] if lines else []


def cell(text: str) -> str:
    """Text that a table can hold."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
