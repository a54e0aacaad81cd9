"""Between the names of PyTorch's checkpoints and our nested parameters, by tables."""

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hpm_jax.convert.weights import WeightsError
from hpm_jax.step.state import Params

Path = tuple[str | int, ...]  # into our parameters; a number is a place in a stacked one
State = Mapping[str, np.ndarray]

_QKV = {"query": 0, "q_proj": 0, "q": 0, "key": 1, "k_proj": 1, "k": 1}
_QKV |= {"value": 2, "v_proj": 2, "v": 2}


class Names(NamedTuple):
    """The names of one family of checkpoints, and where each is in our parameters."""

    stacks: Mapping[str, str]  # what the blocks of a stack are called, and our stack
    block: Mapping[str, Path]  # in a block
    rest: Mapping[str, Path]

    def depth(self, state: State, blocks: str) -> int:
        """How many blocks a stack has."""
        layers = [re.match(rf"{re.escape(blocks)}\.(\d+)\.", name) for name in state]
        return 1 + max((int(layer.group(1)) for layer in layers if layer), default=-1)

    def shapes(self, ours: Params, convolution: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The names of a model, with their shapes in a checkpoint.

        Args:
            ours: the model's parameters, or their shapes.
            convolution: channels, perhaps frames, rows and columns of a patch.
        """
        found: dict[str, tuple[int, ...]] = {}
        for blocks, stack in self.stacks.items():
            if stack not in ours:
                continue
            params = ours[stack]["transformer"]["blocks"]
            depth = len(jax.tree.leaves(params)[0])
            for layer, (name, path) in itertools.product(range(depth), self.block.items()):
                if shape := _shape(params, path):
                    found[f"{blocks}.{layer}.{name}"] = shape[1:][::-1]
        for name, path in self.rest.items():
            if shape := _shape(ours, path):
                found[name] = shape[::-1] if len(shape) == 2 else shape
        width = found["patch_embed.proj.weight"][0]
        return found | {"patch_embed.proj.weight": (width, *convolution)}

    def place(self, name: str) -> Path:
        """Where our parameters have what is called `name`; a `KeyError` for an unknown name."""
        stacks = "|".join(map(re.escape, self.stacks))
        in_block = re.fullmatch(rf"({stacks})\.(\d+)\.(.+)", name)
        if not in_block:
            return self.rest[name]
        blocks, layer, rest = in_block.groups()
        return (self.stacks[blocks], "transformer", "blocks", int(layer), *self.block[rest])


def block_names(biases: Mapping[str, Path]) -> dict[str, Path]:
    """A block of a vision transformer, which differs in the biases of its attention."""
    return {
        "norm1.weight": ("LayerNorm_0", "scale"),
        "norm1.bias": ("LayerNorm_0", "bias"),
        **biases,
        "attn.qkv.weight": ("attention", "qkv", "kernel"),
        "attn.q_norm.weight": ("attention", "query_norm", "scale"),
        "attn.q_norm.bias": ("attention", "query_norm", "bias"),
        "attn.k_norm.weight": ("attention", "key_norm", "scale"),
        "attn.k_norm.bias": ("attention", "key_norm", "bias"),
        "attn.proj.weight": ("attention", "projection", "kernel"),
        "attn.proj.bias": ("attention", "projection", "bias"),
        "norm2.weight": ("LayerNorm_1", "scale"),
        "norm2.bias": ("LayerNorm_1", "bias"),
        "mlp.fc1.weight": ("Dense_0", "kernel"),
        "mlp.fc1.bias": ("Dense_0", "bias"),
        "mlp.fc2.weight": ("Dense_1", "kernel"),
        "mlp.fc2.bias": ("Dense_1", "bias"),
        "ls1.gamma": ("attention_scale",),
        "ls2.gamma": ("mlp_scale",),
    }


# what the encoders and classifiers of all families share
ENCODER: dict[str, Path] = {
    "patch_embed.proj.weight": ("encoder", "patch_embedding", "projection", "kernel"),
    "patch_embed.proj.bias": ("encoder", "patch_embedding", "projection", "bias"),
    "reg_token": ("encoder", "registers"),
    "norm_pre.weight": ("encoder", "pre_norm", "scale"),
    "norm_pre.bias": ("encoder", "pre_norm", "bias"),
    "norm.weight": ("encoder", "transformer", "norm", "scale"),
    "norm.bias": ("encoder", "transformer", "norm", "bias"),
    "fc_norm.weight": ("norm", "scale"),
    "fc_norm.bias": ("norm", "bias"),
    "head.weight": ("head", "kernel"),
    "head.bias": ("head", "bias"),
}


def from_names(state: State, names: Names) -> Params:
    """Arrays by name as our nested parameters, float32.

    Linear weights `[out, in]` become kernels `[in, out]`; the patch convolution `[D, C, ..., p, p]`
    becomes a kernel over patches in the order (frame, row, column, channel); blocks are stacked.

    Raises:
        KeyError: at a name that the family does not have.
    """
    params: dict = {}
    for name, value in state.items():
        *parents, last = names.place(name)
        node = params
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = _to_kernel(name, np.asarray(value, np.float32))
    return _stacked(params)


def to_names(
    params: Params, names: Names, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The inverse of `from_names`: the arrays that `shapes` names, float32."""
    state = {}
    for name, shape in shapes.items():
        value: Any = params
        for key in names.place(name):
            value = _layer(value, key) if isinstance(key, int) else value[key]
        state[name] = _from_kernel(name, np.asarray(value, np.float32), shape)
    return state


def _shape(ours: Params, path: Path) -> tuple[int, ...]:
    """Of what stands at `path`; () where nothing does. A number takes a row of all blocks."""
    leaf: Any = ours
    for key in path:
        if isinstance(key, int):
            return leaf.shape[:1] + leaf.shape[2:]
        if key not in leaf:
            return ()
        leaf = leaf[key]
    return leaf.shape


def _stacked(node: Any) -> Any:
    """Branches under the numbers 0, 1, ... become one, with a leading axis in each leaf."""
    if not isinstance(node, dict):
        return node
    node = {key: _stacked(child) for key, child in node.items()}
    if not all(isinstance(key, int) for key in node):
        return node
    return jax.tree.map(lambda *parts: np.stack(parts), *(node[i] for i in range(len(node))))


def _layer(node: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], node)


