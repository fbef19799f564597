"""Decoding, cropping and resizing against Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jcls.data import decode
from jcls.host.tensorflow import tf

HEIGHT, WIDTH = 101, 147  # odd, and no multiple of a JPEG block


def photo(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image.Image:
    """Smooth colours, hard-edged shapes and mild noise."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 19 + phase) + np.cos(y / 13 - phase) for phase in (0, 2, 4)]
    image = 128 + 45 * np.stack(waves, -1)
    image[np.hypot(y - height / 3, x - width / 2) < height / 5] = (240, 40, 60)
    image[(x + y) % 29 < 4] = (20, 90, 230)
    image += np.random.default_rng(seed).normal(0, 4, image.shape)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The content of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow(data: bytes) -> np.ndarray:
    """The file as Pillow decodes it."""
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def pixels(data: bytes) -> np.ndarray:
    """The file as `decode.pixels` decodes it."""
    return decode.pixels(tf.constant(data)).numpy()


def cropped(data: bytes, box: tuple[int, ...]) -> np.ndarray:
    """The box as `decode.crop` decodes it."""
    return decode.crop(tf.constant(data), *box).numpy()


def apart(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference of two images in grey levels."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    return int(np.abs(a.astype(int) - b).max())


def boxes(count: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width): the corners, single pixels, the whole, and random ones."""
    random = np.random.default_rng(5)
    found = [(0, 0, HEIGHT, WIDTH), (0, 0, 1, 1), (HEIGHT - 1, WIDTH - 1, 1, 1), (17, 31, 33, 47)]
    for _ in range(count):
        height, width = random.integers(3, HEIGHT), random.integers(3, WIDTH)
        top, left = random.integers(HEIGHT - height + 1), random.integers(WIDTH - width + 1)
        found.append((int(top), int(left), int(height), int(width)))
    return found


GREY = photo().convert('L')
PALETTE = photo().convert('P', palette=Image.Palette.ADAPTIVE, colors=64)
CLEAR = photo()
CLEAR.putalpha(GREY.transpose(Image.Transpose.ROTATE_180))

JPEG = {
    'jpeg 4:4:4': encoded(photo(), 'JPEG', quality=90, subsampling=0),
    'jpeg 4:2:2': encoded(photo(), 'JPEG', quality=90, subsampling=1),
    'jpeg 4:2:0': encoded(photo(), 'JPEG', quality=60, subsampling=2),
    'jpeg 4:2:0 progressive': encoded(photo(), 'JPEG', progressive=True, subsampling=2),
    'jpeg 4:4:4 progressive': encoded(photo(), 'JPEG', progressive=True, subsampling=0),
    'jpeg grey': encoded(GREY, 'JPEG'),
    'jpeg CMYK': encoded(photo().convert('CMYK'), 'JPEG'),
    'jpeg followed by zeros': encoded(photo(), 'JPEG') + bytes(7),
}
LOSSLESS = {
    'png': encoded(photo(), 'PNG'),
    'png with alpha': encoded(CLEAR, 'PNG'),
    'png palette': encoded(PALETTE, 'PNG'),
    'png palette, transparent': encoded(PALETTE, 'PNG', transparency=3),
    'png grey': encoded(GREY, 'PNG'),
    'png grey with alpha': encoded(CLEAR.convert('LA'), 'PNG'),
    'png 1 bit': encoded(photo().convert('1'), 'PNG'),
    'bmp': encoded(photo(), 'BMP'),
    'bmp grey': encoded(GREY, 'BMP'),
    'gif': encoded(PALETTE, 'GIF'),
    'gif animated': encoded(
        PALETTE, 'GIF', save_all=True, append_images=[photo(seed=1).convert('P')], duration=50
    ),
}
FILES = JPEG | LOSSLESS


@pytest.mark.parametrize('name', FILES)
def test_pixels_and_size_are_pillows(name: str) -> None:
    """A file decodes to Pillow's RGB, within a grey level if JPEG and else exactly."""
    wanted = pillow(FILES[name])
    assert apart(pixels(FILES[name]), wanted) <= (1 if name in JPEG else 0)
    found = decode.size(tf.constant(FILES[name]))
    assert tuple(map(int, found)) == wanted.shape[:2]


def test_16_bit_grey_png() -> None:
    """A 16-bit grey PNG decodes to its values on a scale of 0 to 255, within a grey level."""
    deep = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH), np.uint16)
    found = pixels(encoded(Image.fromarray(deep), 'PNG'))
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(found - deep[..., None] / 257).max() <= 1  # Pillow's convert() clips at 255


