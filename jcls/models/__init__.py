"""The model presets by name, and `create`, which builds one.

A new preset is one line of `PRESETS` and one line of the exact parameter counts in the tests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jcls.config.parts import choose, part
from jcls.models import batch_norm, layers
from jcls.models.resnet import ResNet

__all__ = ['MODELS', 'PRESETS', 'ResNet', 'create', 'layers', 'resnet']

STEMS = ('imagenet', 'deep', 'cifar', 'cifar_pool')
SHORTCUTS = ('conv', 'pool', 'pad', 'pad_both')
PADDINGS = ('torch', 'same')
DTYPES = ('float32', 'bfloat16', 'float16')


def create(
    name: str,
    norm: Callable[..., batch_norm.BatchNorm] | None = None,
    *,
    num_classes: int | None = None,
    dtype: str = 'float32',
    **fields: Any,
) -> ResNet:
    """The ``model`` section: build the preset `name` of `MODELS`, or a network of your own.

    Your own is a function from (norm, num_classes, dtype) to a Flax module. The module takes images
    [N, H, W, C] and ``train``, returns logits [N, num_classes], and names its classifier 'head'.

    Args:
      name: name of the preset.
      norm: constructor of the normalisation layers; None for `batch_norm.batch_norm()`.
      num_classes: width of the classifier; None for the number of classes of the data in a config,
        or else 1000.
      dtype: dtype of the activations. Parameters, statistics and logits stay in parameter
        precision; 'float32' is float64 under ``jax_enable_x64``.
      **fields: the fields of the preset, see `resnet`.

    Raises:
      ValueError: for an unknown name or dtype, or fields that the preset refuses.
    """
    build = part(MODELS, name, 'model')
    choose(dict.fromkeys(DTYPES), dtype, 'config.model.dtype')
    if num_classes is not None and num_classes < 2:
        raise ValueError(f'config.model.num_classes={num_classes}: at least 2')
    return build(
        norm or batch_norm.batch_norm(),
        1000 if num_classes is None else num_classes,
        layers.param_dtype() if dtype == 'float32' else jnp.dtype(dtype),
        **fields,
    )


def resnet(
    preset: dict[str, Any],
    norm: Callable[..., batch_norm.BatchNorm],
    num_classes: int,
    dtype: Any,
    *,
    stem: str | None = None,
    blocks: tuple[int, ...] | None = None,
    width: int | None = None,
    shortcut: str | None = None,
    stride_in_1x1: bool = False,
    padding: str = 'torch',
    project_first: bool = False,
    zero_gamma: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
) -> ResNet:
    """A ResNet like a preset of `PRESETS`.

    Args:
      preset: fields of the preset.
      norm: constructor of the normalisation layers.
      num_classes: width of the classifier.
      dtype: dtype of the activations.
      stem: 'imagenet' (7x7), 'deep' (three 3x3), 'cifar' (3x3, no pooling) or 'cifar_pool' (3x3,
        max pooling); None for the preset's.
      blocks: number of blocks in each stage; None for the preset's.
      width: channels of the first stage, doubled in each further one; None for the preset's.
      shortcut: what a shortcut does where a stage begins: 'conv' (1x1), 'pool' (average pool, then
        1x1), or nothing that has parameters: 'pad' (strides, and puts zeros behind the channels) or
        'pad_both' (half of the zeros before the channels); None for the preset's.
      stride_in_1x1: let a bottleneck stride in its first 1x1 convolution, as He et al. 2015 and
        Caffe's weights do, and not in its 3x3 (v1.5).
      padding: 'torch' pads convolutions and pools by (k - 1) // 2 on every side, 'same' as
        TensorFlow does.
      project_first: give the first block's shortcut a convolution even if it needs none, as
        PaddleClas's ResNet-18 and 34 do.
      zero_gamma: start every block as the identity (Goyal et al. 2017, 1706.02677, section 5.1).
      drop_path: probability that the last block's branch is dropped, rising linearly from 0 at
        the first block (Huang et al. 2016).
      dropout: probability that a feature is dropped before the classifier.
      remat: save memory in training by keeping only the input of each block and computing the rest
        again in the backward pass (Chen et al. 2016, 1604.06174), at the cost of a forward pass.

    Raises:
      ValueError: for an unknown stem, shortcut or padding, a rate outside [0, 1), or a width
        without channels.
    """
    given = {'stem': stem, 'blocks': blocks, 'width': width, 'shortcut': shortcut}
    built = preset | {key: value for key, value in given.items() if value is not None}
    choose(dict.fromkeys(STEMS), built['stem'], 'config.model.stem')
    choose(dict.fromkeys(SHORTCUTS), built['shortcut'], 'config.model.shortcut')
    choose(dict.fromkeys(PADDINGS), padding, 'config.model.padding')
    if stride_in_1x1 and preset['block'] != 'bottleneck':
        raise ValueError('config.model.stride_in_1x1: only bottleneck blocks begin with a 1x1')
    for field, rate in (('drop_path', drop_path), ('dropout', dropout)):
        if not 0 <= rate < 1:
            raise ValueError(f'config.model.{field}={rate}: a probability in [0, 1)')
    if not built['blocks'] or min(built['blocks']) < 1:
        raise ValueError(f'config.model.blocks={blocks}: at least one block in every stage')
    if project_first and built['shortcut'].startswith('pad'):
        raise ValueError('config.model.project_first: these shortcuts have no parameters')
    if built['width'] < 2 or built['width'] % 2:
        raise ValueError(f'config.model.width={width}: a positive even number of channels')
    if built['width'] * built['inner_ratio'] < 1:
        raise ValueError(
            f'config.model.width={width}: this preset needs at least {1 / built["inner_ratio"]:.0f}'
        )
    return ResNet(
        **built,
        num_classes=num_classes,
        project_first=project_first,
        stride_in_1x1=stride_in_1x1,
        padding=padding,
        zero_gamma=zero_gamma,
        drop_path=drop_path,
        dropout=dropout,
        remat=remat,
        dtype=dtype,
        norm=norm,
    )


def _preset(block: str, blocks: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    standard = {
        'width': 64,
        'stem': 'imagenet',
        'shortcut': 'conv',
        'groups': 1,
        'inner_ratio': 1.0,
    }
    return {'block': block, 'blocks': blocks, **standard, **changes}


def _resnet_d(block: str, blocks: tuple[int, ...]) -> dict[str, Any]:
    return _preset(block, blocks, stem='deep', shortcut='pool')


def _cifar(blocks_per_stage: int) -> dict[str, Any]:
    """He et al. 2015, section 4.2: depth 6n + 2, parameter-free shortcuts (option A)."""
    return _preset('basic', (blocks_per_stage,) * 3, width=16, stem='cifar', shortcut='pad')


PRESETS: dict[str, dict[str, Any]] = {
    'resnet18': _preset('basic', (2, 2, 2, 2)),
    'resnet34': _preset('basic', (3, 4, 6, 3)),
    'resnet26': _preset('bottleneck', (2, 2, 2, 2)),
    'resnet50': _preset('bottleneck', (3, 4, 6, 3)),
    'resnet101': _preset('bottleneck', (3, 4, 23, 3)),
    'resnet152': _preset('bottleneck', (3, 8, 36, 3)),
    'resnet200': _preset('bottleneck', (3, 24, 36, 3)),
    'wide_resnet50_2': _preset('bottleneck', (3, 4, 6, 3), inner_ratio=2.0),
    'wide_resnet101_2': _preset('bottleneck', (3, 4, 23, 3), inner_ratio=2.0),
    # inner_ratio: 4, 8 or 4 channels a group in the first stage, of width 64.
    'resnext50_32x4d': _preset('bottleneck', (3, 4, 6, 3), groups=32, inner_ratio=4 / 64),
    'resnext101_32x4d': _preset('bottleneck', (3, 4, 23, 3), groups=32, inner_ratio=4 / 64),
    'resnext101_32x8d': _preset('bottleneck', (3, 4, 23, 3), groups=32, inner_ratio=8 / 64),
    'resnext101_64x4d': _preset('bottleneck', (3, 4, 23, 3), groups=64, inner_ratio=4 / 64),
    'resnet18d': _resnet_d('basic', (2, 2, 2, 2)),
    'resnet34d': _resnet_d('basic', (3, 4, 6, 3)),
    'resnet26d': _resnet_d('bottleneck', (2, 2, 2, 2)),
    'resnet50d': _resnet_d('bottleneck', (3, 4, 6, 3)),
    'resnet101d': _resnet_d('bottleneck', (3, 4, 23, 3)),
    'resnet152d': _resnet_d('bottleneck', (3, 8, 36, 3)),
    'resnet200d': _resnet_d('bottleneck', (3, 24, 36, 3)),
    'resnet20': _cifar(3),
    'resnet32': _cifar(5),
    'resnet44': _cifar(7),
    'resnet56': _cifar(9),
    'resnet110': _cifar(18),
}
MODELS: dict[str, Callable[..., ResNet]] = {
    name: functools.partial(resnet, preset) for name, preset in PRESETS.items()
}
