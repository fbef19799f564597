"""Every operation against torchvision's numbers, Pillow or a closed form."""

from __future__ import annotations

import collections
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import jcls
from helpers.pictures import (
    ALPHA,
    JITTERED,
    collect,
    composed,
    coordinates,
    noise,
    p_of_share,
    rng,
)
from jcls.data import augment
from jcls.data.augment import OPERATIONS, crop
from jcls.data.augment.operation import Operation
from jcls.host.tensorflow import tf

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


# Fields with which each operation surely changes the image `noise(40, 56)`.
EACH: dict[str, dict[str, Any]] = {
    'random_resized_crop': {'size': 24},
    'resize': {'size': 31},
    'center_crop': {'size': 33},
    'pad_and_crop': {'size': 32, 'padding': 3},
    'flip': {'probability': 1.0},
    'trivial_augment': {},
    'rand_augment': {'magnitude': 15},
    'rand_augment_timm': {'probability': 1.0},
    'auto_augment': {},
    'three_augment': {},
    'color_jitter': {'brightness': 0.5},
    'grey': {'probability': 1.0},
    'gaussian_blur': {'probability': 1.0},
    'lighting': {},
    'flip_vertical': {'probability': 1.0},
    'rotation': {'degrees': 40.0},
    'random_erasing': {'probability': 1.0},
    'cutout': {'length': 10},
    'grid_mask': {'d': (8, 16)},
    'hide_and_seek': {'grid_sizes': (16,)},
}


@pytest.mark.parametrize(('height', 'width'), [(375, 500), (500, 375), (60, 600), (32, 32)])
def test_boxes_are_distributed_as_torchvisions(golden: Any, height: int, width: int) -> None:
    """Place, size, area, aspect and the share of fallbacks are distributed as torchvision's."""
    theirs = golden('transforms.npz')[f'rrc_{height}x{width}'].astype(float)
    ours = collect(
        lambda d: crop.random_box(height, width, d.uniform(2 * crop.TRIES + 2), SCALE, RATIO),
        20_000,
    )
    assert ours.min(axis=0)[:2].min() >= 0
    assert ours.min(axis=0)[2:].min() >= 1
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width

    def seen(box: np.ndarray) -> dict[str, np.ndarray]:
        top, left, h, w = box.astype(float).T
        return {
            'top': top,
            'left': left,
            'height': h,
            'width': w,
            'area': h * w,
            'aspect': w / h,
            'place': (top + 0.5) / (height - h + 1) + (left + 0.5) / (width - w + 1),
            'room below': height - h - top,
        }

    for what, values in seen(ours).items():
        p = stats.ks_2samp(values, seen(theirs)[what]).pvalue
        assert p > ALPHA, f'{what}: p = {p}'
    if (height, width) == (60, 600):
        central = [0, 260, 60, 80]
        shares = [(boxes == central).all(axis=1).sum() for boxes in (ours, theirs)]
        assert 0.01 < shares[1] / 20_000 < 0.99
        table = [[share, 20_000 - share] for share in shares]
        assert stats.chi2_contingency(table).pvalue > ALPHA, shares


def test_boxes_in_closed_form() -> None:
    """With one area and one aspect the box has that size; with none that fits it is central."""
    square = collect(lambda d: crop.random_box(100, 64, d.uniform(22), (0.25,) * 2, (1, 1)), 400)
    assert {tuple(size) for size in square[:, 2:].tolist()} == {(40, 40)}
    assert set(square[:, 0]) == set(range(61))
    assert set(square[:, 1]) == set(range(25))
    for height, width, box in [(9, 91, (0, 39, 9, 12)), (91, 9, (39, 0, 12, 9))]:
        u = np.full(22, 0.5, np.float32)
        assert tuple(crop.random_box(height, width, u, (1.0, 1.0), RATIO).numpy()) == box


@pytest.mark.parametrize('kind', ['pixels', 'png', 'jpeg 4:4:4', 'jpeg 4:2:0'])
def test_random_resized_crop_is_pillows(golden: Any, kind: str) -> None:
    """The pixels are Pillow's crop and resize of the drawn box, within a grey level."""
    image = Image.fromarray(golden('transforms.npz')['eval_source'])
    tensor = tf.constant(np.asarray(image))
    if kind != 'pixels':
        file = io.BytesIO()
        how = {} if kind == 'png' else {'quality': 92, 'subsampling': kind.removeprefix('jpeg ')}
        image.save(file, kind.split()[0], **how)
        tensor, image = tf.constant(file.getvalue()), Image.open(file).convert('RGB')
    operation = crop.random_resized_crop(size=96)
    for index in range(25):
        box = crop.random_box(375, 500, rng(index).uniform(22), SCALE, RATIO)
        top, left, height, width = box.numpy().tolist()
        cut = image.crop((left, top, left + width, top + height))
        wanted = np.asarray(cut.resize((96, 96), Image.Resampling.BILINEAR)).astype(int)
        worst = np.abs(operation.apply(tensor, rng(index)).numpy() - wanted).max()
        assert worst <= 1, f'{worst} grey levels in the box {(top, left, height, width)}'


