"""HPM, its baselines and its ablations by name; they set masks, losses and teacher of a config."""

from typing import NamedTuple

from ml_collections import ConfigDict

from hpm_jax.errors import check_choice


class MethodRecipe(NamedTuple):
    """The masks of a method, and how it predicts losses."""

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


TARGETS = ("pixels", "features")


def set_method(config: ConfigDict, method: str, average: str = "moving_average") -> None:
    """Sets masks, losses and teacher of a pre-training config.

    Args:
        config: changed in place.
        method: a name in `METHODS`.
        average: the teacher, for methods that use one.

    Raises:
        ConfigError: for an unknown name.
    """
    recipe = METHODS[check_choice("method", method, METHODS)]
    config.mask.strategy = recipe.strategy
    config.losses = recipe.losses
    config.teacher = average if recipe.teacher else "none"


def set_target(config: ConfigDict, target: str, average: str = "moving_average") -> None:
    """Replaces the target of a pre-training config by features of the teacher, if asked to.

    Args:
        config: changed in place, after `set_method`.
        target: a name in `TARGETS`; with "pixels" nothing changes.
        average: the teacher, which every method has then.

    Raises:
        ConfigError: for another name.
    """
    if check_choice("target", target, TARGETS) == "features":
        config.target, config.objective = "teacher_features", "cosine"
        config.teacher = average
