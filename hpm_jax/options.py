"""Lists options and plugs with defaults, bounds and help.

    python -m hpm_jax.options            # options of pre-training, and its plugs
    python -m hpm_jax.options finetune   # another task: finetune, probe, report, evaluate
    python -m hpm_jax.options hard       # one plug
    python -m hpm_jax.options pretrain --modules my_masks,my_targets,my_tasks

`python -m hpm_jax.main --help` shows the same.
"""

import argparse
import dataclasses
import inspect
import typing
from collections.abc import Iterator

from hpm_jax.config import TASKS
from hpm_jax.errors import check_choice, one_sentence
from hpm_jax.fields import Described, describe
from hpm_jax.losses import Objective, Term
from hpm_jax.masking import Strategy
from hpm_jax.models.decoders import Decoder
from hpm_jax.models.segment_decoders import SegmentDecoder
from hpm_jax.plugs import Plug, import_modules
from hpm_jax.regularizers import Regularizer
from hpm_jax.targets import Target
from hpm_jax.teachers import Teacher

FAMILIES: tuple[type[Plug], ...] = (
    *(Strategy, Target, Objective, Decoder, Term, Teacher),
    Regularizer,
    SegmentDecoder,
)


def plugs() -> dict[str, type[Plug]]:
    """Every plug by its name, without aliases."""
    return {plug.name: plug for family in FAMILIES for plug in family.plugs.values()}


def of_task(task: str) -> Iterator[str]:
    """The lines that describe a task and the plugs that its options can name."""
    yield f"Options of {task}, as --config.NAME=VALUE:"
    options = TASKS[task].options
    yield from _table(describe(options))
    named = plug_families(options)
    for family in (family for family in FAMILIES if family in named):
        yield ""
        yield f"Each {family.kind}, as 'name' or 'name(option=value)':"
        for name in dict.fromkeys(plug.name for plug in family.plugs.values()):
            yield from of_plug(name)


def plug_families(options: type) -> set[type[Plug]]:
    """The families of plugs that options can name."""
    found: set[type[Plug]] = set()
    for field in dataclasses.fields(options):
        for kind in (field.type, *typing.get_args(field.type)):  # a plug, or a tuple of them
            if hasattr(kind, "parse_call"):
                found.add(kind)
            elif dataclasses.is_dataclass(kind):
                found |= plug_families(typing.cast(type, kind))
    return found


def of_plug(name: str) -> Iterator[str]:
    """The lines that describe a plug."""
    plug = plugs()[name]
    yield f"  {name}: {(inspect.getdoc(plug) or '').splitlines()[0]}"
    yield from (f"  {line}" for line in _table(describe(plug)))


def _table(rows: Iterator[Described]) -> Iterator[str]:
    for row in rows:
        bounds = f"  [{row.bounds}]" if row.bounds else ""
        yield f"  {row.name} = {row.default}{bounds}  {row.help}"


def main(argv: list[str] | None = None) -> None:
    """Prints the options of a task or of a plug."""
    parser = argparse.ArgumentParser(prog="python -m hpm_jax.options", description=__doc__)
    parser.add_argument("what", nargs="?", default="pretrain", help="name of a task or a plug")
    parser.add_argument(
        "--modules", default="", help="your own modules to import, separated by commas"
    )
    options = parser.parse_args(argv)
    with one_sentence():
        import_modules(filter(None, options.modules.split(",")))
        if options.what not in TASKS:
            check_choice("what", options.what, (*TASKS, *plugs()))
    lines = of_task(options.what) if options.what in TASKS else of_plug(options.what)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
