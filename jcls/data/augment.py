"""Operations on one image, in the order that ``augment`` or ``evaluate.preprocess`` lists them.

An operation takes an image (encoded or uint8 [H, W, C], see `jcls.data.decode`) and a `Draw`, its
own random numbers, and returns a uint8 image. What it draws depends on (seed, epoch, index of the
example, place in the list) and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jcls.data import crop, decode, policies
from jcls.data.decode import Image
from jcls.data.operation import MOST, Draw, Extent, Operation
from jcls.data.runtime import tensorflow
from jcls.schema import choose


def compose(sections: Sequence[dict[str, Any]], where: str) -> Operation:
    """The listed operations as one; its `apply` always returns pixels, uint8 [H, W, C]."""
    if len(sections) > MOST:
        raise ValueError(f'config.{where} has {len(sections)} operations; at most {MOST}')
    operations: list[Operation] = []
    for i, section in enumerate(sections):
        fields = dict(section)
        build = choose(OPERATIONS, fields.pop('name'), f'config.{where}[{i}].name')
        try:
            operations.append(build(**fields))
        except ValueError as error:
            raise ValueError(f'config.{where}[{i}]: {error}') from None

    def apply(image: Image, draw: Draw) -> Any:
        for place, operation in enumerate(operations):
            key = tensorflow().add(draw.key, [0, place])
            image = operation.apply(image, draw._replace(key=key))
        return decode.pixels(image)

    def extent(size: Extent) -> Extent:
        for operation in operations:
            size = operation.extent(size)
        return size

    return Operation(apply, extent)


OPERATIONS: dict[str, Callable[..., Operation]] = {
    'random_resized_crop': crop.random_resized_crop,
    'resize': crop.resize,
    'center_crop': crop.center_crop,
    'pad_and_crop': crop.pad_and_crop,
    'flip': crop.flip,
    'trivial_augment': policies.trivial_augment,
    'rand_augment': policies.rand_augment,
    'rand_augment_timm': policies.rand_augment_timm,
}
