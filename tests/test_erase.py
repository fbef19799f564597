"""What is painted over lies where, and as often, as in the code the recipes were made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from test_augment import ALPHA, collect, composed, draw, p_of_share

from jcls.data import erase
from jcls.data.operation import Draw
from jcls.data.runtime import tensorflow

FILL = (250, 7, 130)  # in no image here
SCALE, RATIO = (0.02, 0.33), (0.3, 3.3)


def given(*numbers: float) -> Draw:
    """A draw of these uniform numbers, and of 0 where only a probability is to be met."""

    class Given(Draw):
        def uniform(self, *shape: int, stream: int = 0) -> Any:
            del stream
            return tensorflow().constant(numbers if shape else 0.0, 'float32')

    return Given(tensorflow().zeros([2], 'int64'))


def plain(height: int, width: int, channels: int = 3) -> Any:
    """A grey image."""
    return tensorflow().fill([height, width, channels], tensorflow().constant(60, 'uint8'))


def masks(examples: int, height: int, width: int, name: str, **fields: Any) -> np.ndarray:
    """bool [examples, height, width]: what was painted over; the rest is untouched."""
    operation = composed(name, **fields, fill=FILL)
    found = collect(lambda d: operation.apply(plain(height, width), d), examples)
    painted = (found == FILL).all(axis=-1)
    assert (found[~painted] == 60).all()
    return painted


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the box that `mask` is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    box = int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    assert mask.sum() == box[2] * box[3]
    return box


@pytest.mark.parametrize(('height', 'width'), [(224, 224), (200, 6)])
def test_boxes_are_distributed_as_torchvisions(golden: Any, height: int, width: int) -> None:
    """Place, size, area, aspect and the share of boxes that never fit are torchvision's."""
    theirs = golden('erasing.npz')[f'boxes_{height}x{width}'].astype(float)
    found = collect(
        lambda d: erase.random_boxes(height, width, d.uniform(23), SCALE, RATIO)[0], 10_000
    )
    ours = np.concatenate([found[:, :2], found[:, 2:] - found[:, :2]], axis=1).astype(float)
    there, theirs_there = ours[:, 2] > 0, theirs[:, 2] > 0
    table = [[seen.sum(), 10_000 - seen.sum()] for seen in (there, theirs_there)]
    if theirs_there.all():
        assert there.all()
    else:
        assert stats.chi2_contingency(table).pvalue > ALPHA
    ours, theirs = ours[there], theirs[theirs_there]
    assert ours[:, 2].max() < height
    assert ours[:, 3].max() < width
    assert (ours[:, :2] + ours[:, 2:] <= (height, width)).all()

    def seen(boxes: np.ndarray) -> dict[str, np.ndarray]:
        top, left, h, w = boxes.T
        place = (top + 0.5) / (height - h + 1) + (left + 0.5) / (width - w + 1)
        columns = {'top': top, 'left': left, 'height': h, 'width': w, 'place': place}
        return columns | {'area': h * w, 'aspect': h / w}

    for what, values in seen(ours).items():
        p = stats.ks_2samp(values, seen(theirs)[what]).pvalue
        assert p > ALPHA, f'{what}: p = {p}'


def test_random_erasing_paints_its_box() -> None:
    """Exactly the box drawn is painted, with the probability given, and nothing else changes."""
    fields = {'scale': (0.05, 0.3), 'ratio': (0.5, 2.0)}
    found = masks(1500, 24, 30, 'random_erasing', probability=0.3, **fields)
    boxes = np.array([bounds(mask) for mask in found])
    drawn = collect(
        lambda d: erase.random_boxes(24, 30, d.uniform(23, stream=1), *fields.values())[0], 1500
    )
    drawn = np.concatenate([drawn[:, :2], drawn[:, 2:] - drawn[:, :2]], axis=1)
    applied = boxes[:, 2] > 0
    assert p_of_share(int(applied.sum()), 1500, 0.3) > ALPHA
    np.testing.assert_array_equal(boxes[applied], drawn[applied])
    assert not masks(200, 24, 30, 'random_erasing', probability=0.0).any()


