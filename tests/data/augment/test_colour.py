"""Colour operations draw what torchvision's do, and change levels as Pillow does."""

from __future__ import annotations

import collections
import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import stats

from helpers.pictures import ALPHA, JITTERED, collect, composed, p_of_share, photographs, rng
from helpers.pictures import pixel_difference as difference
from jcls.data.augment import levels
from jcls.data.augment.colour import EIGENVALUES, EIGENVECTORS, color_jitter
from jcls.host.tensorflow import tf

KERNELS = ('brightness', 'contrast', 'color', 'hue')  # of brightness, contrast, saturation, hue


def tensor(image: Any) -> Any:
    """uint8."""
    return tf.constant(np.asarray(image, np.uint8))


def test_jitter_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 24 orders of the four are equally likely."""
    for digit, kernel in enumerate(KERNELS):
        monkeypatch.setattr(levels, kernel, lambda image, _, d=digit: 4 * image + d)
    operation = color_jitter(hue=0.1)
    codes = collect(lambda d: operation.apply(tensor(np.zeros((1, 1, 3))), d)[0, 0, 0], 4800)
    orders = [int(''.join(order), base=4) for order in itertools.permutations('0123')]
    counts = collections.Counter(codes.tolist())
    assert set(counts) == set(orders)
    assert stats.chisquare([counts[order] for order in orders]).pvalue > ALPHA


@pytest.mark.parametrize(
    ('field', 'strength', 'low', 'high'),
    [
        ('brightness', 0.3, 0.7, 1.3),
        ('contrast', 0.4, 0.6, 1.4),
        ('saturation', 1.5, 0.0, 2.5),
        ('hue', 0.1, -0.1, 0.1),
        ('hue', 0.5, -0.5, 0.5),
    ],
)
def test_jitter_ranges(
    monkeypatch: pytest.MonkeyPatch, field: str, strength: float, low: float, high: float
) -> None:
    """A factor is uniform in max(0, 1 - s)..1 + s, the hue in -h..h, and the others are off."""

    def scaled(image: Any, value: Any) -> Any:
        place = tf.floor(240 * (value - low) / (high - low))
        return tf.zeros_like(image) + tf.cast(place, 'uint8')

    for kernel in KERNELS:
        monkeypatch.setattr(levels, kernel, None)
    monkeypatch.setattr(levels, KERNELS[JITTERED.index(field)], scaled)
    operation = color_jitter(**{**dict.fromkeys(JITTERED, 0.0), field: strength})
    found = collect(lambda d: operation.apply(tensor(np.zeros((1, 1, 1))), d)[0, 0, 0], 4800)
    assert found.max() < 240
    counts = np.bincount(found, minlength=240).reshape(24, 10).sum(axis=1)
    assert stats.chisquare(counts).pvalue > ALPHA


@pytest.mark.parametrize('channels', [3, 1])
def test_jitter_is_pillows(channels: int) -> None:
    """The image is Pillow's after the same four steps, in the order and by the factors drawn."""
    strengths = {'brightness': 0.4, 'contrast': 0.3, 'saturation': 0.7, 'hue': 0.2}
    operation = composed('color_jitter', **strengths)
    orders = list(itertools.permutations(range(4)))
    for index in range(40):
        image = photographs(96, 112)[index % 5][..., :channels]
        u = rng(index).uniform(5).numpy().astype(float)
        factors = [1 - s + 2 * s * part for s, part in zip(strengths.values(), u[1:], strict=True)]
        turn = 0.2 * (2 * u[4] - 1)
        wanted = Image.fromarray(image.squeeze())
        for step in orders[int(24 * u[0])]:
            if step < 3:
                kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
                wanted = kinds[step](wanted).enhance(factors[step])
            elif channels == 3:
                hue, saturation, value = wanted.convert('HSV').split()
                turned = np.asarray(hue) + np.int32(turn * 255).astype(np.uint8)
                bands = (Image.fromarray(turned), saturation, value)
                wanted = Image.merge('HSV', bands).convert('RGB')
        found = operation.apply(tensor(image), rng(index))
        # A level apart before the hue turns may be a few apart afterwards.
        assert (difference(found, wanted) > 2).mean() <= 0.005, index


def test_grey() -> None:
    """With its probability the image becomes Pillow's grey in all channels, else it stays."""
    image = photographs(96, 112)[2][:9, :7]
    grey = np.asarray(Image.fromarray(image).convert('L'))[..., None].repeat(3, axis=2)
    for probability in (0.0, 0.2, 1.0):
        operation = composed('grey', probability=probability)
        found = collect(lambda d, o=operation: o.apply(tensor(image), d), 1000)
        changed = (found == grey).all((1, 2, 3))
        assert (found[~changed] == image).all()
        assert p_of_share(int(changed.sum()), 1000, probability) > ALPHA


