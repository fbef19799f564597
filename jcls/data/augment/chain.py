"""Operations in a row: image by image until all have one size, then compiled, for many at a time.

TensorFlow takes some microseconds for each of the hundred small steps of an augmentation, more than
for their arithmetic. So what comes last and compiles is one XLA program for a whole group of
images, a loop over them. It is compiled at its first group, which takes a second or so.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jcls.data import decode
from jcls.data.augment.operation import Draw, Extent, Operation
from jcls.data.decode import Image
from jcls.host.tensorflow import tf

Apply = Callable[[Image, Draw], Any]
# images uint8 [n, H, W, C], keys int64 [n, 2], mean uint8 [C] -> uint8 [n, H', W', C]
Program = Callable[[Any, Any, Any], Any]


class Split(NamedTuple):
    """A chain in two parts.

    Attributes:
      head: what is done image by image; returns pixels, uint8 [H, W, C].
      extent: (H, W), or None if images differ.
      tail: what is then done to many at a time, or None; takes the keys of their draws.
    """

    head: Apply
    extent: Extent
    tail: Program | None


class Chain:
    """Operations in their order, of which each has random numbers of its own.

    `where` is their place in the config.
    """

    def __init__(self, operations: Sequence[Operation], where: str = 'augment') -> None:
        self.operations, self.where = tuple(operations), where
        self.split = functools.cache(self._split)

    def extent(self, size: Extent) -> Extent:
        """(height, width) afterwards from that before; see `Operation`."""
        for operation in self.operations:
            size = operation.extent(size)
        return size

    def apply(self, image: Image, draw: Draw) -> Any:
        """All operations on one image; returns pixels, uint8 [H, W, C]."""
        head, _, tail = self.split(_known(image)[0])
        image = head(image, draw)
        return image if tail is None else _one(tail, image, draw)

    def _split(self, size: Extent) -> Split:
        """How images of this size are augmented; None: of any size."""
        sizes = [size]
        for operation in self.operations:
            sizes.append(operation.extent(sizes[-1]))
        pairs = zip(self.operations, sizes, strict=False)
        compiles = [operation.compiles and before is not None for operation, before in pairs]
        end = count = len(compiles)
        while end and compiles[end - 1]:
            end -= 1
        steps: list[Apply] = []
        for together, places in itertools.groupby(range(end), compiles.__getitem__):
            run = self._sequence([*places])
            steps.append(_single(_program(run)) if together else run)

        def head(image: Image, draw: Draw) -> Any:
            for step in steps:
                image = step(image, draw)
            return decode.pixels(image)

        tail = None if end == count else _program(self._sequence([*range(end, count)]))
        return Split(head, sizes[end], tail)

    def _sequence(self, places: list[int]) -> Apply:
        def apply(image: Image, draw: Draw) -> Any:
            size, channels = _known(image)
            for place in places:
                operation = self.operations[place]
                key = tf.add(draw.key, [0, place])
                try:
                    image = operation.apply(image, draw._replace(key=key))
                except ValueError as error:
                    raise ValueError(f'config.{self.where}[{place}]: {error}') from None
                size = operation.extent(size)
                if size and not image.shape.is_fully_defined():
                    # Of a crop whose corner is a tensor TensorFlow does not know the size.
                    image = tf.ensure_shape(image, [*size, channels])
            return image

        return apply


def _known(image: Image) -> tuple[Extent, int]:
    """Its size, if that is known before it is read, and its channels."""
    if decode.is_encoded(image):
        return None, 3
    height, width, channels = image.shape
    return (None if height is None or width is None else (height, width)), channels


def _program(run: Apply) -> Program:
    """`run` for many images, compiled."""

    def many(images: Any, keys: Any, mean: Any) -> Any:
        def one(element: tuple[Any, Any]) -> Any:
            return run(element[0], Draw(element[1], mean))

        return tf.map_fn(one, (images, keys), fn_output_signature=images.dtype)

    @functools.cache
    def program() -> Any:
        return tf.function(many, jit_compile=True, autograph=False)

    return lambda *tensors: program()(*tensors)


def _single(program: Program) -> Apply:
    return lambda image, draw: _one(program, image, draw)


def _one(program: Program, image: Any, draw: Draw) -> Any:
    mean = tf.cast(draw.mean, tf.uint8)
    return program(image[None], draw.key[None], mean)[0]
