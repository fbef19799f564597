"""Every operation on levels is Pillow's, over its whole range, on photographs and odd images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from jcls.data.augment import levels, policy_ops
from jcls.data.augment.levels import PIXEL
from jcls.data.augment.policy_ops import INDEX, Step
from jcls.host.tensorflow import tf


@functools.cache
def photographs(height: int, width: int) -> tuple[np.ndarray, ...]:
    """scikit-learn's two photographs at this size, a part of each, and one of low contrast."""
    images = load_sample_images().images
    resized = [np.asarray(Image.fromarray(image).resize((width, height))) for image in images]
    parts = [image[150 : 150 + height, 200 : 200 + width] for image in images]
    return (*resized, *parts, parts[1] // 3 + np.array([20, 60, 110], np.uint8))


def pillow(name: str, image: Image.Image, value: float) -> Image.Image:
    """What Pillow makes of an operation of `kernels.NAMES` on levels."""
    if name == 'posterize' and value == 0:  # which Pillow refuses
        return image.point([0] * 256 * len(image.getbands()))
    enhancers = {
        'brightness': ImageEnhance.Brightness,
        'color': ImageEnhance.Color,
        'contrast': ImageEnhance.Contrast,
        'sharpness': ImageEnhance.Sharpness,
    }
    if name in enhancers:
        return enhancers[name](image).enhance(value)
    functions: dict[str, Callable[[], Image.Image]] = {
        'identity': lambda: image,
        'posterize': lambda: ImageOps.posterize(image, int(value)),
        'solarize': lambda: ImageOps.solarize(image, value),  # type: ignore[arg-type]
        'solarize_add': lambda: image.point(
            lambda level: min(255, level + int(value)) if level < 128 else level
        ),
        'autocontrast': lambda: ImageOps.autocontrast(image),
        'equalize': lambda: ImageOps.equalize(image),
        'invert': lambda: ImageOps.invert(image),
    }
    return functions[name]()


def difference(found: Any, wanted: Any) -> np.ndarray:
    """|found - wanted| in levels, at each pixel the largest of its channels."""
    found, wanted = (np.atleast_3d(np.asarray(image)).astype(int) for image in (found, wanted))
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max(axis=-1)


@functools.cache
def transformed(kind: str = 'bilinear') -> Callable[..., Any]:
    """`kernels.transform` of one operation: a compiled function of image, number, value, fill."""

    def run(image: Any, which: Any, value: Any, fill: Any) -> Any:
        steps = Step(which[None], value[None], tf.constant([True]))
        return policy_ops.transform(image, steps, fill, kind)

    program = tf.function(run, jit_compile=True, autograph=False)

    def call(image: np.ndarray, name: str, value: float, fill: tuple[int, ...] = (0, 0, 0)) -> Any:
        colour = tf.constant(fill[: image.shape[2]], tf.uint8)
        which = tf.constant(INDEX[name])
        return program(tf.constant(image), which, tf.constant(value, tf.float32), colour)

    return call


BLENDS = ('brightness', 'color', 'contrast', 'sharpness')
FACTORS = (0.0, *np.linspace(0.01, 1.99, 23), 1.0, 0.1, 2.0)
VALUES: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(BLENDS, FACTORS),
    'posterize': tuple(range(9)),
    'solarize': (*np.linspace(0, 255, 31), 26, 77, 103, 256),
    'solarize_add': (0, *range(1, 111, 12), 110, 128),
    **dict.fromkeys(('identity', 'autocontrast', 'equalize', 'invert'), (0,)),
}
NEUTRAL = {
    **dict.fromkeys(BLENDS, 1.0),
    'identity': 0,
    'posterize': 8,
    'solarize': 256,
    'solarize_add': 0,
}
STRONG = {
    **dict.fromkeys(BLENDS, 0.3),
    **dict.fromkeys(('autocontrast', 'equalize', 'invert'), 0),
    'posterize': 2,
    'solarize': 100,
    'solarize_add': 50,
}


@pytest.mark.parametrize('channels', [3, 1])
@pytest.mark.parametrize('name', VALUES)
def test_levels_are_pillows(name: str, channels: int) -> None:
    """Over the whole range of values: at most a level apart, and that in less than 5 % of it."""
    for image in photographs(96, 112):
        image = image if channels == 3 else image[..., 1:2]
        for value in VALUES[name]:
            wanted = pillow(name, Image.fromarray(image.squeeze()), float(value))
            apart = difference(transformed()(image, name, value), wanted)
            assert apart.max() <= 1, value
            assert apart.mean() < 0.05, value


