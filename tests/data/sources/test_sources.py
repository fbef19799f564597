"""What each source holds, how it is split, and what it says when something is amiss."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from helpers.folders import paint
from jcls.data import decode, sources
from jcls.data.sources import SOURCES, Source
from jcls.data.sources.exif import orientation, upright
from jcls.data.sources.folder import folder
from jcls.data.sources.source import from_files, from_memory
from jcls.host.tensorflow import tf


def everything(found: Source) -> np.ndarray:
    """All images of a source in memory."""
    examples = tf.data.Dataset.range(len(found)).map(lambda i: found.read(i)[0])
    return next(examples.batch(len(found)).as_numpy_iterator())


def names(found: Source) -> list[str]:
    """What the examples of a source are called."""
    return [found.name(i) for i in range(len(found))]


def contents(found: Source) -> collections.Counter:
    """How often each pair of image and label occurs."""
    pairs = zip(everything(found), found.labels, strict=True)
    return collections.Counter((image.tobytes(), int(label)) for image, label in pairs)


def numbers(count: int, *shape: int) -> np.ndarray:
    """Different images."""
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def stored(folder: Path, **arrays: Any) -> str:
    """An .npz file of twelve images and labels, changed by `arrays` (None: left out)."""
    good = {'train_images': numbers(12, 4, 5, 3), 'train_labels': np.arange(12) % 3}
    good |= {key: np.asarray(value) for key, value in arrays.items() if value is not None}
    path = folder / 'my.npz'
    np.savez(path, **{key: value for key, value in good.items() if arrays.get(key, 0) is not None})
    return str(path)


def classes_of(root: Path, **counts: int) -> Path:
    """A folder with so many PNG files in each class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        paint(*(root / name / f'{i:03d}.png' for i in range(count)))
    return root


def labelled(found: Source) -> dict[str, str]:
    """The class of each file."""
    return {found.name(i): found.classes[label] for i, label in enumerate(found.labels)}


def test_digits_are_scikit_learns() -> None:
    """Both sets together hold each digit of scikit-learn once, on a scale of 0 to 255."""
    train, val = sources.digits()
    bunch = load_digits()
    images = np.concatenate([everything(train), everything(val)])
    assert images.dtype == np.uint8
    assert images.shape == (1797, 8, 8, 3)
    assert (images.min(), images.max()) == (0, 255)
    back = np.rint(images / 255 * 16).astype(int)
    assert (back == back[..., :1]).all()
    assert np.abs(images - back * 255 / 16).max() <= 0.5
    found = zip(back[..., 0], [*train.labels, *val.labels], strict=True)
    wanted = zip(bunch.images.astype(int), bunch.target, strict=True)
    assert collections.Counter((i.tobytes(), int(label)) for i, label in found) == (
        collections.Counter((i.tobytes(), int(label)) for i, label in wanted)
    )
    assert train.classes == val.classes == tuple('0123456789')
    assert train.image_size == val.image_size == (8, 8)
    assert train.labels.dtype == val.labels.dtype == np.int32


@pytest.mark.parametrize('fraction', [0.2, 0.5])
def test_digits_are_split_by_class(fraction: float) -> None:
    """Every class gives its share to the held-out set; the seed alone decides which digits."""
    train, val = sources.digits(val_fraction=fraction, split_seed=1)
    counts = np.bincount(load_digits().target)
    assert np.abs(np.bincount(val.labels) - fraction * counts).max() <= 1
    assert len(train) + len(val) == 1797
    again, other = (sources.digits(val_fraction=fraction, split_seed=seed)[1] for seed in (1, 2))
    assert contents(again) == contents(val)
    assert contents(other) != contents(val)


def test_arrays_with_their_own_validation_set(tmp_path: Path) -> None:
    """Images, labels and class names are those of the file, in its order."""
    images, labels = numbers(5, 4, 5, 3), np.array([2, 0, 1, 0, 2], np.uint8)
    given = {'val_images': images, 'val_labels': labels, 'classes': ['ox', 'owl', 'eel']}
    file = stored(tmp_path, **given)
    train, val = sources.arrays(file=file)
    np.testing.assert_array_equal(everything(train), numbers(12, 4, 5, 3))
    np.testing.assert_array_equal(everything(val), images)
    np.testing.assert_array_equal(train.labels, np.arange(12) % 3)
    np.testing.assert_array_equal(val.labels, labels)
    assert train.classes == val.classes == ('ox', 'owl', 'eel')
    assert (train.image_size, train.channels, val.labels.dtype) == ((4, 5), 3, np.int32)
    assert 'val' in val.name(3)
    assert '3' in val.name(3)


