"""Options: fields of frozen dataclasses with a default, a line of help and bounds.

Tasks (`hpm_jax/config`) and plugs (`hpm_jax/plugs.py`) declare their options in the same way.
"""

import dataclasses
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from hpm_jax.errors import ConfigError, check_choice, nearest


class Bounds(NamedTuple):
    """The bounds of a value, or of each value of a tuple."""

    low: float | None = None  # inclusive
    high: float | None = None  # inclusive
    above: float | None = None  # exclusive lower bound
    below: float | None = None  # exclusive upper bound
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The bounds in words: "from 0 to 1", "above 0", "pixel or tube"; "" for no bounds."""
        if self.choices:
            return " or ".join(choice or "''" for choice in self.choices)
        parts = []
        for word, bound in zip(("from", "to", "above", "below"), self[:4], strict=True):
            if bound is not None:
                parts.append(f"{word} {bound if isinstance(bound, int) else f'{bound:g}'}")
        order = {"from": 0, "above": 0, "to": 1, "below": 1}
        return " ".join(sorted(parts, key=lambda part: order[part.split()[0]]))

    def holds(self, value: float) -> bool:
        """Whether a number is within the bounds."""
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
    """Returns a dataclass field with a help text and bounds.

    Args:
        default: the value if none is given.
        help: one line of help.
        low, high: inclusive bounds.
        above, below: exclusive bounds.
        choices: the allowed strings; () allows any.
        changes_result: whether the result of a run depends on the option. If not, a run may be
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
    """Returns an option from 0 to 1."""
    return option(default, help, low=0, high=1)


def positive(default: Any, help: str, high: float = 10**9) -> Any:
    """Returns an option above 0 (an integer option: from 1), up to `high`."""
    return option(default, help, above=0, high=high)


def build(kind: type, values: Mapping[str, Any], path: str) -> Any:
    """Returns an instance of the dataclass `kind` from names and values, converted and checked.

    Args:
        path: name of the options in messages, such as "config.mask".

    Raises:
        ConfigError: for an unknown name, or a value of the wrong type or outside its bounds.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    built = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{path}.{key} does not exist{nearest(key, fields)}")
        if value is None:  # an inherited option with nothing to inherit from: the default
            continue
        bounds = fields[key].metadata.get("bounds", ANY)
        built[key] = convert(fields[key].type, value, f"{path}.{key}", bounds)
    return kind(**built)


ANY = Bounds()
LARGEST_WHOLE = 2**64


def convert(kind: Any, value: Any, path: str, bounds: Bounds = ANY) -> Any:
    """Returns `value` converted to `kind`.

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
    if type(value) is int and kind in (int, float) and abs(value) > LARGEST_WHOLE:
        bits = value.bit_length()  # its digits would fill the screen, and it may exceed a float
        raise ConfigError(f"{path} = a number of {bits} bits: expected a number {bounds}".rstrip())
    if kind is float and type(value) is int:
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
    """Returns options as dicts that JSON can hold; the inverse of `build`. Plugs become calls."""
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
    """Returns the same as `as_dict`, with plug calls shortened to options that are not defaults."""
    if hasattr(options, "call"):
        return str(options)
    if dataclasses.is_dataclass(options):
        return {f.name: short(getattr(options, f.name)) for f in dataclasses.fields(options)}
    if hasattr(options, "items"):
        return {name: short(value) for name, value in options.items()}
    return tuple(map(short, options)) if isinstance(options, tuple) else options


def result_options(options: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the options that a result depends on, as in `as_dict`, by dotted name."""
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
    """One option, formatted for a table."""

    name: str  # dotted, such as "mask.ratio"
    kind: str
    default: str
    bounds: str
    help: str


def describe(kind: type, prefix: str = "") -> Iterator[Described]:
    """Yields every option of a dataclass in order, including those of its sections."""
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if dataclasses.is_dataclass(field.type) and not hasattr(field.type, "parse_call"):
            # the section's own class; its owner may override the defaults
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
