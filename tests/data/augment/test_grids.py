"""GridMask and Hide-and-Seek paint over what PaddleClas means them to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from helpers.pictures import ALPHA, FILL, masks, p_of_share, plain
from jcls.data.augment.grids import grid_mask
from jcls.data.augment.operation import Rng
from jcls.host.tensorflow import tf


def given(*numbers: float) -> Rng:
    """A draw of these uniform numbers, and of 0 where only a probability is to be met."""

    class Given(Rng):
        def uniform(self, *shape: int, stream: int = 0) -> Any:
            del stream
            return tf.constant(numbers if shape else 0.0, 'float32')

    return Given(tf.zeros([2], 'int64'))


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
    operation = grid_mask(d=(10, 60), ratio=ratio, rotate=rotate, mode=mode, fill=FILL)
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
