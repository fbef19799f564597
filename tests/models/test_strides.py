"""Strides and padding of networks that were not trained as torchvision's."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jcls.host.tensorflow import tf
from jcls.models import create
from jcls.models.layers import Conv
from jcls.models.resnet import Block, Stem


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('size', [8, 9])
@pytest.mark.parametrize(('kernel', 'stride'), [(3, 2), (7, 2), (3, 1), (1, 2)])
def test_same_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    """Of a convolution, at even and odd sizes; 'torch' differs with a stride at even ones."""
    x = normal(2, size, size, 4)
    same, torch = (Conv(6, kernel, stride, padding=padding) for padding in ('same', 'torch'))
    variables = same.init(jax.random.key(0), x)
    wanted = tf.nn.conv2d(x, np.asarray(variables['params']['kernel']), stride, 'SAME').numpy()
    np.testing.assert_allclose(same.apply(variables, x), wanted, atol=1e-5)
    differs = size == 8 and stride == 2 and kernel > 1
    assert np.allclose(torch.apply(variables, x), wanted, atol=1e-5) != differs


@pytest.mark.parametrize('size', [8, 9])
def test_a_pool_is_padded_likewise(size: int) -> None:
    """The stem's max pool with 'same'; of a 3x3 stem, it is all that changes the size."""
    x = normal(2, size, size, 3)
    norm = create('resnet18').norm
    plain, pooled = (Stem(kind, 4, 'same', norm) for kind in ('cifar', 'cifar_pool'))
    variables = plain.init(jax.random.key(0), x, False)
    features = np.asarray(plain.apply(variables, x, False))
    wanted = tf.nn.max_pool2d(features, 3, 2, 'SAME').numpy()
    np.testing.assert_allclose(pooled.apply(variables, x, False), wanted)


def test_a_stride_in_the_first_1x1_takes_every_other_pixel() -> None:
    """Such a bottleneck is one without a stride on every other pixel of its input."""
    x = normal(2, 9, 8, 8)
    blocks = [
        Block(
            kind='bottleneck', features=4, stride=stride, inner=4, groups=1, shortcut='conv',
            stride_in_1x1=True, padding='torch', project=False, zero_gamma=False, drop_path=0.0,
            norm=create('resnet18').norm, materialise_gradient=False,
        )
        for stride in (2, 1)
    ]  # fmt: skip
    variables = blocks[0].init(jax.random.key(0), x, False)
    found, wanted = (
        blocks[0].apply(variables, x, False),
        blocks[1].apply(variables, x[:, ::2, ::2], False),
    )
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'shortcut': 'zeros'}, 'config.model.shortcut'),
        ({'padding': 'valid'}, 'config.model.padding'),
        ({'stride_in_1x1': True}, 'only bottleneck blocks begin with a 1x1'),
        ({'shortcut': 'pad', 'project_first': True}, 'these shortcuts have no parameters'),
    ],
)
def test_fields_that_are_wrong(fields: dict[str, object], message: str) -> None:
    """Each is named."""
    with pytest.raises(ValueError, match=message):
        create('resnet18', **fields)
