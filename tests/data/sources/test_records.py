"""TFRECORD shards: their index, what is read through it, and what is said of damaged ones."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jcls.data import augment, pipeline, sources
from jcls.data.pipeline import Damage
from jcls.data.sampler import ProcessShard, epoch_order, eval_sampler, train_sampler
from jcls.data.sources import tfrecord
from jcls.data.sources.source import Source
from jcls.host.tensorflow import tf

SHARDS = (3, 0, 4, 2)  # records in each
NAMES = [f'train-{i:05d}-of-00004' for i in range(4)]
ENCODED, LABEL = 'image/encoded', 'image/class/label'


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is remembered of files goes to the test's own folder."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'jcls'


def picture(number: int) -> bytes:
    """A PNG of 12 x 10 in its own colour."""
    file = io.BytesIO()
    Image.new('RGB', (12, 10), (number, 0, 0)).save(file, 'PNG')
    return file.getvalue()


def example(**features: Any) -> bytes:
    """A serialized Example; a feature is a list of bytes, integers or floats."""
    kinds = {
        bytes: lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=v)),
        int: lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=v)),
        float: lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
    }
    made = {key: kinds[type(value[0])](value) for key, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def good(number: int) -> bytes:
    """A record: picture `number` of class number % 3, which is 1, 2 or 3 in the file."""
    return example(**{ENCODED: [picture(number)], LABEL: [number % 3 + 1], 'image/height': [10]})


def write(path: Path, *records: bytes, compression: str = '') -> None:
    """A TFRECORD file, by TensorFlow's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)


def imagenet(root: Path) -> Path:
    """Nine training records in four shards, one of them empty, and four more for validation."""
    number = iter(range(9))
    for name, count in zip(NAMES, SHARDS, strict=True):
        write(root / name, *(good(next(number)) for _ in range(count)))
    write(root / 'validation-00000-of-00001', *map(good, range(100, 104)))
    return root


def read(root: Path, **fields: Any) -> tuple[Source, Source]:
    """The two sources, of three classes unless said otherwise."""
    data = sources.create(**{'name': 'records', 'dir': str(root), 'num_classes': 3, **fields})
    return data.train, data.val


def everything(found: Source) -> list[tuple[bytes, int]]:
    """Every image and its label, read in a graph on several threads."""
    dataset = tf.data.Dataset.range(len(found)).map(found.read, num_parallel_calls=4)
    return [(image, int(label)) for image, label in dataset.as_numpy_iterator()]


def test_records_are_read_in_any_order(tmp_path: Path) -> None:
    """Each record of each shard is an example: the image as stored, the label from 0, a name."""
    train, val = read(imagenet(tmp_path))
    assert everything(train) == [(picture(i), i % 3) for i in range(9)]
    assert everything(val) == [(picture(i), i % 3) for i in range(100, 104)]
    for i in (8, 0, 4, 4):
        image, label = train.read(tf.constant(i, tf.int64))
        assert (image.numpy(), label.numpy()) == (picture(i), i % 3)
        assert label.dtype == tf.int32
    assert train.classes == val.classes == ('0', '1', '2')
    assert [Path(train.name(i)).name for i in (0, 2, 3, 8)] == [
        f'{NAMES[0]}[0]',
        f'{NAMES[0]}[2]',
        f'{NAMES[2]}[0]',
        f'{NAMES[3]}[1]',
    ]


def test_other_layouts_are_fields(tmp_path: Path) -> None:
    """Names of files and features, the first label and the class names are what is said."""
    records = [example(jpg=[picture(i)], y=[i]) for i in range(3)]
    write(tmp_path / 'sub' / 'a.tfrecord', *records)
    write(tmp_path / 'b.tfrecord', *reversed(records))
    (tmp_path / 'names.txt').write_text('ant\n\nbumble bee\r\ncat\n')
    train, val = read(
        tmp_path,
        train='sub/*.tfrecord',
        val='b.tfrecord',
        image_key='jpg',
        label_key='y',
        label_offset=0,
        classes=str(tmp_path / 'names.txt'),
    )
    assert train.classes == ('ant', 'bumble bee', 'cat')
    assert everything(train) == everything(val)[::-1] == [(picture(i), i) for i in range(3)]


