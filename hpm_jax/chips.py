"""TPUs and GPUs: memory and peak rates, for measuring MFU and for planning runs."""

import re
from typing import NamedTuple


class Chip(NamedTuple):
    """A device; figures are from data sheets, except memory, which is what a program can use."""

    memory: float  # GiB: for TPUs the free memory by libtpu, for GPUs the total by nvidia-smi
    bandwidth: float  # bytes/s of that memory
    peak: float  # FLOP/s, dense, bfloat16
    single: float  # FLOP/s in float32 at XLA's default precision
    kinds: tuple[str, ...]  # JAX's names of the device, without vendor, size and form factor
    tpu: bool = False
    cores: int = 1  # number of devices per chip


# A float32 product is bfloat16 on the MXU unless a precision is requested. On v2 and v3 each of the
# two cores of a chip is a device, with half of the chip's resources.
TPUS = {
    "v2": Chip(7.48, 700e9 / 2, 45e12 / 2, 45e12 / 2, ("TPU v2",), tpu=True, cores=2),
    "v3": Chip(15.48, 900e9 / 2, 123e12 / 2, 123e12 / 2, ("TPU v3",), tpu=True, cores=2),
    "v4": Chip(30.75, 1228e9, 275e12, 275e12, ("TPU v4",), tpu=True),
    "v5e": Chip(15.75, 819e9, 197e12, 197e12, ("TPU v5e", "TPU v5 lite"), tpu=True),
    "v5p": Chip(95.73, 2765e9, 459e12, 459e12, ("TPU v5p", "TPU v5"), tpu=True),
    "v6e": Chip(31.24, 1640e9, 918e12, 918e12, ("TPU v6e", "TPU v6 lite"), tpu=True),
}
# By NVIDIA's data sheets, half of the numbers there that are "with sparsity". A float32 product is
# TensorFloat-32 on GPUs that have it. V100 and T4 have no bfloat16: XLA computes it in float32.
GPUS = {
    "t4": Chip(14.7, 300e9, 8.1e12, 8.1e12, ("T4",)),
    "v100-16": Chip(15.7, 900e9, 15.7e12, 15.7e12, ("V100",)),
    "v100-32": Chip(31.7, 900e9, 15.7e12, 15.7e12, ("V100",)),
    "rtx3090": Chip(24.0, 936e9, 71e12, 35.6e12, ("RTX 3090",)),
    "rtx4090": Chip(24.0, 1008e9, 165e12, 82.6e12, ("RTX 4090",)),
    "a10": Chip(22.5, 600e9, 125e12, 62.5e12, ("A10",)),
    "a10g": Chip(22.5, 600e9, 70e12, 35e12, ("A10G",)),
    "l4": Chip(22.5, 300e9, 121e12, 60e12, ("L4",)),
    "l40s": Chip(45.0, 864e9, 362e12, 183e12, ("L40S",)),
    "a100-40": Chip(40.0, 1555e9, 312e12, 156e12, ("A100",)),
    "a100-80": Chip(80.0, 2039e9, 312e12, 156e12, ("A100",)),
    "h100": Chip(79.6, 3350e9, 989e12, 494e12, ("H100",)),
    "h100-pcie": Chip(79.6, 2000e9, 756e12, 378e12, ("H100 PCIe",)),
    "h200": Chip(140.4, 4800e9, 989e12, 494e12, ("H200",)),
    "b200": Chip(179.0, 8000e9, 2250e12, 1125e12, ("B200",)),
}
CHIPS = TPUS | GPUS

_VENDOR = {"nvidia", "tesla", "geforce"}
_SIZE_AND_FORM = re.compile(r"\d+gb|hbm\d\w?|sxm\d?|pcie")


def peak_of(kind: str) -> float | None:
    """Returns dense bfloat16 FLOP/s of the device that JAX calls `kind`; None if unknown.

    Whole words are compared: an L40S is not an L4, and a laptop chip is not its desktop namesake.
    """
    words = [word for word in re.split(r"[\s-]+", kind.lower()) if word not in _VENDOR]
    best, peak = 0, None
    for chip in CHIPS.values():
        for name in chip.kinds:
            named = name.lower().split()
            rest = words[len(named) :]
            whole = words[: len(named)] == named and all(map(_SIZE_AND_FORM.fullmatch, rest))
            if whole and len(named) > best:
                best, peak = len(named), chip.peak
    return peak
