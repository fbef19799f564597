"""A folder of weights to use anywhere: ``model.json`` and ``weights.safetensors``.

The tensors have jcls's names ('params/stem/conv1/kernel') and axes; model.json says how to use
them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jcls.host.disk import local
from jcls.weights.metadata import read_model_json
from jcls.workdir.files import METADATA, write_json

WEIGHTS = 'weights.safetensors'


def is_artifact(path: Path) -> bool:
    """Whether `write` has written this folder."""
    return (path / WEIGHTS).is_file()


def write(folder: Path, metadata: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Make the `folder`, which must be new or empty; it appears only when it is complete."""

    def fill(inside: Path) -> None:
        save_tensors(inside / WEIGHTS, flatten_dict(variables, sep='/'))
        write_json(inside / METADATA, dict(metadata))

    write_folder(folder, fill)


def save_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write a ``.safetensors`` file."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    path.write_bytes(save(arrays))  # save_file would let only the owner read it


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill(path)`` write into a folder that is renamed to `folder` when it is done.

    If `fill` fails, nothing is left: no part of the folder, and no parents made for it.
    """
    folder = new_folder(folder)
    partial = folder.with_name(f'.{folder.name}.partial')
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in new_parents if not folder.exists() else ():
            parent.rmdir()


def new_folder(path: str | Path) -> Path:
    """The absolute path of a folder to make; a ValueError unless it is new or empty."""
    folder = local(path).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f'{folder} exists and is not empty; name a new folder')
    return folder


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata and the variables, as NumPy arrays, of a folder that `write` has written.

    Raises:
      ValueError: if it is no such folder, or its files are damaged.
    """
    from safetensors import SafetensorError, safe_open

    leaves: dict[tuple[str, ...], np.ndarray] = {}
    try:
        with safe_open(folder / WEIGHTS, 'numpy') as file:
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                leaves[tuple(name.split('/'))] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ValueError(f'{folder / WEIGHTS} cannot be read: {error}') from None
    return read_model_json(folder / METADATA), unflatten_dict(leaves)