def test_training_starts_anywhere(tmp_path: Path) -> None:
    """Batches from the middle of an epoch are those of a run that began at the first step."""
    train, _ = read(imagenet(tmp_path))
    operation = augment.compose(({'name': 'random_resized_crop', 'size': 8},), 'augment')

    def batches(start: int) -> list[Any]:
        sample = train_sampler(9, 0, ProcessShard(4))
        mean = (0.5, 0.5, 0.5)
        return [
            (batch['image'].tobytes(), batch['label'].tolist())
            for batch in pipeline.batches(
                train, operation, sample, start, 6, mean=mean, damage=Damage()
            )
        ]

    whole = batches(0)
    assert batches(3) == whole[3:]
    order = np.concatenate([epoch_order(0, epoch, 9)[:8] for epoch in range(3)])
    assert [label for _, labels in whole for label in labels] == (order % 3).tolist()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    """A record whose checksum is wrong is masked out; the others are read as ever."""
    train, _ = read(imagenet(tmp_path))
    shard = tmp_path / NAMES[2]
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    operation = augment.compose(({'name': 'center_crop', 'size': 8},), 'augment')
    sample, steps = eval_sampler(np.arange(9), ProcessShard(3))
    damage = Damage(1)
    found = pipeline.batches(train, operation, sample, 0, steps, mean=(0, 0, 0), damage=damage)
    masks = np.concatenate([batch['mask'] for batch in found])
    np.testing.assert_array_equal(masks, [1, 1, 1, 0, 1, 1, 1, 1, 1])
    assert list(damage.reasons) == [f'{shard}[0]']
    assert 'corrupted record' in damage.reasons[f'{shard}[0]']


def test_a_label_that_is_no_class_is_an_error(tmp_path: Path) -> None:
    """A wrong label in the middle of the data is a mistake with the record's name, not damage."""
    records = [good(0), example(**{ENCODED: [picture(1)], LABEL: [4]})]
    write(tmp_path / 'train-00000-of-00001', *records)
    write(tmp_path / 'validation-00000-of-00001', *records)
    train, _ = read(tmp_path)
    operation = augment.compose(({'name': 'center_crop', 'size': 8},), 'augment')
    sample, _ = eval_sampler(np.arange(2), ProcessShard(2))
    message = r'label of .*train-00000-of-00001\[1\] is 4, but must be in 1\.\.3: 3 classes'
    with pytest.raises(ValueError, match=message):
        list(pipeline.batches(train, operation, sample, 0, 1, mean=(0, 0, 0), damage=Damage(9)))


def test_classes_without_records_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By reading the records, if they are few."""
    imagenet(tmp_path)
    assert read(tmp_path)[0].absent() == []
    train, _ = read(tmp_path, num_classes=5)
    assert train.absent() == ['3', '4']
    monkeypatch.setattr('jcls.data.sources.source.FEW_RECORDS', len(train) - 1)
    assert train.absent() is None


@pytest.mark.parametrize('field', ['folds', 'subset', 'balanced'])
def test_labels_are_refused(tmp_path: Path, field: str) -> None:
    """What needs every label at once is refused with the field that asks and the way out."""
    value = {'folds': 2, 'subset': 0.5, 'balanced': True}[field]
    message = rf'config\.data\.{field}.* inside TFRECORD files.*ARRAY_RECORD'
    with pytest.raises(ValueError, match=message):
        read(imagenet(tmp_path), **{field: value})


def test_the_index_against_tensorflows_reader(tmp_path: Path) -> None:
    """Payloads found by the index are TensorFlow's, of all lengths, empty ones included."""
    draw = random.Random(0)
    payloads = [draw.randbytes(draw.choice([0, 1, 11, 12, 13, 1000, 70_000])) for _ in range(60)]
    shards = [str(tmp_path / name) for name in 'ab']
    write(Path(shards[0]), *payloads[:25])
    write(Path(shards[1]), *payloads[25:])
    table = tfrecord.index(shards)
    assert table.dtype == np.int64
    np.testing.assert_array_equal(table[:, 0], [0] * 25 + [1] * 35)
    assert table[:, 2].tolist() == list(map(len, payloads))
    assert [tfrecord.payload(shards, table, row) for row in range(60)] == payloads
    fetch = tfrecord.reader(shards, table)
    dataset = tf.data.Dataset.range(60).map(fetch)
    assert list(dataset.as_numpy_iterator()) == payloads