@pytest.mark.parametrize('name', NEUTRAL)
def test_neutral_values_do_nothing(name: str) -> None:
    """The neutral value leaves every pixel as it is."""
    image = photographs(96, 112)[2]
    np.testing.assert_array_equal(transformed()(image, name, NEUTRAL[name]), image)


@pytest.mark.parametrize('name', STRONG)
def test_every_operation_changes_levels(name: str) -> None:
    """A strong value changes a photograph visibly."""
    image = photographs(96, 112)[4]
    assert (difference(transformed()(image, name, STRONG[name]), image) > 2).mean() > 0.1


def odd_images(channels: int) -> list[np.ndarray]:
    """Images of a few pixels or of a few levels."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, channels), np.uint8)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    return [
        *(noise[:h, :w] for h, w in ((1, 1), (1, 7), (9, 2), (2, 2), (3, 3), (9, 7))),
        *(np.full((9, 7, channels), level, np.uint8) for level in (0, 255, 77)),
        np.where(noise < 9, 3, 200).astype(np.uint8),  # two levels
        np.where(noise < 128, 100, 101).astype(np.uint8),  # two next to each other
        np.repeat(ramp, channels, axis=2),
    ]


@pytest.mark.parametrize('name', PIXEL)
def test_odd_images(name: str) -> None:
    """Images of one level, of two, or of a single pixel are treated as by Pillow, too."""
    program = tf.function(PIXEL[name], jit_compile=True, autograph=False)
    value = {**STRONG, **dict.fromkeys(BLENDS, 1.7)}[name]
    for image in (*odd_images(1), *odd_images(3)):
        opened = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        found = program(tf.constant(image), tf.constant(value, 'float32'))
        assert difference(found, pillow(name, opened, value)).max() <= 1, image.shape


def every_colour() -> np.ndarray:
    """36 levels of each of red, green and blue, the extremes among them: [216, 216, 3]."""
    levels = np.unique(np.r_[0, 1, 2, 127, 128, 253:256, np.linspace(0, 255, 30).astype(int)])[:36]
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).astype(np.uint8)
    return grid.reshape(len(levels) ** 2, len(levels), 3)


@pytest.mark.parametrize('turn', [-0.5, -0.37, -0.1, -0.001, 0.0, 0.004, 0.05, 0.25, 0.5])
def test_hue_is_pillows(turn: float) -> None:
    """Turning the hue goes through Pillow's 8-bit HSV and differs by at most a grey level."""
    program = tf.function(levels.hue, jit_compile=True, autograph=False)
    for image in (every_colour(), *photographs(96, 112)):
        hue, saturation, value = Image.fromarray(image).convert('HSV').split()
        turned = np.asarray(hue) + np.int32(turn * 255).astype(np.uint8)
        bands = (Image.fromarray(turned), saturation, value)
        wanted = Image.merge('HSV', bands).convert('RGB')
        found = program(tf.constant(image), tf.constant(turn, 'float32'))
        assert difference(found, wanted).max() <= 1
    grey = tf.constant(photographs(96, 112)[0][..., :1])
    np.testing.assert_array_equal(program(grey, tf.constant(turn, 'float32')), grey)


@pytest.mark.parametrize('channels', [3, 1])
@pytest.mark.parametrize('most', [0.3, 2.0, 7.0])
def test_blur_is_pillows(most: float, channels: int) -> None:
    """A Gaussian blur of any width is Pillow's, whatever the widest one that is provided for."""
    program = tf.function(
        lambda image, value: levels.blur(image, value, most), jit_compile=True, autograph=False
    )
    for image in photographs(61, 50):
        image = image[..., :channels]
        for sigma in (0.0, 0.1, *np.linspace(0.2 * most, most, 6)):
            wanted = Image.fromarray(image.squeeze()).filter(ImageFilter.GaussianBlur(float(sigma)))
            found = program(tf.constant(image), tf.constant(sigma, 'float32'))
            assert difference(found, wanted).max() <= 1, sigma
    tiny = tf.constant(image[:2, :3])  # a box is wider than the image
    wanted = Image.fromarray(image[:2, :3].squeeze()).filter(ImageFilter.GaussianBlur(most))
    assert difference(program(tiny, tf.constant(most)), wanted).max() <= 1


def test_grey_is_pillows() -> None:
    """Grey is Pillow's 'L' in each channel."""
    for image in photographs(96, 112):
        wanted = np.asarray(Image.fromarray(image).convert('L'))[..., None].repeat(3, axis=2)
        np.testing.assert_array_equal(levels.grey(tf.constant(image)), wanted)