def test_grey_arrays(tmp_path: Path) -> None:
    """Images [N, H, W] become [N, H, W, 1], and `mean` and `std` then have one value."""
    file = stored(tmp_path, train_images=numbers(12, 4, 5))
    data = sources.create(name='arrays', file=file, val_fraction=0.25, mean=(0.5,), std=(0.2,))
    assert data.channels == data.train.channels == 1
    assert contents(data.train) + contents(data.val) == collections.Counter(
        (image.tobytes(), i % 3) for i, image in enumerate(numbers(12, 4, 5))
    )
    assert everything(data.train).shape == (9, 4, 5, 1)
    assert sorted(data.val.labels) == [0, 1, 2]
    assert data.train.classes == ('0', '1', '2')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'train_images': None}, r"my\.npz lacks 'train_images'; it has train_labels"),
        ({'train_labels': None}, r"my\.npz lacks 'train_labels'; it has train_images"),
        ({'val_images': numbers(2, 4, 5, 3)}, r'one of val_images and val_labels; give both'),
        ({'train_images': np.zeros((12, 4, 5, 3))}, r'train_images must be uint8.*float64'),
        ({'train_images': numbers(12, 4)}, r'train_images must be uint8.*\[12, 4\]'),
        ({'train_images': numbers(0, 4, 5, 3)}, r'train_images must be .*N > 0.*\[0, 4, 5, 3\]'),
        ({'train_labels': np.zeros(12)}, r'train_labels must be integers \[12\].*float64 \[12\]'),
        ({'train_labels': np.zeros(11, int)}, r'train_labels must be integers \[12\].*\[11\]'),
        ({'train_labels': np.eye(12, dtype=int)}, r'train_labels must be integers.*\[12, 12\]'),
        ({'train_labels': [0, 1] * 5 + [-1, 1]}, r'train_labels\[10\] is -1, .*in 0\.\.1'),
        ({'classes': ['a', 'b']}, r'train_labels\[2\] is 2, .*in 0\.\.1 \(2 classes\)'),
        (
            {'val_images': numbers(2, 4, 5, 3), 'val_labels': [0, 9], 'classes': ['a', 'b', 'c']},
            r'val_labels\[1\] is 9, .*in 0\.\.2 \(3 classes\)',
        ),
        ({'val_images': numbers(2, 4, 5, 1), 'val_labels': [0, 1]}, r'my\.npz.*val_images'),
    ],
)
def test_what_is_wrong_with_arrays(tmp_path: Path, changes: Any, message: str) -> None:
    """A fault in a file of arrays is an error with the file, the array and the entry."""
    with pytest.raises(ValueError, match=message) as error:
        sources.create(name='arrays', file=stored(tmp_path, **changes))
    assert 'my.npz' in str(error.value)