def test_the_checksum_of_a_length(tmp_path: Path) -> None:
    """The masked CRC-32C of 8 bytes is the one in TensorFlow's files; unmasked it is RFC 3720's."""
    write(tmp_path / 'a', b'x' * 300)
    stored = np.frombuffer((tmp_path / 'a').read_bytes()[8:12], '<u4')
    np.testing.assert_array_equal(tfrecord.masked_crc(np.array([300], np.uint64)), stored)
    masked = int(tfrecord.masked_crc(np.frombuffer(b'\xff' * 8, np.uint64))[0])
    turned = (masked - 0xA282EAD8) % 2**32
    bits = ''.join(
        f'{byte:08b}'[::-1] for byte in b'\xff' * 8
    )  # division by the polynomial, slowly
    remainder = int(''.join('10'[int(b)] for b in bits[:32]) + bits[32:] + '0' * 32, 2)
    for place in range(95, 31, -1):
        if remainder >> place & 1:
            remainder ^= 0x11EDC6F41 << (place - 32)
    crc = int(f'{remainder ^ 0xFFFFFFFF:032b}'[::-1], 2)
    assert (turned >> 17 | turned << 15) % 2**32 == crc


def test_the_index_is_remembered(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made once, and again when a shard changes."""
    shards = [str(imagenet(tmp_path) / name) for name in NAMES]
    first = tfrecord.index(shards)
    assert len(list(own_cache.iterdir())) == 1
    scans: list[str] = []
    scan = tfrecord._scan
    monkeypatch.setattr(tfrecord, '_scan', lambda shard: scans.append(shard) or scan(shard))
    np.testing.assert_array_equal(tfrecord.index(shards), first)
    assert not scans
    os.utime(shards[0], ns=(1, 1))
    np.testing.assert_array_equal(tfrecord.index(shards), first)
    assert sorted(scans) == shards
    write(Path(shards[3]), good(1))
    assert len(tfrecord.index(shards)) == 8


def test_shards_that_are_not_whole(tmp_path: Path) -> None:
    """A truncated, changed, compressed or foreign file is an error with the shard and the byte."""
    write(tmp_path / 'good', *map(good, range(3)))
    whole = (tmp_path / 'good').read_bytes()
    starts = [0]
    for _ in range(3):
        starts.append(
            starts[-1] + 16 + int.from_bytes(whole[starts[-1] : starts[-1] + 8], 'little')
        )
    second, third, end = starts[1:]
    changed, long = bytearray(whole), bytearray(whole)
    changed[second] ^= 1
    long[third + 5] ^= 1
    wrong = {
        'payload': (
            whole[:-9],
            rf'truncated: .* byte {third}\b.* end of the file at byte {end - 9}',
        ),
        'footer': (whole[:-1], rf'truncated: .* byte {third}\b'),
        'header': (whole[: third + 5], rf'truncated: .* byte {third}\b'),
        'length': (bytes(changed), rf'no TFRECORD header at byte {second}\b.*copy it again'),
        'longer': (bytes(long), rf'no TFRECORD header at byte {third}\b'),
        'text': (b'a' * 100, r'no TFRECORD header at byte 0\b'),
        'few': (b'abc', r'truncated: .* byte 0\b'),
    }
    for name, (content, message) in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf'{tmp_path / name}.*{message}'):
            tfrecord.index([str(tmp_path / 'good'), str(tmp_path / name)])
    write(tmp_path / 'gz', good(0), compression='GZIP')
    with pytest.raises(ValueError, match=r'gz: no TFRECORD header at byte 0\b.*compressed'):
        tfrecord.index([str(tmp_path / 'gz')])
    with pytest.raises(ValueError, match=r'cannot read .*none: No such file'):
        tfrecord.index([str(tmp_path / 'none')])


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        (example(img=[b'x'], label=[1]), r"image_key='image/encoded': .*train-.*\[0\] has no such "
         r'feature.*it has img \(bytes_list\), label \(int64_list\)'),
        (example(**{ENCODED: [b'x'], 'image/class/labels': [1]}), r"label_key='image/class/label'.*"
         r"did you mean 'image/class/labels'\?"),
        (example(**{ENCODED: [1.5], LABEL: [1]}), r'image_key=.* it is a float_list of 1.*bytes'),
        (example(**{ENCODED: [b'x'], LABEL: [1, 2]}), r'label_key=.* it is a int64_list of 2'),
        (example(**{ENCODED: [b'x'], LABEL: [0]}), r'label of .*\[0\] is 0, but must be in 1\.\.3'),
        (example(**{ENCODED: [b'x'], LABEL: [4]}), r'label of .*\[0\] is 4, but must be in 1\.\.3'),
        (b'no example', r'train-00000-of-00001\[0\] is not a tf\.train\.Example'),
    ],
    ids=('image', 'label', 'float image', 'labels', 'low', 'high', 'no example'),
)  # fmt: skip
def test_another_layout_is_found_at_once(tmp_path: Path, record: bytes, message: str) -> None:
    """The first record is looked at before any training, and the error lists what is in it."""
    write(tmp_path / 'train-00000-of-00001', record)
    write(tmp_path / 'validation-00000-of-00001', good(0))
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_what_is_wrong_with_the_files(tmp_path: Path) -> None:
    """Missing, mixed or empty shards and impossible fields are errors that name them."""
    root = imagenet(tmp_path / 'good')
    (tmp_path / 'names').write_text('a\nb\n')
    for fields, message in (
        ({'dir': str(tmp_path / 'no')}, r"config\.data\.dir='.*no': no such folder"),
        (
            {'train': 'tra-*'},
            r"config\.data\.train='tra-\*': no such file in .*, which has train-0",
        ),
        (
            {'val': '*-of-*'},
            r"config\.data\.val='\*-of-\*' matches different sets of shards: train",
        ),
        ({'num_classes': 1}, r'config\.data\.num_classes=1: at least 2'),
        ({'classes': str(tmp_path / 'names')}, r'names 2 classes, but config\.data\.num_classes=3'),
        ({'classes': 'no such'}, r"config\.data\.classes='no such': not a readable text file"),
    ):
        with pytest.raises(ValueError, match=message):
            read(root, **fields)
    (root / NAMES[1]).unlink()
    (root / NAMES[2]).unlink()
    with pytest.raises(
        ValueError, match=rf'2 of 4 shards are missing in .*: {NAMES[1]}, {NAMES[2]}$'
    ):
        read(root)
    write(tmp_path / 'empty' / 'train-00000-of-00001')
    with pytest.raises(ValueError, match=r'no records in .*train-00000-of-00001$'):
        read(tmp_path / 'empty', val='train-*')
    for name in ('train-00000-of-00001', 'train-b-00000-of-00001'):
        write(tmp_path / 'two' / name, good(0))
    with pytest.raises(ValueError, match=r"'train-\*-of-\*' matches 2 files.*as 1 shards"):
        read(tmp_path / 'two', val='train-00*')
