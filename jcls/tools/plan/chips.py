"""The accelerators that a plan knows, with the figures that their makers publish.

A TPU's clock is not published. It follows from the peak and the multiply-adds in a cycle, which the
compiler's estimate of a large matrix product shows.

Sources: docs.cloud.google.com/tpu/docs, pages "TPU v2" to "TPU7x" (peak, memory, interconnect,
matrix units, shapes, vCPUs of a host); Jouppi et al. 2020, "A domain-specific supercomputer for
training deep neural networks", table 3 (links of v2 and v3); NVIDIA's data sheets and architecture
white papers of A100, H100, H200 and B200 in their SXM form and of L4, L40S and A10G, which are
linked by PCIe 4.0 alone (dense bfloat16); docs.cloud.google.com/compute/docs/gpus and, for the last
three, docs.aws.amazon.com (g6, g6e, g5: vCPUs and network of a host with eight).
"""

from __future__ import annotations

import re
from typing import NamedTuple

GB, GIB, TERA = 10**9, 2**30, 10**12


class Chip(NamedTuple):
    """The figures of one chip; rates are per second."""

    platform: str  # 'tpu' or 'gpu'
    name: str
    flops: float  # peak in bfloat16
    memory: int  # bytes
    bandwidth: float  # bytes to and from that memory
    link: float  # bytes, one way, over all links to other chips of the slice or host
    host_chips: int  # chips of a host
    host_cores: int  # virtual cores of a host
    multiply_adds: int = 0  # TPUs: in a cycle, by all matrix units
    axes: int = 0  # TPUs: axes of a slice
    ring: int = 0  # TPUs: an axis is a ring if its side is a multiple of this
    largest: int = 0  # TPUs: chips of the largest slice
    devices: int = 1  # devices of JAX in a chip
    network: float = 0  # GPUs: bytes, one way, of its share of the network between hosts

    @property
    def clock(self) -> float | None:
        """The clock of a TPU's core, in cycles per second."""
        return self.flops / (2 * self.multiply_adds) if self.multiply_adds else None

    @property
    def usable(self) -> int:
        """The bytes of memory that JAX uses."""
        return self.memory if self.platform == 'tpu' else self.memory * 3 // 4


# fmt: off
CHIPS: dict[str, Chip] = {
    'v2': Chip('tpu', 'TPU v2', 46 * TERA, 16 * GIB, 700 * GB, 248 * GB, 4, 96,
               2 * 128**2, axes=2, ring=16, largest=256, devices=2),
    'v3': Chip('tpu', 'TPU v3', 123 * TERA, 32 * GIB, 900 * GB, 328 * GB, 4, 96,
               4 * 128**2, axes=2, ring=32, largest=1024, devices=2),
    'v4': Chip('tpu', 'TPU v4', 275 * TERA, 32 * GIB, 1228 * GB, 300 * GB, 4, 240,
               8 * 128**2, axes=3, ring=4, largest=4096),
    'v5e': Chip('tpu', 'TPU v5e', 197 * TERA, 16 * GIB, 819 * GB, 200 * GB, 4, 112,
                4 * 128**2, axes=2, ring=16, largest=256),
    'v5p': Chip('tpu', 'TPU v5p', 459 * TERA, 95 * GIB, 2765 * GB, 600 * GB, 4, 208,
                8 * 128**2, axes=3, ring=4, largest=6144),
    'v6e': Chip('tpu', 'TPU v6e', 918 * TERA, 32 * GIB, 1638 * GB, 400 * GB, 4, 180,
                4 * 256**2, axes=2, ring=16, largest=256),
    'tpu7x': Chip('tpu', 'TPU7x', 2307 * TERA, 192 * GIB, 7380 * GB, 600 * GB, 4, 224,
                  8 * 256**2, axes=3, ring=4, largest=9216, devices=2),
    'a100': Chip('gpu', 'A100', 312 * TERA, 80 * GB, 2039 * GB, 300 * GB, 8, 96, network=25 * GB),
    'h100': Chip('gpu', 'H100', 989 * TERA, 80 * GB, 3350 * GB, 450 * GB, 8, 208, network=50 * GB),
    'h200': Chip('gpu', 'H200', 989 * TERA, 141 * GB, 4800 * GB, 450 * GB, 8, 224, network=50 * GB),
    'b200': Chip('gpu', 'B200', 2250 * TERA, 180 * GB, 8000 * GB, 900 * GB, 8, 224,
                 network=50 * GB),
    'l4': Chip('gpu', 'L4', 121 * TERA, 24 * GB, 300 * GB, 32 * GB, 8, 192, network=1.56 * GB),
    'l40s': Chip('gpu', 'L40S', 362 * TERA, 48 * GB, 864 * GB, 32 * GB, 8, 192, network=6.25 * GB),
    'a10g': Chip('gpu', 'A10G', 70 * TERA, 24 * GB, 600 * GB, 32 * GB, 8, 192, network=1.56 * GB),
}
# fmt: on

