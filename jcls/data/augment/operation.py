"""What an operation on one image is: a function of the image and of its own random numbers.

`crop`, `geometry`, `colour`, `policies` and `erase` make operations. `jcls.data.augment` has the
table of their names and makes a chain of a list of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jcls.data import decode
from jcls.data.decode import Image
from jcls.host.tensorflow import tf

Size = tuple[int, int] | None  # (height, width); None where it differs from image to image
Fill = str | int | tuple[int, ...]  # 'mean', a grey level or a colour, 0..255
MOST = 64  # operations in a list, at most: each has a key between those of two examples


class Rng(NamedTuple):
    """The random numbers of one operation on one example, and the data's mean colour.

    Attributes:
      key: int64 tensor [2], which no other operation or example has.
      mean: uint8 [C], the colour that is 0 after normalisation; ``fill='mean'`` uses it.
    """

    key: Any
    mean: Any = (124, 116, 104)

    def uniform(self, *shape: int, stream: int = 0) -> Any:
        """Uniform float32 numbers in [0, 1), the same at every call with the same `stream`."""
        return self._steps(shape, stream) * 2.0**-23

    def normal(self, *shape: int, stream: int = 0) -> Any:
        """Normal float32 numbers, N(0, 1), the same at every call with the same `stream`."""
        return tf.math.ndtri((self._steps(shape, stream) + 0.5) * 2.0**-23)

    def colour(self, fill: Fill, channels: int) -> Any:
        """The colour that `fill` names, uint8 [channels]."""
        if fill == 'mean':
            return tf.ensure_shape(tf.cast(self.mean, tf.uint8), [channels])
        if isinstance(fill, tuple) and len(fill) != channels:
            raise ValueError(f'fill={fill}: the images have {channels} channel(s)')
        return tf.constant(np.broadcast_to(fill, channels).astype(np.uint8))

    def _steps(self, shape: tuple[int, ...], stream: int) -> Any:
        """Uniform whole numbers in 0..2^23-1, as float32."""
        # The first word of the key is a random number of the epoch, so any odd stride will do.
        key = tf.add(self.key, [stream * STRIDE, 0])
        # TensorFlow and XLA draw the same bits, but make different fractions of them.
        bits = tf.random.stateless_uniform(shape, key, None, None, tf.uint32, alg='philox')
        return tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32)


STRIDE = 0x1E3779B97F4A7C15  # times 4 still fits a signed word: streams 0..4


class Operation(NamedTuple):
    """A change of one image.

    Attributes:
      apply: function from (image, rng) to the changed image.
      output_size: function from the size of an image to its size afterwards.
      compiles: whether `apply` can be part of an XLA program, for pixels whose size is known.
    """

    apply: Callable[[Image, Rng], Image]
    output_size: Callable[[Size], Size]
    compiles: bool = False


def prepared(image: Image, name: str) -> Any:
    """The image as uint8 [H, W, 3 or 1] of a static size, or a ValueError that names `name`."""
    image = decode.pixels(image)
    if not image.shape.is_fully_defined():
        same_size(name)(None)
    if image.shape[-1] not in (1, 3):
        raise ValueError(f'{name} takes images of 1 or 3 channels, not {image.shape[-1]}')
    return image


def pick(u: Any, count: Any) -> Any:
    """From uniform numbers in [0, 1) to int32 numbers in 0..count-1."""
    # In float32 the product can round up to `count`.
    return tf.minimum(tf.cast(u * tf.cast(count, tf.float32), tf.int32), count - 1)


def positive(**values: int) -> None:
    """Raise ValueError for values below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f'{name}={value}: at least 1')


def between_0_and_1(**values: float) -> None:
    """Raise ValueError for values outside 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f'{name}={value}: must be in [0, 1]')


def check_fill(fill: Fill) -> None:
    """Raise ValueError if `fill` is no colour."""
    if fill == 'mean':
        return
    levels = (fill,) if isinstance(fill, int) else fill
    if isinstance(levels, str) or not all(0 <= level <= 255 for level in levels):
        raise ValueError(f"fill={fill!r}: 'mean', or levels in 0..255")


def same_size(what: str) -> Callable[[Size], Size]:
    """An `Operation.output_size` that keeps the size, and refuses images of different sizes."""

    def output_size(before: Size) -> Size:
        if before is None:
            raise ValueError(f'{what} needs images of one size: put it after a crop')
        return before

    return output_size