@pytest.mark.parametrize('mode', ['P', '1'])
def test_no_bmp_is_silently_wrong(mode: str) -> None:
    """A BMP with a palette or of 1 bit decodes to Pillow's pixels or is an error."""
    data = encoded(PALETTE if mode == 'P' else photo().convert('1'), 'BMP')
    try:
        found = pixels(data)
    except tf.errors.InvalidArgumentError:
        return
    assert apart(found, pillow(data)) == 0


def test_transparent_gif() -> None:
    """The transparent pixels of a GIF keep their colour, as Pillow's do."""
    data = encoded(PALETTE, 'GIF', transparency=3)
    assert apart(pixels(data), pillow(data)) == 0


@pytest.mark.parametrize('name', FILES)
def test_crop_is_a_slice_of_the_whole(name: str) -> None:
    """A crop's pixels, its first and last column aside, are those of the whole image's slice."""
    whole = pixels(FILES[name])
    for top, left, height, width in boxes(20):
        found = cropped(FILES[name], (top, left, height, width))
        wanted = whole[top : top + height, left : left + width]
        assert found.shape == wanted.shape
        if width > 2:
            assert apart(found[:, 1:-1], wanted[:, 1:-1]) == 0, (top, left, height, width)


@pytest.mark.parametrize('name', JPEG)
def test_borders_of_a_crop(name: str) -> None:
    """The first and last column of a JPEG's crop are those of the whole, within a grey level.

    Chroma at half width is interpolated from both neighbours, which a bare crop has not decoded.
    """
    whole = pixels(JPEG[name])
    worst = {}
    for top, left, height, width in [*boxes(20), (10, 16, 40, 60), (10, 48, 40, 61)]:
        found = cropped(JPEG[name], (top, left, height, width))
        wanted = whole[top : top + height, left : left + width]
        worst[top, left, height, width] = apart(found[:, [0, -1]], wanted[:, [0, -1]])
    box = max(worst, key=lambda box: worst[box])
    assert worst[box] <= 1, f'{worst[box]} grey levels at (top, left, height, width) = {box}'


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ((101, 147), (101, 147)),
        ((101, 147), (57, 83)),
        ((101, 147), (50, 147)),
        ((101, 147), (33, 201)),
        ((101, 147), (224, 9)),
        ((375, 500), (232, 309)),
        ((7, 5), (224, 224)),
        ((1, 9), (13, 4)),
        ((640, 3), (3, 3)),
    ],
)
def test_resize_is_pillows(before: tuple[int, int], after: tuple[int, int]) -> None:
    """Up or down, a resized image is Pillow's bilinear one: another level is a rare rounding."""
    image = photo(*before)
    wanted = np.asarray(image.resize(after[::-1], Image.Resampling.BILINEAR))
    found = decode.resize(np.asarray(image), *after).numpy()
    assert apart(found, wanted) <= 1
    # Since version 13 Pillow shrinks the height first where that saves more than twice as much.
    saved = before[0] - after[0], before[1] - after[1]
    if not saved[0] > max(0, 2 * saved[1]):
        assert (found != wanted).mean() < 0.02


@pytest.mark.parametrize('after', [(57, 83), (33, 201), (202, 290)])
def test_bicubic_resize_is_pillows(after: tuple[int, int]) -> None:
    """But for rare pixels that Pillow, rounding and clipping half-way, has a little otherwise."""
    wanted = np.asarray(photo().resize(after[::-1], Image.Resampling.BICUBIC))
    found = decode.resize(np.asarray(photo()), *after, method='bicubic').numpy()
    difference = np.abs(found.astype(int) - wanted).max(axis=-1)
    assert (difference > 2).mean() <= 0.005
    assert apart(found, decode.resize(np.asarray(photo()), *after).numpy()) > 10


