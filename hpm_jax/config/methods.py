"""HPM, its baselines and its ablations, each by one word; a config decides everything else."""

from typing import NamedTuple

from ml_collections import ConfigDict

from hpm_jax.errors import check_choice


class MethodRecipe(NamedTuple):
    """What a method is: its masks, and how it predicts losses."""

    strategy: str
    losses: tuple[str, ...] = ("ranking",)
    teacher: bool = True


METHODS = {
    "hpm": MethodRecipe("hard(start=0.0, end=0.5)"),
    "random": MethodRecipe("random", teacher=False),  # loss prediction alone
    "mae": MethodRecipe("random", (), teacher=False),
    "absolute": MethodRecipe("hard(start=0.0, end=0.5)", ("absolute",)),
    "random_absolute": MethodRecipe("random", ("absolute",), teacher=False),
    "easy": MethodRecipe("easy(start=0.0, end=0.5)"),
    "always_hard": MethodRecipe("hard(start=0.5, end=0.5)"),
    "hard_to_easy": MethodRecipe("hard(start=0.5, end=0.0)"),
    "grid": MethodRecipe("grid", teacher=False),
    "block": MethodRecipe("block", teacher=False),
}


def set_method(config: ConfigDict, method: str, average: str = "moving_average") -> None:
    """Sets masks, losses and teacher of a pre-training config.

    Args:
        config: changed in place.
        method: a name in `METHODS`.
        average: the teacher, for those that ask one.

    Raises:
        ConfigError: for another name.
    """
    recipe = METHODS[check_choice("method", method, METHODS)]
    config.mask.strategy = recipe.strategy
    config.losses = recipe.losses
    config.teacher = average if recipe.teacher else "none"
