"""Other systems' pickles: the numbers come out, nothing runs, and damage is named.

torch's files are written here by hand, step by step; NumPy writes its arrays as in Paddle's files.
"""

from __future__ import annotations

import contextlib
import copyreg
import ctypes
import itertools
import math
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from jcls.weights.foreign.pickles import LEGACY_MAGIC, read_pickle
from jcls.weights.foreign.unpickle import STORAGES

PROTO = b'\x80\x02'
BASE = np.arange(24, dtype=np.float32)
REBUILD = ('torch._utils', '_rebuild_tensor_v2')
ERROR = r'a\.pth (is refused|cannot be read[^:]*): .'


def steps(value):
    """The steps that leave `value` on the stack; bytes are steps themselves."""
    match value:
        case bytes():
            return value
        case tuple():
            return b'(' + b''.join(map(steps, value)) + b't'
        case list():
            return b'](' + b''.join(map(steps, value)) + b'e'
        case dict():
            return b'}(' + b''.join(map(steps, itertools.chain(*value.items()))) + b'u'
    return pickle.dumps(value, 2)[2:-1]


def named(module, name):
    return f'c{module}\n{name}\n'.encode()


def call(module, name, *args):
    return named(module, name) + steps(args) + b'R'


def storage(size=24, kind='FloatStorage', view=()):
    return steps(('storage', named('torch', kind), '0', 'cpu', size, *view)) + b'Q'


def tensor(held, offset=0, shape=(24,), strides=(1,), *more):
    return call(*REBUILD, held, offset, shape, strides, False, {}, *more)


def zipped(path, value, content=BASE.tobytes(), byteorder=b'little', key='0', compression=0):  # noqa: B008
    """torch's format since 1.6, with one storage."""
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('a/data.pkl', PROTO + steps(value) + b'.')
        archive.writestr('a/byteorder', byteorder)
        archive.writestr(f'a/data/{key}', content)
    return path


def streamed(path, value, content=BASE.tobytes(), size=24, keys=b'](' + steps('0') + b'e'):  # noqa: B008
    """torch's format before."""
    start = b''.join(pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, {}))
    middle = PROTO + steps(value) + b'.' + PROTO + keys + b'.'
    path.write_bytes(start + middle + struct.pack('<q', size) + content)
    return path


@pytest.fixture(params=['zip', 'stream'])
def save(request, tmp_path):
    """Write what `make` makes of a storage, in either format of torch."""

    def write(make, content=BASE.tobytes(), size=24, kind='FloatStorage'):  # noqa: B008
        if request.param == 'zip':
            return zipped(tmp_path / 'a.pth', make(storage(size, kind)), content)
        stored = size if isinstance(size, int) else 24
        return streamed(tmp_path / 'a.pth', make(storage(size, kind, (None,))), content, stored)

    return write


# The numbers


@pytest.mark.parametrize('kind', STORAGES)
def test_every_type_of_storage(save, kind):
    """Each type's values come out bit for bit, in that type."""
    real = ('Double', 'Float', 'Half', 'BFloat16')
    values = [-0.0, 1 / 3, math.nan, -math.inf, 1e-7] if kind[:-7] in real else [0, 1, 1, 0, 1]
    wanted = np.array(values).astype(STORAGES[kind])
    found = read_pickle(save(lambda held: tensor(held, 0, (5,)), wanted.tobytes(), 5, kind))
    assert (found.dtype, found.shape) == (wanted.dtype, (5,))
    assert found.tobytes() == wanted.tobytes()


VIEWS = [  # offset, shape, strides
    (0, (4, 6), (6, 1)), (0, (6, 4), (1, 6)), (7, (2, 3), (12, 2)), (5, (4,), (6,)), (23, (), ()),
    (0, (2, 3, 2, 2), (12, 1, 6, 3)), (3, (1, 2), (999, 1)), (0, (3, 0), (1, 1)), (24, (0,), (1,)),
]  # fmt: skip


