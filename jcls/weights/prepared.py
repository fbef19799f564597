"""How images are prepared for a network: whether what a file says of it can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

INTERPOLATIONS = ('bilinear', 'bicubic')  # of `jcls.data.augment.crop.resize`


def require_moments(moments: Mapping[str, Any]) -> None:
    """Raise ValueError unless 'mean' and 'std', as far as they are there, can be of images."""
    for key, values in moments.items():
        numbers = isinstance(values, Sequence) and all(map(_is_number, values))
        if key == 'mean' and not (numbers and all(0 <= value <= 1 for value in values)):
            raise ValueError(
                f'mean={values!r}: numbers from 0 to 1, which are fractions of 255, such as 0.485 '
                'for 123.7'
            )
        if key == 'std' and not (numbers and all(0 < value <= 1 for value in values)):
            raise ValueError(
                f'std={values!r}: positive numbers of at most 1, which are fractions of 255, such '
                'as 0.229 for 58.4'
            )
    if len({len(values) for values in moments.values()}) > 1:
        raise ValueError('mean and std have different channels')


def require_steps(steps: Sequence[Any]) -> None:
    """Raise ValueError for a resize or a central crop that cannot be; others are not known here."""
    for step in steps:
        if not isinstance(step, dict) or not isinstance(step.get('name'), str):
            raise ValueError('preprocess is no list of operations')
        if step['name'] in ('resize', 'center_crop'):
            require_size(step.get('size', 1), f'size of {step["name"]}')
        if step['name'] == 'resize':
            require_interpolation(step.get('interpolation', INTERPOLATIONS[0]))


def require_size(size: Any, what: str) -> None:
    """Raise ValueError unless this is a number of pixels."""
    if type(size) is not int or size < 1:
        raise ValueError(f'{what}={size!r}: a whole number of pixels, at least 1')


def require_interpolation(name: Any) -> None:
    """Raise ValueError unless images can be resized so at evaluation."""
    if name not in INTERPOLATIONS:
        known = ' or '.join(map(repr, INTERPOLATIONS))
        raise ValueError(f'interpolation={name!r}: {known}')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
