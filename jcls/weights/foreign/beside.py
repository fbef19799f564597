"""What lies beside a network in a file, and whether the network may compute with it.

Training leaves much beside the weights: parameters of losses, other networks and their heads,
queues, counters. But a model of the user's own may also have a layer before the network or behind
it, and without that layer the network answers something else. So whatever is not known to be of no
use is an error, unless it is what images are normalised with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np

from jcls.weights.prepared import require_moments

# Counters, also those of profilers; then what mmengine saves of its averages and its images.
COUNTERS = r'(^|\.)(num_batches_tracked|total_ops|total_params|n_averaged)$'
COUNTED = COUNTERS + r'|^steps$|^data_preprocessor\.'
# Words in the names of what trains a network or measures it: losses, metrics, networks that follow
# it and what they remember.
TRAINING = (
    r'(?i)loss|criterion|metric'
    r'|(^|[._])(ema|swa|averaged|teacher|momentum|target|queue|memory_bank|acc|accuracy|auroc|f1'
    r'|precision|recall|confmat|(class|cls|pos|label|sample)_weights?)([._]|$)'
)


def own_name(name: str, root: str) -> str:
    """The name without the modules that it shares with the network's root."""
    parts = name.split('.')
    for part in root.split('.'):
        if part != parts[0] or len(parts) == 1:
            break
        parts = parts[1:]
    return '.'.join(parts)


def suspects(
    tensors: Mapping[str, np.ndarray], root: str, parts: AbstractSet[str], before: int | None = None
) -> tuple[list[str], list[str]]:
    """Names of tensors that the network may compute with: of those inside of it and beside it.

    Args:
      tensors: what no variable of the network has.
      root: the beginning of the network's names.
      parts: the first parts of their rest, but for the classifier's.
      before: number of the images' channels, if what lies behind the network does not matter.
    """
    inside, around = [], []
    for name, value in tensors.items():
        own, outside = own_name(name, root), not name.startswith(root)
        apart = outside or own.split('.')[0] not in parts
        if re.search(COUNTED, own) or (apart and _is_idle(own, value)):
            continue
        if not apart or not (outside or np.ndim(value) < 4):
            inside.append(name)
        elif before is None or _is_before(name, tensors, before):
            around.append(name)
    return inside, around


def _is_idle(name: str, value: np.ndarray) -> bool:
    """Whether no network computes its logits with this tensor; the name is its own."""
    numbers = np.issubdtype(value.dtype, np.floating) or value.dtype.name == 'bfloat16'
    return not numbers or not np.ndim(value) or bool(re.search(TRAINING, name))


def _is_before(name: str, tensors: Mapping[str, np.ndarray], channels: int) -> bool:
    """Whether this tensor is of a layer that gives as many channels as images have."""
    module = name.rpartition('.')[0]
    names = [other for other in tensors if other.rpartition('.')[0] == module] if module else [name]
    layer = [np.shape(tensors[other]) for other in names]
    return all(
        math.prod(shape) == channels or (len(shape) == 4 and shape[0] == channels)
        for shape in layer
        if shape
    )


def moments(
    tensors: Mapping[str, np.ndarray], root: str, channels: int
) -> tuple[list[tuple[str, str]], dict[str, list[float]]]:
    """Tensors that images are normalised with: [('mean', name), ('std', name)], and their values.

    Both are empty unless there is one such pair. Values in the units of 0 to 255 are divided.

    Raises:
      ValueError: if no images can be normalised with them.
    """
    pairs = []
    for name in tensors:
        found = re.fullmatch(r'((?:.*\.)?(?!running_)(?:\w+_)?)mean', name)
        pair = (name, f'{found[1]}std') if found else ()
        if re.search(TRAINING, own_name(name, root)):
            continue
        if pair and all(np.size(tensors.get(one, ())) == channels for one in pair):
            pairs.append(pair)
    if len(pairs) != 1:
        return [], {}
    mean, std = (np.ravel(tensors[name]).astype(np.float64) for name in pairs[0])
    unit = 255 if mean.max() > 1 or std.max() > 1 else 1
    values = {'mean': mean / unit, 'std': std / unit}
    rounded = {key: [round(float(v), 7) for v in value] for key, value in values.items()}
    try:
        require_moments(rounded)
    except ValueError as error:
        raise ValueError(f'{" and ".join(pairs[0])} normalise no images: {error}') from None
    return [*zip(values, pairs[0], strict=True)], rounded