def test_evaluation_is_torchvisions(golden: Any) -> None:
    """resize(232) and center_crop(224) make torchvision's image within a grey level."""
    numbers = golden('transforms.npz')
    chain = ({'name': 'resize', 'size': 232}, {'name': 'center_crop', 'size': 224})
    found = augment.compose(chain, 'x').apply(tf.constant(numbers['eval_source']), rng(0))
    assert found.shape == (224, 224, 3)
    assert np.abs(found.numpy() - numbers['eval_image'].astype(int)).max() <= 1


def test_thin_strips_are_torchvisions(golden: Any) -> None:
    """Within a grey level, although only the middle of what resize would make is made."""
    for name, wanted in golden('strips.npz').items():
        height, width, size, side, kind = name.split('_')
        image = np.random.default_rng(int(height) * 10_007 + int(width)).integers(
            0, 256, (int(height), int(width), 3), np.uint8
        )
        first = {'name': 'resize', 'size': int(size), 'interpolation': kind}
        chain = augment.compose((first, {'name': 'center_crop', 'size': int(side)}), 'x')
        resized = composed('resize', size=int(size)).apply(tf.constant(image), rng(0))
        assert resized.shape[0] * resized.shape[1] <= crop.LARGEST, name
        assert composed('resize', size=int(size)).output_size(image.shape[:2]) == resized.shape[:2]
        found = chain.apply(tf.constant(image), rng(0)).numpy()
        assert np.abs(found - wanted.astype(int)).max() <= 1, name


def test_resize_makes_torchvisions_sizes(golden: Any) -> None:
    """Resizing gives, and foretells, the height and width that torchvision's does."""
    for height, width, size, *wanted in golden('transforms.npz')['resize_table'].tolist():
        operation = composed('resize', size=size)
        image = tf.zeros([height, width, 1], tf.uint8)
        assert operation.apply(image, rng(0)).shape[:2] == wanted, (height, width, size)
        assert operation.output_size((height, width)) == tuple(wanted), (height, width, size)


def test_center_crop_is_placed_as_torchvisions(golden: Any) -> None:
    """The central crop's corner is torchvision's for every margin."""
    for height, width, size, top, left in golden('transforms.npz')['center_crop_table'].tolist():
        image = coordinates(height, width)
        found = composed('center_crop', size=size).apply(tf.constant(image), rng(0))
        np.testing.assert_array_equal(found, image[top : top + size, left : left + size])


@pytest.mark.parametrize('is_file', [False, True])
@pytest.mark.parametrize(
    ('height', 'width', 'top', 'left', 'skipped'),
    [(5, 4, 1, 2, (0, 0)), (3, 8, 2, 0, (0, 0)), (8, 7, 0, 0, (0, 0)), (5, 13, 1, 0, (0, 2))],
)
def test_center_crop_pads(
    height: int, width: int, top: int, left: int, skipped: tuple[int, int], is_file: bool
) -> None:
    """A side smaller than the crop is centred on black, the odd pixel after it."""
    image = coordinates(height, width)
    wanted = np.zeros((8, 8, 3), np.uint8)
    kept = image[skipped[0] :, skipped[1] :][:8, :8]
    wanted[top : top + kept.shape[0], left : left + kept.shape[1]] = kept
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG')
    tensor = tf.constant(file.getvalue() if is_file else image)
    found = composed('center_crop', size=8).apply(tensor, rng(0))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(('height', 'width', 'size', 'padding'), [(6, 6, 6, 2), (5, 7, 4, 1)])
