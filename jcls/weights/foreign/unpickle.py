"""An unpickler that builds tensors and nothing else.

A pickle is a program: it may name any function of any module and call it. This reader knows the few
names that tensors need and gives each a meaning of its own. It never imports the real ones, and it
refuses a file that names anything else. A small file cannot cost much time or memory, or reach any
memory but its own numbers.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np

STORAGES = {
    'DoubleStorage': np.float64, 'FloatStorage': np.float32, 'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16, 'LongStorage': np.int64, 'IntStorage': np.int32,
    'ShortStorage': np.int16, 'CharStorage': np.int8, 'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}  # fmt: skip
IN_PYTHON: Any = pickle._Unpickler
# The operations that are needed; those for sets and for making objects in other ways are not.
STEPS = (
    'PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET '
    'NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT '
    'STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 '
    'BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST APPEND APPENDS LIST '
    'EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS '
    'GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD PERSID BINPERSID'
)


class RefusedError(ValueError):
    """An error: the pickle names something that tensors do not need."""


class Tensor:
    """A view of a storage whose bytes may come later, as they do in the stream format."""

    def __init__(self, storage: Storage, offset: int, shape: Any, strides: Any) -> None:
        if not isinstance(storage, Storage):
            raise ValueError('a tensor without a storage')
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def array(self) -> np.ndarray:
        if self.storage.values is None:
            raise ValueError('a tensor lacks its storage')
        sizes = (*self.shape, *self.strides, self.offset)
        if len(self.shape) != len(self.strides) or not all(
            type(n) is int and n >= 0 for n in sizes
        ):
            raise ValueError('a tensor whose shape, strides or offset are no such numbers')
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


class _Kind:
    """A stand-in for a class of storages; a file can call neither it nor NumPy's type."""

    def __init__(self, name: str) -> None:
        self.name = name


class Storage:
    def __init__(self, dtype: Any, size: int) -> None:
        if type(dtype) is not _Kind or type(size) is not int or size < 0:
            raise ValueError('a storage of unknown type or size')
        self.dtype, self.size = np.dtype(STORAGES[dtype.name]), size
        self.values: np.ndarray | None = None

    def fill(self, content: bytes) -> None:
        if len(content) != self.size * self.dtype.itemsize:
            raise ValueError(
                f'a storage of {self.size} {self.dtype} has {len(content)} bytes: truncated'
            )
        self.values = np.frombuffer(content, self.dtype)


class Array:
    """A stand-in for a `numpy.ndarray` until its state arrives."""

    value: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if isinstance(content, str):  # Python 2 wrote bytes as text
            content = content.encode('latin1')
        if not isinstance(content, bytes) or not isinstance(dtype, _Dtype):
            raise ValueError('an array of objects')
        values = np.frombuffer(content, dtype.value)
        self.value = values.reshape(shape, order='F' if fortran else 'C')

    def array(self) -> np.ndarray:
        if self.value is None:
            raise ValueError('an array lacks its numbers')
        return np.ascontiguousarray(self.value).reshape(self.value.shape)


class _Dtype:
    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str):
            raise RefusedError('arrays of an unknown type')
        if code not in ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u1', 'b1'):
            raise RefusedError(f'arrays of type {code!r}')
        self.value = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if state[1] in '<>':
            self.value = self.value.newbyteorder(state[1])


class _Record(dict):
    """A stand-in for a dictionary or an object beside the weights; its attributes are dropped."""

    def __init__(self, items: Any = (), *_: Any) -> None:
        super().__init__()
        pairs = list(items.items() if isinstance(items, dict) else items)
        _fill(self, [part for key, value in pairs for part in (key, value)])

    def set_state(self, state: Any) -> None:
        pass


def _fill(holder: Any, items: list[Any]) -> None:
    """Put keys and values, in turns, into a dictionary.

    Keys must be text or numbers, because hashing nested tuples may take for ever, or all of the
    stack.
    """
    if not isinstance(holder, dict):
        raise RefusedError('it puts items into what is no dictionary')
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | bytes | int | float | None):
            raise RefusedError('a dictionary has keys that are neither text nor numbers')
        holder[key] = value


def _encode(text: Any, encoding: Any) -> bytes:
    """The meaning of `_codecs.encode`, by which pickles of protocol 2 carry bytes."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise RefusedError('it encodes something else than text as latin1')
    return text.encode('latin1')


def _scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(content, bytes) or not isinstance(dtype, _Dtype):
        raise RefusedError('a number of bytes that are none')
    return np.frombuffer(content, dtype.value)[0]


def _attribute(holder: Any, name: Any) -> str:
    """The meaning of `getattr`, by which mmengine names methods; nothing is looked up."""
    if not (isinstance(holder, type) and issubclass(holder, _Record) and isinstance(name, str)):
        raise RefusedError('it asks for the attribute of an object')
    return name


def _tensor(*args: Any) -> Tensor:
    """A tensor. Arguments after the first four do not matter, except for the last of seven."""
    if len(args) > 6 and args[6]:
        raise ValueError('a tensor that is to be negated or conjugated')
    return Tensor(*args[:4])


def _sizes(values: Any = ()) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple) or len(values) > 64:
        raise ValueError('a long tuple')
    return tuple(values)


def _meanings() -> dict[tuple[str, str], Any]:
    """The meaning of each name that a file may use; new for every file, which may alter them."""
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
        ('torch._utils', '_rebuild_tensor'): lambda *args: _tensor(*args),
        ('torch._utils', '_rebuild_tensor_v2'): lambda *args: _tensor(*args),
        ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
        ('builtins', 'tuple'): lambda *args: _sizes(*args),
        ('torch', 'Size'): lambda *args: _sizes(*args),
        ('torch', 'device'): lambda *_: 'device',
        ('_codecs', 'encode'): lambda *args: _encode(*args),
        ('numpy', 'dtype'): lambda *args: _Dtype(*args),
        ('numpy', 'ndarray'): 'ndarray',
    }
    for core in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        known[core, '_reconstruct'] = lambda *_: Array()
        known[core, 'scalar'] = lambda dtype, content: _scalar(dtype, content)
    for builtins in ('builtins', '__builtin__'):
        known[builtins, 'bytes'] = lambda: b''
        known[builtins, 'getattr'] = lambda holder, name: _attribute(holder, name)
    for module in ('torch', 'torch.storage', 'torch.cuda'):
        known |= {(module, name): _Kind(name) for name in STORAGES}
    return known


class Reader(IN_PYTHON):
    """Unpickles with the meanings above and nothing else.

    It derives from the unpickler in Python. The one in C allocates as much as a file asks for, and
    none of its operations can be left out or changed.
    """

    dispatch = {  # noqa: RUF012
        getattr(pickle, name)[0]: IN_PYTHON.dispatch[getattr(pickle, name)[0]]
        for name in STEPS.split()
    }

    def __init__(self, file: IO[bytes], persistent: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, encoding='latin1')
        self._known, self._persistent = _meanings(), persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise RefusedError(f'it asks for {module}.{name}, which is not needed to build tensors')
        return self._known[module, name]

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _fill(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        _fill(self.stack[-1], items)

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Record | Array | _Dtype):
            raise RefusedError('it changes what it may not change')
        self.stack[-1].set_state(state)

    def load_newobj(self) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        if not (isinstance(cls, type) and issubclass(cls, _Record)):
            raise RefusedError('it makes an object')
        self.append(cls(*args))

    dispatch |= {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.BUILD[0]: load_build,
        pickle.NEWOBJ[0]: load_newobj,
    }

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise RefusedError('it refers to objects outside of it')
        return self._persistent(pid)
