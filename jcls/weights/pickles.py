"""Tensors out of other systems' pickles, without those systems and without running anything.

A pickle is a program: it may name any function of any module and call it. The reader here knows
the few names that tensors are made of and gives each a meaning of its own; none of the real ones is
ever imported, and a file that names another is refused. Formats: `torch.save`'s zip archive (since
torch 1.6) and the stream before it, and `paddle.save`'s dictionary of NumPy arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

STORAGES = {
    'DoubleStorage': np.float64, 'FloatStorage': np.float32, 'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16, 'LongStorage': np.int64, 'IntStorage': np.int32,
    'ShortStorage': np.int16, 'CharStorage': np.int8, 'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}  # fmt: skip
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


class RefusedError(ValueError):
    """The pickle names something that is not needed to build tensors."""


class _Tensor:
    """A view of a storage whose bytes may come later, as they do in the stream format."""

    def __init__(self, storage: _Storage, offset: int, shape: Any, strides: Any) -> None:
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def array(self) -> np.ndarray:
        if self.storage.values is None:
            raise ValueError('a tensor lacks its storage')
        sizes = (*self.shape, *self.strides, self.offset)
        if len(self.shape) != len(self.strides) or not all(
            type(n) is int and n >= 0 for n in sizes
        ):
            raise ValueError(f'a tensor of shape {self.shape} and strides {self.strides}')
        values = self.storage.values
        if 0 in self.shape:
            return np.empty(self.shape, values.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if last >= values.size or math.prod(self.shape) > values.size:
            raise ValueError(f'a tensor reaches beyond its storage of {values.size} values')
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, [s * values.itemsize for s in self.strides]
        )
        return np.ascontiguousarray(view).reshape(self.shape)


class _Storage:
    def __init__(self, dtype: Any, size: int) -> None:
        self.dtype, self.size = np.dtype(dtype), size
        self.values: np.ndarray | None = None

    def fill(self, content: bytes) -> None:
        if len(content) != self.size * self.dtype.itemsize:
            raise ValueError(
                f'a storage of {self.size} {self.dtype} has {len(content)} bytes: truncated'
            )
        self.values = np.frombuffer(content, self.dtype)


class _Array:
    """What stands for a `numpy.ndarray` until its state arrives."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(content, bytes) or not isinstance(dtype, _Dtype):
            raise ValueError('an array of objects')
        values = np.frombuffer(content, dtype.value)
        self.value = values.reshape(shape, order='F' if fortran else 'C')

    def array(self) -> np.ndarray:
        return np.ascontiguousarray(self.value).reshape(self.value.shape)


class _Dtype:
    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u1', 'b1'):
            raise RefusedError(f'arrays of type {code!r}')
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in '<>':
            self.value = self.value.newbyteorder(state[1])


class _Record(dict):
    """Stands for a dictionary or an object beside the weights: its attributes are thrown away."""

    def __setstate__(self, state: Any) -> None:
        pass


