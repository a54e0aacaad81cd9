"""The encoder, or the classifier, as an ONNX graph of standard operators, for any batch size."""

import contextlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hpm_jax.convert.about import About
from hpm_jax.convert.weights import Architecture, Weights, WeightsError, check_plain
from hpm_jax.extras import import_extra
from hpm_jax.models.positions import CONSTANT
from hpm_jax.step.state import Params
from hpm_jax.storage import in_words, put_in_place

OPSET = 17  # the first with LayerNormalization
LARGEST = 2**31 - 2**24  # bytes of weights: a protocol buffer has less than 2 GiB
INPUT = "pixel_values"


def write_onnx(path: Path, weights: Weights, known: About | None = None) -> None:
    """Writes `path`.

    The input is `pixel_values`, float32 and normalised: `[B, C, h, w]`, or clips
    `[B, frames, C, h, w]`. The outputs are `tokens` `[B, N, D]` of the last block, `features`
    `[B, D]`, and of a classifier `logits`. Mean and deviation of the channels are in the file's
    properties.

    Raises:
        ConfigError: where onnx is not installed.
        WeightsError: for a model that is too large for one file, and where it cannot be written.
    """
    check_onnx(path)
    onnx = import_extra("onnx", "onnx", str(path))
    parts = [weights.params.get(part, {}) for part in ("encoder", "norm", "head")]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(parts))
    if size > LARGEST:
        raise WeightsError(
            f"{path} would have {size:,} bytes, and a file of ONNX has at most {LARGEST:,}: take a "
            "smaller model (config.model), or write .safetensors"
        )
    model = make_model(weights)
    if known is not None:
        properties = {
            "mean": " ".join(map(str, known.mean)),
            "std": " ".join(map(str, known.std)),
            "classes": "\n".join(known.classes),
        }
        onnx.helper.set_model_props(model, {k: v for k, v in properties.items() if v})
    onnx.checker.check_model(model, full_check=True)
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(model.SerializeToString())
        put_in_place(beside, path)
    except OSError as error:
        raise WeightsError(
            f"cannot write {path} ({in_words(error)}): make room or make it writable, or name "
            "another file"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def check_onnx(path: Path) -> None:
    """Raises a `WeightsError` for a path that `write_onnx` does not take."""
    if path.is_dir():
        raise WeightsError(f"{path} is a folder: name a file, such as {path / 'encoder.onnx'}")


class _Graph:
    """Nodes and constants as they are added; a value is known by its name."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value, dtype, order="C")
        self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.constant(shape, np.int64))

    def linear(self, x: str, kernel: Any, bias: Any, name: str = "") -> str:
        product = self.add(
            "MatMul", x, self.constant(kernel), name="" if bias is not None else name
        )
        return product if bias is None else self.add("Add", product, self.constant(bias), name=name)

    def norm(self, x: str, params: Params, name: str = "") -> str:
        scale, bias = self.constant(params["scale"]), self.constant(params["bias"])
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-6, name=name)


def make_model(weights: Weights) -> Any:
    """The `onnx.ModelProto`."""
    onnx = import_extra("onnx", "onnx", "an ONNX graph")
    import_extra("onnx.numpy_helper", "onnx", "an ONNX graph")
    a, graph = weights.architecture, _Graph(onnx)
    check_plain(a, "ONNX", "write a file of weights, such as vit.safetensors")
    layout, params = a.token_layout, weights.params
    encoder = params["encoder"]
    embedding = encoder["patch_embedding"]["projection"]
    x = graph.linear(_patches(graph, a), embedding["kernel"], embedding["bias"])
    cls_token, table = _positions(a, encoder)
    x = graph.add("Add", x, graph.constant(table))
    if layout.cls_token:
        # one more row in front, zero, to which the cls token is added: for any batch size
        x = graph.add("Pad", x, graph.constant([0, 1, 0, 0, 0, 0], np.int64))
        row = np.zeros((1, a.patches + 1, a.width), np.float32)
        row[:, :1] = cls_token
        x = graph.add("Add", x, graph.constant(row))
    stack = encoder["transformer"]
    for number in range(a.depth):
        x = _block(graph, x, stack["blocks"], number, a)
    if a.pool == "mean":
        tokens = graph.add("Identity", x, name="tokens")
        features = graph.norm(_mean(graph, tokens, a), params["norm"], "features")
    else:
        tokens = graph.norm(x, stack["norm"], "tokens")
        first = graph.constant(0, np.int64)
        features = graph.add("Gather", tokens, first, axis=1, name="features")
    sizes = {"tokens": (a.patches + layout.extra_tokens, a.width), "features": (a.width,)}
    if a.classes:
        graph.linear(features, params["head"]["kernel"], params["head"]["bias"], "logits")
        sizes["logits"] = (a.classes,)
    kind, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        graph.nodes,
        "hpm_jax",
        [value(INPUT, kind, ["batch", *_input_shape(a)])],
        [value(name, kind, ["batch", *size]) for name, size in sizes.items()],
        list(graph.constants.values()),
    )
    versions = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(
        made, opset_imports=versions, ir_version=8, producer_name="hpm_jax"
    )


def _input_shape(a: Architecture) -> tuple[int, ...]:
    size = (a.channels, a.grid[1] * a.patch_size, a.grid[2] * a.patch_size)
    frames = a.grid[0] * a.tubelet
    return (frames, *size) if frames > 1 else size


def _patches(graph: _Graph, a: Architecture) -> str:
    """`[B, L, P]`, with the values of a patch in the order (frame, row, column, channel)."""
    (t, h, w), (f, p, _) = a.grid, a.patch
    x = graph.reshape(INPUT, -1, t, f, a.channels, h, p, w, p)
    x = graph.add("Transpose", x, perm=[0, 1, 4, 6, 2, 5, 7, 3])
    return graph.reshape(x, -1, a.patches, a.values)


def _positions(a: Architecture, encoder: Params) -> tuple[np.ndarray | None, np.ndarray]:
    """The cls token `[1, 1, D]` with its position, or None, and positions `[L, D]`."""
    cls_token = encoder.get("cls_token")
    if "positions" in encoder:
        learned = encoder["positions"]
        return cls_token + learned[:, :1], learned[0, 1:]
    kind = a.token_layout.classifier_positions
    if kind in CONSTANT:
        return cls_token, CONSTANT[kind](a.width, a.grid)
    summed = encoder["positions_time"] + encoder["positions_space"]
    return cls_token, summed.reshape(-1, a.width)


def _block(graph: _Graph, x: str, blocks: Params, number: int, a: Architecture) -> str:
    def one(*path: str) -> Any:
        value: Any = blocks
        for key in path:
            value = value[key]
        return value[number]

    def norm(x: str, name: str) -> str:
        return graph.norm(x, {"scale": one(name, "scale"), "bias": one(name, "bias")})

    kernel, width = one("attention", "qkv", "kernel"), a.width
    if a.token_layout.key_bias:
        bias = one("attention", "qkv", "bias")
    else:
        query, value = one("attention", "query_value_bias")
        bias = np.concatenate([query, np.zeros_like(query), value])
    normed = norm(x, "LayerNorm_0")
    # each part has its heads on an axis of their own, [B, heads, N, D / heads]; keys are transposed
    parts = []
    for part, order in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):
        columns = slice(part * width, (part + 1) * width)
        scale = (width // a.heads) ** -0.5 if part == 0 else 1.0
        made = graph.linear(normed, kernel[:, columns] * scale, bias[columns] * scale)
        made = graph.reshape(made, 0, -1, a.heads, width // a.heads)
        parts.append(graph.add("Transpose", made, perm=order))
    weights = graph.add("Softmax", graph.add("MatMul", parts[0], parts[1]), axis=-1)
    out = graph.add("Transpose", graph.add("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
    out = graph.reshape(out, 0, -1, width)
    projection = one("attention", "projection", "kernel"), one("attention", "projection", "bias")
    x = graph.add("Add", x, graph.linear(out, *projection))
    hidden = graph.linear(norm(x, "LayerNorm_1"), one("Dense_0", "kernel"), one("Dense_0", "bias"))
    error = graph.add("Erf", graph.add("Mul", hidden, graph.constant(0.5**0.5)))
    gate = graph.add("Mul", graph.add("Add", error, graph.constant(1.0)), graph.constant(0.5))
    hidden = graph.add("Mul", hidden, gate)
    mixed = graph.linear(hidden, one("Dense_1", "kernel"), one("Dense_1", "bias"))
    return graph.add("Add", x, mixed)


def _mean(graph: _Graph, tokens: str, a: Architecture) -> str:
    """The mean of the patches, without the cls token, `[B, D]`."""
    extra = a.token_layout.extra_tokens
    bounds = (graph.constant(x, np.int64) for x in ([extra], [extra + a.patches], [1]))
    patches = graph.add("Slice", tokens, *bounds)
    return graph.add("ReduceMean", patches, axes=[1], keepdims=0)


def onnx_outputs(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What onnxruntime computes of `pixel_values`, by name."""
    runtime = import_extra("onnxruntime", "onnx", "--check of .onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: images}), strict=True))