def test_several_boxes() -> None:
    """One to `count` boxes, equally often; together they take the area of one."""
    u = [collect(lambda d, n=n: d.uniform(1 + 22 * n), 3000) for n in (1, 3)]
    boxes = np.stack(
        [erase.random_boxes(300, 300, row, SCALE, (1.0, 1.0), 3) for row in u[1][:600]]
    )
    sides = boxes[..., 2:] - boxes[..., :2]
    areas = sides.prod(axis=-1)
    numbers = (areas > 0).sum(axis=1)
    assert stats.chisquare(np.bincount(numbers, minlength=4)[1:]).pvalue > ALPHA
    for number in (1, 2, 3):
        chosen = areas[numbers == number] / 300**2 * number
        chosen = chosen[chosen > 0]
        assert stats.kstest(chosen, stats.uniform(0.02, 0.31).cdf).pvalue > ALPHA
    found = masks(60, 40, 40, 'random_erasing', probability=1.0, count=3, scale=(0.02, 0.05))
    assert max(ndimage.label(mask)[1] for mask in found) > 1


def test_mean_is_the_default_paint() -> None:
    """Where nothing else is said the paint is the data's mean colour."""
    image = plain(40, 40)
    for name, fields in {
        'random_erasing': {'probability': 1.0},
        'cutout': {'length': 8},
        'grid_mask': {'d': (8, 12)},
        'hide_and_seek': {'grid_sizes': (8,)},
    }.items():
        found = composed(name, **fields).apply(image, draw(2)._replace(mean=(1, 2, 3))).numpy()
        assert {tuple(pixel) for pixel in found.reshape(-1, 3)} == {(60, 60, 60), (1, 2, 3)}, name


def test_noise_of_pixels() -> None:
    """Each painted pixel and channel is N(mean, 255 std), rounded and clipped, on its own."""
    operation = composed('random_erasing', probability=1.0, scale=(0.2, 0.4), mode='pixel')
    mean, std = np.array([124, 116, 104]), 255 * np.array([0.229, 0.224, 0.225])
    image = tensorflow().fill([60, 80, 3], tensorflow().constant(0, 'uint8'))
    found = collect(lambda d: operation.apply(image, d), 40)
    boxes = collect(
        lambda d: erase.random_boxes(60, 80, d.uniform(23, stream=1), (0.2, 0.4), RATIO)[0], 40
    )
    noise = []
    for pixels, (top, left, bottom, right) in zip(found, boxes, strict=True):
        inside = pixels[top:bottom, left:right].astype(float)
        noise.append(inside.reshape(-1, 3))
        assert pixels.sum() == inside.sum()
        standard = ((inside - mean) / std)[:, :, 0]
        beside = np.corrcoef(standard[:, :-1].ravel(), standard[:, 1:].ravel())[0, 1]
        below = np.corrcoef(standard[:-1].ravel(), standard[1:].ravel())[0, 1]
        assert max(abs(beside), abs(below)) < 5 / np.sqrt(standard.size)
    levels = np.concatenate(noise)
    for channel in range(3):
        normal = stats.norm(mean[channel], std[channel])
        edges = np.arange(0.5, 255)
        expected = np.diff(np.r_[0, normal.cdf(edges), 1]) * len(levels)
        counts = np.bincount(levels[:, channel].astype(int), minlength=256)
        assert stats.chisquare(counts, expected).pvalue > ALPHA
    assert np.abs(np.corrcoef(levels.T) - np.eye(3)).max() < 5 / np.sqrt(len(levels))
    assert len({block[:50].tobytes() for block in noise}) == 40


def test_noise_of_pixels_in_several_boxes() -> None:
    """Boxes of one image do not repeat each other's noise."""
    fields = {'scale': (0.1, 0.1), 'ratio': (1.0, 1.0), 'count': 2, 'mode': 'pixel'}
    operation = composed('random_erasing', probability=1.0, **fields, fill=128)
    image = tensorflow().fill([90, 90, 3], tensorflow().constant(0, 'uint8'))
    compared = 0
    for index in range(40):
        u = draw(index).uniform(45, stream=1)
        boxes = erase.random_boxes(90, 90, u, (0.1, 0.1), (1.0, 1.0), 2).numpy()
        (top, left, bottom, right), (top2, left2, bottom2, right2) = boxes
        apart = left >= right2 or left2 >= right or top >= bottom2 or top2 >= bottom
        if bottom2 == top2 or not apart:
            continue
        found = operation.apply(image, draw(index)).numpy().astype(float)
        one, two = found[top:bottom, left:right], found[top2:bottom2, left2:right2]
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1
        compared += 1
    assert compared > 5


