"""TensorFlow, imported late and kept off the accelerators: it reads the data, JAX computes.

    from jcls.host.tensorflow import tf

`tf` is the `tensorflow` module. It is imported when the first of its attributes is used, which
takes seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from typing import Any

from jcls.host.machine import cores


class _TensorFlow:
    """A stand-in for the module until it is needed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load(), name)


tf: Any = _TensorFlow()


@functools.cache
def load() -> Any:
    """Import TensorFlow now, and hide GPUs and TPUs from it; any thread may call this."""
    # Silence its start-up messages. The oneDNN one ignores the log level, so switch oneDNN off.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    # At its end TensorFlow imports Keras's optimizers, which takes a third of the time, and goes on
    # where that fails. jcls needs no Keras; tf.keras imports it when it is first used.
    with _missing('keras', 'keras.src.optimizers'):
        import tensorflow

    _keep_memory()
    # There are enough images for all cores; several cores for one image would wait for each other.
    # If TensorFlow was used before, both are fixed, which costs speed and memory but nothing else.
    with contextlib.suppress(RuntimeError):
        tensorflow.config.threading.set_intra_op_parallelism_threads(1)
        tensorflow.config.threading.set_inter_op_parallelism_threads(cores())
    with contextlib.suppress(RuntimeError):
        for kind in ('GPU', 'TPU'):
            tensorflow.config.set_visible_devices([], kind)
    return tensorflow


def call_module(arguments: list[Any], **settings: Any) -> Any:
    """The operation of TensorFlow that runs a StableHLO module, which ``tf.raw_ops`` lacks."""
    load()
    from tensorflow.compiler.tf2xla.python import xla

    return xla.call_module(arguments, **settings)


@contextlib.contextmanager
def _missing(package: str, module: str) -> Iterator[None]:
    """Let an import of `module` fail in the context, unless its `package` is imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # None makes an import of it fail
    try:
        yield
    finally:
        sys.modules.pop(module, None)


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
    mallopt(mmap_threshold, 32 << 20)  # the highest value allowed
