"""What a file is, by its content: people name files as they like, and downloads go wrong."""

from __future__ import annotations

import zipfile
from pathlib import Path

SAFETENSORS, PICKLE = 'safetensors', 'pickle'
ZIP = b'PK\x03\x04'
COMPRESSED = {
    b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz', b'\x28\xb5\x2f\xfd': 'zstd',
    b'7z\xbc\xaf': '7z', b'Rar!': 'rar',
}  # fmt: skip


class NoWeightsError(ValueError):
    """An error: this file is damaged, or no file of weights at all."""


def kind(path: Path) -> str:
    """The format of a file of weights, `SAFETENSORS` or `PICKLE`.

    Of what is neither, the ending of the name tells who is to complain.

    Raises:
      NoWeightsError: if the file is known to be something else.
    """
    other = something_else(path)
    if other:
        raise NoWeightsError(f'{path} holds no weights: {other}')
    with path.open('rb') as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], 'little')
    if start[8:] == b'{' and header + 8 <= path.stat().st_size:
        return SAFETENSORS
    pickled = start[:4] == ZIP or start[:1] == b'\x80'
    return SAFETENSORS if path.suffix == '.safetensors' and not pickled else PICKLE


def something_else(path: Path) -> str | None:
    """What a file that cannot be weights is, and what to do; None if it may be."""
    try:
        with path.open('rb') as file:
            start = file.read(512)
    except OSError as error:
        return f'it cannot be opened ({error.strerror})'
    if not start:
        return 'it is empty; the download or the copy of it failed: fetch it again'
    if start.startswith(b'version https://git-lfs'):
        return 'it is a pointer of git-lfs to them; run `git lfs pull` where it was cloned'
    if start.lstrip(b'\xef\xbb\xbf \t\r\n')[:1] == b'<':
        return (
            'it is a web page, perhaps of a sign-in or an error; download the file that the page '
            'is about'
        )
    if start.startswith(b'\x89HDF'):
        return (
            'it is HDF5, as Keras and h5py write; torch, Paddle and safetensors have files that '
            'are read'
        )
    if start[257:262] == b'ustar':
        return 'it is a tar archive; unpack it and name the file of weights in it'
    for magic, name in COMPRESSED.items():
        if start.startswith(magic):
            return f'it is compressed by {name}; unpack it first'
    return _archive(path) if start.startswith(ZIP) else None


def _archive(path: Path) -> str | None:
    """What a zip archive is that `torch.save` has not written; one that is damaged is not told."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, NotImplementedError):
        return None
    inside = {name.partition('/')[2] for name in names}
    if 'constants.pkl' in inside or any(name.startswith('code/') for name in inside):
        return (
            "it is a TorchScript program; save its weights alone: torch.save(torch.jit.load('"
            f"{path.name}').state_dict(), 'weights.pth')"
        )
    if 'data.pkl' in inside:
        return None
    if names and all(name.endswith('.npy') for name in names):
        return "it is NumPy's npz; save its arrays with safetensors.numpy.save_file"
    return f'it is a zip archive of {", ".join(names[:4]) or "nothing"}; unpack it first'
