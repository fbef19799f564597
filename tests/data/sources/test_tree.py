"""Who is in a data set: the walk of a folder, and which of its folders are sets and classes."""

from __future__ import annotations

import io
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.folders import paint
from jcls.data import formats
from jcls.data.sources.folder import folder
from jcls.data.sources.labelled import labelled
from jcls.data.sources.layout import TRAIN, VALIDATION, Layout, arrange_folder, count_left_out
from jcls.data.sources.tree import images, walk
from jcls.tools.predict import find_images
from jcls.tools.prepare.find import find_files

ODD = ['ä', 'x y', "it's", '[red]', 'tab\there', 'line\nbreak', '\udcff', '%s', '-rf', 'a,b=c:d']


def specification(root: Path) -> Counter[str]:
    """Every real file once, by its real path: what is there, then what is behind links."""
    files: set[str] = set()
    places = {os.path.realpath(root)}
    while True:
        before = len(places)
        for place in sorted(places):
            for entry in os.scandir(place):
                real = os.path.realpath(entry.path)
                if entry.is_dir() and not root.resolve().is_relative_to(real):
                    places.add(real)
                elif entry.is_file():
                    files.add(real)
        if len(places) == before:
            return Counter(files)


@pytest.mark.parametrize('seed', range(60))
def test_a_random_tree(tmp_path: Path, seed: int) -> None:
    """Whatever links there are, each real file is found once, and the walk ends."""
    draw = random.Random(seed)
    root, pool = tmp_path / 'above' / 'root', tmp_path / 'pool'
    places = [root, pool, tmp_path / 'above' / 'beside']
    for place in places:
        place.mkdir(parents=True)
    for i in range(draw.randint(5, 40)):
        where = draw.choice(places)
        path = where / f'{draw.choice(ODD)}{i}'
        kind = draw.choice(['folder', 'file', 'file', 'link', 'link'])
        if kind == 'folder':
            path.mkdir()
            places.append(path)
        elif kind == 'file':
            path.with_name(f'{path.name}.png').write_bytes(b'')
        else:
            within = [p for place in places for p in (place, *sorted(place.iterdir()))]
            target = draw.choice(within)
            if target.is_dir() and tmp_path / 'above' == target:
                continue
            path.symlink_to(os.path.relpath(target, where) if draw.random() < 0.5 else target)
    found = [entry for entry in walk(root) if entry.kind == 'file' and not entry.problem]
    assert Counter(os.path.realpath(entry.where) for entry in found) == specification(root)
    assert len({entry.path for entry in found}) == len(found)
    for entry in found:
        assert os.path.samefile(root / entry.path, entry.where)  # noqa: PTH121


def test_a_file_is_where_it_is_and_not_where_a_link_shows_it(tmp_path: Path) -> None:
    """Links to other classes move no image, and those to a pool outside count as files."""
    paint(tmp_path / 'r/b/own.png', tmp_path / 'r/c/own.png', tmp_path / 'pool/p.png')
    (tmp_path / 'r/a').mkdir()
    (tmp_path / 'r/a/all_b').symlink_to('../b')
    (tmp_path / 'r/a/one_c.png').symlink_to('../c/own.png')
    (tmp_path / 'r/a/p.png').symlink_to(tmp_path / 'pool/p.png')
    (tmp_path / 'r/b/p_again.png').symlink_to(tmp_path / 'pool/p.png')
    left_out: list[tuple[str, str]] = []
    found = sorted(entry.path for entry in images(walk(tmp_path / 'r'), left_out))
    assert found == ['a/p.png', 'b/own.png', 'c/own.png']
    anyway = 'a link to what is here anyway'
    assert sorted(left_out) == [
        ('a/all_b', anyway), ('a/one_c.png', anyway), ('b/p_again.png', anyway)
    ]  # fmt: skip


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    """A folder of links to folders elsewhere is a data set."""
    paint(tmp_path / 'pool/x/1.png', tmp_path / 'pool/y/1.png', tmp_path / 'pool/y/2.png')
    (tmp_path / 'r').mkdir()
    for name in 'xy':
        (tmp_path / 'r' / f'class {name}').symlink_to(tmp_path / 'pool' / name)
    layout = laid_out(tmp_path / 'r')
    assert [file.name for file in layout.files[TRAIN]] == [
        'class x/1.png', 'class y/1.png', 'class y/2.png'
    ]  # fmt: skip


