"""Images and draws that the tests of augmentations share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from sklearn.datasets import load_sample_images

from jcls.data import augment
from jcls.data.augment import policy_ops
from jcls.data.augment.operation import Operation, Rng
from jcls.data.augment.policy_ops import INDEX, Step
from jcls.host.tensorflow import tf

ALPHA = 1e-3  # of a statistical test; every draw here is fixed, so none fails by chance later


JITTERED = ('brightness', 'contrast', 'saturation', 'hue')


def composed(name: str, **fields: Any) -> Operation:
    """One operation by its section."""
    return augment.compose(({'name': name, **fields},), 'augment')


def rng(index: int, word: int = 7) -> Rng:
    """The random numbers that the pipeline gives an example."""
    return Rng(tf.constant([word, 64 * index], tf.int64))


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """An image in which no two pixels are likely alike, none of them black."""
    return np.random.default_rng(0).integers(1, 256, (height, width, channels), np.uint8)


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose pixels tell where they are, none of them black."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y & 255, x & 255, 16 * (y >> 8) + (x >> 8) + 1], -1).astype(np.uint8)


def collect(function: Any, count: int) -> Any:
    """`function` of a Rng, for as many examples, in one pass."""
    examples = tf.data.Dataset.range(count).map(
        lambda index: function(Rng(tf.stack([tf.constant(7, tf.int64), 64 * index]))),
        num_parallel_calls=2,
    )
    return next(examples.batch(count).as_numpy_iterator())


def p_of_share(hits: int, tries: int, share: float) -> float:
    """How likely a share at least as far from the expected one is."""
    return float(stats.binomtest(hits, tries, share).pvalue)


@functools.cache
def photographs(height: int, width: int) -> tuple[np.ndarray, ...]:
    """scikit-learn's two photographs at this size, a part of each, and one of low contrast."""
    images = load_sample_images().images
    resized = [np.asarray(Image.fromarray(image).resize((width, height))) for image in images]
    parts = [image[150 : 150 + height, 200 : 200 + width] for image in images]
    return (*resized, *parts, parts[1] // 3 + np.array([20, 60, 110], np.uint8))


def pillow_level(name: str, image: Image.Image, value: float) -> Image.Image:
    """What Pillow makes of an operation of `policy_ops.NAMES` on levels."""
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


def pixel_difference(found: Any, wanted: Any) -> np.ndarray:
    """|found - wanted| in levels, at each pixel the largest of its channels."""
    found, wanted = (np.atleast_3d(np.asarray(image)).astype(int) for image in (found, wanted))
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max(axis=-1)


@functools.cache
def transformed(kind: str = 'bilinear') -> Callable[..., Any]:
    """`policy_ops.transform` of one operation: a compiled function of image, name, value, fill."""

    def run(image: Any, which: Any, value: Any, fill: Any) -> Any:
        steps = Step(which[None], value[None], tf.constant([True]))
        return policy_ops.transform(image, steps, fill, kind)

    program = tf.function(run, jit_compile=True, autograph=False)

    def call(image: np.ndarray, name: str, value: float, fill: tuple[int, ...] = (0, 0, 0)) -> Any:
        colour = tf.constant(fill[: image.shape[2]], tf.uint8)
        which = tf.constant(INDEX[name])
        return program(tf.constant(image), which, tf.constant(value, tf.float32), colour)

    return call


KINDS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
}


def pillow_geometry(
    name: str, image: Image.Image, value: float, kind: str, fill: Any
) -> Image.Image:
    """What Pillow makes of a geometric operation of `policy_ops.NAMES`, called as timm does."""
    if name == 'rotate':
        return image.rotate(value, resample=KINDS[kind], fillcolor=fill)
    place = {'shear_x': 1, 'translate_x': 2, 'shear_y': 3, 'translate_y': 5}[name]
    matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    matrix[place] = value
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=KINDS[kind], fillcolor=fill
    )


FILL = (250, 7, 130)  # in no image here


def plain(height: int, width: int, channels: int = 3) -> Any:
    """A grey image."""
    return tf.fill([height, width, channels], tf.constant(60, 'uint8'))


def masks(examples: int, height: int, width: int, name: str, **fields: Any) -> np.ndarray:
    """bool [examples, height, width]: what was painted over; the rest is untouched."""
    operation = composed(name, **fields, fill=FILL)
    found = collect(lambda d: operation.apply(plain(height, width), d), examples)
    painted = (found == FILL).all(axis=-1)
    assert (found[~painted] == 60).all()
    return painted
