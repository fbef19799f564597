"""What the files beside the weights in a Hub folder tell: config.json, preprocessor_config.json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jcls.weights.foreign.kinds import something_else
from jcls.weights.metadata import IMAGENET_CLASSES, preprocess
from jcls.weights.prepared import require_interpolation, require_moments, require_size

CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
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
BUILT = ('strides', 'pool', 'blur', 'activation')
SETTLED_BY_TIMM = (
    'interpolation', 'antialias', 'bgr', 'exif', 'epsilon', 'stride_in_1x1', 'padding', *BUILT,
)  # fmt: skip
USUAL = {'global_pool': 'avg', 'output_stride': 32, 'act_layer': 'relu'}


RESAMPLE = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic', 4: 'box', 5: 'hamming'}
SQUASHED = 384  # transformers' ConvNextImageProcessor crops smaller images alone


class NotAResNetError(ValueError):
    """An error: the file describes a network that jcls does not have."""


def read(folder: Path) -> dict[str, Any]:
    """Metadata from the folder's files of timm or transformers, which must be of a plain ResNet.

    They are those of `jcls.weights.foreign.files.Foreign`.

    Raises:
      ValueError: if a file is damaged, or describes something else.
    """
    metadata: dict[str, Any] = {}
    for name, meaning in ((CONFIG, _config), (PREPROCESSOR, _preprocessor)):
        path = folder / name
        if not path.exists() or 'mean' in metadata:  # timm's config.json says all
            continue
        try:
            content = json.loads(path.read_text('utf-8'))
            if not isinstance(content, dict):
                raise ValueError('it is no JSON object')
            told = meaning(content)
        except NotAResNetError as error:
            raise ValueError(f'{path}{error}') from None
        except (
            ArithmeticError, LookupError, RecursionError, OSError, TypeError, ValueError,
            AttributeError,
        ) as error:  # fmt: skip
            said = str(error) if type(error) is ValueError else repr(error)
            said = f'it lacks {error}' if isinstance(error, KeyError) else said
            said = something_else(path) or said
            raise ValueError(
                f'{path} does not describe a ResNet of timm or transformers: {said}; if it is of '
                'something else, import the weights from another folder'
            ) from None
        settled = (*metadata.get('settled', ()), *told.get('settled', ()))
        metadata |= {**told, 'settled': settled}
    return metadata


def _config(config: dict[str, Any]) -> dict[str, Any]:
    if config.get('model_type') == 'resnet':
        return _of_transformers(config)
    if 'model_type' in config and 'architecture' not in config:
        raise NotAResNetError(f' is of {config["model_type"]}, which is no ResNet of jcls')
    settings = config.get('pretrained_cfg', config)
    name = config.get('architecture') or settings.get('architecture')
    if name and not re.fullmatch(PLAIN, str(name)):
        raise NotAResNetError(
            f' is of {name}, which is no ResNet of jcls, though its tensors may look like it'
        )
    given = [('global_pool', config.get('global_pool'))]
    given += (config.get('model_args') or {}).items()
    moments = {key: settings[key] for key in ('mean', 'std')}
    require_moments(moments)
    metadata: dict[str, Any] = {
        key: [float(value) for value in values] for key, values in moments.items()
    }
    metadata |= _resize_and_crop(settings)
    if name:  # timm's readers of images and its plain ResNets leave no choice of these
        metadata['settled'] = SETTLED_BY_TIMM
    changed = [
        f'{key}={value!r}'
        for key, value in given
        if value and key not in SEEN and value != USUAL.get(key)
    ]
    _refuse(changed)
    names = config.get('label_names') or settings.get('label_names')
    return {**metadata, 'classes': [*map(str, names)]} if isinstance(names, list) else metadata


def _resize_and_crop(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The 'preprocess' of timm's settings; the 'likely' one if they squash images or pad them."""
    _, height, size = settings['input_size']
    crop = settings['crop_pct']
    require_size(size, 'input_size')
    if height != size:
        raise ValueError(f'input_size={settings["input_size"]!r}: of a square')
    _require_share(crop)
    require_interpolation(settings['interpolation'])
    steps = preprocess(int(size / crop), size, settings['interpolation'])
    known = settings.get('crop_mode', 'center') == 'center'
    return {'preprocess': steps} if known else {'likely': {'preprocess': steps}}


def _of_transformers(config: dict[str, Any]) -> dict[str, Any]:
    other = {'hidden_act': 'relu', 'downsample_in_first_stage': False}
    changed = [
        f'{key}={config[key]!r}' for key, usual in other.items() if config.get(key, usual) != usual
    ]
    _refuse(changed)
    metadata: dict[str, Any] = {'settled': ('bgr', 'exif', 'epsilon', 'padding', *BUILT)}
    if config.get('layer_type', 'bottleneck') == 'bottleneck':
        strides = bool(config.get('downsample_in_bottleneck', False))
        metadata['choices'] = {'stride_in_1x1': strides}
    names = config.get('id2label') or {}
    if len(names) != IMAGENET_CLASSES:  # those of ImageNet are known by their WordNet ids
        metadata['classes'] = [str(names[str(i)]) for i in range(len(names))]
    return metadata


def _preprocessor(config: dict[str, Any]) -> dict[str, Any]:
    """Metadata from transformers' preprocessor_config.json, of any kind of image processor."""
    factor = config.get('rescale_factor', 1 / 255) if config.get('do_rescale', True) else 1
    if not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise ValueError(f'rescale_factor={factor!r}: 1 / 255')
    if config.get('do_normalize', True):
        both = {'mean': config.get('image_mean'), 'std': config.get('image_std')}
        moments = {key: value for key, value in both.items() if value is not None}
    else:
        moments = {'mean': [0.0] * 3, 'std': [1.0] * 3}
    require_moments(moments)
    metadata: dict[str, Any] = {**moments, 'settled': ('antialias', 'bgr', 'exif')}
    size = config.get('size')
    if not config.get('do_resize', True) or size is None:
        return metadata
    how = {}
    if 'resample' in config:
        how = {'interpolation': RESAMPLE.get(config['resample'], config['resample'])}
        require_interpolation(how['interpolation'])
        metadata['settled'] += ('interpolation',)
    kind = str(config.get('image_processor_type', config.get('feature_extractor_type')))
    shortest, squashed = size, True
    if isinstance(size, Mapping):
        shortest = size.get('shortest_edge', size.get('height'))
        squashed = 'shortest_edge' not in size
    require_size(shortest, 'size')
    side, crop = shortest, config.get('crop_size')
    if kind.startswith('ConvNext') or 'crop_pct' in config:
        share = config.get('crop_pct', 0.875)
        _require_share(share)
        squashed = shortest >= SQUASHED
        shortest = shortest if squashed else int(shortest / share)
    elif config.get('do_center_crop') and crop is not None:
        side = crop['height'] if isinstance(crop, Mapping) else crop
        require_size(side, 'crop_size')
    else:
        squashed = True
    steps = preprocess(shortest, side, **how)
    return metadata | ({'likely': {'preprocess': steps}} if squashed else {'preprocess': steps})


def _require_share(crop: Any) -> None:
    if not (isinstance(crop, int | float) and 0 < crop <= 1):
        raise ValueError(f'crop_pct={crop!r}: a number above 0, at most 1')


def _refuse(changed: list[str]) -> None:
    if changed:
        raise NotAResNetError(f': no ResNet of jcls is built with {", ".join(changed)}')
