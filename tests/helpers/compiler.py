"""The compiler's options for tests: most of a test is compiling."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

# A quarter of the time. Steps take longer so, but tests take few.
QUICK = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
# A process ends at a flag that it does not know, as another version of XLA may, of which JAX and
# TensorFlow have one each.
PROBE = """
import jax
jax.devices()
from jcls.host.tensorflow import tf
tf.function(lambda x: x + 1, jit_compile=True)(1.0)
"""


def flags() -> str:
    """XLA_FLAGS as it is set, or else `QUICK`. ``XLA_FLAGS= pytest`` compiles as users do."""
    if 'XLA_FLAGS' in os.environ:
        return os.environ['XLA_FLAGS']
    env = {**os.environ, 'XLA_FLAGS': QUICK}
    probe = subprocess.run([sys.executable, '-c', PROBE], env=env, capture_output=True, check=False)
    if probe.returncode == 0:
        return QUICK
    reason = probe.stderr.decode(errors='replace').strip().split('\n')[-1]
    warnings.warn(f'XLA does not take {QUICK} ({reason}), so tests take longer', stacklevel=1)
    return ''
