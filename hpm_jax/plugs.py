"""Plugs: parts of the method that a config names by a call, such as `"block(scale=(0.1, 0.3))"`.

A plug is a frozen dataclass. Its fields are its options (`hpm_jax/fields.py`). It may have trained
parameters, frozen weights and a state. A family of plugs is a subclass of `Plug` with a `kind`;
`register` adds a class to its family under a name.
"""

import ast
import dataclasses
import importlib
import math
import typing
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from jax import Array

from hpm_jax.errors import ConfigError, nearest
from hpm_jax.fields import build
from hpm_jax.tokens import Grid, Mask, Tokenizer


class Setting(NamedTuple):
    """The facts of a run that are available to a plug before training starts."""

    tokenizer: Tokenizer
    grid: Grid  # of patches
    hidden: int  # number of hidden patches per image, M
    width: int  # of the encoder, D
    features_width: int = 0  # of the teacher's features; 0 for that of the encoder
    target_width: int = 0  # values of the target of one patch; 0 where the target itself is asked
    sizes: Any = None  # of the model's decoders, `hpm_jax.models.decoders.Sizes`, for terms

    @property
    def patches(self) -> int:
        """Number of patches per image, L."""
        return math.prod(self.grid)

    @property
    def visible(self) -> int:
        """Number of visible patches per image, K."""
        return self.patches - self.hidden


class OwnOptimizer(NamedTuple):
    """AdamW for the parameters of one plug, apart from that of the run."""

    rate: float  # its learning rate over that of the run, whose schedule it follows
    b1: float
    b2: float
    weight_decay: float


class Plug:
    """Base class of all plugs; a family of plugs is a subclass with a `kind`.

    Every method is optional: the defaults return None and add nothing to a run.
    """

    kind: ClassVar[str] = "plug"  # name of the family in messages
    plugs: ClassVar[dict[str, type["Plug"]]] = {}  # the family's members by name
    name: ClassVar[str] = ""
    optimizer: OwnOptimizer | None = None  # of its trained parameters; None for that of the run

    def check(self, config: Any) -> None:
        """Raises a `ConfigError` if the plug is incompatible with the rest of a config."""

    def load(self, setting: Setting) -> Any:
        """Returns frozen weights, a tree of arrays: `state.frozen[slot]`, not in checkpoints."""

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns trained parameters, a tree of float32: `state.params["terms"][slot]`.

        Weight decay applies to those named "kernel".
        """

    def init_state(self, params: Any, setting: Setting) -> Any:
        """Returns the initial state, a tree of arrays: `state.plugs[slot]`, in every checkpoint.

        Args:
            params: the student's initial parameters.
        """

    def update_state(self, state: Any, params: Any, observed: Any) -> Any:
        """Returns the state after a step, from the new parameters and the result of `observe`."""
        return state

    def draw(self, key: Array, mask: Mask) -> Any:
        """Returns the random numbers of a step, a tree of `[B, ...]`, drawn for the whole batch."""

    def observe(self, outputs: Any) -> Any:
        """Returns the input of `update_state`: means over the batch, without gradient.

        Args:
            outputs: an `Outputs`; see `hpm_jax/losses/term.py`.
        """

    def step_flops(self, setting: Setting) -> float:
        """Returns the operations of its networks in a training step, per mask of an image.

        Matrix products count, as in `hpm_jax/models/flops.py`; those of a head are three forward
        passes. What depends on the other images of a batch, and is small, is left out.
        """
        return 0.0

    def __init_subclass__(cls, kind: str = "", **rest: Any):
        super().__init_subclass__(**rest)
        if kind:
            cls.kind, cls.plugs = kind, {}

    @classmethod
    def parse_call(cls, call: Any, path: str) -> Self:
        """Returns the plug of `name` or `name(option=value, ...)`, parsed, never executed.

        Args:
            call: a string, or a plug of this family.
            path: name of the option in messages.

        Raises:
            ConfigError: for a malformed call, an unknown name or option, or an invalid value.
        """
        if isinstance(call, cls):
            return call
        name, values = _parts(call, path, cls.kind)
        if name not in cls.plugs:
            raise ConfigError(
                f"{path} = {call!r}: there is no {cls.kind} {name!r}{nearest(name, cls.plugs)}"
            )
        return typing.cast(Self, build(cls.plugs[name], values, f"{path}: {name}"))

    @property
    def call(self) -> str:
        """The call with all its options; `parse_call` restores the plug from it."""
        fields = dataclasses.fields(typing.cast(Any, self))
        options = [f"{field.name}={getattr(self, field.name)!r}" for field in fields]
        return f"{self.name}({', '.join(options)})" if options else self.name

    def __str__(self) -> str:
        """The call with the options that are not at their defaults."""
        fields = dataclasses.fields(typing.cast(Any, self))
        values = [(field.name, getattr(self, field.name), field.default) for field in fields]
        options = [f"{name}={value!r}" for name, value, default in values if value != default]
        return f"{self.name}({', '.join(options)})" if options else self.name


P = TypeVar("P", bound=type)


@typing.dataclass_transform(frozen_default=True)
def register(name: str, *aliases: str) -> Callable[[P], P]:
    """Makes a class a frozen dataclass and adds it to its family as `name` and `aliases`."""

    def add(cls: P) -> P:
        made: Any = dataclasses.dataclass(frozen=True, repr=False)(cls)
        made.name = name
        for each in (name, *aliases):
            there = made.plugs.get(each)
            # a module that is imported again, as in a notebook, may replace its own plugs
            if there and (there.__module__, there.__name__) != (cls.__module__, cls.__name__):
                raise ValueError(f"{each!r} is the {made.kind} {there.__module__}.{there.__name__}")
            made.plugs[each] = made
        return made

    return add


def import_modules(names: Iterable[str]) -> None:
    """Imports the user's own modules, which register plugs.

    Raises:
        ConfigError: for a module that cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the module raises
            raise ConfigError(
                f"config.modules has {name!r}, which cannot be imported "
                f"({type(error).__name__}: {error}): expected the name of a module on PYTHONPATH, "
                "as in --config.modules=\"('my_masks',)\""
            ) from error


def _parts(call: Any, path: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Returns name and options of a call, by Python's own parser."""
    expected = f"expected a {kind}, as 'name' or 'name(option=value)'"
    if not isinstance(call, str):
        raise ConfigError(f"{path} = {call!r}: {expected}")
    try:
        tree = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"{path} = {call!r}: {expected}") from None
    if isinstance(tree, ast.Name):
        return tree.id, {}
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise ConfigError(f"{path} = {call!r}: {expected}")
    if tree.args or any(keyword.arg is None for keyword in tree.keywords):
        raise ConfigError(f"{path} = {call!r}: give options by name, as in 'name(option=value)'")
    values = {}
    for keyword in tree.keywords:
        try:
            values[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise ConfigError(
                f"{path} = {call!r}: the value of {keyword.arg} is no literal, and nothing in a "
                "config is executed: expected a number, a string, True, False or a tuple"
            ) from None
    return tree.func.id, values
