"""What a file of weights does not tell: the value that is assumed, and the option for another.

model.json has it as 'assumed': {what: {'value': ..., 'option': ...}}. Where jcls has no other value
than the one assumed, the option is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What may be assumed: (the option of `jcls import` that chooses, what it is about).
OPTIONS: dict[str, tuple[str | None, str]] = {
    'classes': ('--classes', 'names of the classes'),
    'mean': ('--mean', 'mean of the images that it was trained on, as fractions of 255'),
    'std': ('--std', 'their standard deviation'),
    'preprocess': ('--resize, --crop', 'size of the shorter side, and of the central square'),
    'interpolation': ('--interpolation', 'of the resize'),
    'antialias': ('--antialias', 'whether the resize filters what becomes smaller'),
    'bgr': ('--bgr', 'whether the channels were blue, green, red'),
    'exif': ('--exif', 'whether images were turned as their EXIF says'),
    'epsilon': ('--epsilon', 'of the normalisation layers'),
    'stem': ('--stem', "a 3x3 convolution: 'cifar' without a pool, 'cifar_pool' with one"),
    'shortcut': ('--shortcut', "zeros behind the channels ('pad') or on both sides ('pad_both')"),
    'stride_in_1x1': ('--stride_in_1x1', 'whether bottlenecks stride in their first 1x1'),
    'padding': ('--padding', "of convolutions: 'torch' (both sides alike) or TensorFlow's 'same'"),
    'strides': (None, 'dilation, a last stride of 1 or another in the stem computes otherwise'),
    'pool': (None, 'between the stem and the first stage'),
    'blur': (
        None,
        "whether a filter comes before each stride, as in timm's resnetaa and resnetblur",
    ),
    'activation': (None, 'between the layers'),
    'averaged': ('--ema', 'of the averaged and the raw weights that the file has'),
}


def of_every_file(stem: str) -> dict[str, Any]:
    """What no tensors tell of a network with this stem, and jcls has in one way alone."""
    small = stem.startswith('cifar')
    first = '1 in the stem' if small else '2 in the stem'
    built = {'strides': f'{first}, 1 in the first stage, 2 in each later one', 'blur': False}
    pool = {} if small else {'pool': 'the largest of 3x3, stride 2'}  # else it is the stem's kind
    return {**built, **pool, 'activation': 'relu'}


def entries(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The content of 'assumed' for these values, in the order of `OPTIONS`."""
    return {
        what: {'value': values[what], 'option': option}
        for what, (option, _) in OPTIONS.items()
        if what in values
    }


def of_card(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a model.json lists; cards of before have the names alone."""
    listed = metadata.get('assumed') or {}
    return dict(listed) if isinstance(listed, Mapping) else entries(dict.fromkeys(listed))


def lines(assumed: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each, to read: what, its value, the option, and what it is about."""
    return [
        f'{what} = {value}  ({assumed[what]["option"] or "jcls has no other"}: {OPTIONS[what][1]})'
        for what, value in short(assumed)
    ]


def short(assumed: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What is assumed, and its value to read."""
    return [(what, _short(entry['value'])) for what, entry in assumed.items() if what in OPTIONS]


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ', '.join(map(_short, value))
    if isinstance(value, Mapping):
        return ' '.join(map(_short, value.values()))
    return f'{value:.4g}' if isinstance(value, float) else str(value)
