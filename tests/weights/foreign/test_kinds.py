"""A file is what it holds, whatever its name; what holds no weights is called what it is."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from safetensors.numpy import save

from helpers.foreign import state
from jcls.weights import artifact, imported
from jcls.weights.foreign.kinds import NoWeightsError

PICKLED = pickle.dumps(state(), 2)
TENSORS = save(state())


def archive(**members: bytes) -> bytes:
    """A zip; __ stands for a slash, _ for a dot."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as file:
        for name, member in members.items():
            file.writestr(name.replace('__', '/').replace('_', '.'), member)
    return content.getvalue()


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode='w') as file:
        file.addfile(tarfile.TarInfo('net.pth'))
    return content.getvalue()


@pytest.mark.parametrize('name', ['net.bin', 'net.pth', 'net.safetensors', 'net'])
@pytest.mark.parametrize('content', [PICKLED, TENSORS])
def test_the_name_does_not_matter(tmp_path: Path, name: str, content: bytes) -> None:
    """Pickles and safetensors are told by how they begin."""
    (tmp_path / name).write_bytes(content)
    assert imported.read(tmp_path / name).metadata['architecture']['num_classes'] == 3


OTHERS = {
    'empty': (b'', 'it is empty; .* fetch it again'),
    'git-lfs': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'git lfs pull'),
    'page': (b'\n<!DOCTYPE html><html>Sign in</html>', 'it is a web page'),
    'HDF5': (b'\x89HDF\r\n\x1a\n', 'it is HDF5, as Keras'),
    'tar': (tar(), 'it is a tar archive; unpack it'),
    'gzip': (gzip.compress(PICKLED), 'it is compressed by gzip; unpack it first'),
    'zip': (archive(net_pth=PICKLED), 'it is a zip archive of net.pth; unpack it first'),
    'npz': (archive(a_npy=b'', b_npy=b''), "it is NumPy's npz"),
    'TorchScript': (
        archive(net__data_pkl=b'', net__constants_pkl=b'', net__code__net_py=b''),
        r'it is a TorchScript program; .*torch\.jit\.load\(.*\)\.state_dict\(\)',
    ),
    'safetensors that end': (TENSORS[:-5], 'cannot be read as safetensors'),
    'else': (b'else', 'neither a zip archive of torch nor a pickle|as safetensors'),
}


@pytest.mark.parametrize('other', OTHERS)
@pytest.mark.parametrize('name', ['net.pth', 'net.safetensors'])
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, other: str, name: str) -> None:
    """With what to do about it."""
    content, message = OTHERS[other]
    if other == 'safetensors that end':
        name = 'net.safetensors'
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NoWeightsError, match=f'{name}.*(?:{message})'):
        imported.read(tmp_path / name)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ((), 'it is empty'),
        (('model_best.pth.tar', 'log.txt'), 'it has log.txt, model_best.pth.tar: name a file'),
        (map(str, range(20)), 'and 12 more: name a file'),
        (('model-00001-of-00002.safetensors',), 'they are in parts; save them in one file'),
        (('pytorch_model.bin.index.json',), 'they are in parts'),
    ],
)
def test_a_folder_without_weights_says_what_it_has(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f'has no weights: none of model.safetensors.*{message}'):
        imported.read(tmp_path)


def test_a_pointer_beside_the_weights(tmp_path: Path) -> None:
    """The description in a clone without git-lfs."""
    artifact.save_tensors(tmp_path / 'model.safetensors', state())
    (tmp_path / 'config.json').write_bytes(OTHERS['git-lfs'][0])
    with pytest.raises(ValueError, match=r'config\.json .*git lfs pull'):
        imported.read(tmp_path)
