"""One network for all ResNets: v1.5, wide, ResNeXt, -D ("vd") and the CIFAR nets.

The presets are in the table of `jcls.models`; this file has the stems, the blocks and their order.
Parameter paths are ``stem/conv1/kernel``, ``stage2_block1/conv3/kernel``,
``stage2_block1/norm3/scale``, ``stage2_block1/shortcut_conv/kernel``, ``head/kernel``: stages and
blocks count from 1, as in the papers.

Papers: He et al. 2015 (1512.03385); Xie et al. 2016 (1611.05431, ResNeXt); Zagoruyko & Komodakis
2016 (1605.07146, wide); He et al. 2018 (1812.01187, ResNet-D; zero-gamma). v1.5 strides in the 3x3
convolution of a bottleneck, as torchvision does; the paper of 2015 strides in the first 1x1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jcls.models.batch_norm import BatchNorm, param_dtype
from jcls.models.cpu_gradients import max_pool
from jcls.models.layers import Conv, DropPath, Linear, relu

Norm = Callable[..., BatchNorm]


class Stem(nn.Module):
    """The input layers, with `features` channels at their end.

    'imagenet': 7x7 stride 2, max pool (1/4). 'deep': three 3x3, the first of stride 2, max pool
    (1/4). 'cifar': one 3x3, no pool (1/1). 'cifar_pool': one 3x3, max pool (1/2).
    """

    kind: str
    features: int
    padding: str
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        half = self.features // 2
        convs = {
            'imagenet': [(self.features, 7, 2)],
            'deep': [(half, 3, 2), (half, 3, 1), (self.features, 3, 1)],
            'cifar': [(self.features, 3, 1)],
            'cifar_pool': [(self.features, 3, 1)],
        }[self.kind]
        for i, (features, kernel, stride) in enumerate(convs, 1):
            x = Conv(features, kernel, stride, padding=self.padding, name=f'conv{i}')(x)
            x = nn.relu(self.norm(name=f'norm{i}')(x, train, mask))
        if self.kind == 'cifar':
            return x
        return nn.max_pool(x, (3, 3), (2, 2), 'SAME') if self.padding == 'same' else max_pool(x)


class Block(nn.Module):
    """A residual block: relu(shortcut(x) + branch(x)).

    The branch is 3x3-3x3 ('basic') or 1x1-3x3-1x1 ('bottleneck', four times as wide at its end).
    """

    kind: str
    features: int  # the stage's width; the output has `features * expansion` channels
    stride: int
    inner: int  # width of the 3x3 convolution in a bottleneck
    groups: int
    shortcut: str
    stride_in_1x1: bool
    padding: str
    project: bool  # whether the shortcut has a convolution even if the shape stays
    zero_gamma: bool
    drop_path: float
    norm: Norm
    materialise_gradient: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        if self.kind == 'basic':
            out = self.features
            convs = [(out, 3, self.stride, 1), (out, 3, 1, 1)]
        else:
            out = self.features * EXPANSION[self.kind]
            first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
            convs = [(self.inner, 1, first, 1), (self.inner, 3, second, self.groups)]
            convs += [(out, 1, 1, 1)]
        y = x
        for i, (features, kernel, stride, groups) in enumerate(convs, 1):
            last = i == len(convs)
            y = Conv(
                features,
                kernel,
                stride,
                groups,
                self.padding,
                defer=last,
                materialise_gradient=self.materialise_gradient,
                name=f'conv{i}',
            )(y)
            zero_scale = last and self.zero_gamma
            y = self.norm(zero_scale=zero_scale, name=f'norm{i}')(y, train, mask)
            y = y if last else nn.relu(y)
        y = DropPath(self.drop_path)(y, train)
        return relu(self._shortcut(x, out, train, mask) + y)

    def _shortcut(
        self, x: jax.Array, features: int, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """Give x [N, H, W, C] the branch's shape."""
        stride = self.stride
        if stride == 1 and x.shape[-1] == features and not self.project:
            return x
        if self.shortcut in ('pad', 'pad_both'):  # He et al. 2015, option A: no parameters
            extra = features - x.shape[-1]
            before = extra // 2 if self.shortcut == 'pad_both' else 0
            zeros = ((0, 0), (0, 0), (0, 0), (before, extra - before))
            return jnp.pad(x[:, ::stride, ::stride], zeros)
        if self.shortcut == 'pool' and stride > 1:
            # This equals torch's ceil_mode without counting the padding, also at odd sizes.
            window = (stride, stride)
            x = nn.avg_pool(x, window, window, padding='SAME', count_include_pad=False)
            stride = 1
        x = Conv(features, 1, stride, defer=True, name='shortcut_conv')(x)
        return self.norm(name='shortcut_norm')(x, train, mask)


EXPANSION = {'basic': 1, 'bottleneck': 4}

# Fields of a `ResNet` that decide what it computes with its parameters.
ARCHITECTURE = (
    'block',
    'blocks',
    'width',
    'stem',
    'shortcut',
    'groups',
    'inner_ratio',
    'project_first',
    'stride_in_1x1',
    'padding',
)


class ResNet(nn.Module):
    """Images [N, H, W, C], normalised -> logits [N, num_classes] in parameter precision.

    Images whose `mask` [N] is 0 do not influence the others. Collections: 'params', and
    'batch_stats' (mutable when ``train``). Training with drop path or
    dropout draws from the rng 'dropout'.
    """

    blocks: tuple[int, ...]  # per stage
    num_classes: int
    block: str  # 'basic', 'bottleneck'
    width: int  # channels of the first stage; each further stage doubles them
    stem: str  # 'imagenet', 'deep', 'cifar', 'cifar_pool'
    # 'conv', 'pool' (average pool, then 1x1), or without parameters: 'pad' (zeros behind the
    # channels), 'pad_both' (half of the zeros before them).
    shortcut: str
    groups: int
    inner_ratio: float  # a bottleneck's 3x3 is width * inner_ratio * groups channels wide
    project_first: bool  # whether the first block's shortcut has a convolution in any case
    stride_in_1x1: bool  # whether a bottleneck strides in its first 1x1, and not in its 3x3
    padding: str  # 'torch' ((k - 1) // 2 on every side), 'same' (TensorFlow's)
    zero_gamma: bool
    drop_path: float
    dropout: float
    remat: bool  # keep only the blocks' inputs, and compute the rest again in the backward pass
    dtype: Any  # dtype of the activations
    norm: Norm
    materialise_gradient: bool = False  # changes no value; `jcls.distributed.compiler` says why

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        stem = Stem(self.stem, self.width, self.padding, self.norm, name='stem')
        x = stem(images.astype(self.dtype), train, mask)
        total, index = sum(self.blocks), 0
        block_of = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for stage, count in enumerate(self.blocks, 1):
            features = self.width * 2 ** (stage - 1)
            for block in range(1, count + 1):
                x = block_of(
                    kind=self.block,
                    features=features,
                    stride=2 if stage > 1 and block == 1 else 1,
                    inner=int(features * self.inner_ratio) * self.groups,
                    groups=self.groups,
                    shortcut=self.shortcut,
                    stride_in_1x1=self.stride_in_1x1,
                    padding=self.padding,
                    project=self.project_first and stage == block == 1,
                    zero_gamma=self.zero_gamma,
                    drop_path=self.drop_path * index / max(total - 1, 1),
                    norm=self.norm,
                    materialise_gradient=self.materialise_gradient,
                    name=f'stage{stage}_block{block}',
                )(x, train, mask)
                index += 1
        x = x.astype(param_dtype()).mean((1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(self.num_classes, name='head')(x)
