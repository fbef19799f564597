"""Trees of arrays that Orbax saved, by jcls or anyone, read without knowing what is in them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jcls.workdir import damage


def read(folder: Path) -> dict[str, Any]:
    """Those of 'params', 'batch_stats' and 'ema' that Orbax saved in `folder`, as NumPy arrays.

    Raises:
      ValueError: if this is no checkpoint of Orbax, or holds none of these.
    """
    by_itself = alone()
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**by_itself), **by_itself)
    items = [path for path in (folder, *sorted(folder.iterdir())) if (path / '_METADATA').exists()]
    if len(items) != 1:
        inside = ', '.join(path.name for path in items or sorted(folder.iterdir())[:12])
        raise ValueError(
            f'{folder} is not a workdir of jcls, and not a checkpoint of Orbax, nor is one thing '
            f'in it; name the folder of one (there are: {inside or "no files"})'
        )
    folder = items[0]
    with quiet():
        metadata = reader.metadata(folder).item_metadata
    if metadata is None:
        raise ValueError(f'{folder}: its files do not hold what its _METADATA says')
    tree = metadata.tree
    saved = {name: tree[name] for name in damage.VARIABLES if name in tree}
    if not saved:
        raise ValueError(
            f'{folder} has none of {", ".join(damage.VARIABLES)}, only {", ".join(tree)}'
        )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), saved
    )
    restore_args = ocp.checkpoint_utils.construct_restore_args(like)
    args = ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=True)
    with quiet():
        return jax.device_get(reader.restore(folder, args=args))


def alone() -> dict[str, Any]:
    """The option of Orbax by which this process waits for no other one."""
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'reader{me}'
    )
    return {'multiprocessing_options': options}


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings by which Orbax comments on its own options, read-only folders and such."""
    absl = logging.getLogger('absl')
    level = absl.level
    absl.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        absl.setLevel(level)
