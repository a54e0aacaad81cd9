"""Reads weights from a file of any known origin, a Hugging Face folder, or a run's workdir."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hpm_jax.convert.files import File, read_file
from hpm_jax.convert.sizes import Hints, few, whole_number
from hpm_jax.convert.state_dict import from_state_dict
from hpm_jax.convert.tower_config import open_clip_hints, timm_options, tower_config
from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    WeightsError,
    constant_positions,
    random_weights,
)
from hpm_jax.models.layouts import VARIANT
from hpm_jax.run.digest import not_finite
from hpm_jax.storage import as_path, is_local
from hpm_jax.text_files import read_json

WHICH = ("student", "teacher")
PRETRAINING = ("terms", "replacing_token")
BEST = "best"  # the folder of a fine-tuning run's best checkpoint
_HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP = "open_clip_config.json"
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def read_weights(
    path: str | Path,
    which: str = "student",
    heads: int | None = None,
    decoder_heads: int | None = None,
    grid: tuple[int, int] | None = None,
    drop: Sequence[str] = (),
    frames: int | None = None,
    mlp: str | None = None,
) -> Weights:
    """Reads the weights at `path`.

    A file is `.pth`, `.pt`, `.bin` (needs torch; nothing in it is executed), `.safetensors` or
    `.npz`, with the names of MAE, HPM, timm, VideoMAE, mae_st or Hugging Face. A folder is the
    workdir of a run of this package, whose newest checkpoint is read, its `best` folder after
    fine-tuning, or a model of Hugging Face or timm as on the Hugging Face hub.

    Args:
        which: "student", or "teacher": the moving average in HPM's checkpoints and in workdirs.
        heads: number of attention heads of the encoder, if unknown; see `from_state_dict`.
        decoder_heads: number of attention heads of the decoder.
        grid: rows and columns of patches.
        drop: names of weights to leave out.
        frames: number of frames of a clip.
        mlp: activation of the encoder, a name in `hpm_jax.models.mlp.MLPS`, if unknown.

    Raises:
        WeightsError: for unreadable weights, or weights of another kind of model.
        CheckpointError: for a workdir without a checkpoint.
    """
    path = as_path(path)
    if which not in WHICH:
        raise WeightsError(f"weights {which!r} do not exist: choose from {', '.join(WHICH)}")
    if not path.exists():
        raise WeightsError(f"there is no {path}")
    if path.is_dir():
        if path.name == BEST and (path.parent / "config.json").exists():
            return _read_workdir(path.parent, which, path.name)
        open_clip = (path / OPEN_CLIP).exists()
        config = {} if open_clip else _config_of(path)
        if open_clip:
            state, known = _read_open_clip(_on_disk(path), which)
        elif "architecture" in config:
            state, known = _read_hub_file(_on_disk(path), which)  # timm's; heads go by the width
            known = known.before(Hints(options=timm_options(config)))
        elif "model_type" not in config:
            return _read_workdir(path, which, "checkpoints")
        else:
            state, known = _read_hugging_face(_on_disk(path), config, which)
    else:
        state, known = read_file(_on_disk(path), which)
    options = {"mlp": mlp} if mlp else None
    hints = Hints(heads, decoder_heads, grid, frames, options=options).before(known)
    try:
        return from_state_dict(state, **hints._asdict(), drop=drop)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def starting_weights(init_from: str, which: str, seed: int) -> Weights:
    """Returns the weights that a config names.

    Args:
        init_from: a workdir or a file.
        which: "student", "teacher", or "random" for untrained weights of the same architecture.
        seed: random seed of the latter.
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
    return read_json(there, WeightsError, "put a copy of it back")


def _read_hugging_face(folder: Path, config: dict[str, Any], which: str) -> File:
    """Reads a folder of `save_pretrained`; its config has heads and clip size."""
    try:
        told = tower_config(config)
    except WeightsError as error:
        raise WeightsError(f"{folder / 'config.json'}: {error}") from None
    if told is not None:
        state, noted = _read_hub_file(folder, which)
        return File(state, told.before(noted))
    if config.get("hidden_act", "gelu") != "gelu":
        raise WeightsError(f"{folder}: hidden_act is {config['hidden_act']!r}, expected 'gelu'")
    names = ("num_attention_heads", "decoder_num_attention_heads", "num_frames")
    try:
        heads, decoder_heads, frames = (
            None if config.get(name) is None else whole_number(name, config[name], 1)
            for name in names
        )
        hints = Hints(heads, decoder_heads, _grid_of_clips(config), frames)
    except WeightsError as error:
        raise WeightsError(f"{folder / 'config.json'}: {error}") from None
    state, noted = _read_hub_file(folder, which)  # our own files have a note of their sizes
    return File(state, hints.before(noted))


