"""Fetching weights: a path, an https address or a name on the Hub becomes a local file or folder.

Downloads stay in the cache of jcls (`jcls.host.cache`), those from the Hub in the cache of
``huggingface_hub``.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

import rich.progress
from rich.console import Console

from jcls.host.cache import cache_folder
from jcls.host.disk import local
from jcls.workdir.files import METADATA

HUB = 'hf:'
TIMEOUT = 30  # seconds to wait for an answer
HASH = r'.*-([0-9a-f]{8,64})(\.\w+)+'  # torch's names end in the beginning of the SHA-256
# Or in a date, perhaps with the time: 20240115, 20240115093000.
DATE = r'(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])([0-5]\d){0,2})?'
ASKED = r'sha256[=:-]([0-9a-fA-F]{8,64})'  # the end of an address, after a #


def is_remote(source: str) -> bool:
    """Whether `source` is an address (http or https) or a name on the Hub."""
    return source.startswith((HUB, 'https://', 'http://'))


def fetch(source: str) -> Path:
    """The local file or folder of ``'model.pth'``, ``'https://...'`` or ``'hf:owner/name'``.

    ``hf:owner/name@revision`` takes a branch, tag or commit. A file at an https address must have
    the SHA-256 that the address asks for at its end, ``#sha256=<the first 8 to 64 digits>``; or
    else the one that its name ends in, as torch's do.

    Raises:
      ValueError: if it does not exist, there is no network, or the file has another hash.
    """
    if source.startswith('https://'):
        return _download(source)
    if source.startswith('http://'):
        raise ValueError(f'{source}: weights are fetched by https:// alone')
    if source.startswith(HUB):
        return _from_hub(source)
    path = local(source)
    try:
        there = path.exists()
    except OSError:  # the name is too long
        there = False
    if not source or not there:
        raise ValueError(f'{source}: no such file or folder')
    return path


def forget(source: str, path: Path) -> bool:
    """Whether the file that `fetch` gave for this source was a download; it is removed then."""
    downloaded = source.startswith('https://')
    if downloaded:
        path.unlink(missing_ok=True)
    return downloaded


def _download(address: str) -> Path:
    url, _, asked = address.partition('#')
    wanted = re.fullmatch(ASKED, asked)
    if asked and wanted is None:
        raise ValueError(
            f'{address}: after the # stands sha256= and the first 8 to 64 digits of the hash'
        )
    name = Path(urllib.parse.unquote(urllib.parse.urlparse(url).path)).name
    if name in ('', '..') or '\0' in name or len(name.encode()) > 255:
        raise ValueError(f'{url} names no file')
    # Files of the same name from different addresses stay apart.
    target = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:8] / name
    if target.exists() and not (wanted and wrong_hash(target, wanted[1].lower())):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            _copy(url, name, file)
        _check_hash(url, wanted[1].lower() if wanted else None, name, Path(temporary))
        Path(temporary).chmod(0o644)  # since a cache may be shared
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _copy(url: str, name: str, file: IO[bytes]) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            if not answer.geturl().startswith('https://'):
                raise ValueError(f'{url} leads to {answer.geturl()}, which is not https')
            expected = answer.headers.get('Content-Length') or ''
            size = int(expected) if expected.isdecimal() else 0
            console = Console(stderr=True)
            with rich.progress.wrap_file(answer, size, description=name, console=console) as reader:
                shutil.copyfileobj(reader, file, 2**20)
            if size and file.tell() != size:
                raise ValueError(f'{url}: the download ended early; try again')
    except urllib.error.HTTPError as error:
        raise ValueError(f'{url}: {error.code} {error.reason}') from None
    except http.client.InvalidURL as error:
        raise ValueError(f'{url} is no address: {error}') from None
    except (
        urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError,
        http.client.HTTPException,
    ) as error:  # fmt: skip
        raise ValueError(
            f'{url} cannot be reached ({getattr(error, "reason", error)}); where there is no '
            'network, copy the file here and name its path'
        ) from None


def _check_hash(url: str, asked: str | None, name: str, path: Path) -> None:
    """Raise ValueError unless the file has the hash that is `asked`, or else that in its name."""
    if asked:
        wrong, whose = wrong_hash(path, asked), 'that was asked for'
    else:
        wrong, whose = wrong_hash(path, hash_in(name)), 'that its name ends in'
    if wrong:
        raise ValueError(
            f'{url}: the file has another hash than the one {whose}: {wrong}. It was not kept. If '
            f'it is the file that you want, ask for its hash: {url}#sha256={sha256(path)}'
        )


def hash_in(name: str) -> str | None:
    """The beginning of a SHA-256 in the name of a file; None if there is none, or a date."""
    found = re.fullmatch(HASH, name)
    return found[1] if found and not re.fullmatch(DATE, found[1]) else None


def wrong_hash(path: Path, wanted: str | None) -> str | None:
    """A complaint if the SHA-256 of the file `path` does not begin with `wanted`; else None."""
    actual = sha256(path) if wanted else ''
    if wanted is None or actual.startswith(wanted):
        return None
    return f'its SHA-256 begins with {actual[: len(wanted)]}, not {wanted}'


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 digits."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _from_hub(source: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    name, _, revision = source.removeprefix(HUB).partition('@')
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', name):
        raise ValueError(f'{source}: a name on the Hub is hf:owner/name')
    wanted = ['config.json', 'preprocessor_config.json', 'model.safetensors', 'pytorch_model.bin',
              'weights.safetensors', METADATA]  # fmt: skip
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except errors.HFValidationError as error:
        raise ValueError(f'{source}: {error}') from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        reason = str(error).strip().split('\n')[0]
        raise ValueError(f'{source} is not on the Hub, or not for you to read: {reason}') from None
    except Exception as error:  # errors of the transport have other names in each version
        reason = str(error).strip().split('\n')[0]
        raise ValueError(
            f'{source} cannot be fetched from the Hub ({reason}); where there is no network, copy '
            'its model.safetensors and config.json into a folder and name that'
        ) from None
    if not folder.is_dir():
        raise ValueError(f'{source} has none of {", ".join(wanted)}')
    return folder
