"""The compiler's options for tests: most of a test is compiling."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

# A quarter of the time; without the second, which JAX 0.12 has no more, a third. Steps take longer
# so, but tests take few.
QUICK = ('--xla_backend_optimization_level=0', '--xla_cpu_use_fusion_emitters=false')
# A process ends at a flag that it does not know, as another version of XLA may, of which JAX and
# TensorFlow have one each.
PROBE = """
import jax
jax.devices()
from jcls.host.tensorflow import tf
tf.function(lambda x: x + 1, jit_compile=True)(1.0)
"""


def flags() -> str:
    """XLA_FLAGS as it is set, or else those of `QUICK` that XLA knows.

    ``XLA_FLAGS= pytest`` compiles as users do.
    """
    if 'XLA_FLAGS' in os.environ:
        return os.environ['XLA_FLAGS']
    reason = ''
    for count in range(len(QUICK), 0, -1):
        text = ' '.join(QUICK[:count])
        probe = subprocess.run(
            [sys.executable, '-c', PROBE],
            env={**os.environ, 'XLA_FLAGS': text},
            capture_output=True,
            check=False,
        )
        if probe.returncode == 0:
            return text
        reason = probe.stderr.decode(errors='replace').strip().split('\n')[-1]
    warnings.warn(f'XLA takes none of {QUICK} ({reason}), so tests take longer', stacklevel=1)
    return ''