def _encode(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode`, by which pickles of protocol 2 carry bytes."""
    if encoding != 'latin1':
        raise RefusedError(f'the encoding {encoding!r}')
    return text.encode('latin1')


def _scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(content, bytes):
        raise RefusedError('a number of bytes that are none')
    return np.frombuffer(content, dtype.value)[0]


def _attribute(holder: Any, name: Any) -> str:
    """`getattr`, by which mmengine names methods of its histories; nothing is looked up."""
    if not (isinstance(holder, type) and issubclass(holder, _Record)):
        raise RefusedError(f'it asks for the attribute {name!r} of an object')
    return str(name)


def _meanings() -> dict[tuple[str, str], Any]:
    """What each name means that a file may use; made anew for every file, which may alter them."""
    known: dict[tuple[str, str], Any] = {
        (module, name): type('Record', (_Record,), {})
        for module, name in (
            ('collections', 'OrderedDict'),
            ('collections', 'Counter'),
            ('argparse', 'Namespace'),
            ('mmengine.logging.history_buffer', 'HistoryBuffer'),  # in its training checkpoints
        )
    }
    known |= {
        ('torch._utils', '_rebuild_tensor'): lambda *args: _Tensor(*args[:4]),
        ('torch._utils', '_rebuild_tensor_v2'): lambda *args: _Tensor(*args[:4]),
        ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
        ('builtins', 'tuple'): lambda values=(): tuple(values),
        ('torch', 'Size'): lambda sizes=(): tuple(sizes),
        ('torch', 'device'): lambda *names: str(names),
        ('_codecs', 'encode'): lambda *args: _encode(*args),
        ('numpy', 'dtype'): type('Dtype', (_Dtype,), {}),
        ('numpy', 'ndarray'): 'ndarray',
    }
    for core in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        known[core, '_reconstruct'] = lambda *_: _Array()
        known[core, 'scalar'] = lambda dtype, content: _scalar(dtype, content)
    for builtins in ('builtins', '__builtin__'):
        known[builtins, 'getattr'] = lambda holder, name: _attribute(holder, name)
    for module in ('torch', 'torch.storage', 'torch.cuda'):
        known |= {(module, name): dtype for name, dtype in STORAGES.items()}
    return known


class _Reader(pickle.Unpickler):
    """Unpickles with the meanings above and nothing else."""

    def __init__(self, file: IO[bytes], persistent: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, encoding='latin1')
        self._known, self._persistent = _meanings(), persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise RefusedError(f'it asks for {module}.{name}, which is not needed to build tensors')
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise RefusedError('it refers to objects outside of it')
        return self._persistent(pid)


def read_pickle(path: Path) -> Any:
    """What the file holds: dictionaries, lists and numbers as they are, tensors as NumPy arrays.

    Raises:
      ValueError: for a file that is damaged, no pickle of tensors, or asks for anything else.
    """
    try:
        with path.open('rb') as file:
            start = file.read(4)
            file.seek(0)
            if start == b'PK\x03\x04':
                return _plain(_read_zip(path))
            if len(start) < 4 or start[0] != 0x80:  # PROTO, which begins every pickle since 2003
                raise ValueError('it is neither a zip archive of torch nor a pickle')
            return _plain(_read_stream(file))
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
        TypeError, AttributeError, UnicodeError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise ValueError(
            f'{path} cannot be read as the weights of a model: {error or "it ends too early"}'
        ) from None


def _read_zip(path: Path) -> Any:
    """``<name>/data.pkl`` refers to storages ``<name>/data/<key>``, little-endian unless said."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition('/')[2]: name for name in archive.namelist()}
        if 'data.pkl' not in names:
            raise ValueError('it is a zip archive, but not one of torch')
        if 'byteorder' in names and archive.read(names['byteorder']) != b'little':
            raise ValueError('its numbers are big-endian; save it on a little-endian machine')
        storages: dict[str, _Storage] = {}

        def load(pid: Any) -> _Storage:
            _, dtype, key, _, size = pid
            if key not in storages:
                storages[key] = _Storage(dtype, size)
                storages[key].fill(archive.read(names[f'data/{key}']))
            return storages[key]

        return _Reader(io.BytesIO(archive.read(names['data.pkl'])), load).load()


def _read_stream(file: IO[bytes]) -> Any:
    """torch's older format, if it starts with that one's number; else a single pickle."""
    first = _Reader(file).load()
    if first != LEGACY_MAGIC:
        return first
    if _Reader(file).load() != LEGACY_PROTOCOL:
        raise ValueError("an unknown version of torch's older format")
    system = _Reader(file).load()
    if not system.get('little_endian', True):
        raise ValueError('its numbers are big-endian; save it on a little-endian machine')
    storages: dict[str, _Storage] = {}

    def load(pid: Any) -> _Storage:
        kind, dtype, key, _, size, view = pid
        if kind != 'storage' or view is not None:
            raise ValueError('a view of a storage, as torch before 0.4 wrote it')
        return storages.setdefault(key, _Storage(dtype, size))

    content = _Reader(file, load).load()
    for key in _Reader(file).load():
        size = int.from_bytes(file.read(8), 'little')
        if size != storages[key].size:
            raise ValueError(f'a storage of {storages[key].size} values has {size}: truncated')
        storages[key].fill(file.read(size * storages[key].dtype.itemsize))
    return content


def _plain(value: Any) -> Any:
    """The same with arrays for tensors."""
    if isinstance(value, _Tensor | _Array):
        return value.array()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
