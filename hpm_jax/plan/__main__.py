"""Plans a run before renting hardware: compiles the real step for chips that are not present.

python -m hpm_jax.plan --config configs/hpm_in1k.py:B --topology v5e:4x4
python -m hpm_jax.plan --config configs/hpm_in1k.py:B --topology h100:8 --choose
python -m hpm_jax.plan --config configs/segment_ade20k.py:decoder=upernet --images 20210
"""

import os
import sys

from absl import app, flags

from hpm_jax.plan.machines import NO_DEVICES

os.environ |= NO_DEVICES  # before a config file imports jax

from hpm_jax.main import parse

flags.DEFINE_string("topology", "v5e:4x4", "TPU slice or GPUs, such as v4:2x2x4 or h100:8")
flags.DEFINE_float("mfu", 0.4, "MFU that is assumed for the time", 0.01, 1)
flags.DEFINE_integer("images", 1_281_167, "Number of training images; default: ImageNet's", 1)
flags.DEFINE_integer("compiles", 5, "Largest number of compilations of --largest", 1)
flags.DEFINE_bool(
    "choose", False, "Whether to compile other attention and unrolled blocks, and plan the best"
)
flags.DEFINE_bool("largest", False, "Whether to search the largest batch that fits, by compiling")


def main(argv: list[str]) -> None:
    """Prints the plan, or what to change; exits with 1 if the step does not fit."""
    from hpm_jax.config import freeze
    from hpm_jax.errors import one_sentence
    from hpm_jax.plan.advice import advice
    from hpm_jax.plan.choice import choose
    from hpm_jax.plan.compiled import make_plan
    from hpm_jax.plan.largest import about, search
    from hpm_jax.plan.machines import check_described, devices_of, machine
    from hpm_jax.plan.table import table
    from hpm_jax.run.prepared import PREPARED

    def show(line: str) -> None:
        print(line, flush=True)

    options = flags.FLAGS
    if len(argv) > 1:
        sys.exit(f"error: unexpected {' '.join(argv[1:])!r}; every option starts with --")
    if options.config is None:
        sys.exit("error: --config is missing, as in --config configs/hpm_in1k.py:L")
    task = options.config.get("task", "pretrain")
    if task not in PREPARED:
        sys.exit(
            f"error: config.task = {task!r} cannot be planned; expected a config of pre-training, "
            "such as configs/hpm_in1k.py:L, of segmentation, or of detection"
        )
    if task != "pretrain" and not options.config.init_from:
        options.config.init_from = "a plan reads no weights"
    with one_sentence():
        config = freeze(options.config)
        chosen = machine(options.topology)
        devices = devices_of(chosen)
        if options.choose:
            check_described(chosen, devices)
            config, plan = choose(config, chosen, lambda c: make_plan(c, chosen, devices), show)
        else:
            plan = make_plan(config, chosen, devices)
        print(table(plan, config, chosen, options.mfu, options.images), flush=True)
        if task == "detect":  # batches and advice are estimated for pre-training alone
            if not plan.fits:
                print("it does not fit: more devices, --config.model.remat=full or accumulation")
            sys.exit(not plan.fits)
        if options.largest and chosen.chip.tpu:
            found = search(config, plan, lambda c: make_plan(c, chosen, devices), options.compiles)
            print(f"{'largest batch':<18} {found}")
        else:
            print(f"{'largest batch':<18} about {about(config, plan)} (arithmetic)")
        if not plan.fits:
            print(advice(config, plan, gpu=not chosen.chip.tpu))
            sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
