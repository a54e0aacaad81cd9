"""The command: `python -m hpm_jax.main --config configs/quickstart.py --workdir runs/quickstart`."""

import difflib
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file; single options follow as --config.data.path=..."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run writes, and goes on from.")


def main(argv: list[str]) -> None:
    """Freezes the config, and runs its task."""
    if len(argv) > 1:
        sys.exit(f"error: unexpected {' '.join(argv[1:])!r}; every option starts with --")
    for name in ("config", "workdir"):
        if flags.FLAGS[name].value is None:
            sys.exit(f"error: --{name} is missing; see --help")

    from hpm_jax.config import ConfigError, freeze
    from hpm_jax.data.sources import DataError
    from hpm_jax.tasks.pretrain import pretrain
    from hpm_jax.training.checkpoints import CheckpointError
    from hpm_jax.training.journal import TrainingDiverged

    try:
        sys.exit(pretrain(freeze(_CONFIG.value), _WORKDIR.value))
    except (ConfigError, DataError, CheckpointError, TrainingDiverged) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