def test_pad_and_crop(height: int, width: int, size: int, padding: int) -> None:
    """Every placement in the black-padded image occurs, all about equally often, and none else."""
    image = coordinates(height, width)
    padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    places = [
        padded[top : top + size, left : left + size].tobytes()
        for top in range(height + 2 * padding - size + 1)
        for left in range(width + 2 * padding - size + 1)
    ]
    assert len(set(places)) == len(places)
    operation = composed('pad_and_crop', size=size, padding=padding)
    found = collect(lambda d: operation.apply(tf.constant(image), d), 200 * len(places))
    counts = collections.Counter(crop.tobytes() for crop in found)
    assert set(counts) == set(places)
    assert stats.chisquare([counts[place] for place in places]).pvalue > ALPHA


def test_flip() -> None:
    """An image is mirrored exactly with the given probability, whatever its crop was."""
    image = coordinates(6, 6)
    chain = ({'name': 'pad_and_crop', 'size': 6, 'padding': 1}, {'name': 'flip'})
    both, crop_only = augment.compose(chain, 'x'), augment.compose(chain[:1], 'x')
    tensor = tf.constant(image)
    found = collect(lambda d: both.apply(tensor, d), 4000)
    crops = collect(lambda d: crop_only.apply(tensor, d), 4000)  # the same crops as in `both`
    kept = (found == crops).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(found[~kept], crops[~kept][:, :, ::-1])
    assert p_of_share(kept.sum(), 4000, 0.5) > ALPHA
    places = collections.defaultdict(lambda: [0, 0])
    for box, same in zip(crops, kept, strict=True):
        places[box.tobytes()][int(same)] += 1
    assert len(places) == 9
    assert stats.chi2_contingency(list(places.values())).pvalue > ALPHA
    for probability in (0.0, 0.1, 1.0):
        operation = composed('flip', probability=probability)
        share = (collect(lambda d, o=operation: o.apply(tensor, d), 1000) != image).any((1, 2, 3))
        assert p_of_share(share.sum(), 1000, probability) > ALPHA


def test_fast_decoding_is_for_jpegs() -> None:
    """A fast crop has other pixels than an exact one, but of the same place; a PNG's are exact."""
    image = Image.fromarray(coordinates(240, 250)).resize((500, 480), Image.Resampling.BILINEAR)
    fields = {'size': 48, 'scale': (0.5, 1.0)}
    exact, fast = (composed('random_resized_crop', decode=d, **fields) for d in ('exact', 'fast'))
    for kind in ('JPEG', 'PNG'):
        file = io.BytesIO()
        image.save(file, kind, **({'quality': 98, 'subsampling': 0} if kind == 'JPEG' else {}))
        data = tf.constant(file.getvalue())
        for index in range(5):
            one, other = (o.apply(data, rng(index)).numpy().astype(int) for o in (exact, fast))
            difference = np.abs(one - other)
            assert one.shape == other.shape == (48, 48, 3)
            assert difference.any() == (kind == 'JPEG')
            assert difference[..., :2].mean() < 3  # the coordinates of a pixel of the image
    pixels = tf.constant(noise(200, 210))
    np.testing.assert_array_equal(exact.apply(pixels, rng(1)), fast.apply(pixels, rng(1)))


def test_interpolation_of_a_crop() -> None:
    """'random' is bilinear or bicubic, each half of the time, in the very same box."""
    image = tf.constant(noise(40, 44))
    bilinear, bicubic, either = (
        collect(lambda d, o=operation: o.apply(image, d), 400)
        for operation in (
            composed('random_resized_crop', size=12, interpolation=kind)
            for kind in ('bilinear', 'bicubic', 'random')
        )
    )
    linear, cubic = ((either == found).all((1, 2, 3)) for found in (bilinear, bicubic))
    assert (linear | cubic).all()
    assert (linear & cubic).mean() < 0.02  # a box of the very size is not resized
    assert p_of_share(int(cubic.sum()), 400, 0.5) > ALPHA


def test_a_crop_larger_than_the_image() -> None:
    """Padded images that are still too small are refused before any of them is read."""
    operation = composed('pad_and_crop', size=32, padding=2)
    assert operation.output_size((28, 40)) == (32, 32)
    with pytest.raises(
        ValueError, match=r'size=32 is larger than images of 27 x 40 with padding=2'
    ):
        operation.output_size((27, 40))


@pytest.mark.parametrize('fill', [(), (1, 2)])
def test_a_fill_of_other_channels(fill: tuple[int, ...]) -> None:
    """A colour needs a level for each channel of the image."""
    with pytest.raises(ValueError, match=r'fill=.*the images have 3 channel'):
        composed('cutout', fill=fill).apply(tf.constant(noise(20, 20)), rng(0))