DEVICE_KINDS = {  # names of the chips in JAX
    'TPU v2': 'v2', 'TPU v3': 'v3', 'TPU v4': 'v4', 'TPU v5 lite': 'v5e', 'TPU v5e': 'v5e',
    'TPU v5': 'v5p', 'TPU v5p': 'v5p', 'TPU v6 lite': 'v6e', 'TPU v6e': 'v6e', 'TPU7x': 'tpu7x',
}  # fmt: skip

# Variants of GPUs with other peaks than the table's.
OTHER_VARIANTS = ('PCIe', '40GB', 'NVL', 'GH200', 'GB200')

# What XLA:GPU must know about a chip that is not here: streaming multiprocessors, MHz, L2 cache,
# shared memory of a block and of a multiprocessor in KiB, compute capability.
GPUS: dict[str, tuple[int, int, int, int, int, tuple[int, int]]] = {
    'a100': (108, 1410, 40 * 2**20, 163, 164, (8, 0)),
    'h100': (132, 1980, 50 * 2**20, 227, 228, (9, 0)),
    'h200': (132, 1980, 50 * 2**20, 227, 228, (9, 0)),
    'b200': (148, 1965, 126 * 2**20, 227, 228, (10, 0)),
    'l4': (58, 2040, 48 * 2**20, 99, 100, (8, 9)),
    'l40s': (142, 2520, 96 * 2**20, 99, 100, (8, 9)),
    'a10g': (80, 1710, 6 * 2**20, 99, 100, (8, 6)),
}
FPUS = {(8, 0): 64}  # FPUs of a multiprocessor, by compute capability; others have 128
THREADS = {(8, 6): 1536, (8, 9): 1536}  # threads of a multiprocessor, likewise; others have 2048


def target_config(name: str) -> str:
    """The text proto of XLA's ``GpuTargetConfigProto`` for a GPU of the table."""
    chip = CHIPS[name]
    processors, megahertz, cache, block, processor, (major, minor) = GPUS[name]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {processor * 1024}
  threads_per_core_limit: {THREADS.get((major, minor), 2048)}
  core_count: {processors}
  fpus_per_core: {FPUS.get((major, minor), 128)}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(chip.bandwidth)}
  l2_cache_size: {cache}
  clock_rate_ghz: {megahertz / 1000}
  device_memory_size: {chip.memory}
  shared_memory_per_block_optin: {block * 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.name}"
"""


def chip_of(kind: str) -> Chip | None:
    """The chip that JAX calls `kind`, or None if it is not in the table."""
    words = re.split(r'[\s-]+', kind.lower())  # 'nvidia', 'a100', 'sxm4', '80gb'
    names = (
        [DEVICE_KINDS[kind]] if kind in DEVICE_KINDS else [name for name in CHIPS if name in words]
    )
    if any(other in kind for other in OTHER_VARIANTS):
        return None
    return CHIPS[names[0]] if names else None
