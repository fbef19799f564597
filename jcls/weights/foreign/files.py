"""Reading weights that another system wrote: which of a file's tensors, and the metadata."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jcls.weights.foreign import hub
from jcls.weights.foreign.beside import own_name
from jcls.weights.foreign.edits import Edits
from jcls.weights.foreign.kinds import SAFETENSORS, NoWeightsError, kind
from jcls.weights.foreign.pickles import read_pickle
from jcls.weights.foreign.recognise import Network, networks

logger = logging.getLogger(__name__)

# Parts of names, and keys of dictionaries, below which averaged weights are.
AVERAGED = r'((.*_)?(ema|swa|averaged?)(_.*)?)'
SHOWN = 8  # names in a message
# Modules that FSDP, checkpointing of activations and torch.compile put between the others.
BETWEEN = r'(?<![^.])_(fsdp|checkpoint)_wrapped_module\.|(?<=\.)_orig_mod\.'
FILES = ('model.safetensors', 'pytorch_model.bin')  # files of weights in a Hub folder


class Foreign(NamedTuple):
    """Tensors and metadata of another system.

    Attributes:
      tensors: a flat state dict of one network, and perhaps more tensors beside it.
      metadata: any of 'classes', 'mean', 'std', 'preprocess'; 'choices', fields of the network that
        its tensors do not tell; 'likely', values to assume; 'settled', what else need not be
        assumed, see `jcls.weights.assumed`.
      averaged: whether the weights are averaged; None if nothing says so.
      both: whether the file has averaged weights and raw ones.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]
    averaged: bool | None = None
    both: bool = False


def read(path: Path, *, prefix: str = '', ema: str = 'auto', edits: Edits | None = None) -> Foreign:
    """Read a ``.safetensors``, any pickle of torch or Paddle, or a Hub folder.

    The weights may lie in dictionaries of any names and depth.

    Args:
      path: the file or folder.
      prefix: common prefix of the names, which is removed; other tensors are left out. The keys of
        the dictionaries around them may stand before it.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      edits: what to rename and to leave out first.

    Raises:
      ValueError: for a damaged file, a file without weights, a prefix that no name has, or one that
        has to be named because there are several networks.
    """
    if path.is_dir():
        folder = path
        path = next((folder / name for name in FILES if (folder / name).exists()), folder)
        if path == folder:
            raise ValueError(
                f'{folder} has no weights: none of {" and ".join(FILES)}; {_there(folder)}'
            )
    metadata = hub.read(path.parent) if is_of_folder(path) else {}
    content: Any = {}
    if kind(path) == SAFETENSORS:
        sets = {'': _read_safetensors(path)}
    else:
        content = read_pickle(path)
        sets = _state_dicts(content, path)
        metadata |= _mmpretrain_metadata(content)
    sets = {
        place: {re.sub(BETWEEN, '', name): value for name, value in tensors.items()}
        for place, tensors in sets.items()
    }
    if edits:
        sets = edits.apply(sets, path)
    start = re.sub(BETWEEN, '', f'{prefix.rstrip(".")}.') if prefix else ''
    if start:
        sets = _below(sets, start, path)
    found = _one_of(sets, ema, path)
    if found.averaged is None and ema == 'auto':
        _say_unread_averages(content, found.tensors, path)
    return found._replace(metadata=metadata)


def is_of_folder(path: Path) -> bool:
    """Whether this is the file of weights in a Hub folder, which the other files there describe."""
    return path.name in FILES


def _there(folder: Path) -> str:
    """What a folder without weights of the usual names has, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    if any(re.search(r'-\d+-of-\d+\.|\.index\.json$', name) for name in names):
        return (
            'they are in parts; save them in one file: '
            "model.save_pretrained(folder, max_shard_size='100GB')"
        )
    if not names:
        return 'it is empty'
    more = f' and {len(names) - SHOWN} more' if names[SHOWN:] else ''
    return f'it has {", ".join(names[:SHOWN])}{more}: name a file of weights'


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise NoWeightsError(f'{path} cannot be read as safetensors: {error}') from None


def _state_dicts(content: Any, path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The state dicts in a checkpoint's content, by the keys of the dictionaries around them."""
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} holds no dictionary of tensors, but a {type(content).__name__}')
    content = {str(key): value for key, value in content.items()}
    if 'ema_state_dict' in content and 'meta' in content:
        # mmengine exchanges the two: its 'state_dict' holds the averaged weights.
        raw, averaged = content.pop('ema_state_dict'), content.pop('state_dict', {})
        content |= {'state_dict': raw, 'state_dict_ema': averaged}
    sets = dict(_with_convolutions(content))
    if sets:
        layers = _layers(content, sets)
        return {**sets, '': {**sets.get('', {}), **layers}} if layers else sets
    flat = dict(_flat(content))
    if not flat:
        raise ValueError(f'{path} holds no tensors, only {", ".join(content) or "nothing"}')
    return {'': flat}