@pytest.mark.parametrize('whole', [False, True], ids=['files', 'folders'])
def test_sets_of_links_into_a_pool_beside_them(tmp_path: Path, whole: bool) -> None:
    """They are sets as others are; no file is twice in one of them, and the pool is no class."""
    names = [f'{part}/{c}' for part in ('train', 'val') for c in 'ab']
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if whole:
            paint(tmp_path / f'all/{i}/{i}.png')
            (tmp_path / name).symlink_to(f'../all/{i}')
        else:
            paint(tmp_path / f'all/{i}.png')
            (tmp_path / name).mkdir()
            (tmp_path / name / f'{i}.png').symlink_to(f'../../all/{i}.png')
            (tmp_path / name / 'again.png').symlink_to(f'../../all/{i}.png')
    (tmp_path / 'train/up').symlink_to('..')
    for layout in (laid_out(tmp_path), find_files(tmp_path, None, tmp_path)):
        assert layout.classes == ('a', 'b')
        found = [[os.path.realpath(f.where) for f in files] for files in layout.files.values()]
        files = [
            str(tmp_path / (f'all/{i}/{i}.png' if whole else f'all/{i}.png')) for i in range(4)
        ]
        assert found == [files[:2], files[2:]]


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """They are damaged images or nothing, in training and predict; the others are found."""
    paint(tmp_path / 'a/1.png', tmp_path / 'b/1.png')
    (tmp_path / 'a/circle.png').symlink_to('circle.png')
    (tmp_path / 'a/through_a_file.png').symlink_to('1.png/x')
    (tmp_path / 'b/long').symlink_to('x' * 300)
    layout = laid_out(tmp_path)
    assert [file.path for file in layout.files[TRAIN] if not file.problem] == ['a/1.png', 'b/1.png']
    assert {file.path: file.problem for file in layout.files[TRAIN] if file.problem} == {
        'a/circle.png': 'unreadable: Too many levels of symbolic links',
        'a/through_a_file.png': 'unreadable: Not a directory',
    }
    assert layout.left_out == [('b/long', 'unreadable: File name too long')]
    assert len(find_images(tmp_path)[0]) == 4


@pytest.mark.parametrize(
    'name',
    [
        '@eaDir', '#recycle', '$RECYCLE.BIN', '__MACOSX', 'lost+found', '.ipynb_checkpoints',
        'System Volume Information', '@Recently-Snapshot', '#snapshot', '.Trash-1000',
    ],
)  # fmt: skip
def test_what_systems_leave_in_folders(tmp_path: Path, name: str) -> None:
    """Their folders are no classes and hold no images, in training, predict and prepare alike."""
    paint(tmp_path / 'a/1.png', tmp_path / 'b/1.png')
    paint(tmp_path / 'a' / name / 'thumb.png', tmp_path / name / 'x' / 'y.png')
    expected = ['a/1.png', 'b/1.png']
    layout = laid_out(tmp_path)
    assert (layout.classes, [file.path for file in layout.files[TRAIN]]) == (('a', 'b'), expected)
    assert [path for path, _ in layout.left_out] == sorted([name, f'a/{name}'])
    assert find_images(tmp_path) == ([str(tmp_path / path) for path in expected], {})
    prepared = find_files(tmp_path, None, tmp_path)
    assert [file.path for file in prepared.files[TRAIN]] == expected


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are an error that names them in training and prepare; predict goes on without them."""
    paint(tmp_path / 'a/1.png', tmp_path / 'b/1.png', tmp_path / 'b/deep/2.png')
    scandir = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith('deep'):
            raise PermissionError(13, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', guarded)
    calls: list[Callable[[], object]] = [
        lambda: folder(dir=str(tmp_path)),
        lambda: find_files(tmp_path, None, tmp_path),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r'1 folder.* cannot be read.*b/deep \(Permission den'):
            call()
    files, failed = find_images(tmp_path)
    assert files == [str(tmp_path / 'a/1.png'), str(tmp_path / 'b/1.png')]
    assert 'b/deep (Permission denied)' in failed[str(tmp_path)]


@pytest.mark.parametrize('kind', formats.pillow_formats())
def test_what_pillow_reads_is_read(tmp_path: Path, kind: str) -> None:
    """Each format by each of its extensions, and without one; the pixels are Pillow's."""
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    if kind in ('DIB', 'MPO', 'QOI') and kind not in Image.SAVE:
        pytest.skip(f'Pillow writes no {kind}')
    buffer = io.BytesIO()
    colour.save(buffer, kind)
    ends = [end for end, name in Image.registered_extensions().items() if name == kind]
    names = [f'{i}{change(end)}' for end in ends for i, change in enumerate((str, str.upper))]
    # Pillow tells these two from other files by their names alone.
    names += ['no_extension', 'scan.2019'] if kind not in ('TGA', 'DIB') else []
    for name in names:
        (tmp_path / name).write_bytes(buffer.getvalue())
    left_out: list[tuple[str, str]] = []
    assert sorted(e.path for e in images(walk(tmp_path), left_out)) == sorted(names)
    assert left_out == []
    with Image.open(buffer) as opened:
        np.testing.assert_array_equal(
            formats.pixels(buffer.getvalue()), np.asarray(opened.convert('RGB'))
        )