def test_views_of_a_shared_storage(save):
    """Offset and strides are followed, entry by entry, by all tensors of one storage."""
    found = read_pickle(save(lambda held: [tensor(held, *view) for view in VIEWS]))
    for array, (offset, shape, strides) in zip(found, VIEWS, strict=True):
        places = [offset + int(np.dot(at, strides)) for at in np.ndindex(shape)]
        np.testing.assert_array_equal(array, BASE[places].reshape(shape), strict=True)


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_numpys_arrays(tmp_path, protocol):
    """Paddle's files: any byte order, memory order and shape, and NumPy's scalars."""
    wanted = {
        'fortran': np.asfortranarray(BASE.reshape(4, 6)),
        'big': BASE.astype('>f4').reshape(2, 3, 4),
        'half': BASE.astype('>f2'),
        'double': BASE.astype('f8') / 3,
        'ints': np.arange(-3, 3, dtype='>i8'),
        'bools': np.array([[True], [False]]),
        'zero dimensions': np.array(1.5, 'f4'),
        'strided': BASE[::5],
        'scalar': np.float64(2) / 3,
    }
    (tmp_path / 'a.pdparams').write_bytes(pickle.dumps(wanted, protocol))
    found = read_pickle(tmp_path / 'a.pdparams')
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_what_lies_beside_the_weights(save):
    """Ordered dictionaries of both Pythons, parameters, settings and histories are read past."""
    history = named('mmengine.logging.history_buffer', 'HistoryBuffer')
    path = save(
        lambda held: {
            'two': call('collections', 'OrderedDict', [['w', tensor(held)]]),
            'three': call('collections', 'OrderedDict') + steps({'_metadata': 2}) + b'b',
            'parameter': call('torch._utils', '_rebuild_parameter', tensor(held), True, {}),
            'older': call('torch._utils', '_rebuild_tensor', held, 1, (2,), (1,)),
            'size': call('torch', 'Size', [4, 6]),
            'settings': call('argparse', 'Namespace') + steps({'lr': 0.1}) + b'b',
            'mean': call('__builtin__', 'getattr', history, 'mean'),
            'history': history + b')\x81' + steps({'_log': []}) + b'b',
        }
    )
    found = read_pickle(path)
    assert found['two']['w'].tolist() == found['parameter'].tolist() == BASE.tolist()
    assert found['older'].tolist() == [1, 2]
    assert found['three'] == found['settings'] == found['history'] == {}
    assert (found['size'], found['mean']) == ([4, 6], 'mean')


# Nothing runs

OS, TEXT, EVAL = named('os', 'system'), steps('touch it'), '__import__("victim").strike(1)'
STRIKE = call('os', 'system', 'touch it')
VICTIM = call('importlib', 'import_module', 'victim')
ATTACKS = {
    'global': STRIKE,
    'stack_global': steps('os') + steps('system') + b'\x93(' + TEXT + b'tR',
    'within': b'\x80\4' + steps('argparse') + steps('_os.system') + b'\x93(' + TEXT + b'tR',
    'inst': b'(' + TEXT + b'ios\nsystem\n',
    'obj': b'(' + OS + TEXT + b'o',
    'newobj': named('victim', 'Box') + b')\x81',
    'newobj_ex': b'\x80\4' + named('victim', 'Box') + b')}\x92',
    'build': b'(ivictim\nBox\n' + steps({'a': 1}) + b'b',
    'ext': b'\x82\x4d(' + TEXT + b'tR',
    'eval': call('builtins', 'eval', EVAL),
    'eval of Python 2': call('__builtin__', 'eval', EVAL),
    'getattr': call('builtins', 'getattr', VICTIM, 'strike') + steps((1,)) + b'R',
    'map': call('builtins', 'list', call('builtins', 'map', OS, ['touch it'])),
    'partial': call('functools', 'partial', OS, 'touch it') + b')R',
    'copyreg': call('copyreg', '__newobj__', named('victim', 'Box')),
    'in a list': steps([1, STRIKE]),
    'thrown away': STRIKE + b'0N',
    'in an id': steps(('storage', STRIKE)) + b'Q',
}