def _with_convolutions(
    content: Mapping[str, Any], place: str = ''
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    arrays = {str(k): v for k, v in content.items() if isinstance(v, np.ndarray)}
    if any(v.ndim == 4 and '.' in name for name, v in arrays.items()):
        yield place, arrays
    for key, value in content.items():
        if isinstance(value, Mapping) and 'optim' not in str(key).lower():
            yield from _with_convolutions(value, f'{place}.{key}' if place else str(key))


def _layers(
    content: Mapping[str, Any], sets: Mapping[str, dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Layers that are saved by themselves beside a network, such as its classifier."""
    layers: dict[str, np.ndarray] = {}
    for key, value in content.items():
        around = any(f'{place}.'.startswith(f'{key}.') for place in sets)
        if isinstance(value, Mapping) and not around and 'optim' not in key.lower():
            inside = dict(_flat(value, key))
            if any(name.endswith('.weight') for name in inside):
                layers |= inside
    return layers


def _flat(content: Mapping[str, Any], place: str = '') -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of dictionaries in dictionaries, one for each module."""
    for key, value in content.items():
        name = f'{place}.{key}' if place else str(key)
        if isinstance(value, np.ndarray):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _flat(value, name)


def _below(
    sets: dict[str, dict[str, np.ndarray]], start: str, path: Path
) -> dict[str, dict[str, np.ndarray]]:
    """The tensors below the prefix in each set, and the sets whose own place is below it."""
    below = {}
    for place, tensors in sets.items():
        for around in dict.fromkeys(('', f'{place}.' if place else '')):
            found = {
                f'{around}{name}'.removeprefix(start): value
                for name, value in tensors.items()
                if f'{around}{name}'.startswith(start)
            }
            if found:
                below[place] = found
    if not below:
        names = [name for tensors in sets.values() for name in tensors]
        known = [*filter(None, sets), *sorted({name.split('.')[0] for name in names})][:8]
        raise ValueError(
            f'prefix={start.removesuffix(".")!r}: nothing in {path} lies below it; it has '
            f'{", ".join(known)}'
        )
    return below


def _one_of(sets: dict[str, dict[str, np.ndarray]], ema: str, path: Path) -> Foreign:
    """The tensors of one network."""
    found = [
        (place, network)
        for place, tensors in sets.items()
        for network in networks({name: value.shape for name, value in tensors.items()})
    ]

    def is_averaged(place: str, network: Network) -> bool:
        around = f'{place}.{network.root}'.split('.')
        # torch.optim.swa_utils.AveragedModel counts beside its 'module.'.
        counter = f'{network.root.removesuffix("module.")}n_averaged'
        return counter in sets[place] or any(re.fullmatch(AVERAGED, part) for part in around)

    averaged = [one for one in found if is_averaged(*one)]
    raw = [one for one in found if one not in averaged]
    if ema == 'yes' and not averaged:
        raise ValueError(f"ema='yes', but {path} has no averaged weights")
    if ema == 'no' and averaged and not raw:
        raise ValueError(f"ema='no', but {path} has averaged weights alone")
    chosen = raw if ema == 'no' or not averaged else averaged
    if len(chosen) > 1:
        names = [f'{place}.{network.root}'.strip('.') for place, network in chosen]
        named = ', '.join(filter(None, names))
        roots = [re.escape(network.prefix) for place, network in chosen if network.root]
        if '' in names and roots:  # it has no prefix to name
            pattern = roots[0] if len(roots) == 1 else f'({"|".join(roots)})'
            raise ValueError(
                f'{path} has {len(chosen)} networks: the prefix {named} takes the one of that '
                f"name, and `jcls import --drop '^{pattern}[.]'` the one without a prefix"
            )
        raise ValueError(f'{path} has {len(chosen)} networks: name one of {named} as the prefix')
    if not chosen:  # the conversion says what is missing
        return Foreign(max(sets.values(), key=len), {})
    place, network = chosen[0]
    around = [net.root for there, net in found if there == place]

    def whose(name: str) -> list[str]:
        """The roots of the networks that the tensor is of, or has most modules in common with."""
        near = [(-len(own_name(name, root)), name.startswith(root)) for root in around]
        return [root for root, how in zip(around, near, strict=True) if how == max(near)]

    tensors = {name: v for name, v in sets[place].items() if network.root in whose(name)}
    if place and not any(there == '' for there, _ in found):
        layers = sets.get('', {})
        twice = sorted(layers.keys() & tensors.keys())
        if twice:
            raise ValueError(
                f'{path} has {twice[0]} twice, in {place} and beside it; the prefix {place} takes '
                'the one in it alone'
            )
        tensors |= layers
    return Foreign(tensors, {}, chosen is averaged if averaged else None, bool(averaged and raw))


def _say_unread_averages(content: Any, tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Warn of averages without the names of a network: torch_ema's list, or names without dots."""
    places = [*_lists(content)]
    places += [
        name
        for name, value in tensors.items()
        if value.ndim == 4 and any(re.fullmatch(AVERAGED, part) for part in name.split('.'))
    ]
    if places:
        logger.warning(
            'warning: %s has averaged weights, too (%s), but not by the names of a network; they '
            'were not taken',
            path,
            places[0],
        )


def _lists(content: Any, place: str = '') -> Iterator[str]:
    """The places of torch_ema's lists of averages."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        name = f'{place}.{key}'.strip('.')
        if key == 'shadow_params' and isinstance(value, list):
            yield name
        yield from _lists(value, name)


def _mmpretrain_metadata(content: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata from the 'meta' in a checkpoint of mmpretrain."""
    meta = content.get('meta')
    if not isinstance(meta, Mapping):
        return {}
    dataset = meta.get('dataset_meta')
    names = dataset.get('classes') if isinstance(dataset, Mapping) else meta.get('CLASSES')
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return {'classes': names} if named else {}