@pytest.mark.parametrize(
    'kind', ['missing', 'text', 'empty', 'npy', 'half', 'changed', 'compressed']
)
def test_unreadable_array_files(tmp_path: Path, kind: str) -> None:
    """A file that is missing, damaged or no .npz is an error that names the field and the file."""
    path = Path(stored(tmp_path))
    whole = path.read_bytes()
    if kind == 'npy':
        with path.open('wb') as file:
            np.save(file, np.arange(3))
    elif kind == 'missing':
        path.unlink()
    else:
        np.savez_compressed(path, train_images=numbers(12, 4, 5, 3))
        small = path.read_bytes()
        start = 30 + small[26] + small[28]  # of the packed bytes, after their zip header
        data = {
            'text': b'hello',
            'empty': b'',
            'half': whole[: len(whole) // 2],
            'changed': whole[:300] + b'\x00\x01\x02' + whole[303:],
            'compressed': small[:start] + b'\xff' + small[start + 1 :],  # no such packing
        }
        path.write_bytes(data[kind])
    with pytest.raises(ValueError, match=r"config\.data\.file='.*my\.npz'"):
        sources.arrays(file=str(path))


def test_synthetic() -> None:
    """Labels take turns, images come from the pool, and two calls give the same."""
    fields = {'examples': 23, 'size': 6, 'channels': 2, 'num_classes': 5, 'pool': 4}
    train, val = sources.synthetic(**fields)
    np.testing.assert_array_equal(train.labels, np.arange(23) % 5)
    images = everything(train)
    assert images.shape == (23, 6, 6, 2)
    assert len({image.tobytes() for image in images}) == 4
    np.testing.assert_array_equal(images, everything(sources.synthetic(**fields)[1]))
    assert (train.channels, train.image_size, len(train.classes), len(val)) == (2, (6, 6), 5, 23)


def test_folder_with_two_sets(tmp_path: Path) -> None:
    """Each set is its folder's, its classes sorted, sub-folders and upper case included."""
    for part in ('train', 'val'):
        classes_of(tmp_path / part, zebra=2, ant=1, Bee=1)
    deep = tmp_path / 'train' / 'ant' / 'more' / 'yet more'
    kept = [deep / f'ü x{end}' for end in ('.jpg', '.JPEG', '.png', '.Bmp', '.gif')]
    paint(*kept)
    ignored = [deep / '.hidden.png', tmp_path / 'train' / '.git' / 'x.png', tmp_path / 'top.png']
    paint(*ignored, tmp_path / 'train' / 'outside.png', tmp_path / 'train' / 'ant' / '._mac.png')
    for name in ('notes.txt', 'Thumbs.db', 'png'):
        (deep / name).write_text('no image')
    train, val = sources.folder(dir=str(tmp_path))
    assert train.classes == val.classes == ('Bee', 'ant', 'zebra')
    wanted = {str(path): 'ant' for path in kept}
    for label, file in [('ant', '000'), ('Bee', '000'), ('zebra', '000'), ('zebra', '001')]:
        wanted[str(tmp_path / 'train' / label / f'{file}.png')] = label
    assert labelled(train) == wanted
    assert len(val) == 4
    assert all(Path(name).parts[-3] == 'val' for name in names(val))
    for i, name in enumerate(names(train)):
        red = decode.pixels(train.read(tf.constant(i))[0]).numpy()[0, 0, 0]
        assert abs(int(red) - np.asarray(Image.open(name).convert('RGB'))[0, 0, 0]) <= 1


def test_hidden_folders_do_not_count(tmp_path: Path) -> None:
    """A file in a hidden folder of a class is as hidden as a hidden file."""
    classes_of(tmp_path, a=4, b=4)
    paint(tmp_path / 'a' / '.thumbnails' / 'x.png')
    both = [
        name for part in sources.folder(dir=str(tmp_path), val_fraction=0.5) for name in names(part)
    ]
    assert not [name for name in both if '.thumbnails' in name]


@pytest.mark.parametrize('inside', ['', 'train'])
def test_folder_is_split(tmp_path: Path, inside: str) -> None:
    """Without val/ a stratified part is held out: disjoint, and the seed's alone."""
    classes_of(tmp_path / inside, a=40, b=20, c=10)

    def held_out(seed: int) -> set[str]:
        train, val = sources.folder(dir=str(tmp_path), val_fraction=0.2, split_seed=seed)
        assert np.bincount(train.labels).tolist() == [32, 16, 8]
        assert np.bincount(val.labels).tolist() == [8, 4, 2]
        assert len(set(names(train)) | set(names(val))) == 70
        assert all(Path(n).parent.name == c for s in (train, val) for n, c in labelled(s).items())
        return set(names(val))

    assert held_out(0) == held_out(0)
    assert held_out(0) != held_out(1)


@pytest.mark.parametrize(('counts', 'fraction'), [((97, 3), 0.1), ((2, 100), 0.95)])
def test_each_class_is_in_both_parts(
    tmp_path: Path, counts: tuple[int, int], fraction: float
) -> None:
    """A split gives some of every class, however rare, to both sets or is refused."""
    labels = np.repeat([0, 1], counts)
    file = stored(tmp_path, train_images=numbers(len(labels), 2, 2, 3), train_labels=labels)
    try:
        sets = sources.arrays(file=file, val_fraction=fraction)
    except ValueError:
        return
    assert [len(set(part.labels)) for part in sets] == [2, 2]


def test_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    """A folder that cannot be used is an error that names it and says what to do."""
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'empty').mkdir()
    paint(tmp_path / 'flat' / '0.png')
    classes_of(tmp_path / 'hole', a=2, b=0)
    classes_of(tmp_path / 'only val' / 'val', a=2)
    classes_of(tmp_path / 'differ' / 'train', a=2, b=2)
    classes_of(tmp_path / 'differ' / 'val', b=2, c=2)
    classes_of(tmp_path / 'single', a=1, b=9)
    wrong = {
        'missing': r"config\.data\.dir='.*missing': no such folder",
        'file': r"config\.data\.dir='.*file': no such folder",
        'empty': r'empty has no class folders; expected .*empty/<class>/<image>\.jpg',
        'flat': r'flat has no class folders; expected .*flat/<class>/<image>\.jpg',
        'hole': r'hole.* 1 class folder\(s\) without an image: b; every class needs one: add some',
        'only val': r'only val has val/ but no train/; give both',
        'differ': 'differ: .*only in validation: c; only in training: a',
        'single': r"class 'a' has 1 image",
    }
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            sources.folder(dir=str(tmp_path / name))


