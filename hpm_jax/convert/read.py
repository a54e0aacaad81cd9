"""Weights in: a file of any known origin, a Hugging Face folder, or the workdir of a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hpm_jax.convert.files import File, read_file
from hpm_jax.convert.sizes import Hints
from hpm_jax.convert.state_dict import from_state_dict
from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    WeightsError,
    constant_positions,
    random_weights,
)
from hpm_jax.storage import as_path, is_local

WHICH = ("student", "teacher")
PRETRAINING = ("terms", "replacing_token")
_BEST = "best"  # the folder of a fine-tuning run's best checkpoint
_HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")


def read_weights(
    path: str | Path,
    which: str = "student",
    heads: int | None = None,
    decoder_heads: int | None = None,
    grid: tuple[int, int] | None = None,
    drop: Sequence[str] = (),
    frames: int | None = None,
) -> Weights:
    """The weights at `path`, whoever wrote them.

    A file is `.pth`, `.pt`, `.bin` (needs torch; nothing in it is executed), `.safetensors` or
    `.npz`, with the names of MAE, HPM, timm, VideoMAE, mae_st or Hugging Face. A folder is the
    workdir of a run of this package, of which the newest checkpoint is taken, or `best` in that of
    a fine-tuning run, or a model of Hugging Face, or of timm as on the Hugging Face hub.

    Args:
        which: "student", or "teacher": the moving average in HPM's checkpoints and in workdirs.
        heads, decoder_heads, grid, drop, frames: what a file does not tell, see `from_state_dict`.

    Raises:
        WeightsError: for what cannot be read, and for weights of another kind of model.
        CheckpointError: for a workdir without a checkpoint.
    """
    path = as_path(path)
    if which not in WHICH:
        raise WeightsError(f"weights {which!r} do not exist: choose from {', '.join(WHICH)}")
    if not path.exists():
        raise WeightsError(f"there is no {path}")
    if path.is_dir():
        if path.name == _BEST and (path.parent / "config.json").exists():
            return _read_workdir(path.parent, which, path.name)
        config = _config_of(path)
        if "architecture" in config:
            state, known = _read_hub_file(_on_disk(path), which)  # timm's; heads go by the width
        elif "model_type" not in config:
            return _read_workdir(path, which, "checkpoints")
        else:
            state, known = _read_hugging_face(_on_disk(path), config, which)
    else:
        state, known = read_file(_on_disk(path), which)
    hints = Hints(heads, decoder_heads, grid, frames).before(known)
    try:
        return from_state_dict(state, **hints._asdict(), drop=drop)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def starting_weights(init_from: str, which: str, seed: int) -> Weights:
    """The weights that a config names.

    Args:
        init_from: a workdir or a file.
        which: "student", "teacher", or "random" for fresh weights of the same architecture.
        seed: of the random ones.
    """
    weights = read_weights(init_from, "student" if which == "random" else which)
    return random_weights(weights.architecture, seed) if which == "random" else weights


def _on_disk(path: Path) -> Path:
    if not is_local(path):
        raise WeightsError(f"{path}: files of weights are read from disk alone: copy it here")
    return path


def _config_of(folder: Path) -> dict[str, Any]:
    there = folder / "config.json"
    if not there.exists():
        raise WeightsError(
            f"{folder} has no config.json: expected the workdir of a run, "
            "a model of Hugging Face, or a file"
        )
    return json.loads(there.read_text())


def _read_hugging_face(folder: Path, config: dict[str, Any], which: str) -> File:
    """A folder as `save_pretrained` writes it; its config tells heads, and the size of clips."""
    if config.get("hidden_act", "gelu") != "gelu":
        raise WeightsError(f"{folder}: hidden_act is {config['hidden_act']!r}, expected 'gelu'")
    hints = Hints(
        config.get("num_attention_heads"),
        config.get("decoder_num_attention_heads"),
        _grid_of_clips(config),
        config.get("num_frames"),
    )
    return File(_read_hub_file(folder, which).state, hints)


def _read_hub_file(folder: Path, which: str) -> File:
    for name in _HUGGING_FACE_FILES:
        if (folder / name).exists():
            return read_file(folder / name, which)
    raise WeightsError(f"{folder} has neither {' nor '.join(_HUGGING_FACE_FILES)}")


def _grid_of_clips(config: dict[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of patches of VideoMAE; None for images, whose positions tell."""
    if "num_frames" not in config:
        return None
    (height, width), (rows, columns) = (
        side if isinstance(side, list) else (side, side)
        for side in (config["image_size"], config["patch_size"])
    )
    return height // rows, width // columns


def _read_workdir(path: Path, which: str, folder: str) -> Weights:
    """The newest checkpoint in a folder of a pre-training or a fine-tuning run."""
    from hpm_jax.models import Classifier
    from hpm_jax.run.load import load_run

    run = load_run(path, folder)
    model, data = run.model, run.config.data
    params = run.state.params if which == "student" else run.state.teacher
    if params is None:
        raise WeightsError(
            f"{path} holds the student alone: this run keeps no teacher, or no moving average"
        )
    # what serves pre-training alone: the parameters of loss terms, the token of secondary masking
    params = {name: part for name, part in params.items() if name not in PRETRAINING}
    params = jax.tree.map(np.asarray, params)
    sizes = {
        "grid": tuple(model.grid),
        "patch_size": run.config.model.patch_size,
        "channels": data.channels,
        "tubelet": run.config.model.tubelet,
        "layout": run.config.model.layout,
        "width": model.width,
        "depth": model.depth,
        "heads": model.heads,
    }
    if isinstance(model, Classifier):
        return Weights(Architecture(**sizes, classes=model.classes, pool=model.pool), params)
    encoder = params["encoder"]
    if model.layout.classifier_positions == "learned":  # so far constants; they start from these
        encoder |= {"positions": constant_positions(model.width, model.grid)}
    architecture = Architecture(
        **sizes,
        decoder_width=model.decoder_width,
        decoder_depth=model.decoder_depth,
        decoder_heads=model.decoder_heads,
        loss_predictor=model.loss_predictor,
        target_values=model.target_values,
    )
    return Weights(architecture, params | {"encoder": encoder})
