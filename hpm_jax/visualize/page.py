"""A page that is one file: style, script and pictures are inside, and nothing is ever fetched."""

import html
import importlib.resources
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# a browser refuses whatever is not in the file
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Number(NamedTuple):
    """A key number: what it is, its value, and what it has to beat."""

    title: str
    value: str
    beside: str = ""


def page(title: str, body: Iterable[str], snapshots: Any = None) -> str:
    """The text of an HTML file.

    Args:
        body: elements, already escaped, that begin with the `<h1>`.
        snapshots: what `page.js` reads; None for a page without pictures over steps.
    """
    script = ""
    if snapshots is not None:
        # no text in it can end the element, or begin a comment
        data = json.dumps(snapshots, separators=(",", ":")).replace("<", "\\u003c")
        script = f'<script type="application/json" id="snapshots">{data}</script>\n'
        script += f"<script>{asset('page.js')}</script>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{asset('page.css')}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(body) + f"\n</main>\n{script}</body>\n</html>\n"
    )


def asset(name: str) -> str:
    """The text of a file of this package."""
    return (importlib.resources.files(__package__) / name).read_text()


def section(title: str, *elements: str) -> str:
    """A `<section>` with a heading; "" where there is nothing in it."""
    inside = "\n".join(element for element in elements if element)
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{inside}\n</section>" if inside else ""


def paragraph(text: str, kind: str = "") -> str:
    """A `<p>`; "" for no text."""
    return f"<p{_class(kind)}>{html.escape(text)}</p>" if text else ""


def bullets(lines: Sequence[str], kind: str = "") -> str:
    """A `<ul>`; "" for no lines."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul{_class(kind)}>{items}</ul>" if lines else ""


def code(text: str) -> str:
    """A `<pre>`; "" for no text."""
    return f"<pre>{html.escape(text)}</pre>" if text else ""


def folded(title: str, *elements: str) -> str:
    """`<details>` under a line; "" where there is nothing in it."""
    inside = "\n".join(element for element in elements if element)
    return (
        f"<details>\n<summary>{html.escape(title)}</summary>\n{inside}\n</details>"
        if inside
        else ""
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,), kind: str = ""
) -> str:
    """A `<table>` that scrolls by itself where it is too wide; "" for no rows.

    Args:
        words: the columns of text, which stand at the left; the first column names its row.
    """
    if not rows:
        return ""

    def cells(texts: Sequence[str], head: bool) -> str:
        found = []
        for column, text in enumerate(texts):
            tag = "th" if head or not column else "td"
            scope = f' scope="{"col" if head else "row"}"' if tag == "th" else ""
            word = _class("word" if column in words else "")
            found.append(f"<{tag}{scope}{word}>{html.escape(text)}</{tag}>")
        return f"<tr>{''.join(found)}</tr>"

    body = "".join(cells(row, False) for row in rows)
    # a region that scrolls has to be reached by the keyboard
    label = html.escape("Table: " + ", ".join(filter(None, heads)), quote=True)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}">'
        f"<table{_class(kind)}><thead>{cells(heads, True)}</thead><tbody>{body}</tbody></table>"
        "</div>"
    )


def key_numbers(numbers: Sequence[Number]) -> str:
    """The numbers that matter, large; "" for none."""
    cells = []
    for number in numbers:
        title, value, beside = map(html.escape, number)
        below = f'<dd class="beside">{beside}</dd>' if beside else ""
        cells.append(f'<div><dt>{title}</dt><dd class="value">{value}</dd>{below}</div>')
    return f'<dl class="numbers">{"".join(cells)}</dl>' if cells else ""


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