def lists(root: Path, **texts: str) -> dict[str, str]:
    """Text files, by name, of lines between bars; one with `{i}` is four, with 0, 1, 2, 3."""
    for name, text in texts.items():
        lines = [
            line.format(i=i) for line in text.split('|') for i in range(4 if '{' in line else 1)
        ]
        (root / name).write_text('\n'.join(lines))
    return {name: str(root / name) for name in texts}


def test_a_list_of_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Paths and class numbers, with tabs or spaces between; the classes are 0 to the highest.

    A file in two classes is said, and a class that the validation list lacks must be allowed.
    """
    paint(*(tmp_path / 'pictures' / f'a {i}.png' for i in range(4)), tmp_path / 'b.png')
    text = 'pictures/a {i}.png\t{i}||  b.png 2 |./b.png 0\r'
    files = lists(tmp_path, train=text, val=f'{tmp_path}/b.png\t5\n')
    both = {'train_list': files['train'], 'val_list': files['val'], 'dir': str(tmp_path)}
    with pytest.raises(ValueError, match=r'val has no image of 4 .*: 0, 1, 2, 3; .*val_incomplete'):
        sources.listing(**both)
    train, val = sources.listing(**both, val_incomplete=True)
    assert 'warning: 1 line(s)' in caplog.text
    assert 'b.png in lines 6 and 7' in caplog.text
    assert train.classes == val.classes == tuple('012345')
    assert train.labels.tolist() == [0, 1, 2, 3, 2, 0]
    assert val.labels.tolist() == [5]
    wanted = [str(tmp_path / f'pictures/a {i}.png') for i in range(4)] + [
        str(tmp_path / 'b.png')
    ] * 2
    assert names(train) == wanted
    image, label = train.read(tf.constant(3))
    assert image.numpy() == (tmp_path / 'pictures' / 'a 3.png').read_bytes()
    assert (label.numpy(), label.dtype) == (3, tf.int32)


def test_a_list_of_names(tmp_path: Path) -> None:
    """Class names are sorted, unless a file gives their order; numbers then count in it.

    All labels are names, or all are numbers: names that are numbers do not mix with their places.
    """
    paint(*(tmp_path / f'{i}.png' for i in range(4)))
    files = lists(
        tmp_path,
        train='{i}.png zebra|0.png\tant bear|1.png\t2',
        named='{i}.png zebra|0.png\tant bear',
        numbers='{i}.png 1|0.png 0',
        classes='zebra\n bee \nant bear\nwolf\n',
        digits='2\n1\n0',
        from_one='1\n2\n3',
    )
    both = {'train_list': files['train'], 'val_list': files['train'], 'dir': str(tmp_path)}
    train, _ = sources.listing(**both)
    assert train.classes == ('2', 'ant bear', 'zebra')
    assert train.labels.tolist() == [2] * 4 + [1, 0]
    with pytest.raises(ValueError, match=r"line 6: the label '2' is no class \(labels are all na"):
        sources.listing(**both, classes=files['classes'])
    both |= {'train_list': files['named'], 'val_list': files['named']}
    train, _ = sources.listing(**both, classes=files['classes'])
    assert train.classes == ('zebra', 'bee', 'ant bear', 'wolf')
    assert train.labels.tolist() == [0] * 4 + [2]
    both |= {'train_list': files['numbers'], 'val_list': files['numbers']}
    train, _ = sources.listing(**both, classes=files['classes'])
    assert train.labels.tolist() == [1] * 4 + [0]
    train, _ = sources.listing(**both, classes=files['from_one'])  # there is no name 0
    assert train.labels.tolist() == [1] * 4 + [0]
    (tmp_path / 'numbers').write_text('0.png 0\n1.png 2')
    train, _ = sources.listing(**both, classes=files['digits'])  # a name before a number
    assert train.labels.tolist() == [2, 0]


def test_classes_without_images_are_known(tmp_path: Path) -> None:
    """By name; the numbers of a list that begins with 1 have a class 0 that nothing has."""
    paint(*(tmp_path / f'{i}.png' for i in range(4)))
    files = lists(tmp_path, numbers='{i}.png 1|0.png 3', classes='ant\nbee\ncat\ndog\n')
    both = {'train_list': files['numbers'], 'val_list': files['numbers'], 'dir': str(tmp_path)}
    train, _ = sources.listing(**both)
    assert train.absent() == ['0', '2']
    train, _ = sources.listing(**both, classes=files['classes'])
    assert train.absent() == ['ant', 'cat']
    assert train.select(np.array([4])).absent() == ['ant', 'bee', 'cat']
    assert sources.digits()[0].absent() == []


def test_a_list_is_split(tmp_path: Path) -> None:
    """Without a validation list a stratified part is held out: disjoint, and the seed's alone."""
    paint(*(tmp_path / f'{i}.png' for i in range(40)))
    (tmp_path / 'list').write_text('\n'.join(f'{i}.png {"ab"[i % 4 == 0]}' for i in range(40)))

    def held_out(seed: int) -> set[str]:
        data = sources.create(
            name='list',
            train_list=str(tmp_path / 'list'),
            dir=str(tmp_path),
            val_fraction=0.2,
            split_seed=seed,
        )
        assert np.bincount(data.train.labels).tolist() == [24, 8]
        assert np.bincount(data.val.labels).tolist() == [6, 2]
        assert len(set(names(data.train)) | set(names(data.val))) == 40
        return set(names(data.val))

    assert held_out(0) == held_out(0)
    assert held_out(0) != held_out(1)


