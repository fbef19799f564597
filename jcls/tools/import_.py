"""Import weights of torchvision, timm, mmpretrain or PaddleClas: ``jcls import SRC OUT``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jcls.data.augment import compose
from jcls.host.disk import local
from jcls.weights import artifact, assumed
from jcls.weights.foreign.convert import Report, adapt_channels
from jcls.weights.foreign.edits import Edits
from jcls.weights.imported import Weights, read, require_classifier
from jcls.weights.metadata import of_channels, preprocess
from jcls.weights.prepared import require_moments


def import_weights(
    source: str | Path,
    out: str | Path,
    *,
    prefix: str = '',
    ema: str = 'auto',
    rename: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str | None = None,
    antialias: bool | None = None,
    channels: int | None = None,
    bgr: bool | None = None,
    exif: bool | None = None,
    epsilon: float | None = None,
    stem: str | None = None,
    shortcut: str | None = None,
    stride_in_1x1: bool | None = None,
    padding: str | None = None,
) -> Report:
    """Write the folder `out` with weights and model.json, to load, predict with and finetune from.

    What neither the source nor an argument tells is assumed; model.json lists it, with its values,
    as 'assumed'. What was done to the tensors is 'imported' there.

    Args:
      source: a file, an https address, a folder or a name on the Hub ('hf:timm/resnet50.a1_in1k').
      out: folder to make.
      prefix: common prefix of the tensors' names; other tensors are left out. Wrappers such as
        'module.' need not be named.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      rename: regular expressions in the tensors' names, and what replaces them, as `re.sub` does.
      drop: regular expressions; tensors whose names have one of them are left out. A network that
        is left without a classifier can be finetuned.
      classes: names of the classes, in their order. None for the file's own, or ImageNet's if there
        are 1000, or else numbers.
      mean: mean of the images' channels, as fractions of 255, red first. None for the source's own,
        or else ImageNet's.
      std: standard deviation of the channels, likewise.
      resize: length of the shorter side at evaluation, together with `crop`. None for the weights'
        own preprocessing, if it is known, or else 256 and 224 (32 and 32 for networks for CIFAR).
      crop: side of the central square.
      interpolation: 'bilinear' or 'bicubic' resize. None for the weights' own, or else 'bilinear'.
      antialias: whether the resize filters what becomes smaller, as Pillow does, but OpenCV not.
        None for the weights' own, or else yes.
      channels: number of channels of an image. The first convolution of weights for colour is
        adapted to it, and mean and std are averaged. None for the weights' own.
      bgr: whether the network takes blue, green, red, as Caffe's do. Its first convolution is
        turned around then, so that it takes red, green, blue. None for no.
      exif: whether images are turned as their EXIF says. None for no.
      epsilon: epsilon of the normalisation layers. None for 1e-5.
      stem: 'cifar' or 'cifar_pool', where the first convolution is 3x3; see `jcls.models.resnet`.
      shortcut: 'pad' or 'pad_both', where shortcuts have no parameters.
      stride_in_1x1: whether bottlenecks stride in their first 1x1 convolution. None for no.
      padding: 'torch' or 'same'. None for 'torch'.

    Raises:
      ValueError: if the source cannot be fetched or read, is no ResNet of jcls, or `out` exists.
    """
    if (resize is None) != (crop is None):
        raise ValueError('resize and crop go together: give both, or neither')
    if channels is not None and channels < 1:
        raise ValueError(f'channels={channels}: at least 1')
    folder = artifact.new_folder(out)
    edits = Edits(dict(rename or {}), tuple(drop))
    edits.check()
    known = _given(
        classes=classes and list(classes),
        mean=mean and list(mean),
        std=std and list(std),
        exif=exif,
    )
    if epsilon is not None:
        if not epsilon > 0:
            raise ValueError(f'epsilon={epsilon}: a positive number')
        known['norm'] = {'epsilon': epsilon}
    how = _given(interpolation=interpolation, antialias=antialias)
    if resize is not None and crop is not None:
        known['preprocess'] = preprocess(resize, crop)
    try:
        compose([{**step, **how} for step in preprocess(resize or 256, crop or 224)[:1]], 'resize')
        compose(known.get('preprocess', []), 'preprocess')
    except ValueError as error:
        raise ValueError(f'resize={resize}, crop={crop}: {error}') from None
    weights = read(
        source,
        prefix=prefix,
        ema=ema,
        known={**known, 'resize': how} if how else known,
        edits=edits if edits.json() else None,
        choices=_given(stem=stem, shortcut=shortcut, stride_in_1x1=stride_in_1x1, padding=padding),
        bgr=bgr,
    )
    own = weights.variables['params']['stem']['conv1']['kernel'].shape[2]
    _check_moments({'mean': mean, 'std': std}, {own, channels or own})
    if not drop:  # whoever leaves out the classifier knows
        require_classifier(weights.variables, source)
    artifact.write(folder, *_with_channels(weights, channels))
    return weights.report


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _check_moments(moments: Mapping[str, Sequence[float] | None], channels: set[int]) -> None:
    """Raise ValueError for a mean or deviation of other channels, or of no images."""
    given = {key: [*values] for key, values in moments.items() if values is not None}
    require_moments(given)
    for key, values in given.items():
        if len(values) not in channels:
            count = ' or '.join(map(str, sorted(channels)))
            raise ValueError(f'{key}={values}: a number for each of {count} channel(s)')


def _with_channels(weights: Weights, channels: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    metadata, variables = weights.metadata, weights.variables
    if channels is None or channels == len(metadata['mean']):
        return metadata, variables
    if len(metadata['mean']) != 3:
        raise ValueError(
            f'channels={channels}: these weights take images of {len(metadata["mean"])} '
            'channel(s); only those for colour can be adapted'
        )
    stem = variables['params']['stem']
    kernel = adapt_channels(np.asarray(stem['conv1']['kernel']), channels)
    stem = {**stem, 'conv1': {'kernel': kernel}}
    params = {**variables['params'], 'stem': stem}
    return of_channels(metadata, channels), {**variables, 'params': params}


def read_classes(file: str | None) -> list[str] | None:
    """Class names from a text file, one on each line, or from a JSON list."""
    if file is None:
        return None
    try:
        text = local(file).read_text('utf-8-sig')  # Windows writes a byte-order mark
        names = json.loads(text) if text.lstrip()[:1] == '[' else text.split('\n')
    except (OSError, ValueError) as error:
        raise ValueError(f'--classes={file}: {error}') from None
    return [str(name).strip() for name in names if str(name).strip()]


def tables(report: Report) -> list[Table]:
    """Tables of what was loaded, by module, and of what was skipped or is missing."""
    shown = []
    for title, rows in zip(report._fields, report, strict=True):
        table = Table('jcls', 'source', 'tensors', title=f'{title}: {len(rows)} tensors', box=None)
        modules: dict[tuple[str, str], dict[Any, list[str]]] = {}
        for row in rows:
            own = (row.own or '').split('/', 1)[-1].rpartition('/')[0]
            module, _, leaf = (row.name or '').rpartition('.')
            # Counters, which every normalisation layer of torch has, share one line.
            key = (own, '(all)' if leaf == 'num_batches_tracked' else module)
            modules.setdefault(key, {}).setdefault(row.shape, []).append(leaf)
        for (own, name), shapes in modules.items():
            parameters = [
                f'{", ".join(dict.fromkeys(names))} {shape}' for shape, names in shapes.items()
            ]
            table.add_row(own, name, '; '.join(parameters))
        if rows:
            shown.append(table)
    return shown


def read_renames(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """{pattern: new} of words such as 'linear=fc'."""
    for pair in pairs or ():
        if not pair.partition('=')[0] or '=' not in pair:
            raise ValueError(f'--rename={pair}: a pattern and what replaces it, as linear=fc')
    return None if pairs is None else {p.rpartition('=')[0]: p.rpartition('=')[2] for p in pairs}


def run(
    *,
    source: str,
    out: str,
    classes: str | None = None,
    rename: Sequence[str] | None = None,
    **given: Any,
) -> dict[str, Any]:
    """The verb: write, print the tables and return them for --json."""
    report = import_weights(
        source, out, classes=read_classes(classes), rename=read_renames(rename), **given
    )
    console = Console(soft_wrap=True)
    for table in tables(report):
        console.print(table)
    metadata, _ = artifact.read(local(out))
    if metadata['assumed']:
        print('not told by the weights, and assumed; the option in brackets chooses another:')
    for line in assumed.lines(metadata['assumed']):
        print(f'  {line}')
    print(f'{out}: {summary(metadata)}')
    told = {key: metadata.get(key) for key in ('assumed', 'averaged', 'imported')}
    return {**report.json(), **told}


def summary(metadata: Mapping[str, Any]) -> str:
    """The network, the number of its classes, how images are prepared, and which weights it has."""
    section = dict(metadata['architecture'])
    count, name = section.pop('num_classes', None), section.pop('name')
    parts = [' '.join([name, *(f'{key}={value}' for key, value in section.items())])]
    parts.append(f'{count} classes' if count else 'no classifier')
    parts += [' '.join(map(str, step.values())) for step in metadata['preprocess']]
    if metadata.get('averaged') is not None:
        parts.append('averaged weights' if metadata['averaged'] else 'raw weights')
    return ', '.join(parts)