@pytest.fixture
def victim(monkeypatch):
    """os.system and what a module has note in `hits` that they were called; none does anything."""
    module = types.ModuleType('victim')
    module.hits = []
    module.strike = module.hits.append
    module.Box = type('Box', (), {'__init__': lambda *_: None, '__setstate__': module.hits.append})
    module.Box.__new__ = lambda cls: module.hits.append(cls) or object.__new__(cls)
    monkeypatch.setitem(sys.modules, 'victim', module)
    monkeypatch.setattr(os, 'system', module.strike)
    copyreg.add_extension('os', 'system', 0x4D)
    yield module
    copyreg.remove_extension('os', 'system', 0x4D)


@pytest.mark.parametrize('attack', ATTACKS)
def test_nothing_runs(tmp_path, victim, attack):
    """What runs in pickle.loads is refused here, in every part of every format."""
    content, path = ATTACKS[attack], tmp_path / 'a.pth'
    with contextlib.suppress(pickle.UnpicklingError):
        pickle.loads(PROTO + content + b'.')
    assert victim.hits  # the attack is one
    victim.hits.clear()
    path.write_bytes(PROTO + content + b'.')
    with pytest.raises(ValueError, match=ERROR):
        read_pickle(path)
    good = storage(24, view=(None,))
    for write in (
        lambda: zipped(path, content),
        lambda: streamed(path, {'w': good, 'x': content}),
        lambda: streamed(path, good, keys=content),
    ):
        with pytest.raises(ValueError, match=ERROR):
            read_pickle(write())
    assert not victim.hits


def test_a_refusal_says_what_it_is(tmp_path):
    """The name that the file asks for, and what to do."""
    with pytest.raises(ValueError, match=r'a\.pth is refused: .*os\.system.*state_dict'):
        read_pickle(zipped(tmp_path / 'a.pth', STRIKE))


def test_a_stand_in_stays_what_it_is(tmp_path):
    """What a file does to the names that it may use does not outlive it."""
    for name in (('torch', 'Size'), REBUILD, ('collections', 'OrderedDict'), ('numpy', 'dtype')):
        for state in ({'__call__': 1}, (None, {'__defaults__': ((7,),), '__doc__': 'altered'})):
            with contextlib.suppress(ValueError):
                read_pickle(zipped(tmp_path / 'a.pth', named(*name) + steps(state) + b'b'))
    value = [call('torch', 'Size'), call('collections', 'OrderedDict'), tensor(storage())]
    *others, found = read_pickle(zipped(tmp_path / 'a.pth', value))
    assert (others, found.tolist()) == ([[], {}], BASE.tolist())


@pytest.mark.parametrize('kind', ['ByteStorage', 'BFloat16Storage'])
@pytest.mark.parametrize('disguise', ['function', 'tensor', 'storage'])
def test_no_memory_is_read(save, kind, disguise):
    """Nothing that a file alters can pose as NumPy's array of any address."""
    secret = ctypes.create_string_buffer(b'secret')
    array = {'data': (ctypes.addressof(secret), True), 'shape': (6,), 'typestr': '|u1'}
    state = steps({'__array_interface__': {**array, 'version': 3}})

    def make(held):
        posing = {'function': named('torch', 'Size'), 'tensor': tensor(held), 'storage': held}
        return [tensor(held), named('torch', kind) + posing[disguise] + state + b'b\x85R']

    with pytest.raises(ValueError, match=ERROR):
        read_pickle(save(make))


# Damage

