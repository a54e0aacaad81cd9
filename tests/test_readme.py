"""The README's words, held against the code."""

import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from hpm_jax.masking import Context, Strategy, select
from hpm_jax.tokens import Tokenizer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONFIGS = [path.read_text() for path in sorted((ROOT / "configs").glob("*.py"))]


def commands():
    """Every `python -m hpm_jax.main ...` of the README and of the configs' docstrings."""
    for text in (README, *CONFIGS):
        joined = re.sub(r"\s*\\\n\s*", " ", text)
        yield from re.findall(r"python -m hpm_jax\.main (--config .+)", joined)


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
    assert values.workdir.startswith("runs/")
    freeze(values.config)


def test_the_two_lines_come_first():
    lines = [line.strip() for line in README.splitlines() if line.strip()]
    assert lines[1].startswith("![") and lines[2].startswith("pip install")
    assert lines[3] == "pip install -r requirements.txt && python -m pytest"
    assert lines[3] in (ROOT / ".ci" / "run").read_text()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_every_config_is_in_the_table():
    for path in (ROOT / "configs").glob("*.py"):
        assert f"| [{path.stem}](configs/{path.name}) |" in README


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