def test_noise_of_channels() -> None:
    """Each box has one colour, N(fill, 255 std)."""
    fields = {'mode': 'channel', 'fill': (100, 128, 140), 'noise_std': (0.1, 0.05, 0.08)}
    operation = composed('random_erasing', probability=1.0, scale=(0.1, 0.3), **fields)
    found = collect(lambda d: operation.apply(plain(12, 12), d), 3000)
    colours = []
    for image in found:
        kinds = np.unique(image.reshape(-1, 3), axis=0)
        assert len(kinds) <= 2
        colours.extend(kinds[(kinds != 60).any(axis=1)])
    standard = (np.array(colours) - (100, 128, 140)) / (255 * np.array([0.1, 0.05, 0.08]))
    assert len(standard) > 2990
    for channel in standard.T:
        assert stats.kstest(channel, stats.norm.cdf).statistic < 0.05  # they are rounded
    assert np.abs(np.corrcoef(standard.T) - np.eye(3)).max() < 0.1


def test_noise_needs_a_std_for_each_channel() -> None:
    """An image of one channel has one standard deviation."""
    grey = plain(20, 20, 1)
    with pytest.raises(ValueError, match=r'noise_std=.*1 numbers, one for each channel'):
        composed('random_erasing', probability=1.0, mode='pixel').apply(grey, draw(0))
    operation = composed('random_erasing', probability=1.0, mode='pixel', noise_std=(0.2,), fill=99)
    assert len(np.unique(operation.apply(grey, draw(0)))) > 5


