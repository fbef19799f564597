"""Recognising a ResNet from the names and shapes of its tensors alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jcls import models
from jcls.weights.foreign import layouts
from jcls.weights.foreign.layouts import Layout

Shapes = Mapping[str, tuple[int, ...]]  # the shapes of foreign tensors by name


class Network(NamedTuple):
    """A network among tensors: the beginning of its names, such as 'module.', and their layout."""

    root: str
    layout: Layout

    @property
    def prefix(self) -> str:
        """The root as a user names it."""
        return self.root.removesuffix('.') or '(no prefix)'


def networks(shapes: Shapes) -> list[Network]:
    """The ResNets that the tensors hold, whatever wrappers stand before their names.

    A network is where the first convolution of a layout's stem and of its first block are. Several
    layouts may share these; the one whose shortcut and classifier are there, too, is taken.
    """
    found: dict[str, tuple[int, Network]] = {}
    for layout in layouts.LAYOUTS.values():
        for network in _below_roots(shapes, layout, blocks=True):
            root, first = network.root, _first(layout, network.root, shapes)
            score = sum(name in shapes for name in _telling(layout, root))
            if first not in found or score > found[first][0]:
                found[first] = score, network
    return [_with_head(shapes, network) for _, network in found.values()]


def _below_roots(shapes: Shapes, layout: Layout, *, blocks: bool) -> Iterator[Network]:
    block = f'{layout.block(1, 1, 0)}.{layout.pair(1)[0]}.weight'
    for first in dict.fromkeys(f'{pairs[0][0]}.weight' for pairs in layout.stems.values()):
        for name, shape in shapes.items():
            root = name.removesuffix(first)
            if root == name or (root and root[-1] != '.') or len(shape) != 4:
                continue
            if not blocks or root + block in shapes:
                yield Network(root, layout)


def _first(layout: Layout, root: str, shapes: Shapes) -> str:
    names = [f'{root}{pairs[0][0]}.weight' for pairs in layout.stems.values()]
    return next(name for name in names if name in shapes)


def _telling(layout: Layout, root: str) -> set[str]:
    """Names of tensors that only some of the layouts of a network's blocks have."""
    block = root + layout.block(2, 1, 0)
    shortcuts = {layout.shortcut(pool, 2)[0] for pool in (False, True)}
    return {f'{block}.{name}.weight' for name in shortcuts} | {f'{root}{layout.head}.weight'}


def _with_head(shapes: Shapes, network: Network) -> Network:
    """The network with its classifier's own name, if it is not the layout's."""
    root, layout = network
    for head in dict.fromkeys((layout.head, *layouts.HEADS)):
        inside = {name for name in shapes if name.startswith(f'{root}{head}.')}
        weights = [name.removesuffix('.weight') for name in inside if name.endswith('.weight')]
        # One with other modules beside it is no linear classifier, but a projection or the like.
        if len(weights) == 1 and inside <= {f'{weights[0]}.weight', f'{weights[0]}.bias'}:
            own = weights[0].removeprefix(root)
            if own == layout.head:
                return network
            if own == head or own.removeprefix(f'{head}.').isdigit():
                return Network(root, layout._replace(head=own))
    return network


def the_network(shapes: Shapes) -> Network:
    """The only one of `networks`.

    Raises:
      ValueError: if there is none, or more than one; the error names what is there.
    """
    found = networks(shapes)
    if len(found) > 1:
        raise ValueError(
            f'there are {len(found)} networks, below {", ".join(net.prefix for net in found)}: '
            'name one of them as the prefix'
        )
    if found:
        return found[0]
    for layout in layouts.LAYOUTS.values():  # what lacks a block is said to lack it
        for network in _below_roots(shapes, layout, blocks=False):
            if not re.search(r'\d', network.root):  # the convolution of a stem, and not of a block
                return network
    raise ValueError(
        'these are not the weights of a ResNet with the names of torchvision, timm, mmpretrain, '
        'PaddleClas, transformers or the repositories for CIFAR; the first tensors are '
        f'{", ".join(list(shapes)[:4]) or "none"}{_numbered(shapes)}'
    )


def _numbered(shapes: Shapes) -> str:
    """How to name the modules of a torchvision network that stands in a torch.nn.Sequential."""
    for name in shapes:
        root = name.removesuffix('0.weight')
        if root == name or (root and root[-1] != '.'):
            continue
        children = {
            int(n) for n in re.findall(rf'(?m)^{re.escape(root)}(\d+)\.', '\n'.join(shapes))
        }
        stages = [i for i in sorted(children) if f'{root}{i}.0.conv1.weight' in shapes]
        if stages and {0, 1} <= children:
            new = {0: 'conv1', 1: 'bn1'}
            new |= {child: f'layer{i}' for i, child in enumerate(stages, 1)}
            renames = [
                f"--rename '^{re.escape(root)}{child}[.]={root}{own}.'"
                for child, own in new.items()
            ]
            return (
                '. Its modules have numbers, as in a torch.nn.Sequential; if they are those of '
                f'torchvision, name them so: `jcls import` {" ".join(renames)}'
            )
    return ''


def recognise(shapes: Shapes) -> tuple[Layout, dict[str, Any]]:
    """The layout, and the ``model`` section that builds the network, for names without a root.

    The section names the preset with all properties of the network; what no preset has stands
    beside the name. 'num_classes' is None if there is no classifier.

    Raises:
      ValueError: if this is no ResNet of jcls; the error names the nearest preset.
    """
    layout = the_network(shapes).layout
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
        'groups': groups,
        'inner_ratio': ratio,
        'shortcut': shortcut,
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


def _stem(shapes: Shapes, layout: Layout) -> tuple[str, str]:
    """The kind of stem, and the weight of its last convolution."""
    deep = [f'{conv}.weight' for conv, _ in layout.stems.get('deep', ())]
    if deep and deep[-1] in shapes:
        one, two, last = (kernel(shapes, name)[0] for name in deep)
        if {one, two} != {last // 2}:
            raise ValueError(
                f'its deep stem is {one}, {two}, {last} channels wide; those of jcls, as in '
                f'resnet50d, are {last // 2}, {last // 2}, {last}'
            )
        return 'deep', deep[-1]
    first = f'{layout.stems["plain"][0][0]}.weight'
    return ('cifar' if kernel(shapes, first)[-1] == 3 else 'imagenet'), first


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
    if kinds:
        return kinds[0]
    # Where the zeros are the file does not tell; in akamaster's networks they are on both sides.
    return 'pad_both' if layout.head == 'linear' else 'pad'


def _section(properties: dict[str, Any]) -> dict[str, Any]:
    """The preset most like these `properties`, and the fields that must stand beside it."""

    def agreement(preset: dict[str, Any]) -> tuple[bool, ...]:
        return tuple(preset[field] == properties[field] for field in properties)

    fixed = 3  # fields that a config cannot change
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
