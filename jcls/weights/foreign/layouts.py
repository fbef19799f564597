"""How other systems name and store the tensors of a ResNet.

A layout names the modules of a model. `tensors` pairs every variable of a jcls model with its name
in a layout; `to_own` and `to_foreign` turn its axes. The names are those of torchvision 0.29, timm
1.0, mmpretrain 1.2, PaddleClas 2.6, transformers 4 and the much-used repositories for CIFAR:
kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10 and weiaicunzai/pytorch-cifar100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jcls.models import ResNet
from jcls.models.resnet import EXPANSION


class Layout(NamedTuple):
    """The names of modules. A pair is a convolution and its normalisation layer.

    Attributes:
      stems: pairs of the 'plain' stem of one convolution, and of the 'deep' one, if it has any.
      block: function from (stage, place in it, number of blocks in earlier stages) to a block's
        name; stages and places count from 1.
      pair: function from a convolution's number in its block to its pair.
      shortcut: function from (whether the model's shortcuts pool, the stride of this one) to the
        shortcut's pair.
      head: the classifier.
      statistics: names of the running mean and variance.
      transposed: whether the classifier's weight is [classes, features].
      through: whether blocks are numbered through all stages.
    """

    stems: dict[str, tuple[tuple[str, str], ...]]
    block: Callable[[int, int, int], str]
    pair: Callable[[int], tuple[str, str]]
    shortcut: Callable[[bool, int], tuple[str, str]]
    head: str
    statistics: tuple[str, str] = ('running_mean', 'running_var')
    transposed: bool = True
    through: bool = False


def _indexed(pool: bool, name: str = 'downsample') -> tuple[str, str]:
    """A shortcut's pair in a torch.nn.Sequential, with or without a pool before it."""
    return (f'{name}.{int(pool)}', f'{name}.{int(pool) + 1}')


def _torch_pair(i: int) -> tuple[str, str]:
    return f'conv{i}', f'bn{i}'


def _cifar_shortcut(pool: bool, _: int) -> tuple[str, str]:
    return _indexed(pool, 'shortcut')


def _older(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((f'{name}._conv', f'{name}._batch_norm') for name in names)


def _paddle_stem(convs: int) -> tuple[tuple[str, str], ...]:
    return tuple((f'stem.{i}.conv', f'stem.{i}.bn') for i in range(convs))


# What systems and users call a classifier. In a torch.nn.Sequential it has a number besides.
HEADS = ('fc', 'linear', 'classifier', 'head', 'last_linear', 'head.fc')
PLAIN = (('conv1', 'bn1'),)
TORCH = Layout(
    stems={
        'plain': PLAIN,
        'deep': (('conv1.0', 'conv1.1'), ('conv1.3', 'conv1.4'), ('conv1.6', 'bn1')),
    },
    block=lambda stage, block, _: f'layer{stage}.{block - 1}',
    pair=_torch_pair,
    shortcut=lambda pool, _: _indexed(pool),  # timm has an identity in the pool's place
    head='fc',
)
# akamaster's networks have these names, too; their shortcuts have no parameters.
PYTORCH_CIFAR = Layout(
    stems=TORCH.stems,
    block=TORCH.block,
    pair=_torch_pair,
    shortcut=_cifar_shortcut,
    head='linear',
)
PYTORCH_CIFAR100 = Layout(
    stems={'plain': (('conv1.0', 'conv1.1'),)},
    block=lambda stage, block, _: f'conv{stage + 1}_x.{block - 1}',
    pair=lambda i: (f'residual_function.{3 * i - 3}', f'residual_function.{3 * i - 2}'),
    shortcut=_cifar_shortcut,
    head='fc',
)
TRANSFORMERS = Layout(
    stems={
        'plain': (
            ('resnet.embedder.embedder.convolution', 'resnet.embedder.embedder.normalization'),
        )
    },
    block=lambda stage, block, _: f'resnet.encoder.stages.{stage - 1}.layers.{block - 1}',
    pair=lambda i: (f'layer.{i - 1}.convolution', f'layer.{i - 1}.normalization'),
    shortcut=lambda *_: ('shortcut.convolution', 'shortcut.normalization'),
    head='classifier.1',
)
MMPRETRAIN = Layout(
    stems={
        'plain': (('backbone.conv1', 'backbone.bn1'),),
        'deep': tuple((f'backbone.stem.{i}.conv', f'backbone.stem.{i}.bn') for i in range(3)),
    },
    block=lambda stage, block, _: f'backbone.layer{stage}.{block - 1}',
    pair=_torch_pair,
    shortcut=lambda pool, stride: _indexed(pool and stride > 1),
    head='head.fc',
)
PADDLE = Layout(
    stems={'plain': _paddle_stem(1), 'deep': _paddle_stem(3)},
    block=lambda _, block, before: f'blocks.{before + block - 1}',
    pair=lambda i: (f'conv{i - 1}.conv', f'conv{i - 1}.bn'),
    shortcut=lambda *_: ('short.conv', 'short.bn'),
    head='fc',
    statistics=('_mean', '_variance'),
    transposed=False,
    through=True,
)
# ResNeXt, ResNeXt_vd and ResNet_vc.
PADDLE_OLDER = Layout(
    stems={
        'plain': _older('conv'),
        'deep': _older('conv1_1', 'conv1_2', 'conv1_3'),
    },
    block=lambda stage, block, _: f'bb_{stage - 1}_{block - 1}',
    pair=lambda i: (f'conv{i - 1}._conv', f'conv{i - 1}._batch_norm'),
    shortcut=lambda *_: ('short._conv', 'short._batch_norm'),
    head='out',
    statistics=('_mean', '_variance'),
    transposed=False,
)
LAYOUTS = {
    'torch': TORCH,
    'pytorch_cifar': PYTORCH_CIFAR,
    'pytorch_cifar100': PYTORCH_CIFAR100,
    'transformers': TRANSFORMERS,
    'mmpretrain': MMPRETRAIN,
    'paddle': PADDLE,
    'paddle_older': PADDLE_OLDER,
}


def modules(model: ResNet, layout: Layout) -> Iterator[tuple[str, str, str]]:
    """(kind, own path, foreign name) of every module; kind is 'conv', 'norm' or 'head'."""
    for i, (conv, norm) in enumerate(stem_of(layout, model.stem), 1):
        yield 'conv', f'stem/conv{i}', conv
        yield 'norm', f'stem/norm{i}', norm
    before = 0
    for stage, count in enumerate(model.blocks, 1):
        for block in range(1, count + 1):
            own, foreign = f'stage{stage}_block{block}', layout.block(stage, block, before)
            for i in range(1, CONVS[model.block] + 1):
                conv, norm = layout.pair(i)
                yield 'conv', f'{own}/conv{i}', f'{foreign}.{conv}'
                yield 'norm', f'{own}/norm{i}', f'{foreign}.{norm}'
            if block == 1 and has_shortcut(model, stage):
                conv, norm = layout.shortcut(model.shortcut == 'pool', 1 if stage == 1 else 2)
                yield 'conv', f'{own}/shortcut_conv', f'{foreign}.{conv}'
                yield 'norm', f'{own}/shortcut_norm', f'{foreign}.{norm}'
        before += count
    yield 'head', 'head', layout.head


def stem_of(layout: Layout, kind: str) -> tuple[tuple[str, str], ...]:
    """The pairs of a kind of stem of `jcls.models`."""
    return layout.stems['deep' if kind == 'deep' else 'plain']


def has_shortcut(model: ResNet, stage: int) -> bool:
    """Whether the first block of a stage has parameters in its shortcut."""
    same = stage == 1 and EXPANSION[model.block] == 1 and not model.project_first
    return not model.shortcut.startswith('pad') and not same


CONVS = {'basic': 2, 'bottleneck': 3}


def tensors(model: ResNet, layout: Layout) -> dict[str, str]:
    """The foreign name of each variable: {'params/stem/conv1/kernel': name, ...}."""
    mean, var = layout.statistics
    leaves = {
        'conv': [('params', 'kernel', 'weight')],
        'head': [('params', 'kernel', 'weight'), ('params', 'bias', 'bias')],
        'norm': [
            ('params', 'scale', 'weight'),
            ('params', 'bias', 'bias'),
            ('batch_stats', 'mean', mean),
            ('batch_stats', 'var', var),
        ],
    }
    return {
        f'{collection}/{own}/{leaf}': f'{foreign}.{name}'
        for kind, own, foreign in modules(model, layout)
        for collection, leaf, name in leaves[kind]
    }


def to_own(value: np.ndarray, layout: Layout) -> np.ndarray:
    """The tensor with jcls's axes: kernels [H, W, in, out], the classifier [in, classes]."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 and layout.transposed else value


def as_matrix(weight: np.ndarray) -> np.ndarray:
    """A classifier's weight; one that is stored as a 1x1 convolution loses the window."""
    return weight[:, :, 0, 0] if weight.ndim == 4 and weight.shape[2:] == (1, 1) else weight


def to_foreign(value: np.ndarray, layout: Layout) -> np.ndarray:
    """The inverse of `to_own`."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 and layout.transposed else value