def test_what_is_wrong_with_a_list(tmp_path: Path) -> None:
    """A line that cannot be used is an error with its file and number; missing files are named."""
    paint(*(tmp_path / f'{i}.png' for i in range(4)))
    files = lists(
        tmp_path,
        good='{i}.png\tx|0.png y',
        alone='{i}.png 0||1.png',
        tab='{i}.png 0|\t3',
        empty='\n',
        numbers='{i}.png 0|0.png 3',
        negative='{i}.png 0|0.png -1',
        gone='{i}.png 0|no 1.png 0|' + '|'.join(f'deep/{i}.png 0' for i in range(7)),
        classes='a\nb\na',
        twice='{i}.png b|0.png a',
        header='path label|{i}.png x',
        quoted='"{i}.png" x',
        comma='{i}.png, x',
    )
    train = files['good']
    (tmp_path / 'latin').write_bytes('a\nb\ncaf\u00e9\n'.encode('latin-1'))
    for fields, message in (
        (
            {'train_list': str(tmp_path / 'none')},
            r"config\.data\.train_list='.*none': No such file",
        ),
        ({'train_list': train, 'val_list': 'none'}, r"config\.data\.val_list='none': No such file"),
        ({'train_list': files['empty']}, r"config\.data\.train_list='.*empty' lists no images"),
        ({'train_list': files['alone']}, r"alone line 6: '1\.png' is not a path and a label"),
        ({'train_list': files['tab']}, r"tab line 5: '\\t3' is not a path and a label"),
        (
            {'train_list': train, 'val_list': files['numbers']},
            r"numbers line 1: .*'0' is no class.* 2: x, y$",
        ),
        (
            {'train_list': files['negative']},
            r"negative line 5: the label '-1' is no class.* 1: 0$",
        ),
        (
            {'train_list': files['numbers'], 'classes': files['classes']},
            r"numbers line 5: the label '3' is no class; there are 3: a, b, a",
        ),
        (
            {'train_list': files['twice'], 'classes': files['classes']},
            r"twice line 5: the label 'a' is the name of two classes",
        ),
        ({'train_list': train, 'classes': 'none'}, r"config\.data\.classes='none': not a readable"),
        ({'train_list': train, 'classes': str(tmp_path / 'latin')}, 'latin.: line 3, .* not UTF-8'),
        ({'train_list': files['header']}, r'header are missing:\n.*\nA list has no header'),
        ({'train_list': files['quoted']}, 'Paths are written without quotes'),
        ({'train_list': files['comma']}, "Write a tab, without ',', between a path and its label"),
        (
            {'train_list': files['gone']},
            r'8 of the 12 files of .*gone are missing:\n  line 5: .*/no 1\.png\n  line 6: .*/deep/0'
            r'(?s:.*)line 9(?s:.*)\.\.\.\nconfig\.data\.dir',
        ),
        ({'train_list': train, 'dir': ''}, r'5 of the 5 files .* missing:\n  line 1: 0\.png\n'),
    ):
        with pytest.raises(ValueError, match=message):
            sources.listing(**{'dir': str(tmp_path), **fields})


