"""TFRECORD shards at random access, by an index of where each record begins, made once.

A shard is a sequence of records. Each has the length in 8 bytes, little endian, their masked
CRC-32C in 4, the payload, and its masked CRC-32C in 4:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details

Indexing reads and checks only the 12 bytes before each payload; reading a record checks the rest.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jcls.data.sources.source import Source, constant
from jcls.data.sources.tf_example import Layout
from jcls.host.cache import fingerprint, remembered
from jcls.host.tensorflow import tf
from jcls.host.terminal import progress

HEADER, FOOTER = 12, 4  # bytes before and after a payload
THREADS = 32  # they wait for the disk, not for the processor


def index(shards: Sequence[str]) -> np.ndarray:
    """The shard, first byte and length of each record's payload, in order: int64 [N, 3].

    Raises:
      ValueError: for a shard that is missing, truncated, damaged or no TFRECORD; it names the byte.
    """

    def whole() -> np.ndarray:
        with (
            progress('indexing TFRECORD shards', len(shards)) as advance,
            ThreadPoolExecutor(THREADS) as pool,
        ):

            def records(number: int) -> np.ndarray:
                positions = _scan(shards[number])
                advance(1)
                return np.insert(positions, 0, number, axis=1)

            return np.concatenate(list(pool.map(records, range(len(shards)))))

    return remembered('index', fingerprint(shards), whole)


def shard_source(
    shards: Sequence[str], table: np.ndarray, layout: Layout, classes: tuple[str, ...]
) -> Source:
    """A source of all records of an `index`; the layout of the first one is checked.

    It refuses to give all labels at once, since that would mean reading every record.
    """
    if not len(table):
        raise ValueError(f'no records in {shards[0]}{" and the others" if shards[1:] else ""}')
    name, record = record_name(shards, table), reader(shards, table)
    layout.check(payload(shards, table, 0), name(0))
    return Source(
        lambda index: layout.parse(record(index), index, name),
        len(table),
        classes,
        None,
        name,
        in_records=True,
    )


def reader(shards: Sequence[str], table: np.ndarray) -> Callable[[Any], Any]:
    """A function from a row of an `index`, an int64 tf scalar, to the record, a tf string scalar.

    A record that is damaged or missing is an OpError.
    """
    files = constant(np.array([os.fsencode(shard) for shard in shards]))
    places = constant(table[:, :2] - [0, HEADER])

    def read(row: Any) -> Any:
        shard, place = tf.unstack(tf.gather(places(), row))
        # TensorFlow's own reader, opened at the record, needs no lock of Python's.
        kind = {'output_types': [tf.string], 'output_shapes': [[]]}
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(files(), shard)[None],
            compression_type='',
            buffer_size=tf.constant(0, tf.int64),
            byte_offsets=place[None],
        )
        first = tf.raw_ops.TakeDataset(input_dataset=records, count=tf.ones([], tf.int64), **kind)
        return tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0]

    return read


def payload(shards: Sequence[str], table: np.ndarray, row: int) -> bytes:
    """The bytes of one record, read without TensorFlow and unchecked."""
    shard, place, length = map(int, table[row])
    with Path(shards[shard]).open('rb') as file:
        file.seek(place)
        return file.read(length)


def _scan(shard: str) -> np.ndarray:
    """The first byte and the length of each payload of a shard: int64 [n, 2]."""
    headers, places, place = bytearray(), [], 0
    try:
        with Path(shard).open('rb', buffering=0) as file:
            number, size = file.fileno(), os.fstat(file.fileno()).st_size
            if hasattr(os, 'posix_fadvise'):  # do not read ahead what is skipped
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_RANDOM)
            while place < size:
                header = os.pread(number, HEADER, place)
                headers += header.ljust(HEADER, b'\0')
                places.append(place)
                place += HEADER + struct.unpack_from('<Q', headers, len(headers) - HEADER)[0]
                place += FOOTER
    except OSError as error:
        raise ValueError(f'cannot read {shard}: {error.strerror}') from None
    table = np.frombuffer(headers, np.dtype([('length', '<u8'), ('crc', '<u4')]))
    wrong = np.flatnonzero(masked_crc(table['length']) != table['crc'])
    cut = place - size if places else 0
    if len(wrong) and not (cut and wrong[0] == len(places) - 1 and size - places[-1] < HEADER):
        where = places[wrong[0]]
        cure = 'copy it again' if where else 'is it compressed? Random access needs it plain'
        raise ValueError(
            f'{shard}: no TFRECORD header at byte {where:,}, its checksum is wrong; {cure}'
        )
    if cut:
        raise ValueError(
            f'{shard} is truncated: the record at byte {places[-1]:,} goes beyond the end of the '
            f'file at byte {size:,}; copy it again'
        )
    firsts = np.array(places, np.int64) + HEADER
    return np.stack([firsts, table['length'].astype(np.int64)], axis=1)


def masked_crc(lengths: np.ndarray) -> np.ndarray:
    """The masked CRC-32C (Castagnoli) of each number's 8 bytes: uint64 [n] -> uint32 [n].

    The mask, rotate right by 15 and add 0xa282ead8, is TensorFlow's.
    """
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    crc: np.ndarray = np.full(len(lengths), 0xFFFFFFFF, np.uint32)
    for byte in lengths.astype('<u8').view(np.uint8).reshape(-1, 8).T:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    crc = ~crc
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def record_name(shards: Sequence[str], table: np.ndarray) -> Callable[[int], str]:
    """The name of a record by its row of an `index`: '<shard>[<number in it>]'."""
    firsts = [0, *itertools.accumulate(np.bincount(table[:, 0], minlength=len(shards)).tolist())]

    def name(row: int) -> str:
        shard = int(table[row, 0])
        return f'{shards[shard]}[{row - firsts[shard]}]'

    return name