def foretold(operation: Operation, size: Any) -> Any:
    """The size afterwards; None where an operation refuses images of different sizes."""
    try:
        return operation.output_size(size)
    except ValueError:
        return None


@pytest.mark.parametrize('name', OPERATIONS)
def test_every_operation(name: str) -> None:
    """Each operation changes an image, the same way for the same draw, and foretells its size."""
    operation = composed(name, **EACH[name])
    for height, width in ((40, 56), (57, 40), (35, 35)):
        image = tf.constant(noise(height, width))
        found = operation.apply(image, rng(4)).numpy()
        assert found.dtype == np.uint8
        assert not np.array_equal(found, image)
        np.testing.assert_array_equal(found, operation.apply(image, rng(4)))
        assert operation.output_size((height, width)) == found.shape[:2]
        assert foretold(operation, None) in (None, found.shape[:2])
    grey = operation.apply(tf.constant(noise(57, 40)[..., :1]), rng(4)._replace(mean=(9,)))
    assert grey.shape == (*operation.output_size((57, 40)), 1)


def test_nothing_to_do_decodes() -> None:
    """An empty list of operations gives the pixels as they are and keeps the size."""
    image, nothing = noise(5, 7), augment.compose((), 'augment')
    np.testing.assert_array_equal(nothing.apply(tf.constant(image), rng(0)), image)
    assert nothing.output_size((5, 7)) == (5, 7)
    assert nothing.output_size(None) is None


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'flop'}, r"config\.augment\[1\]\.name.*'flop'.*did you mean 'flip'"),
        ({'name': 'flip', 'probabilty': 1.0}, r"augment\[1\]\.probabilty.*mean 'probability'"),
        ({'name': 'flip', 'probability': 1.5}, r'augment\[1\].*probability=1\.5.*\[0, 1\]'),
        ({'name': 'resize', 'size': 'big'}, r"augment\[1\]\.size.*int.*'big'"),
        ({'name': 'resize', 'size': 0}, r'augment\[1\].*size=0.*at least 1'),
        ({'name': 'center_crop', 'size': -1}, r'augment\[1\].*size=-1.*at least 1'),
        ({'name': 'pad_and_crop', 'size': 0}, r'augment\[1\].*size=0.*at least 1'),
        ({'name': 'pad_and_crop', 'padding': -1}, r'augment\[1\].*padding=-1.*negative'),
        ({'name': 'random_resized_crop', 'size': 0}, r'augment\[1\].*size=0.*at least 1'),
        ({'name': 'random_resized_crop', 'scale': (0.5, 0.1)}, r'augment\[1\].*scale=.*0 < low'),
        ({'name': 'random_resized_crop', 'scale': (0.0, 0.1)}, r'augment\[1\].*scale=.*0 < low'),
        ({'name': 'random_resized_crop', 'ratio': (0.0, 1.0)}, r'augment\[1\].*ratio=.*0 < low'),
        ({'name': 'random_resized_crop', 'decode': 'fats'}, r"decode 'fats'.*did you mean 'fast'"),
        ({'name': 'random_resized_crop', 'interpolation': 'cubic'}, r"'cubic'.*mean 'bicubic'"),
        ({'name': 'flip_vertical', 'probability': -1.0}, r'augment\[1\].*probability=-1.*\[0, 1\]'),
        ({'name': 'rotation', 'degrees': 200.0}, r'augment\[1\].*degrees=200.*\[0, 180\]'),
        ({'name': 'rotation', 'interpolation': 'cubic'}, r"interpolation 'cubic'.*mean 'bicubic'"),
        ({'name': 'rotation', 'fill': 'blue'}, r"augment\[1\].*fill='blue'.*'mean'.*0..255"),
        ({'name': 'rotation', 'fill': (0, 0, 256)}, r'augment\[1\].*fill=\(0, 0, 256\).*0..255'),
        ({'name': 'color_jitter', 'contrast': -0.1}, r'augment\[1\].*contrast=-0\.1.*negative'),
        ({'name': 'color_jitter', 'hue': 0.6}, r'augment\[1\].*hue=0\.6.*\[0, 0\.5\]'),
        ({'name': 'color_jitter', **dict.fromkeys(JITTERED, 0.0)}, r'augment\[1\].*are all 0'),
        ({'name': 'grey', 'probability': 2.0}, r'augment\[1\].*probability=2.*\[0, 1\]'),
        ({'name': 'gaussian_blur', 'sigma': (2.0, 1.0)}, r'augment\[1\].*sigma=.*low <= high'),
        ({'name': 'gaussian_blur', 'sigma': (-1.0, 1.0)}, r'augment\[1\].*sigma=.*0 <= low'),
        ({'name': 'lighting', 'std': -1.0}, r'augment\[1\].*std=-1.*negative'),
        ({'name': 'auto_augment', 'policy': 'imagnet'}, r"policy 'imagnet'.*mean 'imagenet'"),
        ({'name': 'trivial_augment', 'interpolation': 'linear'}, r"interpolation 'linear'"),
        ({'name': 'trivial_augment', 'fill': -1}, r'augment\[1\].*fill=-1.*0..255'),
        ({'name': 'rand_augment', 'num_ops': 0}, r'augment\[1\].*num_ops=0.*at least 1'),
        ({'name': 'rand_augment', 'magnitude': 31}, r'augment\[1\].*magnitude=31.*0\.\.30'),
        ({'name': 'rand_augment', 'magnitude': 0, 'bins': 1}, r'augment\[1\].*bins=1.*at least 2'),
        ({'name': 'rand_augment_timm', 'num_ops': -1}, r'augment\[1\].*num_ops=-1.*at least 1'),
        ({'name': 'rand_augment_timm', 'magnitude': 11.0}, r'augment\[1\].*magnitude=11.*0\.\.10'),
        ({'name': 'rand_augment_timm', 'magnitude_std': -1.0}, r'magnitude_std=-1.*negative'),
        ({'name': 'rand_augment_timm', 'probability': 1.1}, r'augment\[1\].*probability=1\.1'),
        ({'name': 'random_erasing', 'probability': 1.1}, r'augment\[1\].*probability=1\.1'),
        ({'name': 'random_erasing', 'scale': (0.3, 0.1)}, r'augment\[1\].*scale=.*low <= high'),
        ({'name': 'random_erasing', 'scale': (0.3, 1.1)}, r'augment\[1\].*scale=.*high <= 1'),
        ({'name': 'random_erasing', 'ratio': (0.0, 1.0)}, r'augment\[1\].*ratio=.*0 < low'),
        ({'name': 'random_erasing', 'count': 0}, r'augment\[1\].*count=0.*at least 1'),
        ({'name': 'random_erasing', 'mode': 'pixels'}, r"mode 'pixels'.*did you mean 'pixel'"),
        ({'name': 'random_erasing', 'noise_std': (-0.2,)}, r'augment\[1\].*noise_std=.*negative'),
        ({'name': 'random_erasing', 'fill': 256}, r'augment\[1\].*fill=256.*0..255'),
        ({'name': 'cutout', 'length': 1}, r'augment\[1\].*length=1.*at least 2'),
        ({'name': 'cutout', 'holes': 0}, r'augment\[1\].*holes=0.*at least 1'),
        ({'name': 'grid_mask', 'd': (96, 96)}, r'augment\[1\].*d=\(96, 96\).*low < high'),
        ({'name': 'grid_mask', 'd': (1, 96)}, r'augment\[1\].*d=\(1, 96\).*2 <= low'),
        ({'name': 'grid_mask', 'ratio': 1.5}, r'augment\[1\].*ratio=1\.5.*\[0, 1\]'),
        ({'name': 'grid_mask', 'rotate': 361.0}, r'augment\[1\].*rotate=361.*\[0, 360\]'),
        ({'name': 'grid_mask', 'mode': 2}, r'augment\[1\].*mode=2.*0 or 1'),
        ({'name': 'hide_and_seek', 'grid_sizes': (0,)}, r'augment\[1\].*grid_sizes=.*not all'),
        ({'name': 'hide_and_seek', 'grid_sizes': ()}, r'augment\[1\].*grid_sizes=.*not all'),
        ({'name': 'hide_and_seek', 'grid_sizes': (16, -1)}, r'grid_sizes=.*none may be negative'),
        ({'name': 'hide_and_seek', 'probability': -0.5}, r'augment\[1\].*probability=-0\.5'),
    ],
)
def test_errors_name_the_place(tiny: dict[str, Any], section: dict[str, Any], message: str) -> None:
    """An unknown operation or field or an impossible value is an error that says where it is."""
    good = {'name': 'pad_and_crop', 'size': 8, 'padding': 1}
    with pytest.raises(ValueError, match=message):
        jcls.build({**tiny, 'augment': (good, section)})


def test_the_table_is_covered() -> None:
    """Every operation of the table is tried by the tests above."""
    assert set(EACH) == set(OPERATIONS)
