"""Whether weights are numbers that a network can compute with.

It is the weights that are checked and not what comes out of them: XLA's maximum drops a NaN on some
processors, so that a network with one in a variance gives probabilities that look right.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

SHOWN = 5  # tensors in a message


def require_sound(variables: Mapping[str, Any], path: str | Path) -> None:
    """Raise ValueError for NaN, infinity or a negative variance, with the names of the tensors."""
    leaves = flatten_dict(dict(variables), sep='/')
    named = {name: (np.asarray(leaf), name.endswith('/var')) for name, leaf in leaves.items()}
    require_sound_tensors(named, path)


def require_sound_tensors(tensors: Mapping[str, tuple[np.ndarray, bool]], path: str | Path) -> None:
    """As `require_sound`, for {name: (tensor, whether it holds variances)}."""
    lines = [
        f'{name}: {fault}'
        for name, (value, variances) in tensors.items()
        if (fault := _fault(value, variances))
    ]
    if lines:
        more = f'\n  ... and {len(lines) - SHOWN} more' if lines[SHOWN:] else ''
        listed = '\n  '.join(lines[:SHOWN])
        raise ValueError(
            f'{path} has {len(lines)} tensor(s) that no network can use; the file is damaged, or '
            f'the training that made it had diverged:\n  {listed}{more}'
        )


def _fault(value: np.ndarray, variances: bool) -> str:
    if value.dtype.kind not in 'fV':  # V: bfloat16 for NumPy
        return ''
    wide = value.astype(np.float32) if value.dtype.itemsize < 4 else value
    counts = {
        'NaN': np.count_nonzero(np.isnan(wide)),
        'infinite': np.count_nonzero(np.isinf(wide)),
        'negative, of variances': np.count_nonzero(wide < 0) if variances else 0,
    }
    found = [f'{count:,} {what}' for what, count in counts.items() if count]
    return f'{", ".join(found)} (of {value.size:,})' if found else ''