def _to_kernel(name: str, value: np.ndarray) -> np.ndarray:
    if name == "patch_embed.proj.weight":
        return np.moveaxis(value, (0, 1), (-1, -2)).reshape(-1, len(value))
    return value.T if value.ndim == 2 else value


def _from_kernel(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if name == "patch_embed.proj.weight":
        width, channels, *patch = shape
        value = np.moveaxis(value.reshape(*patch, channels, width), (-1, -2), (0, 1))
    return np.ascontiguousarray(value.T if value.ndim == 2 else value)


def fuse_attention(state: State) -> dict[str, np.ndarray]:
    """Query, key and value as one `attn.qkv`, where they are three.

    Raises:
        WeightsError: where they do not fit together.
    """
    fused: dict[str, np.ndarray] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}  # of each fused tensor, by place
    for name, value in state.items():
        part = re.search(rf"\battn\.({'|'.join(_QKV)})\.", name)
        if part:
            whole = name[: part.start(1)] + "qkv" + name[part.end(1) :]
            parts.setdefault(whole, {})[_QKV[part.group(1)]] = value
        else:
            fused[name] = value
    return fused | {name: _fuse(name, found) for name, found in parts.items()}


def _fuse(name: str, parts: Mapping[int, np.ndarray]) -> np.ndarray:
    missing = [kind for kind, place in _QKV.items() if place not in parts]
    if missing:
        raise WeightsError(f"{name} is query, key and value in one, and {missing[0]} is missing")
    shapes = {part.shape for part in parts.values()}
    if len(shapes) > 1:
        raise WeightsError(
            f"{name} is query, key and value in one, and they have different shapes: "
            + ", ".join(str(shape) for shape in sorted(shapes))
        )
    return np.concatenate([parts[place] for place in range(3)])
