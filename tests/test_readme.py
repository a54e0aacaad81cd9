"""The README's words, held against the code; tests/test_docs.py does so for all pages."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

from hpm_jax.masking import Context, Strategy, select
from hpm_jax.tokens import Tokenizer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_two_lines_come_first():
    lines = [line.strip() for line in README.splitlines() if line.strip()]
    assert lines[1].startswith("![") and lines[2].startswith("pip install")
    assert lines[3] == "pip install -r requirements.txt && python -m pytest"
    assert lines[3] in (ROOT / ".ci" / "run").read_text()


def test_it_is_short():
    assert len(README.split()) < 1800


def test_every_page_has_a_place():
    table = README[README.index("## Where to go") :]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md", "style.md"}
    missing = sorted(page for page in pages if f"(docs/{page})" not in table)
    assert not missing, "the table of the README leads to every page"


def test_the_numbers_of_the_quick_start_stand_between_marks():
    between = README.split("<!-- quickstart -->")[1].split("<!-- /quickstart -->")[0]
    rows = [line.split("|")[1].strip() for line in between.splitlines() if line.startswith("|")]
    assert "variance" in rows[2] and len(rows) >= 6  # it leads


def test_the_example_strategy():
    source = next(x for x in re.findall(r"```python\n(.+?)```", README, re.S) if "Strategy" in x)
    exec(source, {"__name__": "my_masks"})
    patches = jax.random.normal(jax.random.key(0), (2, 16, 4)).at[:, 3].mul(100.0)
    tokenizer = Tokenizer((1, 2, 2), (0.0,), (1.0,))
    context = Context(patches, (1, 4, 4), tokenizer, hidden=12, n_hard=jnp.int32(0))
    strategy = Strategy.parse_call("contrast(noise=0.5)", "config.mask.strategy")
    mask = select(strategy.scores(jax.random.key(1), context), 12)
    assert mask.hide.shape == (2, 12) and (mask.hide == 3).any(axis=1).all()
    del Strategy.plugs["contrast"]
