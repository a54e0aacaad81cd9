"""Reads and writes weights files, `.pth`, `.safetensors` or `.npz`; no code in them is executed."""

import argparse
import contextlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.convert.sizes import Hints, hints_of
from hpm_jax.convert.weights import WeightsError
from hpm_jax.storage import in_words, put_in_place
from hpm_jax.text_files import check_size, parse_json

# Keys of the weights in a PyTorch checkpoint: MAE, HPM and timm, VideoMAE's fine-tuning, mae_st;
# HPM, timm, DeiT.
_STUDENT = ("model", "state_dict", "module", "model_state")
_TEACHER = ("ema_state_dict", "state_dict_ema", "model_ema")
LARGEST = 2**35  # bytes of a file
OURS = "hpm_jax"  # key of the architecture in our own files
SUM = "hpm_jax_crc32"  # key of the checksum


class File(NamedTuple):
    """The arrays of a file, and its hints about their architecture."""

    state: dict[str, np.ndarray]
    hints: Hints


def read_file(path: Path, which: str = "student") -> File:
    """Reads one set of weights.

    Args:
        path: a file with an ending in `READERS`.
        which: "student" or "teacher"; only PyTorch checkpoints of training have a teacher.

    Raises:
        WeightsError: for a missing or truncated file, or one that is not a weights file.
    """
    if path.suffix not in READERS:
        raise WeightsError(f"{path} ends in {path.suffix!r}: expected one of {', '.join(READERS)}")
    if not path.exists():
        raise WeightsError(f"there is no {path}")
    check_size(path, LARGEST, WeightsError)
    if not path.stat().st_size:
        raise WeightsError(f"{path} is empty: copy or download it again")
    return READERS[path.suffix](path, which)


