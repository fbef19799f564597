"""What an operation on one image is: a function of the image and of its own random numbers.

Room for every augmentation: `crop`, `geometry`, `colour`, `policies` and `erase` make operations;
`jcls.data.augment` has the table of their names and puts a list of them together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jcls.data.decode import Image
from jcls.data.runtime import tensorflow

Extent = tuple[int, int] | None  # (height, width); None where it differs from image to image
MOST = 64  # operations in a list: each has a key of its own between those of two examples


class Draw(NamedTuple):
    """The random numbers of one operation on one example; `key` is an int64 tensor [2]."""

    key: Any

    def uniform(self, *shape: int, stream: int = 0) -> Any:
        """float32 in [0, 1), the same ones at every call; another `stream` gives others."""
        return tensorflow().random.stateless_uniform(shape, self._of(stream), alg='philox')

    def normal(self, *shape: int, stream: int = 0) -> Any:
        """float32, N(0, 1), the same ones at every call; another `stream` gives others."""
        return tensorflow().random.stateless_normal(shape, self._of(stream), alg='philox')

    def _of(self, stream: int) -> Any:
        # The first word of the key is a random number of the epoch: any odd stride will do.
        return tensorflow().add(self.key, [stream * STRIDE, 0])


STRIDE = 0x1E3779B97F4A7C15  # times 4 still fits a signed word: streams 0..4


class Operation(NamedTuple):
    """`apply` changes an image; `extent` tells its size afterwards from its size before."""

    apply: Callable[[Image, Draw], Image]
    extent: Callable[[Extent], Extent]


def positive(**values: int) -> None:
    """Refuse values below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f'{name}={value}: at least 1')


def between_0_and_1(**values: float) -> None:
    """Refuse values outside of 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f'{name}={value}: must be in [0, 1]')
