"""TensorFlow, imported late and kept off the accelerators: it feeds the run, JAX computes it."""

from __future__ import annotations

import functools
import os
from typing import Any


@functools.cache
def tensorflow() -> Any:
    """The `tensorflow` module; the first call takes seconds and hides GPUs and TPUs from it."""
    # Its start-up notes, of which one (about oneDNN, which images do not use) heeds no log level.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    import tensorflow as tf

    for kind in ('GPU', 'TPU'):
        tf.config.set_visible_devices([], kind)
    return tf
