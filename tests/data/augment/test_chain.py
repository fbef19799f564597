"""What comes image by image and what is compiled for many; both give the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.pictures import collect, noise, rng
from jcls.data import augment, graph, pipeline
from jcls.data.augment.operation import Rng
from jcls.data.pipeline import Damage
from jcls.data.sampler import ProcessShard, train_sampler
from jcls.data.sources.source import from_memory
from jcls.host.tensorflow import tf

MEAN = np.array([128, 128, 128], np.uint8)


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
    image: Any = tf.constant(noise(40, 56))
    if encoded:
        image = tf.io.encode_png(image)
    found = collect(lambda d: operation.apply(image, d), 6)
    assert found.shape == (6, 24, 24, 3)
    assert len({image.tobytes() for image in found}) == 6
    assert operation.output_size(None) == (24, 24)


NEEDS_A_SIZE = ('trivial_augment', 'rand_augment', 'rand_augment_timm', 'auto_augment',
                'three_augment', 'color_jitter', 'grey', 'gaussian_blur', 'lighting', 'rotation',
                'random_erasing', 'cutout', 'grid_mask', 'hide_and_seek')  # fmt: skip


@pytest.mark.parametrize('name', NEEDS_A_SIZE)
def test_images_of_different_sizes_are_refused(name: str) -> None:
    """Before a crop, a compiled operation says where to put it; so it does for odd channels."""
    operation = augment.OPERATIONS[name]()
    with pytest.raises(ValueError, match=f'{name} needs images of one size: put it after a crop'):
        operation.output_size(None)
    unknown = tf.TensorSpec([None, None, 3], tf.uint8)
    apply: Callable[..., Any] = tf.function(
        lambda image: operation.apply(image, rng(0)), autograph=False
    )
    with pytest.raises(ValueError, match=f'{name} needs images of one size'):
        apply.get_concrete_function(unknown)
    with pytest.raises(ValueError, match=f'{name} takes images of 1 or 3 channels, not 4'):
        operation.apply(tf.zeros([8, 8, 4], tf.uint8), rng(0))


ALL = (
    {'name': 'pad_and_crop', 'size': 20, 'padding': 2},
    {'name': 'flip'},
    {'name': 'trivial_augment'},
    {'name': 'rand_augment_timm'},
    {'name': 'random_erasing', 'probability': 0.5, 'mode': 'pixel'},
    {'name': 'hide_and_seek', 'grid_sizes': (4, 5)},
)


@pytest.mark.parametrize(('size', 'chunk'), [(1, 32), (5, 32), (30, 32), (30, 5)])
def test_many_together_are_as_each_alone(
    monkeypatch: pytest.MonkeyPatch, size: int, chunk: int
) -> None:
    """A batch has the images that the chain makes of its examples one by one, bit for bit."""
    monkeypatch.setattr(graph, 'CHUNK', chunk)
    images = np.stack([noise(20, 20)] * 30)
    source = from_memory(images, np.zeros(30, np.int32), ('a',), 'noise')
    chain, sample = augment.compose(ALL, 'augment'), train_sampler(30, 3, ProcessShard(size))
    steps = 30 // size
    found = pipeline.batches(source, chain, sample, 0, steps, mean=(0.5,) * 3, damage=Damage())
    together = np.concatenate([batch['image'] for batch in found])
    keys = [
        graph.example_rng(tf.constant(index), tf.constant(seed), MEAN)
        for step in range(steps)
        for index, seed in zip(*sample(step), strict=True)
    ]
    alone = np.stack([chain.apply(tf.constant(images[0]), key) for key in keys])
    np.testing.assert_array_equal(together, alone)
    assert len({image.tobytes() for image in alone}) == 30


def test_the_parts_of_a_chain() -> None:
    """Image by image up to the last operation that does not compile, or whose images differ."""
    crop = {'name': 'random_resized_crop', 'size': 9}
    flip, pad = {'name': 'flip'}, {'name': 'pad_and_crop', 'size': 7}
    for sections, size, between, compiled in (
        ((flip, crop, flip, pad), None, (9, 9), True),
        ((flip, crop, flip, pad), (20, 30), (9, 9), True),
        ((flip, pad), (20, 30), (20, 30), True),
        ((flip, pad), None, (7, 7), False),
        ((flip, pad, flip), None, (7, 7), True),
        ((flip, crop), (20, 30), (9, 9), False),
        ((flip,), None, None, False),
        ((), (20, 30), (20, 30), False),
    ):
        split = augment.compose(sections, 'augment').split(size)
        assert (split.size, split.tail is not None) == (between, compiled), (sections, size)


def test_what_compiles_may_come_before_a_crop() -> None:
    """On images of one size; the numbers drawn do not depend on where it is compiled."""
    first = augment.compose(({'name': 'trivial_augment'},), 'augment')
    chain = augment.compose(({'name': 'trivial_augment'}, {'name': 'resize', 'size': 24}), 'x')
    image = tf.constant(noise(24, 24))
    for index in range(20):
        np.testing.assert_array_equal(
            chain.apply(image, rng(index)), first.apply(image, rng(index))
        )


def test_numbers_are_the_same_in_a_program() -> None:
    """XLA and TensorFlow draw the same uniform numbers, on a grid of 2^-23; normal ones nearly."""

    def numbers(key: Any) -> Any:
        return Rng(key).uniform(5, 7, stream=2), Rng(key).normal(3, stream=1)

    compiled = tf.function(numbers, jit_compile=True, autograph=False)
    for index in range(40):
        (u, normal), (v, other) = numbers(rng(index).key), compiled(rng(index).key)
        np.testing.assert_array_equal(u, v)
        np.testing.assert_allclose(normal, other, rtol=1e-5, atol=1e-6)
        assert (u.numpy() * 2**23 % 1 == 0).all()
        assert 0 <= u.numpy().min() <= u.numpy().max() < 1