def _read_open_clip(folder: Path, which: str) -> File:
    config = read_json(folder / OPEN_CLIP, WeightsError, "put a copy of it back")
    try:
        told = open_clip_hints(config)
    except WeightsError as error:
        raise WeightsError(f"{folder}: {error}") from None
    state, noted = _read_hub_file(folder, which, _OPEN_CLIP_FILES)
    return File(state, told.before(noted))


def _read_hub_file(folder: Path, which: str, names: Sequence[str] = _HUGGING_FACE_FILES) -> File:
    for name in names:
        if (folder / name).exists():
            return read_file(folder / name, which)
    raise WeightsError(f"{folder} has neither {' nor '.join(names)}")


def _grid_of_clips(config: dict[str, Any]) -> tuple[int, int] | None:
    """Returns rows and columns of patches of VideoMAE; None for images, which need none."""
    if config.get("num_frames") is None:
        return None
    sides = []
    for name in ("image_size", "patch_size"):
        value = config.get(name)
        pair = value if isinstance(value, list) and len(value) == 2 else (value, value)
        sides.append([whole_number(name, side, 1) for side in pair])
    (height, width), (rows, columns) = sides
    return height // rows, width // columns


def _read_workdir(path: Path, which: str, folder: str) -> Weights:
    """Reads the newest checkpoint in a folder of a pre-training or a fine-tuning run."""
    from hpm_jax.models import Classifier, Detector, Segmenter
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
    if broken := not_finite(params):
        raise WeightsError(
            f"{path}: {few(broken)} of the {which} holds numbers that are not finite, as the run "
            "has diverged: take another run, or the weights of an earlier checkpoint"
        )
    sizes = {
        "grid": tuple(model.grid),
        "patch_size": run.config.model.patch_size,
        "channels": data.channels,
        "tubelet": run.config.model.tubelet,
        "layout": run.config.model.layout,
        **{name: getattr(run.config.model, name) for name in VARIANT},
        "width": model.width,
        "depth": model.depth,
        "heads": model.heads,
    }
    if isinstance(model, Classifier):
        return Weights(Architecture(**sizes, classes=model.classes, pool=model.pool), params)
    if isinstance(model, Segmenter):  # the decoder of pixels serves no other task
        if model.raw_pixels:
            raise WeightsError(f"{path} was trained on raw pixels: it has no encoder")
        if model.relative:
            raise WeightsError(
                f"{path} was trained with relative positions (config.model.relative_positions), "
                "which no other task computes: take the weights that it started from, or score "
                "the run itself with configs/segment_evaluate.py"
            )
        return Weights(Architecture(**sizes), {"encoder": params["encoder"]})
    if isinstance(model, Detector) and model.relative:
        raise WeightsError(
            f"{path} was trained with relative positions (config.model.relative_positions), which "
            "no other task computes: take the weights that it started from, or score the run "
            "itself with configs/detect_evaluate.py"
        )
    if isinstance(model, Detector):  # its encoder has patch tokens alone, and no last norm
        alone = {"cls_token": False, "registers": 0}
        return Weights(Architecture(**(sizes | alone)), {"encoder": params["encoder"]})
    encoder = params["encoder"]
    learned = model.layout.classifier_positions == "learned"
    if learned and "positions" not in encoder:  # so far constants; they start from these
        first = model.layout.decoder_tokens
        encoder |= {"positions": constant_positions(model.width, model.grid, first)}
    architecture = Architecture(
        **sizes,
        decoder_width=model.decoder_width,
        decoder_depth=model.decoder_depth,
        decoder_heads=model.decoder_heads,
        loss_predictor=model.loss_predictor,
        target_values=model.target_values,
        decoder=str(model.decoder.architecture),
    )
    return Weights(architecture, params | {"encoder": encoder})