def test_gaussian_blur(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its probability a blur, of a width uniform in its range, that is Pillow's."""
    operation = composed('gaussian_blur', probability=1.0, sigma=(0.5, 3.0))
    for index in range(10):
        image = photographs(61, 50)[index % 5]
        sigma = 0.5 + 2.5 * float(rng(index).uniform(2)[1])
        wanted = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
        assert difference(operation.apply(tensor(image), rng(index)), wanted).max() <= 1

    def level(image: Any, value: Any, most: float) -> Any:
        assert most == 3
        return tf.zeros_like(image) + tf.cast(50 + 60 * value, 'uint8')

    monkeypatch.setattr(levels, 'blur', level)
    operation = composed('gaussian_blur', probability=0.3, sigma=(0.5, 3.0))
    found = collect(lambda d: operation.apply(tensor(np.zeros((1, 1, 3))), d)[0, 0, 0], 8000)
    blurred = found > 0
    assert p_of_share(int(blurred.sum()), 8000, 0.3) > ALPHA
    counts = np.bincount(found[blurred])[80:230]
    assert counts.sum() == blurred.sum()
    assert stats.chisquare(counts.reshape(10, 15).sum(axis=1)).pvalue > ALPHA


@pytest.mark.parametrize('std', [0.1, 0.3])
def test_lighting(std: float) -> None:
    """The added colour has the covariance of std times ImageNet's, 255 levels to the unit."""
    operation = composed('lighting', std=std)
    grey = np.full((1, 1, 3), 128)
    added = collect(lambda d: operation.apply(tensor(grey), d)[0, 0], 20_000).astype(float) - 128
    vectors, values = np.array(EIGENVECTORS), np.array(EIGENVALUES)
    covariance = (255 * std) ** 2 * vectors @ np.diag(values**2) @ vectors.T
    rounding = np.eye(3) / 12
    error = 5 * np.abs(covariance).max() / np.sqrt(20_000)
    np.testing.assert_allclose(np.cov(added.T), covariance + rounding, atol=error)
    assert np.abs(added.mean(axis=0)).max() < 5 * np.sqrt(covariance.max() / 20_000)
    first = vectors[:, 0] * np.sign(vectors[0, 0])
    assert stats.kstest(added @ first / added.dot(first).std(), stats.norm.cdf).statistic < 0.05
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)


def test_lighting_is_one_colour() -> None:
    """Every pixel gets the same, clipped to 0..255; one channel gets the mean of the three."""
    image = photographs(96, 112)[2]
    operation = composed('lighting', std=1.0)
    for index in range(5):
        grey = np.full((1, 1, 3), 128)
        shift = operation.apply(tensor(grey), rng(index)).numpy().astype(int) - 128
        assert np.abs(shift).max() < 120  # not clipped
        found = operation.apply(tensor(image), rng(index))
        np.testing.assert_array_equal(found, np.clip(image + shift, 0, 255))
        one = operation.apply(tensor(grey[..., :1]), rng(index)).numpy().astype(int) - 128
        assert abs(one.item() - shift.mean()) <= 1
    np.testing.assert_array_equal(composed('lighting', std=0.0).apply(tensor(image), rng(0)), image)


def test_three_augment() -> None:
    """Grey, solarized or blurred, a third each, as Pillow does each of them."""
    operation = composed('three_augment')
    counts = collections.Counter()
    image = photographs(61, 50)[2]
    opened = Image.fromarray(image)
    for index in range(300):
        u = rng(index).uniform(2).numpy()
        found = operation.apply(tensor(image), rng(index)).numpy()
        candidates = (
            opened.convert('L').convert('RGB'),
            ImageOps.solarize(opened, 128),
            opened.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * float(u[1]))),
        )
        kind = [difference(found, wanted).max() <= 1 for wanted in candidates].index(True)
        counts[kind] += 1
    assert stats.chisquare([counts[kind] for kind in range(3)]).pvalue > ALPHA


def test_twice_the_same_and_otherwise_not() -> None:
    """What is drawn depends on the example alone."""
    image = tensor(photographs(96, 112)[2][:20, :20])
    for name in ('color_jitter', 'lighting', 'three_augment'):
        operation = composed(name)
        found = [operation.apply(image, rng(i)).numpy().tobytes() for i in (*range(8), *range(8))]
        assert found[:8] == found[8:]
        assert len(set(found)) >= 4
