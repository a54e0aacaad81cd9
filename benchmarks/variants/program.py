"""What a program that XLA compiled for a TPU costs, read from its text.

`cost_analysis` counts the body of a loop once, however often it runs. Here every instruction counts
as often as it runs: a scan of 12 blocks costs 12 blocks. Cycles are the compiler's own estimate for
each fusion; kernels of Pallas have none. Traffic is what instructions read from and write to the
memory outside the chip's cores; what stays in the memory beside them (space 1) is free.
"""

import functools
import math
import re
from typing import NamedTuple

BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "s8": 1, "u8": 1, "pred": 1}
FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "copy-done")
FREE += ("slice-done", "after-all", "opt-barrier", "iota", "partition-id")


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    result: str  # its type, as in "bf16[16,197]{1,0:T(8,128)}"
    kind: str
    arguments: str  # in parentheses
    rest: str

    @property
    def operands(self) -> list[str]:
        """The names of the arguments."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    @property
    def number(self) -> int:
        """Of a constant its value, of a parameter its place; 0 for anything else."""
        found = re.fullmatch(r"\((\d+)\)", self.arguments)
        return int(found[1]) if found else 0

    def called(self, attribute: str) -> str:
        """The computation that an attribute names."""
        return re.search(rf"{attribute}=%([\w.\-]+)", self.rest)[1]


class Cost(NamedTuple):
    """Of one run of a program, on one device."""

    cycles: int
    traffic: int  # bytes

    def times(self, count: int) -> "Cost":
        """The cost of `count` runs."""
        return Cost(self.cycles * count, self.traffic * count)

    def plus(self, other: "Cost") -> "Cost":
        """The cost of one run of both."""
        return Cost(self.cycles + other.cycles, self.traffic + other.traffic)


def program_cost(text: str) -> Cost:
    """Cost of the whole program, from `compiled.as_text()`; of two branches the dearer counts."""
    computations, entry = read(text)

    @functools.cache
    def cost(name: str) -> Cost:
        total, types = Cost(0, 0), {i.name: i.result for i in computations[name]}
        for step in computations[name]:
            if step.kind == "while":
                limits = [i.number for i in computations[step.called("condition")]]
                total = total.plus(cost(step.called("body")).times(max(limits)))
            elif step.kind == "conditional":
                names = re.search(r"(?:branch_computations=\{|true_comp)[^}]*", step.rest)[0]
                branches = [cost(name) for name in re.findall(r"%([\w.\-]+)", names)]
                total = total.plus(max(branches))
            elif step.kind == "call":
                total = total.plus(cost(step.called("to_apply")))
            elif step.kind not in FREE:
                cycles = re.search(r'"estimated_cycles":"(\d+)"', step.rest)
                moved = _traffic(step, types, computations)
                total = total.plus(Cost(int(cycles[1]) if cycles else 0, moved))
        return total

    return cost(entry)


def read(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a program by name, and the name of the one that it begins with."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        opened = re.match(r"(ENTRY )?%([\w.\-]+) .*\{$", line)
        if opened:
            current = computations[opened[2]] = []
            entry = opened[2] if opened[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            name, definition = line.strip().removeprefix("ROOT ").split(" = ", 1)
            result, definition = _first(definition)
            kind, definition = definition.lstrip().split("(", 1)
            arguments, rest = _first("(" + definition)
            current.append(Instruction(name.lstrip("%"), result, kind, arguments, rest))
    return computations, entry


def _first(text: str) -> tuple[str, str]:
    """A type, or what stands in parentheses, and what comes after it."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        closed = letter == ")" and text[0] == "("
        if depth == 0 and (closed or letter == " "):
            return text[: place + closed], text[place + 1 :]
    return text, ""


def size(kind: str) -> int:
    """Bytes of a type in the memory outside the cores."""
    total = 0
    for dtype, shape, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?", kind):
        if dtype in BYTES and "S(" not in layout:
            total += BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    return total


def _whole(kind: str) -> str:
    return re.sub(r"S\(\d+\)", "", kind)


def _traffic(step: Instruction, types: dict[str, str], computations: dict) -> int:
    if step.kind in ("copy-start", "slice-start", "async-start"):
        # (destination, source, ...): one of them is outside
        return size(_whole(_first(step.result[1:])[0]))
    if step.kind != "fusion":
        return size(step.result) + sum(size(types.get(name, "")) for name in step.operands)
    inner = computations[step.called("calls")]
    named = {i.name: i for i in inner}
    inputs = sorted((i for i in inner if i.kind == "parameter"), key=lambda i: i.number)
    moved = 0
    for name, parameter in zip(step.operands, inputs, strict=True):
        outside = size(types.get(name, ""))
        users = [i for i in inner if parameter.name in i.operands]
        if outside and users and all(u.kind in ("dynamic-slice", "slice") for u in users):
            outside = sum(size(_whole(u.result)) for u in users)
        elif outside and users and all(_updates(u, parameter) for u in users):
            outside = 0
        moved += outside
    last = inner[-1]
    parts = [named[name] for name in last.operands] if last.kind == "tuple" else [last]
    kinds = _split_tuple(step.result)
    for kind, part in zip(kinds, parts, strict=True):
        while part.kind == "bitcast":
            part = named[part.operands[0]]
        if part.kind == "dynamic-update-slice" and size(kind):
            moved += size(_whole(named[part.operands[1]].result))
        else:
            moved += size(kind)
    return moved


def _updates(user: Instruction, parameter: Instruction) -> bool:
    return user.kind == "dynamic-update-slice" and user.operands[0] == parameter.name


def _split_tuple(kind: str) -> list[str]:
    return re.findall(r"\w+\[[\d,]*\](?:\{[^{}]*\})?", kind) if kind[0] == "(" else [kind]
