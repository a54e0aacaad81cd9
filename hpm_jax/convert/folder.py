"""Writes a folder for Hugging Face's hub: weights, config, preprocessing, and a model card."""

import json
from pathlib import Path

from hpm_jax.convert.about import About
from hpm_jax.convert.card import card
from hpm_jax.convert.files import write_file
from hpm_jax.convert.state_dict import part_of, to_state_dict
from hpm_jax.convert.to_detectron2 import FILES as DETECTRON2_FILES
from hpm_jax.convert.to_detectron2 import write_detectron2
from hpm_jax.convert.to_hugging_face import preprocessor, to_hugging_face
from hpm_jax.convert.to_timm import timm_config
from hpm_jax.convert.weights import Weights, WeightsError, check_plain
from hpm_jax.storage import write

FOLDER_NAMES = ("hugging_face", "timm", "detectron2")
CARD = "README.md"
FILES = ("model.safetensors", "config.json", "preprocessor_config.json", CARD)


def check_folder(path: Path) -> None:
    """Raises a `WeightsError` for a path that `write_folder` does not accept."""
    if path.exists() and not path.is_dir():
        raise WeightsError(f"{path} is a file: name a folder, which is made")
    known = (*FILES, *DETECTRON2_FILES)
    others = sorted(x.name for x in path.iterdir() if x.name not in known) if path.exists() else []
    if others:
        raise WeightsError(
            f"{path} holds other things ({', '.join(others[:3])}): name an empty folder, or one "
            "that is not there yet"
        )


def write_folder(
    path: Path, weights: Weights, names: str, known: About, scores: list[str] | None = None
) -> list[str]:
    """Writes the folder; an earlier export in it is replaced, except for a model card.

    Args:
        names: "hugging_face" for transformers, "timm" for timm, "detectron2" for ViTDet.
        scores: lines of a table of results for the model card.

    Returns:
        Notes on the parts that are not exported.

    Raises:
        WeightsError: for models that the other library does not support, or if writing fails.
    """
    check_folder(path)
    if names == "detectron2":
        return write_detectron2(path, weights, known)
    if names == "hugging_face":
        exported = to_hugging_face(weights, known)
        a, state, notes = exported.architecture, exported.state, list(exported.notes)
        files = {"config.json": exported.config, "preprocessor_config.json": preprocessor(a, known)}
    else:
        check_plain(
            weights.architecture, "a folder for timm", "write a file, such as vit.safetensors"
        )
        a, state, notes = part_of(weights.architecture, names), to_state_dict(weights, names), []
        files = {"config.json": timm_config(a, known)}
    write_file(path / "model.safetensors", state, a.note)
    for name in FILES[1:3]:
        if name in files:
            write(path / name, json.dumps(files[name], indent=2) + "\n")
        elif (path / name).exists():  # of an export to another library
            (path / name).unlink()
    if (path / CARD).exists():
        notes.append(f"{path / CARD} stays as it is: delete it for a new model card")
    else:
        write(path / CARD, card(a, names, known, files["config.json"], scores))
    return notes
