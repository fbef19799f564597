"""What is painted over lies where, and as often, as in the code the recipes were made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from helpers.pictures import ALPHA, collect, composed, masks, p_of_share, plain, rng
from jcls.data.augment import erase
from jcls.host.tensorflow import tf

SCALE, RATIO = (0.02, 0.33), (0.3, 3.3)


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
        found = composed(name, **fields).apply(image, rng(2)._replace(mean=(1, 2, 3))).numpy()
        assert {tuple(pixel) for pixel in found.reshape(-1, 3)} == {(60, 60, 60), (1, 2, 3)}, name


def test_noise_of_pixels() -> None:
    """Each painted pixel and channel is N(mean, 255 std), rounded and clipped, on its own."""
    operation = composed('random_erasing', probability=1.0, scale=(0.2, 0.4), mode='pixel')
    mean, std = np.array([124, 116, 104]), 255 * np.array([0.229, 0.224, 0.225])
    image = tf.fill([60, 80, 3], tf.constant(0, 'uint8'))
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
    image = tf.fill([90, 90, 3], tf.constant(0, 'uint8'))
    compared = 0
    for index in range(40):
        u = rng(index).uniform(45, stream=1)
        boxes = erase.random_boxes(90, 90, u, (0.1, 0.1), (1.0, 1.0), 2).numpy()
        (top, left, bottom, right), (top2, left2, bottom2, right2) = boxes
        apart = left >= right2 or left2 >= right or top >= bottom2 or top2 >= bottom
        if bottom2 == top2 or not apart:
            continue
        found = operation.apply(image, rng(index)).numpy().astype(float)
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
        composed('random_erasing', probability=1.0, mode='pixel').apply(grey, rng(0))
    operation = composed('random_erasing', probability=1.0, mode='pixel', noise_std=(0.2,), fill=99)
    assert len(np.unique(operation.apply(grey, rng(0)))) > 5


@pytest.mark.parametrize(('length', 'side'), [(8, 8), (9, 8), (60, 60)])
def test_cutout(length: int, side: int) -> None:
    """The centre is uniform over the pixels; what lies outside is cut off."""
    found = masks(4000, 21, 30, 'cutout', length=length)
    places = np.array([bounds(mask) for mask in found])
    for axis, pixels in ((0, 21), (1, 30)):
        wanted = [
            (max(c - side // 2, 0), min(c + side // 2, pixels) - max(c - side // 2, 0))
            for c in range(pixels)
        ]
        kinds = sorted(set(wanted))
        chances = np.array([wanted.count(kind) for kind in kinds]) / pixels
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