def test_no_antialiasing_is_the_two_nearest_alone() -> None:
    """Without antialiasing every value is interpolated between neighbours, at half of the size."""
    image = np.asarray(photo(64, 80))
    found = decode.resize(image, 32, 40, antialias=False).numpy()
    means = image.reshape(32, 2, 40, 2, 3).mean((1, 3))
    assert np.abs(found - means).max() <= 0.5


@pytest.mark.parametrize('ratio', [1, 2, 4, 8])
def test_a_fast_crop_is_shrunk_by_the_decoder(ratio: int) -> None:
    """As often as the box holds the target; what comes out are the box's own averages."""
    data = encoded(photo(403, 517), 'JPEG', quality=95, subsampling=0)
    top, left, height, width = 16, 32, 36 * 8, 40 * 8
    target = height // ratio - 3  # a pixel more than fits at the next ratio
    tensor = tf.constant(data)
    found = decode.fast_crop(tensor, top, left, height, width, target=target).numpy()
    assert found.shape == (height // ratio, width // ratio, 3)
    box = pillow(data)[top : top + height, left : left + width]
    means = box.reshape(height // ratio, ratio, width // ratio, ratio, 3).mean((1, 3))
    assert np.abs(found - means).mean() < 0.6
    assert np.abs(found - np.roll(means, 1, axis=0)).mean() > 10


def test_resized_crop_is_torchvisions(golden: Any) -> None:
    """A resized box of a PNG is torchvision's resized_crop of it within a grey level."""
    numbers = golden('transforms.npz')
    data = encoded(Image.fromarray(numbers['eval_source']), 'PNG')
    box = decode.crop(tf.constant(data), *numbers['crop_box'].tolist())
    assert apart(decode.resize(box, 176, 176).numpy(), numbers['crop_image']) <= 1


def in_the_middle(data: bytes) -> bytes:
    """A JPEG with a marker of no meaning halfway through its pixels, and its end in place."""
    middle = len(data) // 2
    return data[:middle] + b'\xff\xf0' + data[middle + 2 :]


DAMAGED = {
    **{
        f'{name}, {percent}% of it': FILES[name][: len(FILES[name]) * percent // 100]
        for name in ('jpeg 4:2:0', 'jpeg 4:4:4 progressive', 'jpeg grey', 'png', 'bmp', 'gif')
        for percent in (10, 60, 95)
    },
    'jpeg without its end marker': JPEG['jpeg 4:2:0'][:-2],
    'jpeg header alone': JPEG['jpeg 4:2:0'][:4],
    'jpeg 4:2:0 progressive, marker in the middle': in_the_middle(JPEG['jpeg 4:2:0 progressive']),
    'jpeg 4:2:0, marker in the middle': in_the_middle(JPEG['jpeg 4:2:0']),
    'png, wrong byte': LOSSLESS['png'][:5000] + b'\x00\x01\x02' + LOSSLESS['png'][5003:],
    'no bytes': b'',
    'one byte': b'G',
    'text': b'<html><body>404 Not Found</body></html>',
    'zeros': bytes(1000),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_file_is_an_error(name: str) -> None:
    """A damaged file is an error; one that is cut off also where a crop lies above the damage."""
    with pytest.raises(tf.errors.InvalidArgumentError):
        pixels(DAMAGED[name])
    if name != 'jpeg 4:2:0, marker in the middle':  # the only one that a crop may not reach
        with pytest.raises(tf.errors.InvalidArgumentError):
            cropped(DAMAGED[name], (0, 0, 8, 8))


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_file_is_an_error_to_a_fast_crop(name: str) -> None:
    """What is damaged for an exact crop is damaged for a fast one."""
    if name != 'jpeg 4:2:0, marker in the middle':  # the only one that a crop may not reach
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode.fast_crop(tf.constant(DAMAGED[name]), 0, 0, 16, 16, target=8)


def test_arrays_pass_through() -> None:
    """Pixels in place of a file are neither decoded nor changed, whatever their channels."""
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 2), np.uint8)
    tensor = tf.constant(image)
    assert not decode.is_encoded(tensor)
    assert tuple(map(int, decode.size(tensor))) == (6, 9)
    np.testing.assert_array_equal(decode.pixels(tensor), image)
    np.testing.assert_array_equal(decode.crop(tensor, 2, 3, 4, 5), image[2:6, 3:8])