def turned(path: Path, orientation: int | None, how: str = 'exif') -> bytes:
    """An image of 6 x 9 noise, saved with an EXIF (or XMP) orientation."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    options: dict[str, Any] = {}
    if orientation is not None and how == 'exif':
        options['exif'] = Image.Exif()
        options['exif'][0x0112] = orientation
    elif orientation is not None:
        packet = (
            f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{orientation}"/></x:xmpmeta>'
        )
        options['xmp'] = packet.encode()
    Image.fromarray(pixels).save(path, quality=95, **options)
    return path.read_bytes()


@pytest.mark.parametrize('extension', ['jpg', 'png'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientations_are_pillows(tmp_path: Path, extension: str, orientation: int) -> None:
    """Every orientation of JPEG and PNG comes out as Pillow's exif_transpose; 1 is untouched."""
    path = tmp_path / f'a.{extension}'
    content = turned(path, orientation)
    files = from_files(np.array([str(path).encode()]), np.array([0]), ('a',))
    image, label = upright(files).read(tf.constant(0))
    with Image.open(path) as opened:
        assert opened.getexif()[0x0112] == orientation
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert('RGB'))
    found = decode.pixels(image).numpy()
    assert found.shape == wanted.shape
    exact = decode.pixels(tf.constant(content)).numpy()
    assert sorted(map(tuple, found.reshape(-1, 3))) == sorted(map(tuple, exact.reshape(-1, 3)))
    assert np.abs(found.astype(int) - wanted).max() <= (1 if extension == 'jpg' else 0)
    assert (image.numpy() == content) == (orientation == 1)
    assert int(label) == 0


def test_images_without_an_orientation_pass(tmp_path: Path) -> None:
    """No tag, a senseless one, damage, pixels: all come out as they went in."""
    contents = [turned(tmp_path / 'a.jpg', tag) for tag in (None, 0, 9, 77)]
    contents += [turned(tmp_path / f'a.{kind}', None) for kind in ('png', 'gif', 'bmp')]
    rotated = turned(tmp_path / 'b.jpg', 6)
    place = rotated.index(b'Exif\0\0') + 6
    contents += [b'', b'Exif\0\0', rotated[: place + 4], rotated[:place] + b'?' * 30]
    files = []
    for i, content in enumerate(contents):
        files.append(tmp_path / f'{i}')
        files[-1].write_bytes(content)
    plain = from_files(
        np.array([str(f).encode() for f in files]), np.zeros(len(files), int), ('a',)
    )
    found = tf.data.Dataset.range(len(files)).map(lambda i: upright(plain).read(i)[0])
    assert list(found.as_numpy_iterator()) == contents
    data = sources.create(name='digits', exif=True)
    assert contents_of(data) == contents_of(sources.create(name='digits'))


def test_a_quarter_turn_swaps_height_and_width() -> None:
    """Of upright images only a square size is known before they are read."""
    plain = from_files(np.array([b'x']), np.zeros(1, int), ('a',))
    for size, wanted in (((8, 8), (8, 8)), ((8, 9), None), (None, None)):
        assert upright(dataclasses.replace(plain, image_size=size)).image_size == wanted


def test_a_mistaken_number_makes_no_classes(tmp_path: Path) -> None:
    """A label far beyond the number of images is refused, unless the classes are named."""
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / 'a.png')
    (tmp_path / 'list').write_text('a.png 0\na.png 0\na.png 1\na.png 20260131\n')
    with pytest.raises(ValueError, match=r'list: the label 20260131 would make 20260132 classes'):
        sources.listing(train_list=str(tmp_path / 'list'), dir=str(tmp_path))