BEYOND = [
    (24, (1,), (1,)), (1, (24,), (1,)), (0, (25,), (1,)), (0, (2, 2), (23, 2)), (0, (), (1,)),
    (0, (24,), ()), (-1, (2,), (1,)), (0, (-2,), (1,)), (4, (2,), (-1,)), (2**40, (1,), (1,)),
    (0, (2**40, 2**40), (0, 0)), (0, (2**62,), (0,)), (0, (2,), (2**62,)), (0, (2,), (2**64,)),
    (0, (0, 2**62, 2**62), (1, 1, 1)), (0, (2.0,), (1,)), (0.0, (2,), (1,)), (0, (True,), (1,)),
    (0, ('2',), (1,)), (0, '2', '1'), (0, (1,) * 99, (1,) * 99), (0, 24, 1), (0, ((1,),), (1,)),
]  # fmt: skip


@pytest.mark.parametrize('view', BEYOND, ids=str)
def test_a_tensor_beyond_its_storage(save, view):
    """Sizes, strides and offsets that leave the storage, or are no such numbers, are errors."""
    with pytest.raises(ValueError, match=ERROR):
        read_pickle(save(lambda held: tensor(held, *view)))


@pytest.mark.parametrize('size', [23, 25, 2**40, 2**62, -24, -1, '24', None, (24,)])
def test_a_storage_of_another_length(save, size):
    """More or fewer values than the file has are an error, and allocate nothing."""
    with pytest.raises(ValueError, match=ERROR):
        read_pickle(save(tensor, size=size))


@pytest.mark.parametrize('held', [3, 'a', [1.0], named('torch', 'Size'), call('torch', 'Size')])
def test_a_tensor_without_a_storage(tmp_path, held):
    """Nothing else serves as a storage."""
    with pytest.raises(ValueError, match=ERROR):
        read_pickle(zipped(tmp_path / 'a.pth', tensor(steps(held))))


def test_a_tensor_that_is_to_be_negated(save):
    """torch's lazy negation is not silently left out."""
    with pytest.raises(ValueError, match=ERROR):
        read_pickle(save(lambda held: tensor(held, 0, (24,), (1,), {'neg': True})))


