"""The picture shows what the network sees: the training pipeline's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jcls
from jcls.data.augment import policy_ops
from jcls.main import main
from jcls.tools import preview

# Digits are grey and go from 0 to 255 already; 17 levels survive most of
# posterizing; and 64 pixels are too few to equalise.
GREYS_STAY = ('color', 'autocontrast', 'equalize', 'posterize')
MIX = {'mixup': 0.2, 'cutmix': 1.0, 'batch_size': 4}


def built(tiny: dict[str, Any], **changes: Any) -> Any:
    """The tiny experiment, changed."""
    return jcls.build({**tiny, **changes})


@pytest.mark.parametrize('mix', [{}, MIX])
def test_it_shows_the_batch_itself(tiny: dict[str, Any], mix: dict[str, Any]) -> None:
    """What the network sees in a step is in the grid, pixel by pixel, after the original."""
    experiment = built(tiny, mix=mix)
    table = preview.examples(experiment, 5, 3)
    batch = next(iter(experiment.train_batches(3, 4)))
    shown = np.stack([row[2 if mix else 1].pixels for row in table])
    np.testing.assert_array_equal(shown, np.asarray(batch['image'])[:5])
    labels = np.asarray(batch['label'])[:5]
    assert [row[0].caption for row in table] == [str(label) for label in labels]
    later = [[picture.pixels.tobytes() for picture in row[-4:]] for row in table]
    assert all(len(set(row)) > 1 for row in later)  # an epoch sees another crop than the next
    if mix:
        lam = np.asarray(batch['lam'])[:5]
        assert [row[2].caption[:4] for row in table] == [f'{value:.2f}' for value in lam]


def test_every_operation_has_a_row(tiny: dict[str, Any]) -> None:
    """Each operation of the config, and each that a policy may draw, from weak to strong."""
    augment = (*tiny['augment'], {'name': 'trivial_augment'})
    table = preview.operations(built(tiny, augment=augment))
    names = [row[1].caption.split()[0] for row in table]
    assert names == ['pad_and_crop', 'trivial_augment', *list(policy_ops.NAMES)[1:]]
    for row in table[2:]:
        if row[1].caption.split()[0] not in GREYS_STAY:
            assert any(not np.array_equal(row[0].pixels, p.pixels) for p in row[1:]), row[1]


def test_operations_before_a_crop_of_files(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Every operation that leaves images of one size has a row, wherever the crop stands."""
    for label in 'ab':
        (tmp_path / label).mkdir()
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f'{i}.png')
    data = {'name': 'folder', 'dir': str(tmp_path), 'val_fraction': 0.25}
    crops = {'name': 'resize', 'size': 9}, {'name': 'center_crop', 'size': 8}
    flip, policy = {'name': 'flip'}, {'name': 'trivial_augment'}
    for augment, names in (
        ((flip, {'name': 'random_resized_crop', 'size': 8}, policy), ['random_resized_crop']),
        ((*crops, flip, policy), ['center_crop', 'flip']),
    ):
        changes = {'data': data, 'augment': augment, 'batch_size': 2}
        table = preview.operations(built({**tiny, 'evaluate': {'preprocess': crops}}, **changes))
        found = [row[1].caption.split()[0] for row in table]
        assert found == [*names, 'trivial_augment', *list(policy_ops.NAMES)[1:]]


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of as many rows as asked for, and an error for more than there are."""
    monkeypatch.chdir(Path(__file__).parents[2])
    words = ['preview', '--config', 'configs/quickstart.py', '--out', str(tmp_path / 'grid.png')]
    assert main([*words, '--images', '3']) == 0
    cell = preview.CELL + preview.GAP
    with Image.open(tmp_path / 'grid.png') as grid:
        assert grid.format == 'PNG'
        assert grid.size == (6 * cell + preview.GAP, 3 * (cell + preview.TEXT) + preview.GAP)


def test_a_damaged_image(tiny: dict[str, Any], tmp_path: Path) -> None:
    """It is named, or shown as damaged where the config puts up with it."""
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.fromarray(np.full((9, 9, 3), 20 * i, np.uint8)).save(tmp_path / name / f'{i}.png')
    for file in (tmp_path / 'a').iterdir():
        file.write_bytes(file.read_bytes()[:40])
    data = {'name': 'folder', 'dir': str(tmp_path), 'val_fraction': 0.2}
    evaluate = {'preprocess': ({'name': 'center_crop', 'size': 8},)}
    with pytest.raises(ValueError, match=r'damaged image.*max_damaged'):
        preview.examples(built(tiny, data=data, evaluate=evaluate), 8, 0)
    data['max_damaged'] = 10
    table = preview.examples(built(tiny, data=data, evaluate=evaluate), 8, 0)
    assert {row[0].caption for row in table} == {'damaged', 'b'}


def test_in_python(tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """`jcls.preview` writes the picture that it names, `jcls.explain` prints what it returns."""
    config = jcls.build(tiny).config
    for name, rows in {
        'batch.png': 3,
        'operations.png': 1 + len(list(policy_ops.NAMES)[1:]),
    }.items():
        drawn = jcls.preview(config, tmp_path / name, images=3, by_operation=name[0] == 'o')
        assert drawn == tmp_path / name
        cell = preview.CELL + preview.GAP + preview.TEXT
        assert Image.open(drawn).height == rows * cell + preview.GAP
    facts = jcls.explain(config)
    assert f'{facts["steps"]:,} steps' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('images', 'step', 'message'),
    [(0, 0, r'--images=0: must be in 1\.\.8'), (9, 0, 'images=9'), (2, 12, r'--step=12.*0\.\.11')],
)
def test_bad_input(tiny: dict[str, Any], images: int, step: int, message: str) -> None:
    """What cannot be shown is refused with what can."""
    with pytest.raises(ValueError, match=message):
        preview.examples(built(tiny), images, step)


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file."""
    picture = preview.Picture(np.zeros((4, 4, 3), np.uint8), 'black')
    with pytest.raises(OSError, match=r'--out=.*missing.*cannot be written'):
        preview.draw([[picture]], tmp_path / 'missing' / 'grid.png')
