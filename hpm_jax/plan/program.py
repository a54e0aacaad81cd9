"""What a compiled program does in a step, read from its text, every loop as often as it runs.

XLA's own count takes the body of a loop once, and here nearly all work is in loops over blocks.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "token": 0}  # all others have theirs in their names
# they name what is there already, or lead to what is counted by itself
UNCOUNTED = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "opt-barrier", "while", "conditional", "call"),
}
SLICES = {"dynamic-slice", "slice", "gather", "slice-start"}


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    shape: str  # of the result, as XLA writes it
    kind: str
    operands: tuple[str, ...]  # names
    line: str
    root: bool  # whether it is what its computation gives


Computation = dict[str, Instruction]
Program = dict[str, Computation]


class Work(NamedTuple):
    """What one device does in one run of a program."""

    traffic: int  # bytes read from memory and written to it; not what stays on the chip
    collectives: dict[str, tuple[int, int]]  # how many of each kind, and bytes of their results
    cycles: int = 0  # the compiler's own estimate; 0 where it gives none, as for kernels of Pallas


def work(text: str) -> Work:
    """Adds up a program, given as `compiled.as_text()`."""
    program, entry = read(text)
    traffic = cycles = 0
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, times in runs(program, entry).items():
        lines = program[name]
        traffic += times * sum(_traffic(x, lines, program) for x in lines.values())
        cycles += times * sum(_cycles(x) for x in lines.values())
        for kind, size in _collectives(lines, program).values():
            counts[kind] += times
            sizes[kind] += times * size
    return Work(traffic, {kind: (counts[kind], sizes[kind]) for kind in counts}, cycles)


def read(text: str) -> tuple[Program, str]:
    """The computations of a program by name, and the name of the one that calls the others."""
    program: Program = {}
    entry, lines = "", {}
    for line in text.splitlines():
        opened = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if opened:
            lines = program[opened[2]] = {}
            entry = opened[2] if opened[1] else entry
            continue
        found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(([^)]*)", line)
        if found:
            root, name, shape, kind, operands = found.groups()
            names = tuple(re.findall(r"%([\w.\-]+)", operands))
            lines[name] = Instruction(name, shape, kind, names, line, bool(root))
    return program, entry


def runs(program: Program, entry: str) -> Counter[str]:
    """How often each computation runs; a loop multiplies, and of a choice all branches count."""
    times: Counter[str] = Counter()

    def enter(name: str, count: int) -> None:
        times[name] += count
        for x in program[name].values():
            if x.kind == "while":
                enter(_called(x, "body")[0], count * trips(x, program))
            elif x.kind in ("conditional", "call"):
                for called in _called(x, r"(?:\w+_computations?|to_apply)"):
                    enter(called, count)

    enter(entry, 1)
    return times


def trips(loop: Instruction, program: Program) -> int:
    """How often a loop runs: as XLA noted, or what its counter, from 0, is compared with."""
    noted = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line)
    if noted:
        return int(noted[1])
    condition = program[_called(loop, "condition")[0]]
    bounds = [re.search(r" constant\((\d+)\)", x.line) for x in condition.values()]
    return max((int(bound[1]) for bound in bounds if bound), default=1)


def size_of(shape: str, on_chip: bool = True) -> int:
    """Bytes of a shape, a tuple's parts together; `on_chip` counts memory spaces S(1) too."""
    total = 0
    for dtype, lengths, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", shape):
        if on_chip or "S(" not in layout:
            bits = BITS[dtype] if dtype in BITS else int(re.findall(r"\d+", dtype)[0])
            total += bits * math.prod(int(n) for n in lengths.split(",") if n) // 8
    return total


def _called(x: Instruction, attribute: str) -> list[str]:
    found = re.findall(rf" {attribute}=\{{?((?:%[\w.\-]+(?:, )?)+)", x.line)
    return [name for names in found for name in re.findall(r"%([\w.\-]+)", names)]


def _collectives(lines: Computation, program: Program) -> dict[str, tuple[str, int]]:
    """Kind and bytes by channel: one that runs beside other work is spread over several fusions."""
    found: dict[str, tuple[str, int]] = {}
    for x in lines.values():
        kind = x.kind.removesuffix("-start")
        if x.kind == "fusion":
            called = _called(x, "calls")[0]
            inner = _collectives(program[called], program)
            if called.startswith("all-reduce-scatter"):  # a sum of which each device keeps a part
                inner = {channel: ("reduce-scatter", size_of(x.shape)) for channel in inner}
            found |= inner
        elif kind in COLLECTIVES:
            size = size_of(x.shape)
            if x.kind != kind and kind != "all-reduce":  # its shape names the operands first
                size -= sum(size_of(lines[name].shape) for name in x.operands)
            channel = re.search(r"channel_id=(\d+)", x.line)
            found[channel[1] if channel else x.name] = (kind, size)
    return found


def _cycles(x: Instruction) -> int:
    estimated = re.search(r'"estimated_cycles":"(\d+)"', x.line)
    return int(estimated[1]) if estimated else 0


def _traffic(x: Instruction, lines: Computation, program: Program) -> int:
    """Bytes that one instruction reads and writes; of a slice, no more than the slice."""
    if x.kind in UNCOUNTED or x.kind.endswith("-done"):
        return 0
    operands = [lines[name].shape for name in x.operands]
    if x.kind == "fusion":
        fused = program[_called(x, "calls")[0]]
        reads = sum(
            min(size_of(shape, on_chip=False), _used(fused, index, program))
            for index, shape in enumerate(operands)
        )
        return reads + _written(x, fused)
    if x.kind in SLICES:
        parts = size_of(x.shape, on_chip=False) - (x.kind == "slice-start") * sum(
            size_of(shape, on_chip=False) for shape in operands
        )
        return 2 * parts
    if x.kind == "dynamic-update-slice":
        return 2 * size_of(operands[1], on_chip=False)
    if x.kind.endswith("-start"):  # its shape names the operands too
        return size_of(x.shape, on_chip=False)
    return sum(size_of(shape, on_chip=False) for shape in (x.shape, *operands))


def _used(fused: Computation, index: int, program: Program) -> int:
    """Bytes that a fusion reads of one operand: slices of it, or all."""
    name = next(x.name for x in fused.values() if re.search(rf" parameter\({index}\)", x.line))
    whole, total, waiting = size_of(fused[name].shape), 0, [name]
    while waiting:
        name = waiting.pop()
        for x in fused.values():
            if name not in x.operands:
                continue
            if x.kind == "bitcast":
                waiting.append(x.name)
            elif x.kind in SLICES and x.operands[0] == name:
                total += size_of(x.shape)
            elif x.kind == "fusion":
                inner = program[_called(x, "calls")[0]]
                places = [i for i, operand in enumerate(x.operands) if operand == name]
                total += sum(_used(inner, place, program) for place in places)
            elif x.kind != "dynamic-update-slice" or x.operands[0] != name:
                return whole
    return min(total, whole)


def _written(x: Instruction, fused: Computation) -> int:
    """Bytes that a fusion writes: of an array updated in place, the update."""
    root = next(y for y in fused.values() if y.root)
    results = [fused[name] for name in root.operands] if root.kind == "tuple" else [root]
    shapes = re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", x.shape)
    if len(results) != len(shapes):  # tuples in a tuple
        return size_of(x.shape, on_chip=False)
    total = 0
    for result, shape in zip(results, shapes, strict=True):
        while result.kind == "bitcast":
            result = fused[result.operands[0]]
        in_place = result.kind == "dynamic-update-slice" and "S(" not in shape
        total += size_of(fused[result.operands[1]].shape if in_place else shape, in_place)
    return total
