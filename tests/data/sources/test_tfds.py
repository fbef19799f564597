"""Datasets prepared by TensorFlow Datasets: what is read, in both formats, and what is said."""

from __future__ import annotations

import functools
import io
import logging
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jcls.data import augment, pipeline, sources
from jcls.data.pipeline import Damage
from jcls.data.sampler import ProcessShard, eval_sampler, train_sampler
from jcls.data.sources import arrayrecord
from jcls.data.sources.source import Source
from jcls.data.sources.tfds import find_builder
from jcls.host import tensorflow
from jcls.host.tensorflow import tf

FORMATS = ('array_record', 'tfrecord')
SIZES = {'train': 30, 'validation': 7, 'test': 5}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is remembered of files goes to the test's own folder."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'jcls'


def builder(
    root: Path,
    features: Any = None,
    *,
    format: str = 'array_record',
    keys: Any = ('image', 'label'),
    sizes: dict[str, int] = SIZES,
) -> Any:
    """The builder of a dataset 'tiny_pictures' of our own, of three classes, not yet prepared."""
    tensorflow.load()
    import tensorflow_datasets as tfds

    kinds = tfds.features
    features = features or {
        'image': kinds.Image(shape=(None, None, 3), encoding_format='png'),
        'label': kinds.ClassLabel(names=['ant', 'bee', 'cat']),
        'id': kinds.Text(),
    }

    def value(kind: Any, number: int) -> Any:
        if isinstance(kind, dict):
            return {key: value(inner, number) for key, inner in kind.items()}
        if isinstance(kind, kinds.Image):
            height, width, depth = kind.shape
            shape = (height or 5, width or 4, depth)
            return np.full(shape, number % 256, kind.np_dtype)
        return number % 3 if isinstance(kind, kinds.ClassLabel) else str(number)

    with tfds.core.registered.skip_registration():

        class TinyPictures(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version('1.0.0')

            def _info(self) -> Any:
                return tfds.core.DatasetInfo(
                    builder=self, features=kinds.FeaturesDict(features), supervised_keys=keys
                )

            def _split_generators(self, manager: Any) -> Any:
                del manager
                return {
                    part: self._generate_examples(100 * i, size)
                    for i, (part, size) in enumerate(sizes.items())
                }

            def _generate_examples(self, first: int, size: int) -> Any:
                for i in range(first, first + size):
                    yield i, {key: value(kind, i) for key, kind in features.items()}

    return TinyPictures(data_dir=str(root), file_format=format)


def prepared(root: Path, *args: Any, shards: int = 2, **kwargs: Any) -> Path:
    """The folder of a prepared dataset."""
    import tensorflow_datasets as tfds

    made = builder(root, *args, **kwargs)
    config = tfds.download.DownloadConfig(num_shards=shards)
    made.download_and_prepare(download_config=config)
    return Path(made.data_dir)


@pytest.fixture(scope='module')
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same dataset, prepared in each format."""
    root = tmp_path_factory.mktemp('tfds')
    return {kind: prepared(root / kind, format=kind) for kind in FORMATS}


def read(folder: Path, **fields: Any) -> tuple[Source, Source]:
    """The two sources of a prepared folder."""
    data = sources.create(**{'name': 'tfds', 'dataset': str(folder), **fields})
    return data.train, data.val


def everything(found: Source) -> list[tuple[int, int]]:
    """The number that each picture is painted with, and its label, read on several threads."""
    dataset = tf.data.Dataset.range(len(found)).map(found.read, num_parallel_calls=4)
    return [
        (np.asarray(Image.open(io.BytesIO(image))).flat[0], int(label))
        for image, label in dataset.as_numpy_iterator()
    ]


@pytest.mark.parametrize('kind', FORMATS)
def test_both_formats_are_read(datasets: dict[str, Path], kind: str, caplog: Any) -> None:
    """Each example is there once, encoded as stored; evaluation is on 'validation' and says so."""
    with caplog.at_level(logging.INFO, logger='jcls'):
        train, val = read(datasets[kind])
    assert "tiny_pictures/1.0.0 evaluates on its split 'validation'" in caplog.text
    assert sorted(everything(train)) == [(i, i % 3) for i in range(30)]
    assert sorted(everything(val)) == [(i, i % 3) for i in range(100, 107)]
    assert train.classes == val.classes == ('ant', 'bee', 'cat')
    assert train.image_size is None
    image, label = train.read(tf.constant(3, tf.int64))
    assert image.numpy()[:4] == b'\x89PNG'
    assert label.dtype == tf.int32
    assert Path(train.name(0)).name == f'tiny_pictures-train.{kind}-00000-of-00002[0]'
    assert Path(train.name(29)).name == f'tiny_pictures-train.{kind}-00001-of-00002[14]'


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('split', ['train[:40%]', 'train[7:22]', 'train[-3:]+test', 'test+train'])
def test_parts_of_splits(datasets: dict[str, Path], kind: str, split: str) -> None:
    """A part or a sum of splits has the examples that TFDS itself finds in it, in its order."""
    import tensorflow_datasets as tfds

    train, val = read(datasets[kind], split=split, val_split='test[1:]')
    theirs = tfds.builder_from_directory(str(datasets['tfrecord'])).as_dataset(split=split)
    wanted = [(int(e['image'][0, 0, 0]), int(e['label'])) for e in theirs.as_numpy_iterator()]
    assert sorted(everything(train)) == sorted(wanted)
    assert len(val) == 4
    assert len({train.name(i) for i in range(len(train))}) == len(train) == len(wanted)


def test_labels_of_array_records(
    datasets: dict[str, Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All labels come from one pass, which is remembered; so folds and subsets are possible."""
    train, _ = read(datasets['array_record'], split='train[5:]')
    labels = train.labels
    assert labels.dtype == np.int32
    assert labels.tolist() == [label for _, label in everything(train)]
    assert len(list(own_cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(arrayrecord, '_labels', None)
        again, _ = read(datasets['array_record'], split='train[5:]')
        np.testing.assert_array_equal(again.labels, labels)
    folds = [read(datasets['array_record'], folds=3, fold=k) for k in range(3)]
    seen = [everything(val) for _, val in folds]
    assert sorted(pair for part in seen for pair in part) == [(i, i % 3) for i in range(30)]
    for (train, _), held_out in zip(folds, seen, strict=True):
        assert sorted(everything(train) + held_out) == [(i, i % 3) for i in range(30)]
    with pytest.raises(ValueError, match=r'config\.data\.folds=3 .* inside TFRECORD files'):
        read(datasets['tfrecord'], folds=3)


@pytest.mark.parametrize('kind', FORMATS)
def test_training_starts_anywhere(datasets: dict[str, Path], kind: str) -> None:
    """Batches from the middle of an epoch are those of a run that began at the first step."""
    train, _ = read(datasets[kind])
    operation = augment.compose(({'name': 'random_resized_crop', 'size': 4},), 'augment')
    sample = train_sampler(30, 0, ProcessShard(8))

    def batches(start: int) -> list[Any]:
        found = pipeline.batches(
            train, operation, sample, start, 6, mean=(0.5,) * 3, damage=Damage()
        )
        return [(batch['image'].tobytes(), batch['label'].tolist()) for batch in found]

    assert batches(4) == batches(0)[4:]


def test_a_damaged_array_record_is_named(tmp_path: Path) -> None:
    """A record that cannot be read is masked out; the others are read as ever."""
    folder = prepared(tmp_path, shards=1)
    shard = folder / 'tiny_pictures-train.array_record-00000-of-00001'
    train, _ = read(folder)
    wanted = everything(train)
    content = bytearray(shard.read_bytes())
    content[2000] ^= 255  # in the middle of the records, 64 bytes into the file and on
    shard.write_bytes(content)
    train, _ = read(folder)
    sample, steps = eval_sampler(np.arange(30), ProcessShard(10))
    damage = Damage(1)
    operation = augment.compose(({'name': 'center_crop', 'size': 4},), 'augment')
    batches = pipeline.batches(train, operation, sample, 0, steps, mean=(0,) * 3, damage=damage)
    found = [
        (image[0, 0, 0], label, mask)
        for batch in batches
        for image, label, mask in zip(batch['image'], batch['label'], batch['mask'], strict=True)
    ]
    bad = [i for i, (_, _, mask) in enumerate(found) if not mask]
    assert len(bad) == 1
    assert list(damage.reasons) == [f'{shard}[{bad[0]}]']
    for i, (number, label) in enumerate(wanted):
        if i not in bad:
            assert found[i] == (number, label, 1)
    with pytest.raises(ValueError, match=rf'cannot read all labels: .*\[{bad[0]}\]'):
        _ = train.labels


def test_features_are_found(tmp_path: Path) -> None:
    """The keys are those that the dataset names, the only ones that fit, or those of the config."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    picture = functools.partial(kinds.Image, encoding_format='png')
    label = kinds.ClassLabel(num_classes=3)
    alone = {'inner': {'photo': picture(shape=(6, 7, 1))}, 'kind': label, 'other': kinds.Text()}
    train, _ = read(prepared(tmp_path / 'alone', alone, keys=None))
    assert train.classes == ('0', '1', '2')
    assert train.image_size == (6, 7)
    assert sorted(number for number, _ in everything(train)) == list(range(30))
    two = {'a': picture(shape=(5, 4, 3)), 'b': picture(shape=(3, 3, 3)), 'y': label, 'z': label}
    folder = prepared(tmp_path / 'two', two, keys=('b', 'z'))
    assert read(folder)[0].image_size == (3, 3)
    assert read(folder, image_key='a', label_key='y')[0].image_size == (5, 4)
    with pytest.raises(ValueError, match=r"image_key='y': must name one Image of tiny.*y \(Class"):
        read(folder, image_key='y')
    folder = prepared(tmp_path / 'unnamed', two, keys=None)
    with pytest.raises(ValueError, match=r'config\.data\.image_key: must name one Image'):
        read(folder)
    with pytest.raises(ValueError, match=r'config\.data\.label_key: must name one ClassLabel'):
        read(folder, image_key='a')
    deep = {'image': kinds.Image(shape=(4, 4, 1), dtype=np.uint16, encoding_format='png')}
    with pytest.raises(ValueError, match=r'images of tiny_pictures.* are uint16.*must be uint8'):
        read(prepared(tmp_path / 'deep', {**deep, 'label': label}))


def test_splits_that_are_not_there(datasets: dict[str, Path], tmp_path: Path, caplog: Any) -> None:
    """A split that is unknown or empty is an error with the known ones; an overlap is a warning."""
    folder = datasets['array_record']
    sizes = r'train \(30\), validation \(7\), test \(5\)'
    for fields, message in (
        (
            {'split': 'trian'},
            rf"config\.data\.split='trian': .*tiny_pictures/1\.0\.0 has .*{sizes}",
        ),
        ({'val_split': 'train[:x]'}, rf"config\.data\.val_split='train\[:x\]': .*{sizes}"),
        ({'split': 'train[:0]'}, rf"config\.data\.split='train\[:0\]' is empty; .*{sizes}"),
    ):
        with pytest.raises(ValueError, match=message.replace(sizes, '.*')) as error:
            read(folder, **fields)
        for name, size in SIZES.items():
            assert f'{name} ({size})' in str(error.value)
    read(folder, split='train[:10]', val_split='train[10:]')
    assert 'share' not in caplog.text
    read(folder, split='train', val_split='train[20:]')
    assert 'train and train[20:] of tiny_pictures/1.0.0 share examples' in caplog.text
    only_test = prepared(tmp_path / 'only', sizes={'train': 6, 'test': 3})
    assert len(read(only_test)[1]) == 3
    alone = prepared(tmp_path / 'alone', sizes={'train': 6})
    with pytest.raises(
        ValueError, match=r'val_split: .* neither validation nor test.*train\[90%:\]'
    ):
        read(alone)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """Missing shards, and shards of fewer records than promised, are errors that name them."""
    folder = prepared(tmp_path, format='tfrecord')
    shard = folder / 'tiny_pictures-train.tfrecord-00001-of-00002'
    content = shard.read_bytes()
    length = int.from_bytes(content[:8], 'little') + 16
    shard.write_bytes(content[:length])
    with pytest.raises(ValueError, match=rf'{shard} has 1 records, but its dataset_info.* says 15'):
        read(folder)
    shard.unlink()
    with pytest.raises(ValueError, match=rf"1 of the 2 shards of 'train' are missing.*{shard}"):
        read(folder)
    broken = prepared(tmp_path / 'broken')
    (broken / 'dataset_info.json').write_text('{"name": ')
    with pytest.raises(ValueError, match=r"config\.data\.dataset='.*1\.0\.0' is not readable"):
        read(broken)


def test_datasets_that_are_not_there(datasets: dict[str, Path], tmp_path: Path) -> None:
    """An unknown dataset is an error with the nearest known one, a folder with the right one."""
    for dataset, message in (
        ('cifer10', r"knows no such dataset; did you mean 'cifar10'\?.*catalog"),
        ('cifar10/nope', r"config\.data\.dataset='cifar10/nope': .*BuilderConfig nope not found"),
        ('cifar10:9.9.9', r"config\.data\.dataset='cifar10:9\.9\.9': .*version 9\.9\.9"),
        ('two words', r"config\.data\.dataset='two words': (?s:.*)format"),
        ('mars:cifar10', r"config\.data\.dataset='mars:cifar10': "),
        (
            str(tmp_path / 'nowhere'),
            r"nowhere': the folder of a prepared dataset has a dataset_info",
        ),
        (
            str(datasets['tfrecord'].parent),
            r'has none; .*dataset=.*/tiny_pictures/1\.0\.0$',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            read(Path(dataset), dataset=dataset, dir=str(tmp_path))


def test_names_are_looked_up_in_the_folder(datasets: dict[str, Path]) -> None:
    """A dataset without code is found by its name, version and all, where it was prepared."""
    root = str(datasets['array_record'].parents[1])
    for name in ('tiny_pictures', 'tiny_pictures:1.0.0'):
        assert len(read(Path(), dataset=name, dir=root)[0]) == 30


def test_how_to_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that is not prepared is an error with the command that does it, and the folder."""
    with pytest.raises(ValueError, match='is not prepared') as error:
        read(Path(), dataset='cifar10', dir=str(tmp_path / 'a b'))
    command = (
        "python -c \"import tensorflow_datasets as tfds; tfds.builder('cifar10', "
        f"data_dir='{tmp_path}/a b', file_format='array_record').download_and_prepare()\""
    )
    assert command in str(error.value)
    assert f'{tmp_path}/a b/cifar10/3.0.2' in str(error.value)
    assert 'by a program' not in str(error.value)
    with pytest.raises(ValueError, match='is not prepared') as error:
        read(Path(), dataset='imagenet2012', dir=str(tmp_path))
    for words in (
        'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar',
        'https://image-net.org/download-images',
        f'Put them into {tmp_path}/downloads/manual',
        "tfds.builder('imagenet2012', ",
        'ARRAY_RECORD is the recommended format',
    ):
        assert words in str(error.value)
    home = tmp_path / 'home'
    monkeypatch.setattr('tensorflow_datasets.core.constants.DATA_DIR', str(home))
    with pytest.raises(ValueError, match=r"tfds\.builder\('imagenet2012', file_format") as error:
        read(Path(), dataset='imagenet2012')
    assert 'downloads/manual' in str(error.value)


def test_the_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the error says to run prepares the dataset where it is then found."""
    import tensorflow_datasets as tfds

    made = builder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(tfds, 'builder', lambda *_, **__: made)
        with pytest.raises(ValueError, match='is not prepared') as error:
            find_builder('tiny_pictures', str(tmp_path))
        command = str(error.value).split('python -c "')[1].split('"\n')[0]
        exec(command)  # a line of our own
    train, _ = read(Path(), dataset='tiny_pictures', dir=str(tmp_path))
    assert len(train) == 30
    assert 'array_record' in train.name(0)


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is raised when there are many shards, and is an error when it cannot be."""
    limits = [(1024, 2000)]
    monkeypatch.setattr(resource, 'getrlimit', lambda _: limits[-1])
    monkeypatch.setattr(resource, 'setrlimit', lambda _, new: limits.append(new))
    arrayrecord.allow_open_files(512)
    assert limits == [(1024, 2000)]
    arrayrecord.allow_open_files(1024)
    assert limits[-1] == (1536, 2000)
    with pytest.raises(
        ValueError, match=r'1500 shards .* allows 2000 open files; `ulimit -Hn 2012`'
    ):
        arrayrecord.allow_open_files(1500)
