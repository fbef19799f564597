"""Every geometric operation looks pixels up where Pillow does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from helpers.pictures import (
    ALPHA,
    KINDS,
    collect,
    coordinates,
    p_of_share,
    photographs,
    rng,
    transformed,
)
from helpers.pictures import pillow_geometry as pillow
from helpers.pictures import pixel_difference as difference
from jcls.data import augment
from jcls.data.augment import crop, geometry
from jcls.data.augment.policy_ops import GEOMETRIC
from jcls.host.tensorflow import tf

SHEARS = tuple(np.linspace(-0.99, 0.99, 15))
SHIFTS = (*range(-32, 33, 8), -150.0, 45.3, 0.5, -77.76, 400.0)
ANGLES = (*np.linspace(-135, 135, 31), 30.0, -17.3, 180.0, -180.0)
VALUES = dict(zip(GEOMETRIC, (SHEARS, SHEARS, SHIFTS, SHIFTS, ANGLES), strict=True))
FILL = (124, 116, 104)


@pytest.mark.parametrize(('height', 'width'), [(112, 112), (97, 120)])
@pytest.mark.parametrize('kind', KINDS)
def test_geometry_is_pillows(kind: str, height: int, width: int) -> None:
    """At most 0.5 % of the pixels differ by more than two levels, for any value."""
    shares = {}
    for name, values in VALUES.items():
        for image in photographs(height, width):
            for value in values:
                wanted = pillow(name, Image.fromarray(image), float(value), kind, FILL)
                found = transformed(kind)(image, name, value, FILL)
                shares[name, float(value)] = (difference(found, wanted) > 2).mean()
    assert max(shares.values()) <= 0.005, max(shares, key=lambda key: shares[key])


@pytest.mark.parametrize('kind', KINDS)
def test_geometry_of_grey(kind: str) -> None:
    """Images of one channel, too, are treated as by Pillow."""
    image = photographs(97, 120)[2][..., :1]
    for name, values in VALUES.items():
        for value in values[::3]:
            wanted = pillow(name, Image.fromarray(image[..., 0]), float(value), kind, 124)
            found = transformed(kind)(image, name, value, FILL)
            assert (difference(found, wanted) > 2).mean() <= 0.005, (name, value)


@pytest.mark.parametrize('kind', KINDS)
def test_whole_pixels_are_exact(kind: str) -> None:
    """Zero does nothing, whole shifts move pixels, quarter and half turns of a square turn them."""
    image = photographs(112, 112)[1]
    run = transformed(kind)
    for name in GEOMETRIC:
        np.testing.assert_array_equal(run(image, name, 0.0, FILL), image)
    for name, axis in (('translate_x', 1), ('translate_y', 0)):
        moved = np.moveaxis(np.full_like(image, FILL), axis, 0)
        moved[:-5] = np.moveaxis(image, axis, 0)[5:]  # left or up
        np.testing.assert_array_equal(run(image, name, 5.0, FILL), np.moveaxis(moved, 0, axis))
    for turns in (1, 2, -1):
        np.testing.assert_array_equal(
            run(image, 'rotate', 90.0 * turns, FILL), np.rot90(image, turns)
        )


def test_random_interpolation() -> None:
    """'random' is bicubic where the step says so, else bilinear."""
    image = tf.constant(photographs(97, 120)[2])
    matrix = tf.stack(geometry.rotated(tf.constant(20.0), 97, 120))
    fill = tf.constant(FILL, tf.uint8)

    def run(kind: str, cubic: bool) -> Any:
        return geometry.affine(image, matrix, fill, kind, tf.constant(cubic)).numpy()

    bilinear, bicubic = run('bilinear', True), run('bicubic', False)
    np.testing.assert_array_equal(run('random', True), bicubic)
    np.testing.assert_array_equal(run('random', False), bilinear)
    assert (difference(bilinear, bicubic) > 2).mean() > 0.05


@pytest.mark.parametrize('kind', KINDS)
def test_rotation(kind: str) -> None:
    """The angle is uniform in -degrees..degrees; the pixels are Pillow's for some such angle."""
    operation = augment.compose(
        ({'name': 'rotation', 'degrees': 40.0, 'interpolation': kind, 'fill': FILL},), 'augment'
    )
    for index in range(8):
        image = photographs(97, 120)[index % 4]
        angle = 40 * (2 * float(rng(index).uniform(2)[0]) - 1)
        found = operation.apply(tf.constant(image), rng(index))
        wanted = pillow('rotate', Image.fromarray(image), angle, kind, FILL)
        assert (difference(found, wanted) > 2).mean() <= 0.005, angle


def test_angles_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Angles fill -degrees..degrees evenly; 'random' interpolation is bicubic half of the time."""

    def seen(*args: Any) -> Any:
        _, matrix, _, _, cubic = args
        return tf.concat([matrix, [tf.cast(cubic, 'float32')]], axis=0)

    monkeypatch.setattr(geometry, 'affine', seen)
    operation = geometry.rotation(degrees=30.0, interpolation='random', fill=0)
    image = tf.zeros([8, 8, 3], tf.uint8)
    found = collect(lambda d: operation.apply(image, d), 4000)
    angles = np.rad2deg(np.arctan2(found[:, 3], found[:, 0]))
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > ALPHA
    assert p_of_share(int(found[:, 6].sum()), 4000, 0.5) > ALPHA


def test_flip_vertical() -> None:
    """An image is turned upside down, exactly, with the given probability."""
    image = coordinates(6, 5)
    tensor = tf.constant(image)
    for probability in (0.0, 0.3, 1.0):
        operation = crop.flip_vertical(probability=probability)
        found = collect(lambda d, o=operation: o.apply(tensor, d), 1000)
        turned = (found != image).any((1, 2, 3))
        np.testing.assert_array_equal(
            found[turned], np.broadcast_to(image[::-1], found[turned].shape)
        )
        assert p_of_share(int(turned.sum()), 1000, probability) > ALPHA
    assert operation.output_size(None) is None
