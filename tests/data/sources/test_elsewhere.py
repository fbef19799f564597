"""What the chosen source cannot read is recognised; the error names the options that read it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from helpers.folders import paint
from jcls.data.sources.file_list import listing
from jcls.data.sources.folder import folder
from jcls.data.sources.records import records
from jcls.data.sources.tfds import tfds


def described(root: Path, *places: str) -> None:
    """Folders as TFDS writes them, for what is read of them here."""
    for place in places:
        (root / place).mkdir(parents=True)
        info = {'name': place.split('/')[0], 'version': '1.0.0'}
        (root / place / 'dataset_info.json').write_text(json.dumps(info))
        (root / place / 'x-train.array_record-00000-of-00001').write_bytes(b'')


def options(error: pytest.ExceptionInfo[ValueError]) -> dict[str, str]:
    """The fields that a message names, as a shell and the command line read them."""
    words = shlex.split(str(error.value).partition('give ')[2])
    pairs = [word.removeprefix('--config.data.').partition('=') for word in words]
    return {key: value for key, equals, value in pairs if equals}


@pytest.mark.parametrize(
    ('places', 'wanted'),
    [
        (['imagenet2012/5.1.0'], 'imagenet2012'),
        (['imagenet2012_subset/10pct/5.0.0'], 'imagenet2012_subset/10pct'),
        (['my birds/3.0.0', 'my birds/2.0.0'], 'my birds'),
        (['a/1.0.0', 'b/1.0.0'], 'a'),
    ],
)
def test_a_folder_of_tfds(tmp_path: Path, places: list[str], wanted: str) -> None:
    """The options have the name and configuration that are read from what is there."""
    root = tmp_path / 'some data'
    described(root, *places)
    paint(root / 'downloads' / 'extracted' / 'x.jpg')
    with pytest.raises(ValueError, match=r"config\.data\.dir='.*some data': .*by TFDS") as error:
        folder(dir=str(root))
    assert options(error) == {'name': 'tfds', 'dataset': wanted, 'dir': str(root)}
    assert ('(a, b)' in str(error.value)) == (wanted == 'a')


@pytest.mark.parametrize('inside', ['birds', 'birds/1.0.0'])
def test_a_dataset_of_tfds(tmp_path: Path, inside: str) -> None:
    """Its own folder, or that of its versions, is given by its place."""
    described(tmp_path, 'birds/1.0.0')
    with pytest.raises(ValueError, match='by TFDS') as error:
        folder(dir=str(tmp_path / inside))
    assert options(error) == {'name': 'tfds', 'dataset': str(tmp_path / 'birds/1.0.0')}


def test_a_folder_of_tfds_that_is_a_pattern(tmp_path: Path) -> None:
    """TFDS finds no name in it, so the dataset is given by its place."""
    described(tmp_path / '[2024]', 'birds/1.0.0')
    with pytest.raises(ValueError, match='by TFDS') as error:
        folder(dir=str(tmp_path / '[2024]'))
    assert options(error) == {'name': 'tfds', 'dataset': str(tmp_path / '[2024]/birds/1.0.0')}


def test_a_folder_of_records(tmp_path: Path) -> None:
    """Its patterns are read from the names; array records need what TFDS writes beside them."""
    for i in range(2):
        (tmp_path / f'birds_train.tfrecord-0000{i}-of-00002').write_bytes(b'')
    (tmp_path / 'birds_test.tfrecord-00000-of-00001').write_bytes(b'')
    with pytest.raises(ValueError, match='has records') as error:
        folder(dir=str(tmp_path))
    assert options(error) == {
        'name': 'records',
        'dir': str(tmp_path),
        'train': 'birds_train.tfrecord-*-of-*',
        'val': 'birds_test.tfrecord-*-of-*',
        'num_classes': 'N',
    }
    (tmp_path / 'birds-train.array_record-00000-of-00001').write_bytes(b'')
    with pytest.raises(ValueError, match=r'not the dataset_info\.json that TFDS writes'):
        folder(dir=str(tmp_path))


@pytest.mark.parametrize('source', ['list', 'records', 'tfds'])
def test_class_folders(tmp_path: Path, source: str) -> None:
    """A folder of class folders, for a source of another kind."""
    paint(tmp_path / 'a' / '0.png', tmp_path / 'b' / '1.png')
    place = str(tmp_path)
    read = {
        'list': lambda: listing(train_list=place),
        'records': lambda: records(dir=place),
        'tfds': lambda: tfds(dataset=place),
    }
    with pytest.raises(ValueError, match='has folders of images') as error:
        read[source]()
    assert options(error) == {'name': 'folder', 'dir': place}


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('a.zip', r'a\.zip is an archive: unpack it$'),
        ('a.tar.gz', r'a\.tar\.gz is an archive: unpack it, or .*: jcls prepare .*a\.tar\.gz OUT'),
        ('a.csv', r'a\.csv is a file, not a folder; if it names images, a list .*train_list=FILE'),
        ('a.bin', 'no such folder'),
        ('nothing', 'no such folder'),
    ],
)
def test_a_file_is_no_folder(tmp_path: Path, name: str, message: str) -> None:
    """An archive, a list, and what is unknown or not there."""
    if name != 'nothing':
        (tmp_path / name).write_text('')
    with pytest.raises(ValueError, match=message):
        folder(dir=str(tmp_path / name))


def test_images_without_class_folders(tmp_path: Path) -> None:
    """As on Kaggle: all images in train/, their classes in a table."""
    paint(*(tmp_path / 'train' / f'{i}.jpg' for i in range(3)), tmp_path / 'test' / '7.jpg')
    (tmp_path / 'labels.csv').write_text('id,breed\n')
    with pytest.raises(ValueError, match='train has no class folders') as error:
        folder(dir=str(tmp_path))
    assert 'It has 3 images right inside: give each class a folder; or a list' in str(error.value)
    assert 'labels.csv beside them' in str(error.value)
    with pytest.raises(ValueError, match='It has 3 images right inside'):
        folder(dir=str(tmp_path / 'train'))


def test_an_archive_alone(tmp_path: Path) -> None:
    """What was downloaded, but not unpacked."""
    (tmp_path / 'images.zip').write_bytes(b'')
    with pytest.raises(ValueError, match=r'no class folders.*; images\.zip in it: unpack'):
        folder(dir=str(tmp_path))