def test_what_is_no_image(tmp_path: Path) -> None:
    """Other files are left out by their extension, or by their content if they have none."""
    paint(tmp_path / 'a/1.png', tmp_path / 'b/1.png')
    whole = (tmp_path / 'a/1.png').read_bytes()
    for name in ('labels.csv', 'raw.cr2', 'video.thm', 'model.h5', 'photo.heic'):
        (tmp_path / 'a' / name).write_bytes(whole)
    for name in ('README', 'empty', 'BMW'):
        (tmp_path / 'b' / name).write_bytes(b'' if name == 'empty' else b'BM is no bitmap')
    os.mkfifo(tmp_path / 'b/pipe.png')
    assert count_left_out(laid_out(tmp_path)) == {
        **{end: {'a': 1} for end in ('.csv', '.cr2', '.thm', '.h5', '.heic')},
        'not an image': {'b': 3},
        'neither a file nor a folder': {'b': 1},
    }


def test_16_bits_are_not_cut_off() -> None:
    """Of 16 bits the upper ones count; 32-bit pixels, which have no range, are refused."""
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, 'TIFF')
    np.testing.assert_array_equal(formats.pixels(buffer.getvalue())[..., 0], values >> 8)
    for kind in (np.float32, np.int32):
        buffer = io.BytesIO()
        for scale in (1000, 1 / 1000):
            Image.fromarray((values * scale).astype(kind)).save(buffer, 'TIFF')
            with pytest.raises(ValueError, match='store them with 8 or 16 bits'):
                formats.pixels(buffer.getvalue())
    Image.fromarray(values.astype(np.int32)).save(buffer := io.BytesIO(), 'PPM')
    np.testing.assert_array_equal(formats.pixels(buffer.getvalue())[..., 0], values >> 8)


# Sets and classes


def laid_out(root: Path) -> Layout:
    """The layout of a folder."""
    return arrange_folder(root)


def tree(root: Path, *folders: str) -> Path:
    """A folder with one image in each of these folders."""
    paint(*(root / name / '1.png' for name in folders))
    return root


@pytest.mark.parametrize(
    ('train', 'val'),
    [
        ('train', 'val'), ('Train', 'Valid'), ('training', 'validation'), ('Training', 'Testing'),
        ('TRAIN', 'TEST'), ('train_set', 'test_set'), ('training images', 'val-images'),
    ],
)  # fmt: skip
@pytest.mark.parametrize('around', ['', 'archive/', 'a/b/'])
def test_sets_by_their_usual_names(tmp_path: Path, train: str, val: str, around: str) -> None:
    """They are found in any case, also below a single folder around everything."""
    names = [f'{around}{part}/{label}' for part in (train, val) for label in ('cat', 'dog')]
    layout = laid_out(tree(tmp_path, *names))
    assert layout.classes == ('cat', 'dog')
    assert [file.path for file in layout.files[TRAIN]] == [f'{n}/1.png' for n in names[:2]]
    assert [file.path for file in layout.files[VALIDATION]] == [f'{n}/1.png' for n in names[2:]]


