"""The pixel and geometric operations that the policies draw from, as one compiled program.

`transform` applies some of `NAMES` to a uint8 image. XLA compiles it once for each image size and
runs only the branches that were drawn. Each operation computes what Pillow (13.0) does, which
torchvision and timm use: blends and bilinear values are truncated, not rounded; geometric
operations sample at pixel centres, and places outside the image have the fill colour.

Values are in natural units, which `NAMES` lists: degrees, pixels, factors, bits, levels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jcls.data.augment.geometry import affine, rotated
from jcls.data.augment.levels import PIXEL
from jcls.host.tensorflow import tf

# The meaning of each operation's value.
NAMES = {
    'identity': 'unused',
    'shear_x': 'pixels to the left for each pixel down',
    'shear_y': 'pixels up for each pixel to the right',
    'translate_x': 'pixels to the left',
    'translate_y': 'pixels up',
    'rotate': 'degrees, counter-clockwise',
    'brightness': 'factor: 0 is black, 1 the image',
    'color': 'factor: 0 is grey, 1 the image',
    'contrast': 'factor: 0 is the mean grey level, 1 the image',
    'sharpness': 'factor: 0 is smoothed, 1 the image',
    'posterize': 'bits that remain of 8',
    'solarize': 'levels from this one on are inverted',
    'solarize_add': 'levels added to those below 128',
    'autocontrast': 'unused',
    'equalize': 'unused',
    'invert': 'unused',
}
INDEX = {name: index for index, name in enumerate(NAMES)}
GEOMETRIC = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')


class Step(NamedTuple):
    """The operations to apply, in this order, as tensors [n].

    Attributes:
      which: int32, the operation's place in `INDEX`.
      value: float32, in the unit of the operation.
      cubic: bool, whether interpolation 'random' is bicubic here; else it is bilinear.
    """

    which: Any
    value: Any
    cubic: Any


def transform(image: Any, steps: Step, fill: Any, kind: str) -> Any:
    """Apply the operations to an image; for use inside a compiled function.

    Args:
      image: uint8 [H, W, 3] or [H, W, 1], H and W static.
      steps: the operations.
      fill: uint8 [3 or 1], the colour of places outside the image.
      kind: interpolation of geometric operations, one of `geometry.INTERPOLATIONS`.
    """
    count = steps.which.shape[0]

    def step(i: Any, image: Any) -> Any:
        return _apply(image, Step(*(part[i] for part in steps)), fill, kind)

    if count == 1:
        return step(0, image)
    loop = tf.while_loop(
        lambda i, _: i < count, lambda i, image: (i + 1, step(i, image)), (tf.constant(0), image)
    )
    return loop[1]


def _apply(image: Any, step: Step, fill: Any, kind: str) -> Any:
    which, value, cubic = step

    def geometric() -> Any:
        return affine(image, _matrix(which, value, *image.shape[:2]), fill, kind, cubic)

    branches: dict[str, Callable[[], Any]] = {'identity': lambda: image}
    branches |= dict.fromkeys(GEOMETRIC, geometric)  # one branch for all of them
    branches |= {
        name: functools.partial(function, image, value) for name, function in PIXEL.items()
    }
    distinct = [*dict.fromkeys(branches.values())]
    table = tf.constant([distinct.index(branches[name]) for name in NAMES])
    return tf.switch_case(tf.gather(table, which), distinct)


def _matrix(which: Any, value: Any, height: int, width: int) -> Any:
    """The matrix of a geometric operation, float32 [6], for `affine`."""

    def drawn(name: str) -> Any:
        return tf.where(which == INDEX[name], value, 0.0)

    a, b, c, d, e, f = rotated(drawn('rotate'), height, width)
    b, c = b + drawn('shear_x'), c + drawn('translate_x')
    d, f = d + drawn('shear_y'), f + drawn('translate_y')
    return tf.stack([a, b, c, d, e, f])
