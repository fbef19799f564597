"""Reading weights that another system wrote: their tensors and metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jcls.weights.foreign.pickles import read_pickle
from jcls.weights.metadata import preprocess

# Keys of the weights in other systems' training checkpoints, and of the averaged weights.
RAW = ('state_dict', 'model', 'model_state_dict', 'net')
AVERAGED = ('state_dict_ema', 'model_ema')
MMENGINE_RAW = 'ema_state_dict'  # if there is one, 'state_dict' holds the averaged weights
FILES = ('model.safetensors', 'pytorch_model.bin')  # files of weights in a Hub folder
# Names in timm of ResNets that their tensors identify. Some others, such as resnetaa50 and
# resnetblur50, have the same tensors but compute something else.
PLAIN = r'(tv_|gluon_|ig_|ssl_|swsl_)?(wide_)?resnex?t\d+[cdst]?(_v1[bcdes])?(_\d+x\d+d|_2)?(\..*)?'
# Arguments of timm's models that the tensors show or that matter in training only; and the usual
# values of those that the tensors do not show.
SEEN = (
    'num_classes', 'in_chans', 'layers', 'channels', 'block', 'cardinality', 'base_width',
    'stem_width', 'stem_type', 'avg_down', 'down_kernel_size', 'block_reduce_first',
    'zero_init_last', 'drop_rate', 'drop_path_rate', 'drop_block_rate',
)  # fmt: skip
USUAL = {'global_pool': 'avg', 'output_stride': 32, 'act_layer': 'relu'}


class Foreign(NamedTuple):
    """Tensors and metadata of another system.

    Attributes:
      tensors: a flat state dict.
      metadata: any of 'classes', 'mean', 'std', 'preprocess'.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]


def read(path: Path, *, prefix: str = '', ema: str = 'auto') -> Foreign:
    """Read a ``.safetensors``, any pickle of torch or Paddle, or a Hub folder.

    Args:
      path: the file or folder.
      prefix: common prefix of the names, which is removed; other tensors are left out.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.

    Raises:
      ValueError: for a damaged file, a file without weights, or a prefix that no name has.
    """
    metadata: dict[str, Any] = {}
    if path.is_dir():
        folder = path
        path = next((folder / name for name in FILES if (folder / name).exists()), folder)
        if path == folder:
            raise ValueError(f'{folder} has no weights: none of {", ".join(FILES)} is in it')
        if (folder / 'config.json').exists():
            metadata = _hub_metadata(folder / 'config.json')
    if path.suffix == '.safetensors':
        tensors = _read_safetensors(path)
        if ema == 'yes':
            raise ValueError(f"ema='yes', but {path} holds one set of weights")
    else:
        content = read_pickle(path)
        tensors = _state_dict(content, ema, path)
        metadata |= _mmpretrain_metadata(content)
    if prefix:
        start = prefix.rstrip('.') + '.'
        below = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        if not below:
            known = ', '.join(sorted({name.split('.')[0] for name in tensors})[:8])
            raise ValueError(f'prefix={prefix!r}: nothing in {path} lies below it; it has {known}')
        tensors = below
    return Foreign(tensors, metadata)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} cannot be read as safetensors: {error}') from None


def _state_dict(content: Any, ema: str, path: Path) -> dict[str, np.ndarray]:
    """The weights in a checkpoint's content."""
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} holds no dictionary of tensors, but a {type(content).__name__}')
    if isinstance(content.get(MMENGINE_RAW), Mapping):
        content = {'model_ema': content.get('state_dict'), 'state_dict': content[MMENGINE_RAW]}
    mappings = {
        key: value for key, value in content.items() if isinstance(value, Mapping) and value
    }
    averaged = [mappings[key] for key in AVERAGED if key in mappings]
    raw = [mappings[key] for key in RAW if key in mappings] or [content]
    if ema == 'yes' and not averaged:
        raise ValueError(f"ema='yes', but {path} has no averaged weights")
    chosen = averaged[0] if averaged and ema != 'no' else raw[0]
    tensors = {str(k): v for k, v in chosen.items() if isinstance(v, np.ndarray)}
    if not tensors:
        raise ValueError(
            f'{path} holds no tensors, only {", ".join(map(str, content)) or "nothing"}'
        )
    return tensors


def _hub_metadata(path: Path) -> dict[str, Any]:
    """Metadata from timm's config.json beside the weights, which must be of a plain ResNet."""
    try:
        config = json.loads(path.read_text())
        settings = config.get('pretrained_cfg', config)
        name = config.get('architecture') or settings.get('architecture')
        given = [('global_pool', config.get('global_pool'))]
        given += (config.get('model_args') or {}).items()
        size = settings['input_size'][-1]
        metadata: dict[str, Any] = {
            key: [float(value) for value in settings[key]] for key in ('mean', 'std')
        }
        if settings.get('crop_mode', 'center') == 'center':
            metadata['preprocess'] = preprocess(
                int(size / settings['crop_pct']), size, settings['interpolation']
            )
    except (
        ArithmeticError, LookupError, RecursionError, OSError, TypeError, ValueError,
        AttributeError,
    ) as error:  # fmt: skip
        raise ValueError(f'{path} does not describe a model of timm: {error!r}') from None
    if name and not re.fullmatch(PLAIN, str(name)):
        raise ValueError(
            f'{path} is of {name}, which is no ResNet of jcls, though its tensors may look like it'
        )
    changed = [
        f'{key}={value!r}'
        for key, value in given
        if value and key not in SEEN and value != USUAL.get(key)
    ]
    if changed:
        raise ValueError(f'{path}: no ResNet of jcls is built with {", ".join(changed)}')
    names = config.get('label_names') or settings.get('label_names')
    return {**metadata, 'classes': [*map(str, names)]} if isinstance(names, list) else metadata


def _mmpretrain_metadata(content: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata from the 'meta' in a checkpoint of mmpretrain."""
    meta = content.get('meta')
    if not isinstance(meta, Mapping):
        return {}
    dataset = meta.get('dataset_meta')
    names = dataset.get('classes') if isinstance(dataset, Mapping) else meta.get('CLASSES')
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return {'classes': names} if named else {}
