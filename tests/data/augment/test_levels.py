"""Every operation on levels is Pillow's, over its whole range, on photographs and odd images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from helpers.pictures import photographs, transformed
from helpers.pictures import pillow_level as pillow
from helpers.pictures import pixel_difference as difference
from jcls.data.augment import levels
from jcls.data.augment.levels import PIXEL
from jcls.host.tensorflow import tf

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