def test_truncated_files(save, tmp_path):
    """A file that ends anywhere before its end is an error that names it."""
    paddle = tmp_path / 'paddle-a.pth'
    paddle.write_bytes(pickle.dumps({f'{i}': BASE + i for i in range(9)}, 4))
    for path in (save(lambda held: {'w': tensor(held), 'x': 1}), paddle):
        whole = path.read_bytes()
        read_pickle(path)
        for end in {*(len(whole) * i // 20 for i in range(20)), len(whole) - 1, 1, 3}:
            path.write_bytes(whole[:end])
            with pytest.raises(ValueError, match=ERROR):
                read_pickle(path)


def header(local, place, content):
    """Change the last record's two headers at this place of the first and of the second."""

    def change(whole):
        for start, at in ((b'PK\3\4', local), (b'PK\1\2', place)):
            at += whole.rindex(start)
            whole = whole[:at] + content + whole[at + len(content) :]
        return whole

    return change


@pytest.mark.parametrize(
    'change',
    [
        header(6, 8, b'\1'),  # encrypted
        header(6, 8, b'\x20'),  # patched
        header(8, 10, b'\x61'),  # an unknown compression
        header(4, 6, b'\xff'),  # a version to come
        header(26, 28, b'\0'),  # a record without a name
        lambda whole: whole.replace(b'data/0', b'data/1'),
        lambda whole: whole.replace(b'data.pkl', b'data.txt'),
        lambda whole: whole.replace(BASE.tobytes(), BASE[::-1].tobytes()),  # the checksum is wrong
        lambda whole: whole[:8] + whole[9:],
        lambda whole: whole[:8] + whole[308:],
    ],
)
def test_damaged_zips(tmp_path, change):
    """Records that are damaged, missing or of a kind that torch does not write are errors."""
    path = zipped(tmp_path / 'a.pth', tensor(storage()))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=ERROR):
        read_pickle(path)


def test_big_endian_numbers(tmp_path):
    """They are not taken for others."""
    with pytest.raises(ValueError, match='big-endian'):
        read_pickle(zipped(tmp_path / 'a.pth', tensor(storage()), byteorder=b'big'))


OTHERS = {
    'empty': b'',
    'text': b'weights of a model',
    'protocol 0': pickle.dumps([1], 0),
    'protocol 9': b'\x80\x09N.',
    'number of the stream': pickle.dumps(LEGACY_MAGIC, 2),
    'version of the stream': pickle.dumps(LEGACY_MAGIC, 2) + pickle.dumps(7, 2),
    'cyclic': PROTO + b']q\0h\0a.',
    'array without a state': PROTO + call('numpy.core.multiarray', '_reconstruct') + b'.',
    'unknown extension': PROTO + b'\x82\xf0.',
    'long number': PROTO + b'I' + b'9' * 9999 + b'\n.',
    'id': PROTO + storage() + b'.',
    'no zip': b'PK\3\4' + bytes(99),
    'objects': pickle.dumps(np.array([{}, None]), 4),
    'words': pickle.dumps(np.array(['a']), 4),
    'times': pickle.dumps(np.array(['2020-01-01'], 'M8[D]'), 4),
    'records': pickle.dumps(np.zeros(2, [('a', 'f4'), ('b', 'O')]), 4),
    'complex': pickle.dumps(np.zeros(2, 'c8'), 4),
}


@pytest.mark.parametrize('other', OTHERS)
def test_what_is_no_file_of_weights(tmp_path, other):
    """Anything else is an error that names the file and says something."""
    (tmp_path / 'a.pth').write_bytes(OTHERS[other])
    with pytest.raises(ValueError, match=ERROR):
        read_pickle(tmp_path / 'a.pth')


# Small files that would take for ever, or all of the memory or stack

TWICE = b'K\x01' + b'2\x86' * 64  # a pair of a pair of a pair of ...
DEEP = b'N' + b'\x85' * 1_000_000
BOMBS = {
    'lists': TWICE,
    'key': b'}' + TWICE + b'K\x01s',
    'keys': call('collections', 'OrderedDict', [(TWICE, 1)]),
    'dtype': call('numpy', 'dtype', TWICE),
    'device': call('torch', 'device', TWICE),
    'encoding': call('_codecs', 'encode', 'a', TWICE),
    'attribute': call('builtins', 'getattr', named('collections', 'Counter'), TWICE),
    'id': steps(('storage', named('torch', 'FloatStorage'), TWICE, 'cpu', 1)) + b'Q',
    'shape': tensor(storage(), 0, TWICE, TWICE),
    'deep': DEEP,
    'deep key': b'}' + DEEP + b'K\x01s',
    'memo': b'Nr' + struct.pack('<I', 2**27),
    'bytes': b'\x8e' + struct.pack('<Q', 2**36),
    'views': b'](' + tensor(storage(2**20), 0, (2**10, 2**10), (1, 2**10)) * 1000 + b'e',
    'compressed': storage(2**25),
    'keys of a stream': b'](' + TWICE + b'e',
}
CHILD = """
import resource, sys, tracemalloc
from pathlib import Path
from jcls.weights.foreign.pickles import read_pickle
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
tracemalloc.start()
try:
    read_pickle(Path(sys.argv[1]))
except ValueError:
    pass
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize('bomb', BOMBS)
def test_small_files_take_little(tmp_path, bomb):
    """Neither time nor memory nor stack without end: it is read, or refused, at once."""
    content = bytes({'views': 2**22, 'compressed': 2**27}.get(bomb, 96))
    kind = zipfile.ZIP_DEFLATED if bomb == 'compressed' else zipfile.ZIP_STORED
    path = zipped(tmp_path / 'a.pth', BOMBS[bomb], content, compression=kind)
    if bomb == 'keys of a stream':
        streamed(path, storage(view=(None,)), keys=BOMBS[bomb])
    run = [sys.executable, '-c', CHILD, str(path)]
    output = subprocess.run(run, capture_output=True, text=True, timeout=30, check=True).stdout
    assert int(output) < 2e8  # bytes
