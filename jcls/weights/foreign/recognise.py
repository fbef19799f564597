"""Recognising a ResNet from the names and shapes of its tensors alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from jcls import models
from jcls.weights.foreign import layouts
from jcls.weights.foreign.layouts import Layout

Shapes = Mapping[str, tuple[int, ...]]  # the shapes of foreign tensors by name


def recognise(shapes: Shapes) -> tuple[Layout, dict[str, Any]]:
    """The layout, and the ``model`` section that builds the network.

    The section names the preset with all properties of the network; a depth, width or stem that no
    preset has stands beside the name. 'num_classes' is None if there is no classifier.

    Raises:
      ValueError: if this is no ResNet of jcls; the error names the nearest preset.
    """
    layout = _layout(shapes)
    stem, first = _stem(shapes, layout)
    blocks = _blocks(shapes, layout)
    conv = [f'{layout.block(1, 1, 0)}.{layout.pair(i)[0]}.weight' for i in (1, 2, 3)]
    kind = 'bottleneck' if conv[2] in shapes else 'basic'
    width = kernel(shapes, first)[0]
    groups, ratio = 1, 1.0
    inner, part = kernel(shapes, conv[1])[:2]
    if kind == 'bottleneck':
        groups = max(inner // max(part, 1), 1)
        ratio = inner / groups / width
    shortcut = _shortcut(shapes, layout, blocks, stem, groups)
    projected = layout.shortcut(shortcut == 'pool', 1)[0]
    properties = {
        'block': kind,
        'shortcut': shortcut,
        'groups': groups,
        'inner_ratio': ratio,
        'stem': stem,
        'blocks': blocks,
        'width': width,
    }
    section = _section(properties)
    if kind == 'basic' and f'{layout.block(1, 1, 0)}.{projected}.weight' in shapes:
        section['project_first'] = True
    head = shapes.get(f'{layout.head}.weight')
    section['num_classes'] = head and head[0 if layout.transposed else -1]
    return layout, section


def _layout(shapes: Shapes) -> Layout:
    for layout in layouts.LAYOUTS.values():
        firsts = {f'{pairs[0][0]}.weight' for pairs in layout.stems.values()}
        if any(len(shapes.get(first, ())) == 4 for first in firsts):
            return layout
    raise ValueError(
        'these are not the weights of a ResNet of torchvision, timm, mmpretrain or PaddleClas; '
        f'the first tensors are {", ".join(list(shapes)[:4]) or "none"}. If they lie below a '
        'prefix, name it'
    )


def _stem(shapes: Shapes, layout: Layout) -> tuple[str, str]:
    """The kind of stem, and the weight of its last convolution."""
    deep = [f'{conv}.weight' for conv, _ in layout.stems['deep']]
    if deep[-1] in shapes:
        one, two, last = (kernel(shapes, name)[0] for name in deep)
        if {one, two} != {last // 2}:
            raise ValueError(
                f'its deep stem is {one}, {two}, {last} channels wide; those of jcls, as in '
                f'resnet50d, are {last // 2}, {last // 2}, {last}'
            )
        return 'deep', deep[-1]
    first = f'{layout.stems["imagenet"][0][0]}.weight'
    return ('cifar' if shapes[first][-1] == 3 else 'imagenet'), first


def kernel(shapes: Shapes, name: str) -> tuple[int, ...]:
    """The shape of a convolution's weight; a ValueError if it is missing."""
    if name not in shapes:
        raise ValueError(f'this is no ResNet of jcls: it has no {name}')
    if len(shapes[name]) != 4:
        raise ValueError(f'this is no ResNet of jcls: {name} has the shape {shapes[name]}')
    return shapes[name]


def _blocks(shapes: Shapes, layout: Layout) -> tuple[int, ...]:
    """The number of blocks in each stage."""
    conv, short = layout.pair(1)[0], layout.shortcut(False, 1)[0]

    def has(stage: int, block: int, before: int, module: str) -> bool:
        return f'{layout.block(stage, block, before)}.{module}.weight' in shapes

    counts: list[int] = []
    for stage in itertools.count(1):
        before = sum(counts)
        count = 0
        while has(stage, count + 1, before, conv):
            # Where blocks are numbered through all stages, the next shortcut begins a stage.
            if layout.through and count and has(stage, count + 1, before, short):
                break
            count += 1
        if not count:
            if not counts:
                raise ValueError(
                    f'this is no ResNet of jcls: it has no {layout.block(1, 1, 0)}.{conv}.weight'
                )
            return tuple(counts)
        counts.append(count)
    raise AssertionError


def _shortcut(
    shapes: Shapes, layout: Layout, blocks: tuple[int, ...], stem: str, groups: int
) -> str:
    stage = len(blocks)
    block = layout.block(stage, 1, sum(blocks[:-1]))
    kinds = [
        kind
        for kind in ('conv', 'pool')
        if len(shapes.get(f'{block}.{layout.shortcut(kind == "pool", 2)[0]}.weight', ())) == 4
    ]
    if len(kinds) == 2:  # Paddle's names are alike; both "vd" and ResNet_vc have a deep stem
        vc = layout is layouts.PADDLE_OLDER and groups == 1
        return 'pool' if stem == 'deep' and not vc else 'conv'
    return kinds[0] if kinds else 'pad'


def _section(properties: dict[str, Any]) -> dict[str, Any]:
    """The preset most like these `properties`, and the fields that must stand beside it."""

    def agreement(preset: dict[str, Any]) -> tuple[bool, ...]:
        return tuple(preset[field] == properties[field] for field in properties)

    fixed = 4  # fields that a config cannot change
    name, preset = max(
        models.PRESETS.items(),
        key=lambda item: (sum(agreement(item[1])[:fixed]), sum(agreement(item[1]))),
    )
    if not all(agreement(preset)[:fixed]):
        different = ', '.join(
            f'{field}={properties[field]} (there {preset[field]})'
            for field in list(properties)[:fixed]
            if properties[field] != preset[field]
        )
        raise ValueError(f'no ResNet of jcls is built so; the nearest, {name}, but: {different}')
    changes = {
        key: properties[key] for key in list(properties)[fixed:] if properties[key] != preset[key]
    }
    return {'name': name, **changes}
