"""A compiled operation follows any crop, and says where it belongs where sizes differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_augment import collect, draw, noise

from jcls.data import augment
from jcls.data.runtime import tensorflow


@pytest.mark.parametrize('first', ['pad_and_crop', 'center_crop', 'random_resized_crop'])
@pytest.mark.parametrize('encoded', [False, True])
def test_after_a_crop(first: str, encoded: bool) -> None:
    """A policy, and paint after it, follow any crop, of pixels or of a file, in a pipeline."""
    chain = (
        {'name': first, 'size': 24},
        {'name': 'trivial_augment'},
        {'name': 'cutout', 'length': 8},
    )
    operation = augment.compose(chain, 'augment')
    image: Any = tensorflow().constant(noise(40, 56))
    if encoded:
        image = tensorflow().io.encode_png(image)
    found = collect(lambda d: operation.apply(image, d), 6)
    assert found.shape == (6, 24, 24, 3)
    assert len({image.tobytes() for image in found}) == 6
    assert operation.extent(None) == (24, 24)


NEEDS_A_SIZE = ('trivial_augment', 'rand_augment', 'rand_augment_timm', 'auto_augment',
                'three_augment', 'color_jitter', 'grey', 'gaussian_blur', 'lighting', 'rotation',
                'random_erasing', 'cutout', 'grid_mask', 'hide_and_seek')  # fmt: skip


@pytest.mark.parametrize('name', NEEDS_A_SIZE)
def test_images_of_different_sizes_are_refused(name: str) -> None:
    """Before a crop, a compiled operation says where to put it; so it does for odd channels."""
    operation = augment.OPERATIONS[name]()
    with pytest.raises(ValueError, match=f'{name} needs images of one size: put it after a crop'):
        operation.extent(None)
    unknown = tensorflow().TensorSpec([None, None, 3], tensorflow().uint8)
    apply: Callable[..., Any] = tensorflow().function(
        lambda image: operation.apply(image, draw(0)), autograph=False
    )
    with pytest.raises(ValueError, match=f'{name} needs images of one size'):
        apply.get_concrete_function(unknown)
    with pytest.raises(ValueError, match=f'{name} takes images of 1 or 3 channels, not 4'):
        operation.apply(tensorflow().zeros([8, 8, 4], tensorflow().uint8), draw(0))
