"""Reads a complete official pre-training checkpoint: student, teacher, AdamW's moments, epoch.

HPM's main_pretrain.py saves `{"epoch", "state_dict", "ema_state_dict", "optimizer", ...}`; `epoch`
is the number of completed epochs.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.convert.files import load_torch, torch_array, torch_arrays
from hpm_jax.convert.official import from_official
from hpm_jax.convert.sizes import Hints
from hpm_jax.convert.state_dict import from_state_dict
from hpm_jax.convert.weights import WeightsError, masked_autoencoder_params
from hpm_jax.step.state import Params

FROZEN = ("pos_embed", "decoder_pos_embed")  # parameters that the optimizer does not get
PREFIX = "module."  # of DistributedDataParallel


class Moments(NamedTuple):
    """The moments of AdamW."""

    steps: int  # taken so far
    first: Params  # moving average of the gradient, float32
    second: Params  # and of its square


class Whole(NamedTuple):
    """The parts of a checkpoint that a run resumes from, with our names."""

    student: Params
    teacher: Params | None
    moments: Moments | None
    epoch: int  # number of completed epochs
    options: dict[str, Any]  # of the optimizer's group with decay: betas, eps, weight_decay


def read_whole(path: Path, hints: Hints) -> Whole:
    """Reads a `.pth` of HPM or MAE.

    Raises:
        WeightsError: for a file that is not such a checkpoint, or is truncated.
    """
    if not path.is_file():
        raise WeightsError(f"there is no {path}")
    content = load_torch(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("epoch"), int):
        raise WeightsError(
            f"{path} does not say after how many epochs it was saved (epoch), so no run can go on "
            "from it: start one from its weights, by config.init_from"
        )
    state = torch_arrays(path, content, "student")

    def params(state: Mapping[str, np.ndarray]) -> Params:
        return masked_autoencoder_params(from_state_dict(state, **hints._asdict()))

    teacher = None
    if isinstance(content.get("ema_state_dict"), Mapping):
        teacher = params(torch_arrays(path, content, "teacher"))
    optimizer = content.get("optimizer")
    moments: Moments | None = None
    options: dict[str, Any] = {}
    if isinstance(optimizer, Mapping) and optimizer.get("state"):
        moments, options = read_moments(path, state, optimizer)
    return Whole(params(state), teacher, moments, content["epoch"], options)


def read_moments(
    path: Path, state: Mapping[str, np.ndarray], optimizer: Mapping[str, Any]
) -> tuple[Moments, dict[str, Any]]:
    """AdamW's moments, which PyTorch numbers and does not name, and the options of the last group.

    Numbers go through the groups: first what does not decay (vectors and biases), then the rest,
    each in the order of the model, which is that of its weights in the file (timm 0.3.2,
    optim_factory.py).

    Args:
        state: the weights, in the order of the file.
        optimizer: the `state_dict` of `torch.optim.AdamW`.

    Raises:
        WeightsError: where groups or shapes are not those of the model.
    """
    names = [name.removeprefix(PREFIX) for name in state]
    shapes = {name.removeprefix(PREFIX): value.shape for name, value in state.items()}
    learned = [name for name in names if name not in FROZEN]
    plain = [n for n in learned if len(shapes[n]) == 1 or n.endswith(".bias")]
    groups = [plain, [name for name in learned if name not in set(plain)]]
    found = [list(group["params"]) for group in optimizer["param_groups"]]
    if [len(group) for group in found] != [len(group) for group in groups]:
        raise WeightsError(
            f"{path}: the optimizer's groups have {[len(group) for group in found]} parameters, "
            f"expected {[len(group) for group in groups]}: those without decay, and the rest"
        )
    numbers = dict(zip(itertools.chain(*groups), itertools.chain(*found), strict=True))
    missing = [name for name in numbers if numbers[name] not in optimizer["state"]]
    if missing:
        raise WeightsError(f"{path}: the optimizer has no moments of {missing[0]}")
    entries = {name: optimizer["state"][number] for name, number in numbers.items()}
    both = []
    for key in ("exp_avg", "exp_avg_sq"):
        arrays = {
            name: torch_array(f"{path}: {key} of {name}", entry[key])
            for name, entry in entries.items()
        }
        for name, value in arrays.items():
            if value.shape != shapes[name]:
                raise WeightsError(
                    f"{path}: the optimizer's {key} of {name} has shape {value.shape}, expected "
                    f"{shapes[name]}"
                )
        both.append(from_official(arrays))
    steps = int(next(iter(entries.values()))["step"])
    return Moments(steps, *both), dict(optimizer["param_groups"][-1])