def write_file(path: Path, state: Mapping[str, np.ndarray], architecture: dict[str, Any]) -> None:
    """Writes arrays with their architecture; an existing file is replaced.

    Raises:
        WeightsError: for an ending that is not in `WRITERS`, or weights that are not finite.
    """
    check_target(path)
    for name, value in state.items():
        if not np.isfinite(value).all():
            raise WeightsError(
                f"{name} holds numbers that are not finite, so nothing is written to {path}: the "
                "run has diverged; take an earlier checkpoint"
            )
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[path.suffix](beside, state, architecture)
        put_in_place(beside, path)
    except WeightsError:
        raise
    except Exception as error:  # the system's, and what PyTorch makes of it
        raise WeightsError(
            f"cannot write {path} ({in_words(error)}): make room or make it writable, or name "
            "another file"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # it is there only where something went wrong
            beside.unlink()


def check_target(path: Path) -> None:
    """Raises a `WeightsError` for a path that `write_file` does not accept."""
    if path.suffix not in WRITERS:
        raise WeightsError(f"{path} ends in {path.suffix!r}: expected one of {', '.join(WRITERS)}")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder: name a file, such as {path / f'vit{path.suffix}'}")


def _read_torch(path: Path, which: str) -> File:
    content = load_torch(path)
    state = torch_arrays(path, content, which)
    if isinstance(content, Mapping):
        _check_sum(path, state, content.get(SUM))
    else:
        content = {}
    return File(state, _hints(path, content.get(OURS, {})))


def load_torch(path: Path) -> Any:
    """Loads the content of a PyTorch file, unless it could run code."""
    torch = _import_torch(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # official files keep theirs
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise _unreadable(path, error) from None


def torch_arrays(path: Path, content: Any, which: str) -> dict[str, np.ndarray]:
    """Returns one set of weights of a loaded PyTorch file, as float32 arrays."""
    torch = _import_torch(path)
    state = _choose(path, content, which)
    for name, value in state.items():
        if not isinstance(name, str):
            raise WeightsError(f"{path}: a tensor is called {name!r}, expected names of parameters")
        if not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path}: {name} is a {type(value).__name__}, expected a tensor")
    return {name: torch_array(f"{path}: {name}", value) for name, value in state.items()}


def torch_array(what: str, tensor: Any) -> np.ndarray:
    """Converts a tensor to an array: floats to float32, other dtypes unchanged.

    Raises:
        WeightsError: for an unsupported tensor; `what` is its name in the message.
    """
    kind = str(tensor.layout).removeprefix("torch.")  # strided, sparse_coo, ...
    kind = "meta" if tensor.is_meta else "quantised" if tensor.is_quantized else kind
    if kind != "strided":
        raise WeightsError(
            f"{what} is a {kind} tensor, expected a plain one with its values: save the weights "
            "as plain float32 tensors"
        )
    try:
        tensor = tensor.detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (RuntimeError, TypeError):  # four bits, and what comes after them
        raise _of_unknown_floats(what, str(tensor.dtype).removeprefix("torch.")) from None


def _of_unknown_floats(what: str, dtype: str) -> WeightsError:
    return WeightsError(
        f"{what} holds {dtype}, expected floats of 16, 32 or 64 bits: save the weights in float32"
    )


def _choose(path: Path, content: Any, which: str) -> Mapping[str, Any]:
    """Returns the state dict in the content of a PyTorch file."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected a state dict")
    places = _TEACHER if which == "teacher" else _STUDENT
    found = [place for place in places if isinstance(content.get(place), Mapping)]
    if found:
        return content[found[0]]
    if which == "teacher" or not any(hasattr(value, "shape") for value in content.values()):
        raise WeightsError(
            f"{path} holds {', '.join(map(str, list(content)[:8])) or 'nothing'}: expected the "
            f"{which}'s weights under {' or '.join(places)}"
        )
    return content


def _unreadable(path: Path, error: Exception) -> WeightsError:
    refused = re.search(r"(?:GLOBAL|global:?) (?:GLOBAL )?([\w.]+)", str(error))
    if refused:
        return WeightsError(
            f"{path} holds more than weights ({refused.group(1)}), which could run code when it "
            "is loaded, so it was not loaded. If you trust it, save its weights alone: "
            'torch.save({"model": torch.load(FILE, weights_only=False)["model"]}, "weights.pth")'
        )
    lines = [line for line in str(error).splitlines() if line.strip()]
    if "Weights only load failed" in str(error):  # of many lines, about other things
        lines = []
    reason = f" ({type(error).__name__}: {lines[0][:120]})" if lines else ""
    return WeightsError(
        f"{path} is not whole, or no file of weights{reason}: copy or download it again"
    )


def _read_safetensors(path: Path, which: str) -> File:
    from safetensors import SafetensorError, safe_open

    _expect_student(path, which)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            state = {}
            for name in file.keys():  # noqa: SIM118
                try:
                    state[name] = file.get_tensor(name)
                except (AttributeError, TypeError):  # numpy has no such floats
                    dtype = file.get_slice(name).get_dtype()
                    raise _of_unknown_floats(f"{path}: {name}", dtype) from None
    except SafetensorError as error:
        raise _unreadable(path, error) from None
    _check_sum(path, state, metadata.get(SUM))
    return File(state, _hints(path, _note(path, metadata.get(OURS, "{}"))))


def _read_npz(path: Path, which: str) -> File:
    _expect_student(path, which)
    try:
        with np.load(path, allow_pickle=False) as file:
            state = dict(file)
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise _unreadable(path, error) from None
    return File(state, _hints(path, _note(path, str(state.pop(OURS, "{}")))))


def _note(path: Path, text: str) -> dict[str, Any]:
    return parse_json(text, f"the note {OURS} in {path}", WeightsError)


def _hints(path: Path, note: Any) -> Hints:
    try:
        return hints_of(note)
    except WeightsError as error:
        raise WeightsError(f"the note {OURS} in {path} is damaged: {error}") from None


def _expect_student(path: Path, which: str) -> None:
    if which == "teacher":
        raise WeightsError(
            f"{path} holds one set of weights: a teacher is in the workdir of a pre-training run, "
            f"or in a .pth under {' or '.join(_TEACHER)}"
        )


def _write_torch(path: Path, state: Mapping[str, np.ndarray], architecture: dict) -> None:
    torch = _import_torch(path)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    torch.save({"model": tensors, OURS: architecture, SUM: checksum(state)}, path)


def _write_safetensors(path: Path, state: Mapping[str, np.ndarray], architecture: dict) -> None:
    from safetensors.numpy import save

    metadata = {"format": "pt", OURS: json.dumps(architecture), SUM: checksum(state)}
    # safetensors' own files can be read by their owner alone
    path.write_bytes(save({name: np.ascontiguousarray(v) for name, v in state.items()}, metadata))


def checksum(state: Mapping[str, np.ndarray]) -> str:
    """Returns the CRC-32 of all names and arrays, in the order of names; `.npz` has its own."""
    total = 0
    for name in sorted(state):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(np.ascontiguousarray(state[name]).reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def _check_sum(path: Path, state: Mapping[str, np.ndarray], expected: Any) -> None:
    """Checks the checksum; files from other sources have none."""
    if expected is not None and checksum(state) != expected:
        raise WeightsError(
            f"{path} is not what was written: its checksum is {checksum(state)}, expected "
            f"{expected}; copy or convert it again"
        )


def _write_npz(path: Path, state: Mapping[str, np.ndarray], architecture: dict) -> None:
    arrays: dict[str, Any] = {**state, OURS: json.dumps(architecture)}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _import_torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path} is a PyTorch file, and PyTorch is not installed: pip install torch "
            '(its CPU build is enough), the extra "torch"'
        ) from None
    return torch


READERS: dict[str, Callable[[Path, str], File]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
    ".npz": _read_npz,
}
WRITERS: dict[str, Callable[[Path, Mapping[str, np.ndarray], dict], None]] = {
    ".safetensors": _write_safetensors,
    ".pth": _write_torch,
    ".pt": _write_torch,
    ".npz": _write_npz,
}
