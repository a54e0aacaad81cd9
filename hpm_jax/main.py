"""The command: `python -m hpm_jax.main --config configs/x.py --workdir runs/x`.

`--config x` names a config that comes with the package, from every folder.
"""

import sys

from hpm_jax import config_files, signals
from hpm_jax.run.allocator import choose_allocator
from hpm_jax.run.compilation_cache import has_run

if __name__ == "__main__":
    choose_allocator(first_run=not has_run(sys.argv[1:]))  # before the first thread
    signals.listen()  # before the imports, which take seconds

import os
import re
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, or name of a shipped config; then options, --config.data.path=/data/images",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0; needed without a known launcher"
)
_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Number of processes; needed without a known launcher"
)
_PROCESS = flags.DEFINE_integer(
    "process", None, "Index of this process, from 0; needed without a known launcher"
)
_JOIN_TIMEOUT = flags.DEFINE_integer("join_timeout", 300, "Seconds to wait for other processes")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that the run writes to and resumes from")


def main(argv: list[str]) -> None:
    """Checks the config and runs its task."""
    if len(argv) > 1:
        sys.exit(f"error: unexpected {' '.join(argv[1:])!r}; every option starts with --")
    for name in ("config", "workdir"):
        if flags.FLAGS[name].value is None:
            sys.exit(f"error: --{name} is missing, as in --{name} {_EXAMPLES[name]}")

    logging.set_verbosity(logging.WARNING)  # otherwise Orbax logs every file it writes
    # XLA reads its log level when it is loaded: only errors
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from hpm_jax.config import TASKS, freeze
    from hpm_jax.config.automatic import find_options
    from hpm_jax.config.inherit import inherit
    from hpm_jax.config.tasks import resolve
    from hpm_jax.errors import UserError
    from hpm_jax.run.compilation_cache import AUTO, remember, use_compilation_cache
    from hpm_jax.run.library_log import log_to_workdir
    from hpm_jax.run.lock import release_all
    from hpm_jax.run.processes import is_alone, is_main, join_processes

    failed = False
    try:
        log_to_workdir(str(_WORKDIR.value))
        join_processes(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _JOIN_TIMEOUT.value)
        given = config_flags.get_override_values(flags.FLAGS["config"])
        for line in find_options(_CONFIG.value, given, str(_WORKDIR.value)):
            if is_main():
                print(line, flush=True)
        config = freeze(inherit(_CONFIG.value))
        use_compilation_cache(config.run.compilation_cache if hasattr(config, "run") else AUTO)
        run = resolve(TASKS[config.task].run)
        code = run(config, _WORKDIR.value)
        remember(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code, failed = error.exit_code, True
    except BaseException:
        signals.end_within(signals.EXIT_SECONDS, 1)
        raise
    finally:
        release_all()
    if is_alone():
        signals.end_within(signals.EXIT_SECONDS, code)
    elif failed:  # JAX would wait five minutes for other processes, which may also have failed
        signals.end_within(3 * signals.EXIT_SECONDS, code)
    sys.exit(code)


CONFIG_BYTES = 2**24  # largest size of a config file
_EXAMPLES = {"config": "configs/quickstart.py", "workdir": "runs/quickstart"}


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; an error is printed as one sentence."""
    argv = config_files.find_all(argv)
    if {"--help", "-help", "-h"} & set(argv[1:]):
        _help(argv)
    _check_config_file(argv)
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
    except flags.Error as error:  # if a config file raised, the text contains its traceback
        lines = str(error).strip().splitlines()
        sys.exit(f"error: {lines[-1].rsplit('ConfigError: ', 1)[-1]}")
    if _CONFIG.value is not None and not isinstance(_CONFIG.value, ConfigDict):
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        sys.exit(f"error: {config_files.missing(name)}")
    return rest


def _check_config_file(argv: list[str]) -> None:
    """Exits with an error if `--config` names a pipe or a file too large for a config."""
    found = re.search(r"(?:^|\n)--?config[=\n]([^\n:]+)", "\n".join(argv[1:]))
    path = Path(found[1]) if found else None
    if path is not None and path.exists():
        from hpm_jax.errors import ConfigError
        from hpm_jax.text_files import check_size

        try:
            check_size(path, CONFIG_BYTES, ConfigError)
        except ConfigError as error:
            sys.exit(f"error: {error}")


def _help(argv: list[str]) -> None:
    """Prints usage and the options of the config's task, and exits."""
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


def start() -> None:
    """Runs the command."""
    signals.listen()
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    start()