def test_a_validation_set_goes_before_a_test_set(tmp_path: Path) -> None:
    """The test set is then left out, and said."""
    parts = ('train', 'val', 'test')
    layout = laid_out(tree(tmp_path, *(f'{part}/{c}' for part in parts for c in 'ab')))
    assert [file.path for file in layout.files[VALIDATION]] == ['val/a/1.png', 'val/b/1.png']
    reason = 'outside the class folders'
    assert layout.left_out == [('test/a/1.png', reason), ('test/b/1.png', reason)]


def test_a_set_in_a_folder_of_its_name(tmp_path: Path) -> None:
    """training_set/training_set/cats, as some archives have it."""
    parts = ('training_set', 'test_set')
    layout = laid_out(tree(tmp_path, *(f'{part}/{part}/{c}' for part in parts for c in 'ab')))
    assert (layout.classes, len(layout.files[VALIDATION])) == (('a', 'b'), 2)


@pytest.mark.parametrize(
    ('folders', 'message'),
    [
        (['seg_train/a', 'seg_train/b', 'seg_test/a', 'seg_test/b'], 'look like sets and not'),
        (['fold1/a', 'fold1/b', 'fold2/a', 'fold2/b'], r'fold1, fold2 with folders inside'),
        (['train2017/a', 'val2017/a'], 'train2017, val2017'),
        (['train/a', 'Train/a'], 'which one is for train'),
        (['train/a', 'val/a', 'valid/a'], 'which one is for validation'),
        (['train/a', 'cat', 'dog'], 'train/ beside cat, dog'),
        (['val/a', 'val/b'], 'has val/ but no train/'),
        (['test/a', 'cat', 'dog'], 'has test/ but no train/'),
        (
            ['a/train', 'a/val', 'b/train', 'b/val'],
            'has train/ and val/ inside: the sets lie be',
        ),
        (
            ['a/x/Training', 'a/x/test', 'b/x'],
            r'a/x has Training/ and test/ inside: if .*dir=.*/a/x',
        ),
        (
            ['Data/CLS-LOC/train/a', 'Data/CLS-LOC/val/a', 'Annotations/x'],
            'data.dir=.*Data/CLS-LOC ',
        ),
        (['x/test/a', 'x/test/b'], 'x has test/ but no train/'),
        (['images/train/a', 'images/val/a', 'masks/train/a'], 'images has train/ and val/ inside'),
        (['train/a', 'train/b', 'val/a'], r'no image of 1 class\(es\): b; add some, or allow it'),
        (['train/a', 'val/a', 'val/c'], 'only in validation: c; only in training: none'),
    ],
)
def test_what_cannot_be_told(tmp_path: Path, folders: list[str], message: str) -> None:
    """Folders that may be sets never become classes; the message says what to do."""
    with pytest.raises(ValueError, match=message):
        laid_out(tree(tmp_path, *folders))


@pytest.mark.parametrize('names', [['test tube', 'train', 'x'], ['Testudo', 'training shoe']])
def test_classes_that_are_called_like_sets(tmp_path: Path, names: list[str]) -> None:
    """Without folders inside, names that contain such a word are classes."""
    if 'train' in names:
        with pytest.raises(ValueError, match='train/ beside'):
            laid_out(tree(tmp_path, *names))
    else:
        assert laid_out(tree(tmp_path, *names)).classes == tuple(sorted(names))


def test_a_class_that_is_called_train(tmp_path: Path) -> None:
    """Among vehicles it is one wherever it is said that the folder is a single set."""
    tree(tmp_path, *(f'{part}/{c}' for part in ('train', 'val') for c in ('bus', 'train')))
    train, val = str(tmp_path / 'train'), str(tmp_path / 'val')
    sets = (*folder(dir=str(tmp_path)), *folder(dir=train, val_dir=val))
    assert [part.classes for part in sets] == [('bus', 'train')] * 4
    assert labelled(val, ('train', 'bus')).labels.tolist() == [1, 0]
    layout = find_files(Path(train), Path(val), tmp_path)
    assert [len(files) for files in layout.files.values()] == [2, 2]


