"""Floating-point operations of the forward pass of transformer blocks, by formula.

A multiplication and an addition are two operations; only matrix products count.
"""


def transformer_flops(
    tokens: int, width: int, depth: int, read: int | None = None, mlp: int = 0
) -> float:
    """Returns FLOPs of a forward pass: 4 width^2 and the MLP per token, two N x N products a head.

    If only `read` tokens are read, the others are only keys and values in the last block. `mlp` is
    the number of weights in the matrices of a feed-forward layer; 0 for 8 width^2.
    """
    mlp = mlp or 8 * width**2
    last = 2 * (2 * width**2 + mlp + 2 * tokens * width)  # per token that is read
    unread = 0 if read is None or not depth else tokens - read
    each = tokens * (4 * width**2 + mlp) + 2 * tokens**2 * width
    return 2 * depth * each - unread * last


def cross_flops(queries: int, memory: int, width: int, memory_width: int, depth: int) -> float:
    """Returns FLOPs of blocks in which queries attend to a memory, and not to each other.

    10 width^2 per query, keys and values of the memory, and two products of queries and memory.
    """
    projections = 10 * queries * width**2 + 2 * memory * memory_width * width
    return 2 * depth * (projections + 2 * queries * memory * width)
