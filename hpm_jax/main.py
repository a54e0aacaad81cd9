"""The command: `python -m hpm_jax.main --config configs/x.py --workdir runs/x`."""

import os
import re
import signal
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file; single options follow, as --config.data.path=/data/images"
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where a launcher does not tell"
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are, likewise")
_PROCESS = flags.DEFINE_integer("process", None, "Which one this is, from 0, likewise")
_JOIN_TIMEOUT = flags.DEFINE_integer("join_timeout", 300, "Seconds to wait for the others")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run writes, and goes on from.")


def main(argv: list[str]) -> None:
    """Freezes the config, and runs its task."""
    if len(argv) > 1:
        sys.exit(f"error: unexpected {' '.join(argv[1:])!r}; every option starts with --")
    for name in ("config", "workdir"):
        if flags.FLAGS[name].value is None:
            sys.exit(f"error: --{name} is missing, as in --{name} {_EXAMPLES[name]}")

    logging.set_verbosity(logging.WARNING)  # else Orbax names every file it writes
    from hpm_jax.config import TASKS, freeze
    from hpm_jax.config.inherit import inherit
    from hpm_jax.config.tasks import resolve
    from hpm_jax.errors import UserError
    from hpm_jax.run.processes import join_processes

    try:
        join_processes(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _JOIN_TIMEOUT.value)
        config = freeze(inherit(_CONFIG.value))
        run = resolve(TASKS[config.task].run)
        sys.exit(run(config, _WORKDIR.value))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def end_at_once(number: int, _: object) -> None:
    """Ends the process as a shell expects: 143 for SIGTERM, 130 for Ctrl-C.

    For as long as there is nothing to save. An exception would have to find its way through
    whatever C++ code is compiling or reading, which ends some processes with a segmentation fault.
    """
    os._exit(128 + number)


_EXAMPLES = {"config": "configs/quickstart.py", "workdir": "runs/quickstart"}


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it comes out as one sentence."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        _help(argv)
    try:
        rest = flags.FLAGS(argv)
    except (
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # ml_collections: an option that does not exist
        from hpm_jax.config.moved import moved

        found = re.search(r'Did you mean "(.*?)" instead of "(.*?)"', str(error))
        if renamed := moved(argv[1:]):
            sys.exit(f"error: {renamed}")
        right, wrong = found.groups() if found else ("", error)
        hint = f": did you mean {right!r}?" if found else ", see python -m hpm_jax.options"
        sys.exit(f"error: the config has no option {wrong!s}{hint}")
    except flags.Error as error:  # where a config file raised, its traceback is part of the text
        lines = str(error).strip().splitlines()
        sys.exit(f"error: {lines[-1].rsplit('ConfigError: ', 1)[-1]}")
    if _CONFIG.value is not None and not isinstance(_CONFIG.value, ConfigDict):
        sys.exit(_no_config(config_flags.get_config_filename(flags.FLAGS["config"])))
    return rest


def _help(argv: list[str]) -> None:
    """Prints usage and the options of the config's task, and ends."""
    from hpm_jax.config.tasks import find_task
    from hpm_jax.options import of_task

    named = [word for word in argv[1:] if not word.startswith(("--help", "-h"))]
    task = "pretrain"
    if any(word.startswith("--config") for word in named):
        flags.FLAGS([argv[0], *named])
        find_task(_CONFIG.value)  # imports the modules that may register it
        task = _CONFIG.value.get("task", task)
    print(__doc__, *flags.FLAGS.module_help(sys.modules[__name__]).splitlines(), "", sep="\n")
    print(*of_task(task), sep="\n")
    sys.exit(0)


def _no_config(name: str) -> str:
    """The message for a config file that is not there."""
    from hpm_jax.errors import nearest

    path = Path(name.split(":")[0])
    choices = [str(file) for file in sorted(path.parent.glob("*.py"))]
    return f"error: there is no config file {path}{nearest(str(path), choices)}"


def start() -> None:
    """The command."""
    # a container's first process would otherwise ignore SIGTERM
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_at_once)
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    start()
