"""Compares HPM with the full teacher, cheaper teachers, and no teacher.

    python -m hpm_jax.compare --config configs/compare_teacher.py --workdir runs/compare_teacher \
        --config.base.data.source=folder --config.base.data.path=/data/cifar10

The setting is that of configs/compare_cifar10.py. Arms: the teacher sees the whole image in every
step (`whole`), parts of it so that each patch is predicted while it is hidden (`parts`), every
fourth step, with each batch used four times (`every_4`), or there is none and masks are random
(`random`).

Variant `cheaper`, with contrasts of its own: the teacher computes in a smaller dtype (`bfloat16`,
`int8`), or sees a random half of the patches (`half`) or as many as the student (`visible`, and in
int8 `visible_int8`); beside `whole` and `random`. Fine-tuning is no measure of it, as it costs as
much as a cell; --config.measures names it beside the others.

Expected: docs/results.md has the results of three seeds, and of four of `cheaper`, in which
`bfloat16` and `visible_int8` have not been run.
"""

import importlib.util
from pathlib import Path

import ml_collections

from hpm_jax.config import check_choice
from hpm_jax.config.compare import WITHOUT_FINETUNING

TEACHERS = {
    "whole": "moving_average(start=0.99, end=0.99)",
    "parts": "moving_average(start=0.99, end=0.99, view='parts')",
    "every_4": "moving_average(start=0.99, end=0.99, every_steps=4)",
}
CHEAPER = {
    "whole": TEACHERS["whole"],
    "bfloat16": "moving_average(start=0.99, end=0.99, dtype='bfloat16')",
    "int8": "moving_average(start=0.99, end=0.99, dtype='int8')",
    "half": "moving_average(start=0.99, end=0.99, view='half')",
    "visible": "moving_average(start=0.99, end=0.99, view='visible')",
    "visible_int8": "moving_average(start=0.99, end=0.99, view='visible', dtype='int8')",
}
CONTRASTS = (
    "parts > whole: a patch is judged better while it is hidden",
    "whole > every_4: a fresh look is worth its price",
    "whole > random: hard patches beat random ones",
)
CHEAPER_CONTRASTS = (
    "whole > int8: a teacher in 8 bits costs accuracy",
    "visible > whole: a teacher that sees as few patches as the student is better",
    "visible > half: fewer visible patches are closer to training",
    "visible > random: hard patches of this teacher beat random ones",
)
# by variant: teachers, contrasts and the folder of the cells
FAMILIES = {
    "": (TEACHERS, CONTRASTS, "results/compare_teacher"),
    "cheaper": (CHEAPER, CHEAPER_CONTRASTS, "results/compare_cheaper_teachers"),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the comparison; `variant` is the text after the colon: nothing, or "cheaper"."""
    teachers, contrasts, results = FAMILIES[check_choice("variant", variant, FAMILIES)]
    config = _beside("compare_cifar10").get_config()
    hard = {"mask": {"strategy": "hard(start=0.0, end=0.5, schedule='step')"}}
    hard["losses"] = ("ranking",)
    arms = {name: hard | {"teacher": teacher} for name, teacher in teachers.items()}
    arms["random"] = {"mask": {"strategy": "random"}, "losses": ("ranking",), "teacher": "none"}
    del config.arms
    config.arms = arms
    config.order = tuple(arms)
    config.contrasts = contrasts
    config.results = results
    if variant == "cheaper":
        config.measures = WITHOUT_FINETUNING
    return config


def _beside(name: str):
    """Imports the config file of that name in this folder."""
    place = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
