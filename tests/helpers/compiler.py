"""The compiler's options for tests: most of a test is compiling."""

from __future__ import annotations

import os
import subprocess
import sys

# A quarter of the time. Steps take longer so, but tests take few.
QUICK = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'


def flags() -> str:
    """XLA_FLAGS as it is set, or else `QUICK`. ``XLA_FLAGS= pytest`` compiles as users do."""
    if 'XLA_FLAGS' in os.environ:
        return os.environ['XLA_FLAGS']
    # XLA ends a process that has a flag which it does not know, as a later version may.
    probe = subprocess.run(
        [sys.executable, '-c', 'import jax; jax.devices()'],
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': QUICK},
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return '' if probe.returncode else QUICK
