"""The files of `torch.save` and `paddle.save`, read without torch and without Paddle.

torch writes a zip archive since 1.6; before, it wrote a stream of pickles and numbers. Paddle
writes a pickled dictionary of NumPy arrays.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

from jcls.weights.foreign.kinds import ZIP, NoWeightsError
from jcls.weights.foreign.unpickle import Array, Reader, RefusedError, Storage, Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def read_pickle(path: Path) -> Any:
    """The content of the file: dictionaries, lists, numbers, and tensors as NumPy arrays.

    Raises:
      ValueError: if the file is damaged, is no pickle of tensors, or names anything else.
    """
    try:
        with path.open('rb') as file:
            start = file.read(4)
            file.seek(0)
            if start == ZIP:
                return _Plain(path).of(_read_zip(path))
            if len(start) < 4 or start[0] != 0x80:  # PROTO, which begins every pickle since 2003
                raise ValueError('it is neither a zip archive of torch nor a pickle')
            return _Plain(path).of(_read_stream(file))
    except RefusedError as error:
        raise ValueError(
            f'{path} is refused: {error}. Only files that build tensors are read, because a pickle '
            'can run any program; save the weights alone: torch.save(model.state_dict(), ...), or '
            'as .safetensors'
        ) from None
    except RecursionError:
        raise ValueError(f'{path} is refused: it is nested too deeply') from None
    except (
        ValueError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, KeyError, IndexError,
        TypeError, AttributeError, UnicodeError, OverflowError, MemoryError, struct.error,
        RuntimeError, OSError,  # an encrypted or unknown zip; a place outside the file
    ) as error:  # fmt: skip
        reason = str(error) or 'it ends too early'
        if isinstance(error, LookupError | TypeError | AttributeError | struct.error):
            reason = f'it is damaged ({error!r})'
        raise NoWeightsError(f'{path} cannot be read as the weights of a model: {reason}') from None


def _read_zip(path: Path) -> Any:
    """Read a zip: ``<name>/data.pkl`` refers to ``<name>/data/<key>``, little-endian by default."""
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise ValueError('its records are compressed, or reach over each other')
        names = {name.partition('/')[2]: name for name in archive.namelist()}
        if 'data.pkl' not in names:
            raise ValueError('it is a zip archive, but not one of torch')
        if 'byteorder' in names and archive.read(names['byteorder']) != b'little':
            raise ValueError('its numbers are big-endian; save it on a little-endian machine')
        storages: dict[str, Storage] = {}

        def load(pid: Any) -> Storage:
            _, dtype, key, _, size = pid
            if not isinstance(key, str):
                raise ValueError('a storage without a name')
            if key not in storages:
                storages[key] = Storage(dtype, size)
                storages[key].fill(archive.read(names[f'data/{key}']))
            return storages[key]

        return Reader(io.BytesIO(archive.read(names['data.pkl'])), load).load()


def _read_stream(file: IO[bytes]) -> Any:
    """Read torch's older format, if the file starts with its number, or else a single pickle."""
    first = Reader(file).load()
    if first != LEGACY_MAGIC:
        return first
    if Reader(file).load() != LEGACY_PROTOCOL:
        raise ValueError("an unknown version of torch's older format")
    system = Reader(file).load()
    if not system.get('little_endian', True):
        raise ValueError('its numbers are big-endian; save it on a little-endian machine')
    storages: dict[str, Storage] = {}

    def load(pid: Any) -> Storage:
        kind, dtype, key, _, size, view = pid
        if not isinstance(key, str):
            raise ValueError('a storage without a name')
        if kind != 'storage' or view is not None:
            raise ValueError('a view of a storage, as torch before 0.4 wrote it')
        return storages.setdefault(key, Storage(dtype, size))

    content = Reader(file, load).load()
    whole = os.fstat(file.fileno()).st_size
    for key in Reader(file).load():
        if not isinstance(key, str):
            raise ValueError('a storage without a name')
        size = int.from_bytes(file.read(8), 'little')
        if size != storages[key].size:
            raise ValueError(f'a storage of {storages[key].size} values has {size}: truncated')
        content_size = size * storages[key].dtype.itemsize
        if content_size > whole - file.tell():
            raise ValueError('it ends too early')
        storages[key].fill(file.read(content_size))
    return content


class _Plain:
    """Replaces tensors by arrays; objects that occur twice are made once."""

    def __init__(self, path: Path) -> None:
        self.done: dict[int, Any] = {}
        self.left = 16 * path.stat().st_size + 2**24  # bytes; many tensors may share a storage

    def of(self, value: Any) -> Any:
        if not isinstance(value, Tensor | Array | dict | list | tuple):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._make(value)
        return self.done[id(value)]

    def _make(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        array = value.array()
        self.left -= array.nbytes
        if self.left < 0:
            raise ValueError('its tensors are many times larger than the file')
        return array
