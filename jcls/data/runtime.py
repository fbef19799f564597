"""TensorFlow, imported late and kept off the accelerators: it feeds the run, JAX computes it."""

from __future__ import annotations

import contextlib
import ctypes
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

    _keep_memory()
    # There are images enough for all cores: several cores for one would wait for each other.
    # Where TensorFlow was used before, both are fixed: that costs speed and memory, no more.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
    with contextlib.suppress(RuntimeError):
        for kind in ('GPU', 'TPU'):
            tf.config.set_visible_devices([], kind)
    return tf


def call_module(arguments: list[Any], **settings: Any) -> Any:
    """TensorFlow's operation that runs a StableHLO module; ``tf.raw_ops`` lacks it."""
    tensorflow()
    from tensorflow.compiler.tf2xla.python import xla

    return xla.call_module(arguments, **settings)


def _keep_memory() -> None:
    """Let glibc's malloc keep the megabytes that every image takes and gives back.

    By default it returns them to the system, which then clears each page anew: more than a third of
    the time that decoding and resizing an ImageNet image takes.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or Windows
        return
    mallopt(trim_threshold, 1 << 30)
    mallopt(top_pad, 64 << 20)
    mallopt(mmap_threshold, 32 << 20)  # the highest that is allowed


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on macOS or Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
