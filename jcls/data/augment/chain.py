"""Operations in a row: image by image until all have one size, then compiled, for many at a time.

TensorFlow takes some microseconds for each of the hundred small steps of an augmentation, which is
more than their arithmetic takes. So the operations at the end of a list, as far as they compile,
are one XLA program: a loop over a group of images. The first group takes a second more, to compile
it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jcls.data import decode
from jcls.data.augment.operation import Operation, Rng, Size
from jcls.data.decode import Image
from jcls.host.tensorflow import tf

Apply = Callable[[Image, Rng], Any]
# images uint8 [n, H, W, C], keys int64 [n, 2], mean uint8 [C] -> uint8 [n, H', W', C]
Program = Callable[[Any, Any, Any], Any]


class Split(NamedTuple):
    """A chain in two parts.

    Attributes:
      head: the operations done image by image; returns pixels, uint8 [H, W, C].
      size: (H, W) between the two, or None if images differ.
      tail: the operations then done to many images at a time, or None if there are none.
    """

    head: Apply
    size: Size
    tail: Program | None


class Chain:
    """Operations in their order, each with random numbers of its own.

    `where` is their place in the config.
    """

    def __init__(self, operations: Sequence[Operation], where: str = 'augment') -> None:
        self.operations, self.where = tuple(operations), where
        self.split = functools.cache(self._split)

    def output_size(self, size: Size) -> Size:
        """(height, width) of an image after all operations, from its `size` before."""
        for operation in self.operations:
            size = operation.output_size(size)
        return size

    def apply(self, image: Image, rng: Rng) -> Any:
        """All operations on one image; returns pixels, uint8 [H, W, C]."""
        head, _, tail = self.split(_known(image)[0])
        image = head(image, rng)
        return image if tail is None else _one(tail, image, rng)

    def _split(self, size: Size) -> Split:
        """The head and the tail for images of this size; None for images of any size."""
        sizes = [size]
        for operation in self.operations:
            sizes.append(operation.output_size(sizes[-1]))
        pairs = zip(self.operations, sizes, strict=False)
        compiles = [operation.compiles and before is not None for operation, before in pairs]
        end = count = len(compiles)
        while end and compiles[end - 1]:
            end -= 1
        steps: list[Apply] = []
        for together, places in itertools.groupby(range(end), compiles.__getitem__):
            run = self._sequence([*places])
            steps.append(_single(_program(run)) if together else run)

        def head(image: Image, rng: Rng) -> Any:
            for step in steps:
                image = step(image, rng)
            return decode.pixels(image)

        tail = None if end == count else _program(self._sequence([*range(end, count)]))
        return Split(head, sizes[end], tail)

    def _sequence(self, places: list[int]) -> Apply:
        def apply(image: Image, rng: Rng) -> Any:
            size, channels = _known(image)
            for place in places:
                operation = self.operations[place]
                key = tf.add(rng.key, [0, place])
                try:
                    image = operation.apply(image, rng._replace(key=key))
                except ValueError as error:
                    raise ValueError(f'config.{self.where}[{place}]: {error}') from None
                size = operation.output_size(size)
                if size and not image.shape.is_fully_defined():
                    # TensorFlow cannot infer the size of a crop whose corner is a tensor.
                    image = tf.ensure_shape(image, [*size, channels])
            return image

        return apply


def _known(image: Image) -> tuple[Size, int]:
    """The size of an image, if it is known before it is read, and its channels."""
    if decode.is_encoded(image):
        return None, 3
    height, width, channels = image.shape
    return (None if height is None or width is None else (height, width)), channels


def _program(run: Apply) -> Program:
    """A compiled program that does `run` to many images."""

    def many(images: Any, keys: Any, mean: Any) -> Any:
        def one(element: tuple[Any, Any]) -> Any:
            return run(element[0], Rng(element[1], mean))

        return tf.map_fn(one, (images, keys), fn_output_signature=images.dtype)

    @functools.cache
    def program() -> Any:
        return tf.function(many, jit_compile=True, autograph=False)

    return lambda *tensors: program()(*tensors)


def _single(program: Program) -> Apply:
    return lambda image, rng: _one(program, image, rng)


def _one(program: Program, image: Any, rng: Rng) -> Any:
    mean = tf.cast(rng.mean, tf.uint8)
    return program(image[None], rng.key[None], mean)[0]
