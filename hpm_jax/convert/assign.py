"""Assigns weights to a model that may differ: matched, new and dropped parameters."""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from hpm_jax.convert.weights import WeightsError
from hpm_jax.step.state import Params

LISTED = 8  # number of names listed in a message


class Matching(NamedTuple):
    """Parameters by name, such as "encoder/cls_token"."""

    matched: list[str]  # in both
    new: list[str]  # only in the model: they keep their initialisation
    dropped: list[str]  # only in the weights

    def sentence(self, source: str) -> str:
        """Returns a summary in one line."""
        text = f"weights from {source}: {len(self.matched)} parameters matched"
        for title, names in (("new", self.new), ("dropped", self.dropped)):
            text += f"; {title}: {_parts(names, self.matched)}" if names else ""
        return text


def assign(
    shapes: Params, given: Params, new: Collection[str] = (), dropped: Collection[str] = ()
) -> tuple[Params, Matching]:
    """Returns the part of `given` that fits a model, for `overlay` on its initial parameters.

    Args:
        shapes: the model's parameters, or their shapes.
        given: numpy arrays.
        new: parts that may be missing from the weights, such as "head" or "encoder/positions".
        dropped: parts of the weights that may be unused.

    Raises:
        WeightsError: for a shape that differs, or unexpected missing or unused parameters, so that
            no part silently starts from random weights.
    """
    wanted, there = _flat(shapes), _flat(given)
    differing = [
        f"{name}: found {np.shape(there[name])}, expected {wanted[name].shape}"
        for name in wanted
        if name in there and np.shape(there[name]) != wanted[name].shape
    ]
    if differing:
        raise WeightsError("the weights are of another size than the model:\n" + _list(differing))
    matching = Matching(
        matched=[name for name in wanted if name in there],
        new=[name for name in wanted if name not in there],
        dropped=[name for name in there if name not in wanted],
    )
    holes = [
        f"{name}: found nothing, expected {wanted[name].shape}"
        for name in _outside(matching.new, new)
    ]
    if holes:
        raise WeightsError("the weights lack what the model needs:\n" + _list(holes))
    leftovers = [
        f"{name}: found {np.shape(there[name])}, expected nothing"
        for name in _outside(matching.dropped, dropped)
    ]
    if leftovers:
        raise WeightsError("the weights have what the model does not:\n" + _list(leftovers))
    start: dict[str, Any] = {}
    for name in matching.matched:
        node = start
        *parents, last = name.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = there[name]
    return start, matching


def overlay(params: Params, start: Params) -> Params:
    """Returns `params` with the leaves of `start`."""
    if not isinstance(start, dict):
        return start
    return params | {name: overlay(params[name], part) for name, part in start.items()}


def _flat(params: Params) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(part.key for part in path): leaf for path, leaf in leaves}


def _outside(names: list[str], parts: Collection[str]) -> list[str]:
    return [n for n in names if not any(n == part or n.startswith(f"{part}/") for part in parts)]


def _parts(names: list[str], matched: list[str]) -> str:
    """Shortens names to parts of two levels, or of more where some of a part has matched."""

    def part(name: str) -> str:
        levels = name.split("/")
        for count in range(2, len(levels)):
            start = "/".join(levels[:count])
            if not any(other.startswith(f"{start}/") for other in matched):
                return start
        return name

    return ", ".join(dict.fromkeys(map(part, names)))


def _list(lines: list[str]) -> str:
    more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "\n".join([*(f"  {line}" for line in lines[:LISTED]), *more])
