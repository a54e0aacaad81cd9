"""Weights in and out: `python -m hpm_jax.convert SOURCE TARGET`; docs/weights.md has more."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import jax

from hpm_jax.convert.check import TOLERANCE, differences, timm_differences
from hpm_jax.convert.files import READERS, WRITERS, check_target
from hpm_jax.convert.read import WHICH, read_weights
from hpm_jax.convert.state_dict import NAMINGS, OWN_NAMES
from hpm_jax.convert.weights import Weights, WeightsError
from hpm_jax.convert.write import write_weights
from hpm_jax.errors import UserError

PARTS = ("encoder", "decoder_input", "reconstructor", "predictor", "norm", "head")
_HELP = f"""\
SOURCE is the workdir of a run, a file ({", ".join(READERS)}) with the
names of MAE, HPM, timm, VideoMAE, mae_st or Hugging Face, or a folder of
the last.
TARGET ends in {", ".join(WRITERS)}; without it, what SOURCE holds is printed.

examples:
  python -m hpm_jax.convert runs/hpm_b200
  python -m hpm_jax.convert runs/hpm_b200 vit_b.safetensors --check
  python -m hpm_jax.convert runs/hpm_b200 hpm_b.pth --names hpm --weights teacher
  python -m hpm_jax.convert runs/finetuned/best classifier.safetensors
  python -m hpm_jax.convert mae_pretrain_vit_base.pth
"""


def main(arguments: list[str] | None = None) -> None:
    """The command; what is wrong comes out as one sentence."""
    options = _parser().parse_args(arguments)
    try:
        _convert(options)
    except UserError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hpm_jax.convert",
        description="Weights of vision transformers in and out of this package.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("target", metavar="TARGET", type=Path, nargs="?")
    parser.add_argument(
        "--names",
        choices=NAMINGS,
        help="timm: the encoder, or the classifier; videomae, mae_st: what those load, with a "
        "decoder where there is one; hpm: the whole pre-training model; default: by the layout",
    )
    parser.add_argument(
        "--weights", choices=WHICH, default="student", help="which, of a pre-training run"
    )
    parser.add_argument(
        "--heads", type=int, metavar="N", help="of the encoder, where its width does not tell"
    )
    parser.add_argument(
        "--decoder-heads",
        type=int,
        metavar="N",
        help="of the decoder, where its width does not tell",
    )
    parser.add_argument(
        "--grid",
        type=int,
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="of patches, in oblong images, and in clips of VideoMAE that have not 224 pixels",
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="of a clip of VideoMAE, where it has not 16"
    )
    parser.add_argument(
        "--drop", nargs="+", default=(), metavar="NAME", help="beginnings of names to leave out"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read TARGET again and compare what both compute, also in timm if it is installed",
    )
    return parser


def _convert(options: argparse.Namespace) -> None:
    if options.target:
        check_target(options.target)
    source = read_weights(
        options.source,
        options.weights,
        options.heads,
        options.decoder_heads,
        options.grid,
        options.drop,
        options.frames,
    )
    print(describe(source))
    if not options.target:
        return
    write_weights(options.target, source, options.names)
    print(f"wrote {options.target}")
    if options.check:
        _check(source, options.target, options.names)


def describe(weights: Weights) -> str:
    """The architecture and the parts, a line each."""
    a = weights.architecture
    video = a.grid[0] * a.tubelet > 1
    patch = a.patch if video else a.patch[1:]
    size = (count * side for count, side in zip(a.grid[-len(patch) :], patch, strict=True))
    lines = [
        f"{'videos' if video else 'images':12} {_times(size)}, {a.channels} channels, "
        f"{a.patches} patches of {_times(patch)}",
        f"encoder      width {a.width}, {a.depth} blocks, {a.heads} heads",
    ]
    if a.decoder_width:
        heads = f"{a.decoder_heads} heads" if a.decoder_heads else "unknown heads"
        lines.append(f"decoder      width {a.decoder_width}, {a.decoder_depth} blocks, {heads}")
    if a.classes:
        lines.append(f"head         {a.classes} classes, {a.pool} pooling")
    counts = {
        part: sum(leaf.size for leaf in jax.tree.leaves(weights.params[part]))
        for part in PARTS
        if part in weights.params
    }
    lines.append(f"parameters   {sum(counts.values()):,}")
    lines += [f"  {part:20} {count:>12,}" for part, count in counts.items()]
    return "\n".join(lines)


def _times(sides: Iterable[int]) -> str:
    return " x ".join(map(str, sides))


def _check(source: Weights, target: Path, names: str | None) -> None:
    again = read_weights(target)
    found = {"read again": differences(source, again)}
    names = names or OWN_NAMES[source.architecture.layout]
    if names == "timm" and target.suffix != ".npz":  # in which timm expects JAX's names
        try:
            found["in timm"] = timm_differences(source, target)
        except ImportError as error:
            print(f"not compared in timm: {error}")
    for way, outputs in found.items():
        for name, difference in outputs.items():
            print(f"{way:12} {name:16} largest difference {difference:.1e}")
    largest = max(max(outputs.values()) for outputs in found.values())
    if not largest <= TOLERANCE:
        raise WeightsError(f"{target} differs by {largest:.1e}, expected at most {TOLERANCE:g}")


if __name__ == "__main__":
    main()
