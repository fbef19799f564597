"""Operations on one image, in the order that ``augment`` or ``evaluate.preprocess`` lists them.

An operation takes an image (encoded or uint8 [H, W, C], see `jcls.data.decode`) and an `Rng`, its
own random numbers, and returns a uint8 image. Its random numbers depend on (seed, epoch, index of
the example, place in the list) and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jcls.config.horizon import Horizon
from jcls.config.parts import part
from jcls.data.augment import autoaugment, colour, crop, erase, geometry, grids, policies
from jcls.data.augment.chain import Chain
from jcls.data.augment.operation import MOST, Operation


def compose(sections: Sequence[dict[str, Any]], where: str) -> Chain:
    """The listed operations as one chain; `where` names their list in the config."""
    if len(sections) > MOST:
        raise ValueError(f'config.{where} has {len(sections)} operations; at most {MOST}')
    operations: list[Operation] = []
    for i, section in enumerate(sections):
        fields = dict(section)
        build = part(OPERATIONS, fields.pop('name'), f'config.{where}[{i}].name')
        try:
            operations.append(build(**fields))
        except ValueError as error:
            raise ValueError(f'config.{where}[{i}]: {error}') from None
    return Chain(operations, where)


def compose_by_step(
    augment: tuple, sizes: tuple[tuple[str, int], ...], horizon: Horizon
) -> tuple[tuple[int, Chain], ...]:
    """The (first step, chain) of each part of a run in which `sizes` change the images' size."""
    parts = [(0, compose(augment, 'augment'))]
    crops = [i for i, section in enumerate(augment) if section['name'] == 'random_resized_crop']
    if sizes and len(crops) != 1:
        raise ValueError(
            f'config.sizes={sizes} is about the one random_resized_crop of config.augment, but '
            f'there are {len(crops)}'
        )
    for i, (when, size) in enumerate(sizes):
        if size < 1:
            raise ValueError(f'config.sizes[{i}]: {size} pixels; at least 1')
        begin = horizon.every(when, f'sizes[{i}]')
        if not parts[-1][0] < begin < horizon.total:
            raise ValueError(
                f'config.sizes[{i}]: {when!r} is step {begin}; times must increase, and lie before '
                f'the end of the run, step {horizon.total}'
            )
        changed = [dict(section) for section in augment]
        changed[crops[0]]['size'] = size
        parts.append((begin, compose(tuple(changed), 'augment')))
    return tuple(parts)


OPERATIONS: dict[str, Callable[..., Operation]] = {
    'random_resized_crop': crop.random_resized_crop,
    'resize': crop.resize,
    'center_crop': crop.center_crop,
    'pad_and_crop': crop.pad_and_crop,
    'flip': crop.flip,
    'flip_vertical': crop.flip_vertical,
    'rotation': geometry.rotation,
    'color_jitter': colour.color_jitter,
    'grey': colour.grey,
    'gaussian_blur': colour.gaussian_blur,
    'lighting': colour.lighting,
    'three_augment': colour.three_augment,
    'auto_augment': autoaugment.auto_augment,
    'trivial_augment': policies.trivial_augment,
    'rand_augment': policies.rand_augment,
    'rand_augment_timm': policies.rand_augment_timm,
    'random_erasing': erase.random_erasing,
    'cutout': erase.cutout,
    'grid_mask': grids.grid_mask,
    'hide_and_seek': grids.hide_and_seek,
}