def test_names_that_differ_little_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cat and cat are two classes, and probably should not be."""
    laid_out(tree(tmp_path, 'Cat', 'cat', 'cat ', 'dog'))
    assert caplog.messages == ["warning: 'Cat' and 'cat' and 'cat ' are 3 classes"]


@pytest.mark.parametrize(
    ('folders', 'warned'),
    [
        (['a/front', 'a/back', 'b/front', 'b/back'], True),
        (['train/x/a', 'train/x/b', 'train/y/a', 'train/y/b', 'val/x', 'val/y'], True),
        (['a/images', 'b/images'], False),
        (['a/front', 'a/back', 'b/front'], False),
        (['a', 'b', 'a/front', 'a/back', 'b/front', 'b/back'], False),
    ],
)
def test_the_same_folders_in_all_classes(
    tmp_path: Path, folders: list[str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be the classes, so a line names both; the upper ones are taken."""
    layout = laid_out(tree(tmp_path, *folders))
    assert ('have the same folders inside' in caplog.text) == warned
    assert len(layout.classes) == 2


def test_a_set_that_lacks_a_class(tmp_path: Path) -> None:
    """It is allowed where asked for; an empty folder is as good as none."""
    tree(tmp_path, 'train/a', 'train/b', 'train/c', 'val/a', 'val/c')
    (tmp_path / 'val/b').mkdir()
    with pytest.raises(ValueError, match=r'no image of 1 class\(es\): b; .*val_incomplete=true'):
        folder(dir=str(tmp_path))
    train, val = folder(dir=str(tmp_path), val_incomplete=True)
    assert (train.classes, val.classes) == (('a', 'b', 'c'), ('a', 'b', 'c'))
    assert val.labels.tolist() == [0, 2]


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    """0, 1, ..., 11 and not 0, 1, 10, 11, 2; where one is no number, they are text."""
    tree(tmp_path / 'n', *map(str, range(12)))
    tree(tmp_path / 't', *map(str, range(12)), 'x')
    assert laid_out(tmp_path / 'n').classes == tuple(map(str, range(12)))
    assert laid_out(tmp_path / 't').classes[:4] == ('0', '1', '10', '11')
    labels = {file.path: file.label for file in laid_out(tmp_path / 'n').files[TRAIN]}
    assert labels == {f'{i}/1.png': i for i in range(12)}


def test_accents_composed_or_not(tmp_path: Path) -> None:
    """Sets from a Mac and from Linux have the same classes; twins in one set are refused."""
    apart = unicodedata.normalize('NFD', 'café')
    tree(tmp_path / 'd', 'train/café', 'train/thé', f'val/{apart}', 'val/thé')
    layout = laid_out(tmp_path / 'd')
    assert (layout.classes, layout.files[VALIDATION][0].label) == (('café', 'thé'), 0)
    with pytest.raises(ValueError, match="all shown as 'café'"):
        laid_out(tree(tmp_path / 'twins', 'café', apart, 'thé'))


def test_sets_in_two_places(tmp_path: Path) -> None:
    """The validation set may be another folder, with the same classes."""
    tree(tmp_path / 'one', 'cat', 'dog', 'emu')
    tree(tmp_path / 'two/deeper', 'cat', 'emu')
    tree(tmp_path / 'both', 'train/cat', 'train/dog', 'val/cat', 'val/dog')
    two = {'dir': str(tmp_path / 'one'), 'val_dir': str(tmp_path / 'two')}
    with pytest.raises(ValueError, match=r'no image of 1 class\(es\): dog'):
        folder(**two)
    _, val = folder(**two, val_incomplete=True)
    assert val.labels.tolist() == [0, 2]
    for given in (
        {**two, 'dir': str(tmp_path / 'both')},
        {**two, 'val_dir': str(tmp_path / 'both')},
    ):
        with pytest.raises(ValueError, match='a training and a validation set itself'):
            folder(**given)
    with pytest.raises(ValueError, match=r"config\.data\.val_dir='nowhere': no such folder"):
        folder(dir=two['dir'], val_dir='nowhere')