def contents_of(data: sources.Data) -> list[collections.Counter]:
    return [contents(data.train), contents(data.val)]


def test_an_orientation_in_xmp(tmp_path: Path) -> None:
    """Pillow looks for an orientation in XMP, too, where EXIF has none."""
    content = turned(tmp_path / 'a.jpg', 6, 'xmp')
    assert orientation(content) == 6
    with Image.open(tmp_path / 'a.jpg') as opened:
        assert ImageOps.exif_transpose(opened).size == (9, 6)


def test_exif_is_a_field(tmp_path: Path) -> None:
    """Orientation is ignored unless asked for; damage behind a good header is still an error."""
    for name in ('a/0.jpg', 'a/1.jpg', 'b/0.jpg', 'b/1.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = turned(tmp_path / name, 8)
    for exif, shape in ((False, (9, 6, 3)), (True, (6, 9, 3))):
        data = sources.create(name='folder', dir=str(tmp_path), val_fraction=0.5, exif=exif)
        for part in (data.train, data.val):
            assert decode.pixels(part.read(tf.constant(1))[0]).shape == shape
    Path(data.train.name(0)).write_bytes(content[:-40])
    with pytest.raises(tf.errors.OpError):
        data.train.read(tf.constant(0))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': 'digit'}, r"unknown data source 'digit'; did you mean 'digits'.*known: digits"),
        ({'mean': (0.5,)}, r"config\.data\.mean has 1 values, .*'digits' have 3 channels"),
        ({'std': (1.0,) * 4}, r'config\.data\.std has 4 values'),
        ({'std': (0.2, 0.0, 0.2)}, r'config\.data\.std=.*every value must be positive'),
        ({'max_damaged': -1}, r'config\.data\.max_damaged=-1: must not be negative'),
        ({'val_fraction': 0.0}, r'config\.data\.val_fraction=0\.0: must lie between 0 and 1'),
        ({'val_fraction': 1.0}, r'config\.data\.val_fraction=1\.0: must lie between 0 and 1'),
        ({'name': 'synthetic', 'examples': 0}, r'config\.data\.examples=0: at least 1'),
        ({'name': 'synthetic', 'size': 0}, r'config\.data\.size=0: at least 1'),
        ({'name': 'synthetic', 'channels': 0}, r'config\.data\.channels=0: at least 1'),
        ({'name': 'synthetic', 'pool': 0}, r'config\.data\.pool=0: at least 1'),
        ({'name': 'synthetic', 'num_classes': 1}, r'config\.data\.num_classes=1: at least 2'),
    ],
)
def test_impossible_fields(fields: dict[str, Any], message: str) -> None:
    """An impossible value is an error that names the field and what may stand there."""
    with pytest.raises(ValueError, match=message):
        sources.create(**{'name': 'digits', **fields})


def test_data_are_compared_by_some_of_their_images_and_labels() -> None:
    """Other labels, or other images, are other data; the same are the same."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 4, 4, 3), np.uint8)
    labels = np.arange(50) % 2

    def checksum(images: np.ndarray, labels: np.ndarray) -> int:
        return from_memory(images, labels, ('a', 'b'), 'image').checksum()

    assert checksum(images, labels) == checksum(images.copy(), labels.copy())
    assert checksum(images, labels) != checksum(images, 1 - labels)
    assert checksum(images, labels) != checksum(images[::-1].copy(), labels)


def test_data_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A file that one host lacks: the message is its path."""
    for name in ('train/a/0.png', 'train/b/0.png', 'val/a/0.png', 'val/b/0.png'):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new('RGB', (4, 4)).save(tmp_path / name)
    train, _ = folder(dir=str(tmp_path))
    assert train.checksum() == train.checksum()
    missing = Path(train.name(0))
    missing.unlink()
    with pytest.raises(ValueError, match=f'cannot read .*{missing.name}'):
        train.checksum()


def test_the_table_is_covered() -> None:
    """Every source of the table is tried by the tests above, or in a file of tests of its own."""
    in_files = {'folder', 'list', 'records', 'tfds'}
    assert set(SOURCES) == in_files | {'digits', 'arrays', 'synthetic', 'from_python'}
