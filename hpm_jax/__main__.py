"""The command `hpm-jax`, also available as `python -m hpm_jax`.

    hpm-jax --config quickstart --workdir runs/quickstart
    hpm-jax convert runs/quickstart vit.safetensors

Without the name of a command it trains. Each command is a module: `hpm-jax plan ...` is
`python -m hpm_jax.plan ...`, and `hpm-jax plan --help` prints its options.
"""

import runpy
import sys

from hpm_jax.errors import nearest

COMMANDS = {  # name: the module, and what it does
    "train": ("main", "runs a config: pre-training, fine-tuning, probes, reports (the default)"),
    "demo": ("demo", "hard patches of a photograph, by a small model that ships"),
    "compare": ("compare", "arms x seeds of a config, with statistics"),
    "curves": ("visualize.compare", "curves and a table of several runs"),
    "masks": ("visualize.masks", "pictures of masks"),
    "attention": ("visualize.attention", "attention of the cls token over photographs"),
    "components": ("visualize.features", "principal components of patch features"),
    "inspect": ("data.inspect", "what a data set holds, and a setting for it"),
    "statistics": ("data.statistics", "mean and standard deviation of a data set"),
    "plan": ("plan", "memory and hours of a config on TPUs and GPUs that are not here"),
    "benchmark": ("benchmark", "how fast a config trains here"),
    "options": ("options", "every option and plug, with defaults and bounds"),
    "store": ("data.store", "makes the images of a data set small, once"),
    "embed": ("embed", "features of images or videos, in one file"),
    "convert": ("convert", "weights in and out"),
    "continue-official": ("continue_official", "a workdir from an official checkpoint"),
}


def main() -> None:
    """Runs the module of the command, as `python -m` does."""
    words = sys.argv[1:]
    if not words:
        print(__doc__, *_listed(), sep="\n")
        return
    name = "train"
    if not words[0].startswith("-"):
        name = words.pop(0)
        if name not in COMMANDS:
            sys.exit(f"error: no command {name!r}{nearest(name, COMMANDS)}")
    elif words[0] in ("-h", "--help"):
        print(*_listed(), "", sep="\n", flush=True)
    sys.argv[1:] = words
    runpy.run_module(f"hpm_jax.{COMMANDS[name][0]}", run_name="__main__", alter_sys=True)


def _listed() -> list[str]:
    return ["Commands:", *(f"  {name:18} {does}" for name, (_, does) in COMMANDS.items())]


if __name__ == "__main__":
    main()
