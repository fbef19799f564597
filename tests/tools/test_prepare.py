"""jcls prepare: what it writes, what it finds, what it refuses, and that a kill costs nothing."""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from helpers.runs import environment
from jcls import main as command
from jcls.data import decode, formats
from jcls.data.sources.folder import folder
from jcls.data.sources.layout import File
from jcls.host.tensorflow import tf
from jcls.tools.prepare import divide, encode, inspect, job, prepare, write
from jcls.workdir.lock import Lock

RANDOM = np.random.default_rng(0)


def photo(height: int, width: int, channels: int = 3, mode: str | None = None) -> Image.Image:
    """A smooth image unlike any other."""
    small = RANDOM.integers(0, 256, (height // 4 + 2, width // 4 + 2, channels), np.uint8)
    image = Image.fromarray(small[..., 0] if channels == 1 else small, mode)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str = 'JPEG', **more: Any) -> bytes:
    """The content of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def store(root: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def photos(counts: dict[str, int], side: int = 16) -> dict[str, bytes]:
    """So many JPEG files in each folder."""
    return {
        f'{where}/{i:03d}.jpg': encoded(photo(side, side + 8))
        for where, count in counts.items()
        for i in range(count)
    }


class Example(NamedTuple):
    """A record of a dataset, its image undecoded."""

    name: str
    content: bytes
    label: str


def examples(report: dict[str, Any], split: str = 'train') -> list[Example]:
    """A split, read by TFDS."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(report['dataset'])
    names = builder.info.features['label'].names
    source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
    return [
        Example(os.fsdecode(e['file_name']), bytes(e['image']), names[e['label']])
        for e in map(source.__getitem__, range(len(source)))
    ]


def contents(report: dict[str, Any], split: str = 'train') -> dict[str, bytes]:
    """The bytes by file name; the label must be the folder."""
    found = examples(report, split)
    assert all(example.name.startswith(f'{example.label}/') for example in found)
    assert len({example.name for example in found}) == len(found)
    return {example.name: example.content for example in found}


def state(root: Path) -> dict[str, str]:
    """All files below a folder, with hashes."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob('*')
        if path.is_file()
    }


def run(capsys: Any, *words: Any) -> tuple[int, str, str]:
    """The command line: (exit code, standard output, standard error)."""
    capsys.readouterr()
    try:
        code = command.main(['prepare', *map(str, words)])
    except SystemExit as error:
        code = int(str(error.code))
    captured = capsys.readouterr()
    assert 'Traceback' not in captured.err
    return code, captured.out, captured.err


# What is written


def test_the_dataset_holds_every_file_as_it_was(tmp_path: Path) -> None:
    """Bytes, labels and names are the source's, in an order that mixes the classes."""
    files = photos({'train/cat': 40, 'train/dog': 30, 'val/cat': 3, 'val/dog': 5})
    report = prepare(store(tmp_path / 'pets', files), tmp_path / 'data')
    for split, part in (('train', 'train/'), ('validation', 'val/')):
        expected = {k.removeprefix(part): v for k, v in files.items() if k.startswith(part)}
        assert contents(report, split) == expected
    labels = [example.label for example in examples(report)]
    assert sum(a != b for a, b in itertools.pairwise(labels)) > 8  # sorted: 1
    assert [e.name for e in examples(report)] != sorted(e.name for e in examples(report))
    assert report['balance']['train']['images'] == {'cat': 40, 'dog': 30}
    assert report['source_bytes'] == sum(map(len, files.values()))


def test_anyone_finds_it_by_name(tmp_path: Path) -> None:
    """OUT is TFDS's data_dir; its own decoder and as_supervised work on what is in it."""
    import tensorflow_datasets as tfds

    source = store(tmp_path / 'My pets (2)', photos({'cat': 3, 'dog': 3}))
    report = prepare(source, tmp_path, val_fraction=0)
    assert report['dataset'] == str(tmp_path / 'my_pets_2' / '1.0.0')
    builder = tfds.builder('my_pets_2', data_dir=tmp_path)
    assert builder.info.supervised_keys == ('image', 'label')
    assert builder.info.splits['train'].num_examples == 6
    assert builder.as_data_source('train')[0]['image'].shape == (16, 24, 3)


def test_the_fraction_set_aside_is_that_of_a_folder(tmp_path: Path) -> None:
    """The same files are held out as data.name=folder would, so that runs compare."""
    source = store(tmp_path / 's', photos({'a': 12, 'b': 9, 'c': 20}))
    report = prepare(source, tmp_path / 'data', val_fraction=0.3)
    for split, expected in zip(
        ('train', 'validation'), folder(dir=str(source), val_fraction=0.3), strict=True
    ):
        names = {str(Path(expected.name(i)).relative_to(source)) for i in range(len(expected))}
        assert set(contents(report, split)) == names


def test_validation_images_from_elsewhere(tmp_path: Path) -> None:
    """--val takes another folder or tar of the same classes."""
    train, val = photos({'a': 3, 'b': 3}), photos({'a': 2, 'b': 1})
    pack(tmp_path / 'v.tar', val)
    source = store(tmp_path / 's', train)
    report = prepare(source, tmp_path / 'data', val=tmp_path / 'v.tar')
    assert (contents(report), contents(report, 'validation')) == (train, val)


def test_every_thread_count_and_run_makes_the_same_files(tmp_path: Path) -> None:
    """The dataset is a pure function of source and arguments; shards are near their size."""
    source = store(tmp_path / 's', photos({'a': 30, 'b': 30}, 48))
    size = sum(path.stat().st_size for path in source.rglob('*.jpg'))
    for workers in (1, 3):
        out = tmp_path / str(workers)
        report = prepare(source, out, workers=workers, shard_bytes=size // 4, val_fraction=0.1)
        assert 4 <= report['shards']['train'] <= 6
    found = [state(tmp_path / out / 's') for out in '13']
    assert found[0].pop('1.0.0/report.json')
    assert found[1].pop('1.0.0/report.json')
    assert found[0] == found[1]


def test_hidden_files_links_and_odd_names(tmp_path: Path) -> None:
    """As in a folder source: what is behind links counts once, hidden files do not."""
    files = photos({'a': 2, 'b/deeper/still': 2, 'b': 1})
    hidden = photos({'.git': 1, 'a/.thumbs': 1, 'elsewhere': 1})
    source = store(tmp_path / 's', {**files, **hidden, 'a/.x.jpg': b'', 'b/._000.jpg': b''})
    shutil.move(source / 'elsewhere', tmp_path / 'elsewhere')
    (source / 'a' / 'linked.jpg').symlink_to(tmp_path / 'elsewhere' / '000.jpg')
    (source / 'a' / 'folder').symlink_to(tmp_path / 'elsewhere')
    (source / 'b' / 'round').symlink_to('..')
    odd = os.fsencode(source / 'b') + b'/\xff\n.jpg'
    with open(odd, 'wb') as file:  # noqa: PTH123
        file.write(encoded(photo(8, 8)))
    report = prepare(source, tmp_path / 'data', val_fraction=0)
    assert report['balance']['train']['images'] == {'a': 3, 'b': 4}
    assert 'b/\udcff\n.jpg' in contents(report)
    assert report['repeats']['count'] == 0
    reasons = {file['file']: file['reason'] for file in report['ignored']['files']}
    anyway = 'a link to what is here anyway'
    assert (reasons.pop('b/round'), reasons.pop('a/linked.jpg')) == (anyway, anyway)
    assert reasons == dict.fromkeys(['.git', 'a/.thumbs', 'a/.x.jpg', 'b/._000.jpg'], 'hidden')


# What is found


@pytest.fixture(scope='module')
def zoo(tmp_path_factory: Any) -> tuple[Path, dict[str, bytes]]:
    """A folder with one file, at least, of each kind."""
    root = tmp_path_factory.mktemp('zoo') / 'zoo'
    whole, png = encoded(photo(60, 70)), encoded(photo(20, 20), 'PNG')
    turned = Image.Exif()
    turned[inspect.ORIENTATION] = 6
    flat = RANDOM.integers(0, 256, (20, 20, 4), np.uint8)
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0x55
    files = {
        **photos({'cat': 12, 'dog': 12}),
        'cat/good.jpg': whole,
        'dog/good_again.jpg': whole,
        'dog/twice.jpg': encoded(photo(30, 30)),
        'cat/zero.jpg': b'',
        'cat/text.jpg': b'no image\n',
        'cat/page.jpeg': b'<!DOCTYPE html>\n<html></html>',
        'cat/cut.jpg': whole[: len(whole) // 2],
        'cat/cut.png': png[: len(png) // 2],
        'cat/noise.png': RANDOM.bytes(300),
        'cat/bit.png': bytes(broken),
        'cat/header.jpg': whole[:30],
        'dog/mended.jpg': whole[: len(whole) // 2] + b'\xff\xd9',
        'dog/really_png.jpg': png,
        'dog/no_suffix': encoded(photo(9, 9)),
        'dog/cmyk.jpg': encoded(Image.fromarray(flat, 'CMYK')),
        'dog/deep.png': encoded(Image.fromarray(flat[..., 0].astype(np.uint16) * 257), 'PNG'),
        'dog/grey.jpg': encoded(photo(20, 20, 1)),
        'dog/rgba.png': encoded(Image.fromarray(flat, 'RGBA'), 'PNG'),
        'dog/film.gif': encoded(
            photo(20, 20).convert('P'), 'GIF', save_all=True, append_images=[photo(20, 20)]
        ),
        'dog/new.webp': encoded(photo(20, 20), 'WEBP'),
        'dog/old.tif': encoded(photo(20, 20), 'TIFF'),
        'dog/one.png': encoded(Image.new('RGB', (1, 1)), 'PNG'),
        'dog/long.png': encoded(Image.new('RGB', (20_000, 1), (1, 2, 3)), 'PNG'),
        'dog/turned.jpg': encoded(photo(20, 30), exif=turned),
        'dog/notes.txt': b'not to be trained on',
        'README.md': b'about',
    }
    store(root, {**files, 'dog/again.jpg': files['dog/twice.jpg']})
    (root / 'cat' / 'nowhere.jpg').symlink_to('gone.jpg')
    os.mkfifo(root / 'dog' / 'pipe.jpg')
    return root, files


DAMAGED = {
    'cat/zero.jpg': 'zero bytes',
    'cat/text.jpg': 'not an image, but text',
    'cat/page.jpeg': 'not an image, but a web page',
    'cat/cut.jpg': 'truncated',
    'cat/cut.png': 'truncated',
    'cat/noise.png': 'not an image',
    'cat/bit.png': 'corrupt: ',
    'cat/header.jpg': 'truncated (30 bytes)',
    'cat/nowhere.jpg': 'unreadable: a broken link',
}


@pytest.fixture(scope='module')
def report(zoo: Any, tmp_path_factory: Any) -> dict[str, Any]:
    """The report of a dataset of all that is not damaged."""
    return prepare(zoo[0], tmp_path_factory.mktemp('data'), drop='damaged')


def test_damaged_files_stop_it_before_anything_is_written(
    zoo: Any, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """Exit code 1 and every file with its fault; --drop damaged then inspects nothing again."""
    code, out, err = run(capsys, zoo[0], tmp_path, '--json')
    assert (code, '{' in out) == (1, False)
    for file, reason in DAMAGED.items():
        assert f'  {file}: {reason}' in err
    assert err.startswith('error: 9 of 50 files are damaged and nothing is written')
    assert '--drop damaged' in err
    assert 'E0000' not in err
    left = tmp_path / 'zoo' / 'incomplete.1.0.0'
    assert sorted(path.name for path in left.iterdir()) == [
        'inspected.jsonl',
        'report.json',
    ]
    assert json.loads((left / 'report.json').read_text())['damaged']['count'] == 9
    assert f'{left / "report.json"}' in err
    monkeypatch.setattr(inspect, 'examine', None)
    code, out, err = run(capsys, zoo[0], tmp_path, '--drop', 'damaged', '--json')
    assert (code, err) == (0, '')
    found = json.loads(out.rstrip().split('\n')[-1])
    assert found == json.loads(Path(found['dataset'], 'report.json').read_text())
    assert not left.exists()


def test_dropping_leaves_out_the_damaged_alone(zoo: Any, report: dict[str, Any]) -> None:
    """What can be read is there, bytes kept; what cannot is listed."""
    found = contents(report) | contents(report, 'validation')
    expected = {
        name: content
        for name, content in zoo[1].items()
        if name not in DAMAGED and name not in ('README.md', 'dog/notes.txt')
    }
    assert set(found) == {*expected, 'dog/again.jpg'}
    changed = [name for name, content in expected.items() if found[name] != content]
    assert sorted(changed) == ['dog/new.webp', 'dog/old.tif']
    assert (report['dropped'], report['converted'], report['shrunk']) == (9, 2, 0)
    listed = {file['file']: file['reason'] for file in report['damaged']['files']}
    assert listed.keys() == DAMAGED.keys()
    assert all(listed[file].startswith(reason) for file, reason in DAMAGED.items())


@pytest.mark.parametrize(
    ('finding', 'files'),
    [
        ('wrong_extension', ['dog/no_suffix', 'dog/really_png.jpg']),
        ('other_format', ['dog/new.webp', 'dog/old.tif']),
        ('cmyk', ['dog/cmyk.jpg']),
        ('deep', ['dog/deep.png']),
        ('grey', ['dog/deep.png', 'dog/grey.jpg']),
        ('transparent', ['dog/rgba.png']),
        ('animated', ['dog/film.gif']),
        ('rotated', ['dog/turned.jpg']),
        ('tiny', ['dog/one.png']),
        ('extreme', ['dog/long.png']),
    ],
)
def test_findings(report: dict[str, Any], finding: str, files: list[str]) -> None:
    """Each kind of image that may surprise is named, and no other."""
    assert sorted(report[finding]['files']) == files
    assert report[finding]['count'] == len(files)


def test_what_libjpeg_fills_with_grey_is_found(report: dict[str, Any]) -> None:
    """A JPEG cut short with an end marker put behind it decodes without an error: not unseen."""
    (found,) = report['suspicious']['files']
    assert found['file'] == 'dog/mended.jpg'
    assert 'premature end' in found['reason']


def test_the_rest_of_the_report(report: dict[str, Any]) -> None:
    """Copies, balance, sizes, formats and what is not an image of the dataset."""
    (group,) = report['conflicts']['groups']
    assert sorted(group) == ['cat/good.jpg', 'dog/good_again.jpg']
    (group,) = report['repeats']['groups']
    assert sorted(group) == ['dog/again.jpg', 'dog/twice.jpg']
    assert report['leaks']['count'] == 0
    ignored = {file['file']: file['reason'] for file in report['ignored']['files']}
    assert ignored == {
        'README.md': '.md',
        'dog/notes.txt': '.txt',
        'dog/pipe.jpg': 'neither a file nor a folder',
    }
    assert report['sides'] == {
        'shorter': {'min': 1, 'median': 16, 'max': 60},
        'longer': {'min': 1, 'median': 24, 'max': 20_000},
    }
    assert report['formats'] == {'JPEG': 34, 'PNG': 5, 'GIF': 1, 'WEBP': 1, 'TIFF': 1} | (
        {'JPEG': report['images'] - 8}
    )
    balance = report['balance']['train']
    assert balance['smallest']['class'] == 'cat'
    assert balance['ratio'] == balance['largest']['images'] / balance['smallest']['images']


def test_training_reads_what_is_written(report: dict[str, Any]) -> None:
    """Every image that the report lets pass is one that jcls's own decoder takes."""
    for split in ('train', 'validation'):
        for name, content in contents(report, split).items():
            assert decode.pixels(tf.constant(content)).shape[-1] == 3, name


def test_the_table_shows_what_there_is_to_see(zoo: Any, tmp_path: Path, capsys: Any) -> None:
    """Each finding has its line with a count and examples; no finding, no line."""
    code, out, _ = run(capsys, zoo[0], tmp_path, '--drop', 'damaged')
    assert code == 0
    lines = [' '.join(line.split()) for line in out.split('\n')]
    assert 'rotated 1 EXIF orientation; training ignores it:' in lines
    assert 'dog/turned.jpg' in lines
    assert 'dropped 9 damaged images left out' in lines
    assert not any(line.startswith('leaks') for line in lines)
    source = store(tmp_path / 's', photos({'cat': 1, 'Cat': 1}))
    assert 'similar_classes Cat, cat' in ' '.join(
        run(capsys, source, tmp_path, '--val_fraction', 0, '--name', 'other')[1].split()
    )


def test_other_folders_beside_the_sets_are_named(tmp_path: Path) -> None:
    """What is in a test/ folder beside train/ and val/ is listed as left out."""
    files = photos({'train/a': 2, 'val/a': 1, 'test': 1, 'test/x': 1})
    report = prepare(store(tmp_path / 's', {**files, 'about.md': b''}), tmp_path / 'data')
    ignored = [(file['file'], file['reason']) for file in report['ignored']['files']]
    reason = 'outside the class folders'
    assert ignored == [('about.md', '.md'), ('test/000.jpg', reason), ('test/x/000.jpg', reason)]


def test_all_damaged(tmp_path: Path, capsys: Any) -> None:
    """A folder without one good image is reported like any other."""
    source = store(tmp_path / 's', {'a/1.jpg': b'', 'a/2.jpg': b'x'})
    code, _, err = run(capsys, source, tmp_path / 'data')
    assert (code, '2 of 2 files are damaged' in err) == (1, True)


def test_leaks_between_given_sets_are_reported(tmp_path: Path) -> None:
    """The same bytes in train/ and val/ are a leak, and in another class a conflict as well."""
    files = photos({'train/a': 3, 'train/b': 3, 'val/a': 2, 'val/b': 2})
    files |= {'val/a/leak.jpg': files['train/a/000.jpg'], 'val/b/x.jpg': files['train/a/001.jpg']}
    report = prepare(store(tmp_path / 's', files), tmp_path / 'data')
    assert report['leaks']['groups'] == [
        ['train/a/000.jpg', 'val/a/leak.jpg'],
        ['train/a/001.jpg', 'val/b/x.jpg'],
    ]
    assert report['conflicts']['groups'] == [['train/a/001.jpg', 'val/b/x.jpg']]
    assert len(examples(report, 'validation')) == 6


def test_a_split_of_our_own_has_no_leaks(tmp_path: Path) -> None:
    """Copies go to one side together, and as many images as without them are held out."""
    files = photos({'a': 40, 'b': 40})
    files |= {f'{name[0]}/copy_{name[2:]}': content for name, content in files.items()}
    report = prepare(store(tmp_path / 's', files), tmp_path / 'data', val_fraction=0.3)
    held_out = contents(report, 'validation')
    assert report['leaks']['count'] == 0
    assert not set(held_out.values()) & set(contents(report).values())
    assert len(held_out) == 48
    assert contents(report) | held_out == files


# Shrinking and converting


def test_shrinking_is_pillows(tmp_path: Path) -> None:
    """Shorter sides above the limit come down to it by Lanczos; the others keep their bytes."""
    files = {
        'a/large.jpg': encoded(photo(90, 61)),
        'a/wide.png': encoded(photo(41, 400), 'PNG'),
        'b/grey.jpg': encoded(photo(80, 80, 1)),
        'b/limit.jpg': encoded(photo(40, 500)),
        'b/line.png': encoded(Image.new('RGB', (2000, 1)), 'PNG'),
    }
    source = store(tmp_path / 's', files)
    report = prepare(source, tmp_path / 'd', max_side=40, quality=90, val_fraction=0)
    found = contents(report)
    for name, size in {
        'a/large.jpg': (40, 59),
        'a/wide.png': (390, 40),
        'b/grey.jpg': (40, 40),
    }.items():
        with Image.open(io.BytesIO(files[name])) as image:
            expected = encoded(image.resize(size, Image.Resampling.LANCZOS), quality=90)
        with (
            Image.open(io.BytesIO(found[name])) as image,
            Image.open(io.BytesIO(expected)) as wanted,
        ):
            assert (image.format, image.mode) == ('JPEG', wanted.mode)
            np.testing.assert_array_equal(np.asarray(image), np.asarray(wanted))
    assert found['b/limit.jpg'] == files['b/limit.jpg']
    assert found['b/line.png'] == files['b/line.png']
    assert report['shrunk'] == 3


@pytest.mark.parametrize('size', [100, 70_000])
def test_shrinking_keeps_the_orientation_and_does_not_apply_it(tmp_path: Path, size: int) -> None:
    """Training sees the pixels as stored, before and after; a tag too long to keep is shortened."""
    exif = Image.Exif()
    exif[inspect.ORIENTATION], exif[0x010E] = 6, 'x' * size
    kind = 'PNG' if size > 60_000 else 'JPEG'
    content = encoded(photo(40, 80), kind, exif=exif)
    source = store(tmp_path / 's', {f'a/{i}.{kind}': content for i in range(1)})
    report = prepare(source, tmp_path / 'd', max_side=20, val_fraction=0)
    assert report['rotated']['count'] == 1
    with Image.open(io.BytesIO(examples(report)[0].content)) as image:
        assert image.size == (40, 20)
        assert image.getexif()[inspect.ORIENTATION] == 6
        assert (image.getexif().get(0x010E) == 'x' * size) == (size == 100)


@pytest.mark.parametrize('kind', ['cmyk.jpg', 'deep.png', 'rgba.png', 'film.gif', 'grey.jpg'])
def test_what_is_encoded_anew_looks_to_training_as_before(zoo: Any, kind: str) -> None:
    """Colours, 16 bits and transparency are reduced as TensorFlow reduces them."""
    content = zoo[1][f'dog/{kind}']
    info = inspect.examine(content)
    with Image.open(io.BytesIO(content)) as image:
        flat = np.asarray(formats.flat(image).convert('RGB'), np.int32)
    seen = decode.pixels(tf.constant(content)).numpy().astype(np.int32)
    assert np.abs(flat - seen).max() <= 1
    shrunk = encode.encode(content, info, max_side=10, quality=95)
    assert inspect.examine(shrunk)[1:4] == ('JPEG', 10, 10)


def test_formats_that_tensorflow_cannot_read(zoo: Any, report: dict[str, Any]) -> None:
    """Without loss before, without loss after (PNG); photographic formats become JPEG."""
    found = contents(report) | contents(report, 'validation')
    kinds = {'dog/old.tif': ('PNG', 0), 'dog/new.webp': ('JPEG', 12)}
    for name, (kind, difference) in kinds.items():
        with (
            Image.open(io.BytesIO(zoo[1][name])) as before,
            Image.open(io.BytesIO(found[name])) as after,
        ):
            assert (after.format, after.size) == (kind, before.size)
            off = np.asarray(after.convert('RGB'), int) - np.asarray(before.convert('RGB'), int)
            assert np.abs(off).mean() <= difference
    lossless = encoded(photo(20, 20), 'WEBP', lossless=True)
    made = encode.encode(lossless, inspect.examine(lossless), max_side=0, quality=95)
    assert made.startswith(b'\x89PNG')


# Tars


def pack(path: Path, files: dict[str, bytes], mode: Any = 'w') -> Path:
    """A tar of these files; an empty name is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def packed(files: dict[str, bytes]) -> bytes:
    """The content of a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize('kind', ['plain', 'dots', 'wrapped', 'split', 'nested', 'gz', 'xz'])
def test_a_tar_is_as_good_as_its_folder(tmp_path: Path, kind: str) -> None:
    """Whatever way the tar was made, the images of its classes are those of the folder."""
    files = photos({'a': 3, 'b': 4})
    others = {'a/._000.jpg': b'mac', 'notes.txt': b'x'}
    path = tmp_path / 'pets.tar'
    if kind in ('plain', 'gz', 'xz'):
        pack(path, {**files, **others}, 'w' if kind == 'plain' else f'w:{kind}')
    elif kind == 'dots':
        pack(path, {f'./{name}': content for name, content in {**files, **others}.items()})
    elif kind == 'wrapped':
        pack(path, {f'pets_v2/images/{name}': content for name, content in files.items()})
    elif kind == 'split':
        pack(path, {f'pets/train/{name}': content for name, content in files.items()})
    else:
        inner = collections.defaultdict(dict)
        for name, content in files.items():
            inner[name[0]][name[2:]] = content
        pack(path, {f'{name}.tar': packed(part) for name, part in inner.items()})
    report = prepare(path, tmp_path / 'data', val_fraction=0)
    assert contents(report) == files
    assert sorted(os.listdir(tmp_path)) == ['data', 'pets.tar']  # noqa: PTH208
    assert sorted(os.listdir(tmp_path / 'data' / 'pets')) == ['1.0.0']  # noqa: PTH208


def test_special_members_are_read_in_place_or_reported(tmp_path: Path) -> None:
    """Links to members are followed, others are damage; devices are named and left alone."""
    files = photos({'a': 2, 'b': 2})
    path = pack(tmp_path / 's.tar', {'/a/000.jpg': files['a/000.jpg'], **files})
    with tarfile.open(path, 'a') as tar:
        for name, kind, target in (
            ('a/hard.jpg', tarfile.LNKTYPE, 'a/001.jpg'),
            ('a/soft.jpg', tarfile.SYMTYPE, '../b/000.jpg'),
            ('a/chain.jpg', tarfile.SYMTYPE, 'soft.jpg'),
            ('a/out.jpg', tarfile.SYMTYPE, '/etc/passwd'),
            ('a/round.jpg', tarfile.SYMTYPE, 'round.jpg'),
            ('a/null.jpg', tarfile.CHRTYPE, ''),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    report = prepare(path, tmp_path / 'data', val_fraction=0, drop='damaged')
    assert contents(report) == {
        **files,
        'a/hard.jpg': files['a/001.jpg'],
        'a/soft.jpg': files['b/000.jpg'],
        'a/chain.jpg': files['b/000.jpg'],
    }
    damaged = {file['file']: file['reason'] for file in report['damaged']['files']}
    reason = 'unreadable: a link to no file of the tar'
    assert damaged == {'a/out.jpg': reason, 'a/round.jpg': reason}
    ignored = {file['file']: file['reason'] for file in report['ignored']['files']}
    assert ignored == {
        'a/000.jpg': 'replaced by a later file of the same name',
        'a/null.jpg': 'neither a file nor a folder',
    }


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('text', 'is not a readable tar'),
        ('cut', 'is not a readable tar|is damaged or cut short'),
        ('no end', r'damaged or cut short at byte [\d,]+'),
        ('header', r'damaged or cut short at byte [\d,]+'),
        ('two', 'goes on behind its end'),
        ('outside', r"has a member 'a/\.\./\.\./x\.jpg', which points outside"),
        ('inner', r'a\.tar\.gz is a compressed tar inside a tar'),
        ('inner cut', r'a\.tar.* (not a readable tar|damaged or cut short)'),
        ('gz cut', 'is damaged or cut short'),
        ('zstd', 'unzstd'),
        ('flat', r'no class folders; expected .*<class>/<image>\.jpg'),
        ('missing', 'no such folder or tar'),
    ],
)
def test_refused_tars(tmp_path: Path, kind: str, message: str) -> None:
    """A tar that is not whole or not safe is an error; nothing of it is used or left behind."""
    files = photos({'a': 3, 'b': 3})
    whole = packed(files)
    inner = packed({'x.jpg': files['a/000.jpg']})
    content = {
        'text': b'hello' * 1000,
        'cut': whole[:3000],
        'no end': whole.rstrip(b'\0')[:-1] + bytes(-(len(whole.rstrip(b'\0')) - 1) % 512),
        'header': whole[: whole.index(b'a/002')] + b'#' + whole[whole.index(b'a/002') + 1 :],
        'two': whole + whole,
        'outside': packed({**files, 'a/../../x.jpg': b''}),
        'inner': packed({**files, 'a.tar.gz': b''}),
        'inner cut': packed({'a.tar': inner[:700], 'b.tar': inner}),
        'zstd': b'(\xb5/\xfd' + bytes(100),
        'flat': packed({'1.jpg': files['a/000.jpg']}),
    }
    path = tmp_path / 's.tar'
    if kind == 'gz cut':
        path.write_bytes(pack(tmp_path / 'whole.tgz', files, 'w:gz').read_bytes()[:-500])
    elif kind != 'missing':
        path.write_bytes(content[kind])
    with pytest.raises(ValueError, match=message) as error:
        prepare(path, tmp_path / 'data')
    assert 's.tar' in str(error.value)
    assert not (tmp_path / 'data').exists()


# Interruptions

KILLED = """
import os, signal, sys
from contextlib import closing
from pathlib import Path
from jcls.tools.prepare import inspect, write
from jcls.tools.prepare import prepare

calls, (source, out, stage, limit) = [], sys.argv[1:]
module, name = {'inspect': (inspect, 'examine'), 'write': (write, 'encode')}[stage]
original = getattr(module, name)

def until(*args, **more):
    calls.append(1)
    if len(calls) > int(limit):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **more)

setattr(module, name, until)
prepare(source, out, shard_bytes=100_000, max_side=40, workers=2, name='pets')
"""


def test_killed_and_started_again_is_never_killed(tmp_path: Path, monkeypatch: Any) -> None:
    """SIGKILL while inspecting and while writing: no work is lost, and the files are the same."""
    source = store(tmp_path / 's', photos({'a': 150, 'b': 150}, 64))
    script = tmp_path / 'killed.py'
    script.write_text(KILLED)
    for stage, limit in (('inspect', 150), ('write', 200)):
        words = [sys.executable, script, source, tmp_path / 'killed', stage, str(limit)]
        done = subprocess.run(words, env=environment(), capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / 'killed' / 'pets' / '1.0.0').exists()
        work = tmp_path / 'killed' / 'pets' / 'incomplete.1.0.0'
        if stage == 'inspect':
            assert len((work / 'inspected.jsonl').read_text().splitlines()) == 128
            with (work / 'inspected.jsonl').open('a') as journal:
                journal.write('["a/cut off by the ki')
    finished = {path: path.stat() for path in (work / 'dataset').glob('pets-*')}
    assert 1 <= len(finished) < 8
    looked: list[bytes] = []
    monkeypatch.setattr(inspect, 'examine', looked.append)
    encoded_again: list[int] = []
    original = write.encode

    def count(*args: Any, **more: Any) -> bytes:
        encoded_again.append(1)
        return original(*args, **more)

    monkeypatch.setattr(write, 'encode', count)
    arguments = {'shard_bytes': 100_000, 'max_side': 40, 'name': 'pets'}
    prepare(source, tmp_path / 'killed', **arguments)
    assert looked == []
    images = [int(write.count(tmp_path / 'killed' / 'pets' / '1.0.0' / p.name)) for p in finished]
    assert len(encoded_again) == 300 - sum(images)
    for path, before in finished.items():
        after = (tmp_path / 'killed' / 'pets' / '1.0.0' / path.name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    monkeypatch.undo()
    prepare(source, tmp_path / 'whole', workers=1, **arguments)
    found = [state(tmp_path / run / 'pets') for run in ('killed', 'whole')]
    for files in found:
        assert files.pop('1.0.0/report.json')
    assert found[0] == found[1]


def test_an_error_while_writing_leaves_no_dataset(tmp_path: Path, monkeypatch: Any) -> None:
    """A file that changed since it was inspected is an error; repaired, the same command works."""
    source = store(tmp_path / 's', photos({'a': 20, 'b': 20}, 64))
    original = write.features

    def change(classes: Any) -> Any:
        (source / 'b' / '007.jpg').write_bytes(before[::-1])
        return original(classes)

    before = (source / 'b' / '007.jpg').read_bytes()
    times = (source / 'b' / '007.jpg').stat()
    monkeypatch.setattr(write, 'features', change)
    with pytest.raises(ValueError, match=r'b/007\.jpg changed since it was inspected'):
        prepare(source, tmp_path / 'data', shard_bytes=20_000, val_fraction=0)
    assert not (tmp_path / 'data' / 's' / '1.0.0').exists()
    monkeypatch.undo()
    (source / 'b' / '007.jpg').write_bytes(before)
    os.utime(source / 'b' / '007.jpg', ns=(times.st_atime_ns, times.st_mtime_ns))
    report = prepare(source, tmp_path / 'data', shard_bytes=20_000, val_fraction=0)
    assert contents(report)['b/007.jpg'] == before


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """The error is a message; with room again, the same command finishes."""
    source = store(tmp_path / 's', photos({'a': 90, 'b': 90}, 128))
    original = write.write_shards

    def with_little_room(*args: Any, **more: Any) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        try:
            original(*args, **more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(write, 'write_shards', with_little_room)
    code, _, err = run(capsys, source, tmp_path / 'data')
    assert code == 1
    assert err.startswith('error: ')
    assert 'File too large' in err
    assert 'the same command goes on' in err
    assert not (tmp_path / 'data' / 's' / '1.0.0').exists()
    monkeypatch.undo()
    assert run(capsys, source, tmp_path / 'data')[0] == 0


def test_a_finished_dataset_is_left_alone(tmp_path: Path, capsys: Any) -> None:
    """The same command again changes nothing; another one is refused with what differs."""
    source = store(tmp_path / 's', photos({'a': 4, 'b': 4}))
    words = [source, tmp_path / 'data', '--val_fraction', '0.25']
    assert run(capsys, *words)[0] == 0
    before = state(tmp_path / 'data')
    code, out, _ = run(capsys, *words, '--json')
    assert code == 0
    assert 'is complete; nothing to do' in out
    assert json.loads(out.rstrip().split('\n')[-1])['images'] == 8
    for more, differs in (
        (['--quality', '80'], '  - quality = 95\n  + quality = 80'),
        (['--max_side', '9', '--quality', '80'], '  - max_side = 0\n  + max_side = 9\n  - quality'),
        (['--val_fraction', '0.5'], '  - val_fraction = 0.25\n  + val_fraction = 0.5'),
    ):
        code, _, err = run(capsys, *words, *more)
        assert code == 1
        assert differs in err
        assert '--name' in err
    store(source, photos({'a/more': 1}))
    code, _, err = run(capsys, *words)
    assert code == 1
    assert '  - source.files = 8\n  + source.files = 9' in err
    (source / 'a/more/000.jpg').unlink()
    os.utime(source / 'a' / '000.jpg', (1, 1))
    assert 'a time of modification changed in the source' in run(capsys, *words)[2]
    assert state(tmp_path / 'data') == before


def test_a_dataset_that_lost_a_shard_is_not_called_complete(tmp_path: Path) -> None:
    """The files are there, too, before nothing is left to do."""
    source = store(tmp_path / 's', photos({'a': 4, 'b': 4}))
    report = prepare(source, tmp_path / 'data', val_fraction=0.3)
    next(Path(report['dataset']).glob('*validation*')).unlink()
    with pytest.raises(ValueError, match='was complete, but its shards are not now'):
        prepare(source, tmp_path / 'data', val_fraction=0.3)


def test_an_unfinished_dataset_of_other_arguments_is_refused(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Once writing has begun, only the same arguments and source go on."""
    source = store(tmp_path / 's', photos({'a': 4, 'b': 4}))

    def interrupted(*_: Any) -> None:  # not by a signal: where one is ignored, so would this be
        raise KeyboardInterrupt

    monkeypatch.setattr(write, 'write_metadata', interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / 'data', val_fraction=0)
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r'was begun with other[^+]*- max_side = 0\n  \+ max_side = 4'
    ):
        prepare(source, tmp_path / 'data', val_fraction=0, max_side=4)
    os.utime(source / 'a' / '000.jpg', (1, 1))
    with pytest.raises(ValueError, match=r'source\.digest'):
        prepare(source, tmp_path / 'data', val_fraction=0)
    shutil.rmtree(tmp_path / 'data' / 's' / 'incomplete.1.0.0')
    assert len(contents(prepare(source, tmp_path / 'data', val_fraction=0, max_side=4))) == 8


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """The folder belongs to one process at a time."""
    source = store(tmp_path / 's', photos({'a': 2}))
    work = tmp_path / 'data' / 's' / 'incomplete.1.0.0'
    work.mkdir(parents=True)
    with (
        closing(Lock(work)),
        pytest.raises(ValueError, match='choose another --name'),
    ):
        prepare(source, tmp_path / 'data', val_fraction=0)
    assert len(contents(prepare(source, tmp_path / 'data', val_fraction=0))) == 2


# What is refused


@pytest.mark.parametrize(
    ('files', 'arguments', 'message'),
    [
        ({}, {}, 'has no class folders'),
        ({'1.jpg': b''}, {}, 'has no class folders'),
        ({'a/': b'', 'b/': b''}, {}, r'1 class folder\(s\) without an image: b;'),
        ({'val/a': b''}, {}, 'has val/ but no train/'),
        ({'train/a/': b'', 'b/': b''}, {}, r'has train/ beside b:'),
        ({'train/a/': b'', 'val/c/': b''}, {}, 'only in validation: c; only in training: a'),
        ({'a ': b''}, {}, "class name 'a ' begins or ends with white space"),
        ({'a\nb': b''}, {}, 'has a line break'),
        ({'a\udcff': b''}, {}, 'is not UTF-8'),
        ({'a': b''}, {'name': '1st'}, "--name='1st': a TFDS name begins with a letter"),
        ({'a': b''}, {'name': '../x'}, 'TFDS name'),
        ({'a': b''}, {'val_fraction': 1.5}, '--val_fraction=1.5'),
        ({'a': b''}, {'val_fraction': -0.1}, '--val_fraction=-0.1'),
        ({'a': b''}, {'max_side': -1}, '--max_side=-1'),
        ({'a': b''}, {'quality': 101}, '--quality=101'),
        ({'a': b''}, {'workers': 0}, '--workers=0'),
        ({'a': b''}, {'drop': 'all'}, '--drop'),
        ({'a': b''}, {'val': 'nowhere'}, 'nowhere: no such folder'),
        ({'train/a': b'', 'val/a': b''}, {'val_fraction': 0.2}, 'validation images already'),
        ({'train/a': b'', 'val/a': b''}, {'val': 'SOURCE'}, 'has one already'),
    ],
)
def test_refused_sources_and_arguments(
    tmp_path: Path, files: dict[str, bytes], arguments: dict[str, Any], message: str
) -> None:
    """A user's mistake is a ValueError that says what to do, and nothing is left behind."""
    source = tmp_path / 's'
    source.mkdir()
    for name in files:
        if name in ('1.jpg',):
            store(source, {name: b''})
        elif name == 'b/':
            (source / 'b').mkdir()
        else:
            store(source, photos({name.rstrip('/'): 2}))
    arguments = {k: source if v == 'SOURCE' else v for k, v in arguments.items()}
    with pytest.raises(ValueError, match=message):
        prepare(source, tmp_path / 'data', **arguments)
    assert not (tmp_path / 'data').exists()


def test_an_output_inside_the_source_is_refused(tmp_path: Path) -> None:
    """It would be a class the next time; by links and dots it is just as much inside."""
    source = store(tmp_path / 's', photos({'a': 2, 'b': 2}))
    (tmp_path / 'link').symlink_to(source)
    for out in (source, source / 'new', tmp_path / 'link' / 'x', tmp_path / 'x' / '..' / 's'):
        with pytest.raises(ValueError, match='inside its source'):
            prepare(source, out)
    with pytest.raises(ValueError, match='inside its source'):
        prepare(source, tmp_path)  # .../s/1.0.0
    with pytest.raises(ValueError, match='local disks'):
        prepare(source, 'gs://bucket/data')
    assert sorted(path.name for path in source.iterdir()) == ['a', 'b']


def test_a_class_of_damaged_images_only_is_refused(tmp_path: Path) -> None:
    """Dropping never makes a class disappear."""
    source = store(tmp_path / 's', {**photos({'a': 2}), 'b/1.jpg': b'', 'b/notes.txt': b'x'})
    with pytest.raises(ValueError, match="class 'b' has no image in train that can be read"):
        prepare(source, tmp_path / 'data', drop='damaged', val_fraction=0)


def test_a_full_disk_is_known_before(tmp_path: Path, monkeypatch: Any) -> None:
    """What will not fit is refused at once, before a long inspection."""
    source = store(tmp_path / 's', photos({'a': 3, 'b': 3}))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=1000))
    monkeypatch.setattr(inspect, 'examine', None)
    with pytest.raises(ValueError, match=r'needs about 0\.00 GB, but .* free; make room'):
        prepare(source, tmp_path / 'data')
    assert not (tmp_path / 'data').exists()


def test_a_dataset_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """A folder that is in the way is never replaced."""
    source = store(tmp_path / 'from' / 's', photos({'a': 3}))
    other = store(tmp_path / 's' / '1.0.0', {'dataset_info.json': b'{}'})
    with pytest.raises(ValueError, match='was not made by `jcls prepare`; choose another --name'):
        prepare(source, tmp_path, val_fraction=0)
    assert state(other).keys() == {'dataset_info.json'}


def test_the_command_line(tmp_path: Path, capsys: Any) -> None:
    """--help, wrong flags (2), and overrides, which need a config (2)."""
    code, out, _ = run(capsys, '--help')
    assert code == 0
    for word in ('--name', '--val', '--val_fraction', '--max_side', '--quality', '--drop', 'OUT'):
        assert word in out
    assert run(capsys, 'src')[0] == 2
    assert run(capsys, 'src', 'out', '--drop', 'all')[0] == 2
    code, _, err = run(capsys, tmp_path, 'out', '--config.seed=1')
    assert (code, 'config.seed' in err) == (2, True)


def test_the_journal_knows_a_file_by_size_and_time(tmp_path: Path) -> None:
    """What changed on disk is looked at again."""
    file = File('a/1.jpg', 'a/1.jpg', 0, 10, 5, '', 0, '')
    info = inspect.ImageInfo('00', 'JPEG', 3, 4)
    made = job.Job(tmp_path, 'x')
    with made.locked():
        made.record([(file, info)])
    again = job.Job(tmp_path, 'x')
    with again.locked():
        assert again.known(file) == info
        assert again.known(file._replace(stamp=6)) is None
        assert again.known(file._replace(size=11)) is None


def test_shards_are_cut_evenly() -> None:
    """Sizes are near what was asked for and no shard is empty."""
    images = [
        divide.Inspected(
            File(str(i), f'a/{i}', 0, 1000, 0, '', 0, ''), inspect.ImageInfo(str(i), 'JPEG', 9, 9)
        )
        for i in range(103)
    ]
    parts = divide.shards({'train': images, 'validation': images[:2]}, 20_000, 0)
    lengths = [len(part.images) for part in parts if part.split == 'train']
    assert (sum(lengths), len(lengths), max(lengths) - min(lengths)) == (103, 7, 1)
    assert [part.of for part in parts if part.split == 'validation'] == [1]
    assert len(divide.shards({'train': images[:3]}, 1, 0)) == 3
