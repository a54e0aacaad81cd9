"""What timm and the compiler for TPUs need to be imported."""

import os

import torch

# the compiler for TPUs ends at the flags of quick compilation that tests/conftest.py sets
for _name in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"):
    os.environ.pop(_name, None)

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # A torchvision built for another torch has no operators of its own, and then fails to describe
    # those it misses. timm calls none of them: that they are named is enough.
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
