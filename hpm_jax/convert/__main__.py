"""Converts weights: `python -m hpm_jax.convert SOURCE TARGET`; see docs/weights.md."""

import argparse
from collections.abc import Iterable
from pathlib import Path

import jax

from hpm_jax.convert.about import About, about
from hpm_jax.convert.card import read_scores
from hpm_jax.convert.check import TOLERANCE, differences, onnx_differences, timm_differences
from hpm_jax.convert.files import READERS, WRITERS, check_target
from hpm_jax.convert.folder import FOLDER_NAMES, check_folder, write_folder
from hpm_jax.convert.read import WHICH, read_weights
from hpm_jax.convert.state_dict import NAMINGS, OWN_NAMES
from hpm_jax.convert.to_onnx import check_onnx, write_onnx
from hpm_jax.convert.weights import Weights, WeightsError
from hpm_jax.convert.write import write_weights
from hpm_jax.errors import one_sentence
from hpm_jax.models.decoders import SelfAttention
from hpm_jax.models.layouts import changed_options
from hpm_jax.models.mlp import MLPS

PARTS = ("encoder", "decoder_input", "reconstructor", "predictor", "norm", "head")
_HELP = f"""\
SOURCE is the workdir of a run, a file ({", ".join(READERS)}) with the
names of MAE, HPM, timm, VideoMAE, mae_st, DINOv2, DINOv3, CLIP or SigLIP,
or a folder of Hugging Face.
TARGET ends in {", ".join(WRITERS)}
or .onnx, or is a folder with --names {" or ".join(FOLDER_NAMES)}.
Without TARGET, the contents of SOURCE are printed.

examples:
  python -m hpm_jax.convert runs/hpm_b200
  python -m hpm_jax.convert runs/hpm_b200 vit_b.safetensors --check
  python -m hpm_jax.convert runs/hpm_b200 hpm_b.pth --names hpm --weights teacher
  python -m hpm_jax.convert runs/hpm_b200 vit_b --names hugging_face
  python -m hpm_jax.convert runs/hpm_b200 vit_b_timm --names timm
  python -m hpm_jax.convert runs/hpm_b200 vitdet --names detectron2
  python -m hpm_jax.convert runs/hpm_b200 encoder.onnx --check
  python -m hpm_jax.convert runs/finetuned/best classifier.safetensors
  python -m hpm_jax.convert mae_pretrain_vit_base.pth
"""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error is printed as one sentence."""
    options = _parser().parse_args(arguments)
    with one_sentence():
        _convert(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hpm_jax.convert",
        description="Imports and exports weights of vision transformers.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("target", metavar="TARGET", type=Path, nargs="?")
    parser.add_argument(
        "--names",
        choices=(*NAMINGS, "hugging_face", "detectron2"),
        help="names in TARGET. hugging_face: a folder for transformers; detectron2: a folder with "
        "the encoder for ViTDet; timm: the encoder or the classifier; videomae, mae_st: a model "
        "for those projects, with its decoder if present; hpm: the whole pre-training model; "
        "default: by the layout",
    )
    parser.add_argument(
        "--weights", choices=WHICH, default="student", help="which weights of a pre-training run"
    )
    parser.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help="attention heads of the encoder, if not known from its width",
    )
    parser.add_argument(
        "--decoder-heads",
        type=int,
        metavar="N",
        help="attention heads of the decoder, if not known from its width",
    )
    parser.add_argument(
        "--grid",
        type=int,
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="grid of patches, for images that are not square and VideoMAE clips other than 224",
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="frames of a VideoMAE clip, if not 16"
    )
    parser.add_argument(
        "--mlp",
        choices=MLPS,
        help="activation of the encoder, if its names do not tell: quick_gelu for OpenAI's CLIP",
    )
    parser.add_argument(
        "--drop", nargs="+", default=(), metavar="NAME", help="prefixes of names to leave out"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="WORKDIR",
        help="workdir of a report, whose scores are added to the model card of a folder",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read TARGET and compare its outputs with SOURCE's, also in timm if it is installed",
    )
    return parser


def _convert(options: argparse.Namespace) -> None:
    kind = _kind(options.target, options.names) if options.target else ""
    if options.report and kind != "folder":
        raise WeightsError(
            f"--report {options.report} is for the model card of a folder: expected --names "
            f"{' or '.join(FOLDER_NAMES)} and a folder as TARGET"
        )
    if options.names == "detectron2" and options.check:
        raise WeightsError("--check has nothing to compare with in detectron2: leave it out")
    if kind:
        {"folder": check_folder, "onnx": check_onnx, "file": check_target}[kind](options.target)
    source = read_weights(
        options.source,
        options.weights,
        options.heads,
        options.decoder_heads,
        options.grid,
        options.drop,
        options.frames,
        options.mlp,
    )
    print(describe(source))
    if not options.target:
        return
    if kind == "file":
        write_weights(options.target, source, options.names)
    elif kind == "onnx":
        write_onnx(options.target, source, _about_if_known(options.source, source))
    else:
        scores = read_scores(options.report, str(options.source)) if options.report else None
        known = about(options.source, source)
        for note in write_folder(options.target, source, options.names, known, scores):
            print(f"note: {note}")
    print(f"wrote {options.target}")
    if options.check:
        _check(source, options.target, options.names)


def _kind(target: Path, names: str | None) -> str:
    """Returns the kind of output: a "folder", an "onnx" graph, or a "file" of weights."""
    if target.suffix == ".onnx":
        if names:
            raise WeightsError(f"--names {names} is for weights, and {target} is a graph: leave it")
        return "onnx"
    if names in ("hugging_face", "detectron2") and target.suffix in WRITERS:
        raise WeightsError(
            f"--names {names} writes a folder, with a config beside the weights: name one instead "
            f"of {target}"
        )
    if names in ("hugging_face", "detectron2") or (
        names == "timm" and (not target.suffix or target.is_dir())
    ):
        return "folder"
    return "file"


def _about_if_known(path: Path, weights: Weights) -> About | None:
    try:
        return about(path, weights)
    except WeightsError:  # nobody says how images are normalised
        return None


def describe(weights: Weights) -> str:
    """Describes the architecture and the parts, a line each."""
    a = weights.architecture
    video = a.grid[0] * a.tubelet > 1
    patch = a.patch if video else a.patch[1:]
    size = (count * side for count, side in zip(a.grid[-len(patch) :], patch, strict=True))
    lines = [
        f"{'videos' if video else 'images':12} {_times(size)}, {a.channels} channels, "
        f"{a.patches} patches of {_times(patch)}",
        f"encoder      width {a.width}, {a.depth} blocks, {a.heads} heads",
    ]
    if options := changed_options(a):
        text = ", ".join(f"{name}={value!r}" for name, value in options.items())
        lines.append(f"options      {text}")
    if a.decoder_width:
        heads = f"{a.decoder_heads} heads" if a.decoder_heads else "unknown heads"
        sizes = f"width {a.decoder_width}, {a.decoder_depth} blocks, {heads}"
        kind = "" if a.decoder == SelfAttention.name else f"{a.decoder}, "
        lines.append(f"decoder      {kind}{sizes}")
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
    if target.suffix == ".onnx":
        found = {"in onnx": onnx_differences(source, target)}
    else:
        found = {"read again": differences(source, read_weights(target))}
    names = names or OWN_NAMES[source.architecture.layout]
    plain = not changed_options(source.architecture)
    if (
        plain and names == "timm" and target.suffix != ".onnx" and target.suffix != ".npz"
    ):  # in which timm expects JAX's names
        try:
            weights = target / "model.safetensors" if target.is_dir() else target
            found["in timm"] = timm_differences(source, weights)
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
