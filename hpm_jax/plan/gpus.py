"""NVIDIA GPUs as XLA describes them, to compile for those that are not present.

The figures are those of the files in openxla/xla, `xla/backends/gpu/target_config/specs`; the
L40S is described by NVIDIA's data sheet and the limits of its compute capability 8.9.
"""

from typing import NamedTuple


class Gpu(NamedTuple):
    """The limits and rates of a GPU that its compiler reads."""

    name: str
    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    units: int  # for float32, in each
    threads: int  # at most, in each
    shared: int  # bytes of shared memory in each; a block can have 1024 less
    cache: int  # bytes of the L2 cache
    clock: float  # GHz
    bandwidth: int  # bytes/s of the memory
    memory: int  # bytes


_A100 = Gpu(
    "A100-SXM4-80GB", (8, 0), 108, 64, 2048, 167936, 41943040, 1.41, 2039040000000, 85100068864
)
_H100 = Gpu(
    "H100 80GB HBM3", (9, 0), 132, 128, 2048, 233472, 52428800, 1.98, 3352320000000, 84929347584
)

# by the names in `hpm_jax/chips.py`
DESCRIBED = {
    "a100-40": _A100._replace(name="A100-SXM4-40GB", bandwidth=1555200000000, memory=42331013120),
    "a100-80": _A100,
    "l40s": Gpu("L40S", (8, 9), 142, 128, 1536, 102400, 100663296, 2.52, 864000000000, 47696576512),
    "h100": _H100,
    "h200": _H100._replace(name="H200 141GB HBM3e", bandwidth=4800000000000, memory=151397597184),
    "b200": Gpu(
        "B200", (10, 0), 148, 128, 2048, 233472, 132644864, 1.965, 7672320000000, 191514411008
    ),
}


def target(gpu: Gpu) -> str:
    """Returns the description as text of XLA's `GpuTargetConfigProto`."""
    major, minor = gpu.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block_optin: {gpu.shared - 1024}
  threads_per_core_limit: {gpu.threads}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 patch: 0 }}
device_description_str: "NVIDIA {gpu.name}"
"""