@pytest.mark.parametrize(('length', 'side'), [(8, 8), (9, 8), (60, 60)])
def test_cutout(length: int, side: int) -> None:
    """The centre is uniform over the pixels; what lies outside is cut off."""
    found = masks(4000, 21, 30, 'cutout', length=length)
    places = np.array([bounds(mask) for mask in found])
    for axis, extent in ((0, 21), (1, 30)):
        wanted = [
            (max(c - side // 2, 0), min(c + side // 2, extent) - max(c - side // 2, 0))
            for c in range(extent)
        ]
        kinds = sorted(set(wanted))
        chances = np.array([wanted.count(kind) for kind in kinds]) / extent
        counts = [int((places[:, [axis, axis + 2]] == kind).all(axis=1).sum()) for kind in kinds]
        assert sum(counts) == 4000
        if len(kinds) > 1:
            assert stats.chisquare(counts, 4000 * chances).pvalue > ALPHA
    table = np.zeros((2, 2))
    np.add.at(table, ((places[:, 0] > 5).astype(int), (places[:, 1] > 10).astype(int)), 1)
    if length < 60:
        assert stats.chi2_contingency(table).pvalue > ALPHA


def test_cutout_holes_and_probability() -> None:
    """`holes` squares, on their own, with the probability given."""
    found = masks(1000, 40, 40, 'cutout', length=6, holes=3, probability=0.4)
    assert p_of_share(int(found.any((1, 2)).sum()), 1000, 0.4) > ALPHA
    assert max(ndimage.label(mask)[1] for mask in found) == 3
    covered = 1 - (1 - (6 / 40) ** 2) ** 3  # of a pixel far from the border
    assert p_of_share(int(found[:, 20, 20].sum()), 1000, 0.4 * covered) > ALPHA


def paddle_grid(
    size: tuple[int, int], d: int, ratio: float, phases: tuple[int, int], angle: float, mode: int
) -> np.ndarray:
    """PaddleClas's mask, bool: true is painted over. On a canvas half again as large, turned."""
    h, w = size
    canvas = np.array([int(1.5 * h), int(1.5 * w)])
    band = int(d * ratio + 0.5)
    kept = np.ones(canvas, np.uint8)
    for axis in (0, 1):
        places = (np.arange(canvas[axis]) - phases[axis]) % d < band
        kept[places if axis == 0 else (slice(None), places)] = 0
    kept = np.asarray(Image.fromarray(kept).rotate(angle))
    top, left = (canvas - size) // 2
    kept = kept[top : top + h, left : left + w]
    return (kept == 0) if mode == 0 else (kept == 1)


@pytest.mark.parametrize('mode', [0, 1])
@pytest.mark.parametrize(('ratio', 'rotate'), [(0.5, 0.0), (0.4, 360.0), (0.6, 90.0)])
def test_grid_is_paddles(mode: int, ratio: float, rotate: float) -> None:
    """For the same period, phases and angle the mask is PaddleClas's."""
    size = (120, 120)
    operation = composed('grid_mask', d=(10, 60), ratio=ratio, rotate=rotate, mode=mode, fill=FILL)
    for numbers in np.random.default_rng(1).random((12, 4)):
        found = erased(operation.apply(plain(*size), given(*numbers)))
        d = 10 + int(numbers[0] * 50)
        # Their phase counts from the canvas's border, 30 pixels outside; its sign is the other.
        phases = tuple((30 - int(u * d)) % d for u in numbers[1:3])
        wanted = paddle_grid(size, d, ratio, phases, numbers[3] * rotate, mode)
        assert (found != wanted).mean() <= 0.005, numbers


def erased(image: Any) -> np.ndarray:
    """bool [H, W]: where it has the colour `FILL`."""
    return (np.asarray(image) == FILL).all(axis=-1)


@pytest.mark.parametrize(
    ('fields', 'share'),
    [
        ({}, 0.750),
        ({'mode': 1}, 0.248),
        ({'mode': 1, 'ratio': 0.4, 'rotate': 360.0}, 0.36),
        ({'probability': 0.5}, 0.375),
    ],
)
def test_share_of_a_grid(fields: dict[str, Any], share: float) -> None:
    """On 224 x 224 the defaults paint over 75.0 %, mode 1 over 24.8 %."""
    found = masks(600, 224, 224, 'grid_mask', **fields).mean(axis=(1, 2))
    assert abs(found.mean() - share) < 4 * found.std() / np.sqrt(600)
    assert found.std() / np.sqrt(600) < 0.02


def test_grid_periods_and_phases() -> None:
    """The period is uniform in low..high-1, each phase in the period; the two axes differ."""
    found = masks(6000, 30, 30, 'grid_mask', d=(4, 8), ratio=0.3)
    seen = {}
    for mask in found:
        rows, columns = mask.all(axis=1), mask.all(axis=0)
        assert (mask == rows[:, None] | columns).all()
        first, second = np.flatnonzero(np.diff(rows.astype(int)) == 1)[:2]
        d = int(second - first)
        phase = int(first + 1) % d
        column = int(np.flatnonzero(np.diff(columns.astype(int)) == 1)[0] + 1) % d
        assert rows[first + 1 :][: int(0.3 * d + 0.5)].all()
        seen[d, phase, column] = seen.get((d, phase, column), 0) + 1
    cells = [(d, i, j) for d in range(4, 8) for i in range(d) for j in range(d)]
    assert set(seen) <= set(cells)
    expected = [6000 / 4 / d**2 for d, _, _ in cells]
    assert stats.chisquare([seen.get(cell, 0) for cell in cells], expected).pvalue > ALPHA


def test_hide_and_seek() -> None:
    """Each square is painted over with the probability, on its own; the last ones are cut off."""
    found = masks(3000, 20, 27, 'hide_and_seek', grid_sizes=(8,), probability=0.3)
    corners = found[:, ::8, ::8]
    whole = np.repeat(np.repeat(corners, 8, axis=1), 8, axis=2)[:, :20, :27]
    np.testing.assert_array_equal(found, whole)
    assert corners.shape == (3000, 3, 4)
    for share in corners.reshape(3000, -1).T:
        assert p_of_share(int(share.sum()), 3000, 0.3) > ALPHA
    flat = corners.reshape(3000, -1).astype(float)
    assert np.abs(np.corrcoef(flat.T) - np.eye(12)).max() < 5 / np.sqrt(3000)


def test_hide_and_seek_sizes() -> None:
    """One of the sizes is drawn; 0 paints over nothing; the defaults cover 40 % of an image."""
    found = masks(3000, 16, 16, 'hide_and_seek', grid_sizes=(0, 2, 16), probability=1.0)
    assert p_of_share(int(found.all((1, 2)).sum()), 3000, 2 / 3) > ALPHA
    assert p_of_share(int((~found).all((1, 2)).sum()), 3000, 1 / 3) > ALPHA
    sizes = {2: 0, 4: 0, 6: 0, 24: 0}
    for mask in masks(3000, 24, 24, 'hide_and_seek', grid_sizes=tuple(sizes)):
        fitting = [
            s for s in sizes if (mask == np.kron(mask[::s, ::s], np.ones((s, s), bool))).all()
        ]
        sizes[max(fitting)] += 1
    # By chance four squares of 2 are one of 4, or all of them one of 24: too rarely to be seen.
    assert stats.chisquare(list(sizes.values())).pvalue > ALPHA
    share = masks(600, 224, 224, 'hide_and_seek').mean(axis=(1, 2))
    assert abs(share.mean() - 0.4) < 4 * share.std() / np.sqrt(600)
