"""An operation's arithmetic as one compiled program: one launch for an image, however many steps.

XLA compiles it at the first image of each size, which takes a second or so; so it is for images of
one size, after a crop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jcls.data import decode
from jcls.data.decode import Image
from jcls.data.operation import same_extent
from jcls.data.runtime import tensorflow


def compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, a function of tensors of static shapes, compiled by XLA when it is first called."""

    @functools.cache
    def program() -> Any:
        return tensorflow().function(run, jit_compile=True, autograph=False)

    return lambda *tensors: program()(*tensors)


def prepared(image: Image, name: str) -> Any:
    """The image as uint8 [H, W, 3 or 1] of a static size, or a ValueError that names `name`."""
    image = decode.pixels(image)
    if not image.shape.is_fully_defined():
        same_extent(name)(None)
    if image.shape[-1] not in (1, 3):
        raise ValueError(f'{name} takes images of 1 or 3 channels, not {image.shape[-1]}')
    return image


def pick(u: Any, count: Any) -> Any:
    """Uniform in [0, 1) -> int32 in 0..count-1."""
    tf = tensorflow()
    # In float32 the product can round up to `count`.
    return tf.minimum(tf.cast(u * tf.cast(count, tf.float32), tf.int32), count - 1)
