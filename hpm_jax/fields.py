"""An option: a field of a frozen dataclass with its default, a line of help and its bounds.

Options of tasks (`hpm_jax/config`) and of plugs (`hpm_jax/plugs.py`) are declared alike.
"""

import dataclasses
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from hpm_jax.errors import ConfigError, check_choice, nearest


class Bounds(NamedTuple):
    """What a value, or each value of a tuple, may be."""

    low: float | None = None  # the least
    high: float | None = None  # the greatest
    above: float | None = None  # less than every value
    below: float | None = None  # greater than every value
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As a person reads it: "from 0 to 1", "above 0", "pixel or tube"; "" for anything."""
        if self.choices:
            return " or ".join(choice or "''" for choice in self.choices)
        parts = []
        for word, bound in zip(("from", "to", "above", "below"), self[:4], strict=True):
            if bound is not None:
                parts.append(f"{word} {bound:g}")
        order = {"from": 0, "above": 0, "to": 1, "below": 1}
        return " ".join(sorted(parts, key=lambda part: order[part.split()[0]]))

    def holds(self, value: float) -> bool:
        """Whether a number is inside."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] = (),
    changes_result: bool = True,
) -> Any:
    """A dataclass field that says what it is and what it may be.

    Args:
        default: its value where none is given.
        help: one line for a person.
        low, high: the least and the greatest value.
        above, below: bounds that are not values themselves.
        choices: the strings that there are; none allows any.
        changes_result: whether what a run computes depends on it. Where it does not, a run may be
            resumed with another value.
    """
    metadata = {
        "help": help,
        "bounds": Bounds(low, high, above, below, tuple(choices)),
        "changes_result": changes_result,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def share(default: Any, help: str) -> Any:
    """An option from 0 to 1."""
    return option(default, help, low=0, high=1)


def positive(default: Any, help: str) -> Any:
    """An option above 0: of whole numbers, from 1."""
    return option(default, help, above=0)


def build(kind: type, values: Mapping[str, Any], path: str) -> Any:
    """An instance of the dataclass `kind` from names and values, each converted and checked.

    Args:
        path: what the options are called in messages, such as "config.mask".

    Raises:
        ConfigError: for an unknown name, or a value of the wrong type or beyond its bounds.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    built = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{path}.{key} does not exist{nearest(key, fields)}")
        if value is None:  # to be inherited, and nothing there to inherit from: the default
            continue
        bounds = fields[key].metadata.get("bounds", ANY)
        built[key] = convert(fields[key].type, value, f"{path}.{key}", bounds)
    return kind(**built)


ANY = Bounds()


def convert(kind: Any, value: Any, path: str, bounds: Bounds = ANY) -> Any:
    """`value` as a `kind`, or an error that names what was expected.

    Raises:
        ConfigError: see `build`.
    """
    if hasattr(kind, "parse_call"):
        return kind.parse_call(value, path)
    if dataclasses.is_dataclass(kind):
        if not hasattr(value, "items"):
            names = ", ".join(field.name for field in dataclasses.fields(kind))
            raise ConfigError(f"{path} = {value!r}: expected options, {names}")
        return build(typing.cast(type, kind), value, path)
    if typing.get_origin(kind) is tuple:
        return _tuple(typing.get_args(kind), value, path, bounds)
    if typing.get_origin(kind) is Mapping:
        if not hasattr(value, "items"):
            raise ConfigError(f"{path} = {value!r}: expected options by name")
        return as_dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{path} = {value!r}: expected {kind.__name__}")
    if bounds.choices:
        return check_choice(path, value, bounds.choices)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{path} = {value}: expected a finite number {bounds}".rstrip())
        if not bounds.holds(value):
            raise ConfigError(f"{path} = {value}: expected a number {bounds}")
    return value


def _tuple(items: tuple[Any, ...], value: Any, path: str, bounds: Bounds) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"{path} = {value!r}: expected a tuple")
    value = tuple(value)
    if items[-1] is Ellipsis:
        items = items[:1] * len(value)
    if len(items) != len(value):
        raise ConfigError(f"{path} = {value!r}: expected {len(items)} values")
    return tuple(convert(item, part, path, bounds) for item, part in zip(items, value, strict=True))


def as_dict(options: Any) -> Any:
    """Options as dicts of what JSON can hold; the inverse of `build`. Plugs become their calls."""
    if hasattr(options, "call"):
        return options.call
    if dataclasses.is_dataclass(options):
        names = [field.name for field in dataclasses.fields(options)]
        return {name: as_dict(getattr(options, name)) for name in names}
    if isinstance(options, tuple):
        return tuple(as_dict(item) for item in options)
    if hasattr(options, "items"):
        return {name: as_dict(value) for name, value in options.items()}
    return options


def short(options: Any) -> Any:
    """As `as_dict`, with the calls of plugs as short as they can be."""
    if hasattr(options, "call"):
        return str(options)
    if dataclasses.is_dataclass(options):
        return {f.name: short(getattr(options, f.name)) for f in dataclasses.fields(options)}
    if hasattr(options, "items"):
        return {name: short(value) for name, value in options.items()}
    return tuple(map(short, options)) if isinstance(options, tuple) else options


def result_options(options: Any, prefix: str = "") -> dict[str, Any]:
    """The options that a result depends on, as `as_dict` gives them, by name with dots."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        if not field.metadata.get("changes_result", True):
            continue
        name, value = prefix + field.name, getattr(options, field.name)
        if dataclasses.is_dataclass(value) and not hasattr(value, "call"):
            found |= result_options(value, f"{name}.")
        else:
            found[name] = as_dict(value)
    return found


class Described(NamedTuple):
    """One option as a person reads it."""

    name: str  # with dots, such as "mask.ratio"
    kind: str
    default: str
    bounds: str
    help: str


def describe(kind: type, prefix: str = "") -> Iterator[Described]:
    """Every option of a dataclass, those of its sections included, in order."""
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if dataclasses.is_dataclass(field.type) and not hasattr(field.type, "parse_call"):
            # the section's own class, whose defaults its owner may have changed
            default = field.default
            for one in describe(typing.cast(type, field.type), f"{name}."):
                leaf = default
                for part in one.name.removeprefix(f"{name}.").split("."):
                    leaf = getattr(leaf, part)
                yield one._replace(default=_shown(leaf))
            continue
        bounds, help = field.metadata.get("bounds", ANY), field.metadata.get("help", "")
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        yield Described(name, _kind(field.type), _shown(default), str(bounds), help)


def _shown(value: Any) -> str:
    return repr(short(value))


def _kind(kind: Any) -> str:
    if hasattr(kind, "parse_call"):
        return kind.kind
    if typing.get_origin(kind) is tuple:
        items = ["..." if item is Ellipsis else _kind(item) for item in typing.get_args(kind)]
        return f"({', '.join(items)})"
    if typing.get_origin(kind) is Mapping:
        return "options by name"
    return kind.__name__
