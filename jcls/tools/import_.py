"""Import weights of torchvision, timm, mmpretrain or PaddleClas: ``jcls import SRC OUT``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jcls.data.augment import compose
from jcls.host.disk import local
from jcls.weights import artifact
from jcls.weights.foreign.convert import Report, adapt_channels
from jcls.weights.imported import Weights, read, require_classifier
from jcls.weights.metadata import of_channels, preprocess


def import_weights(
    source: str | Path,
    out: str | Path,
    *,
    prefix: str = '',
    ema: str = 'auto',
    classes: Sequence[str] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str = 'bilinear',
    channels: int | None = None,
) -> Report:
    """Write the folder `out` with weights and model.json, to load, predict with and finetune from.

    Args:
      source: a file, an https address, a folder or a name on the Hub ('hf:timm/resnet50.a1_in1k').
      out: folder to make.
      prefix: common prefix of the tensors' names; other tensors are left out.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      classes: names of the classes, in their order. None for the file's own, or ImageNet's if there
        are 1000, or else numbers.
      resize: length of the shorter side at evaluation, together with `crop`. None for the weights'
        own preprocessing, if it is known, or else 256 and 224.
      crop: side of the central square.
      interpolation: interpolation of the resize, together with `resize` and `crop`.
      channels: number of channels of an image. The first convolution of weights for colour is
        adapted to it, and mean and std are averaged. None for the weights' own.

    Raises:
      ValueError: if the source cannot be fetched or read, is no ResNet of jcls, or `out` exists.
    """
    if (resize is None) != (crop is None):
        raise ValueError('resize and crop go together: give both, or neither')
    if channels is not None and channels < 1:
        raise ValueError(f'channels={channels}: at least 1')
    folder = artifact.new_folder(out)
    known: dict[str, Any] = {} if classes is None else {'classes': list(classes)}
    if resize is not None and crop is not None:
        known['preprocess'] = preprocess(resize, crop, interpolation)
        try:
            compose(known['preprocess'], 'preprocess')
        except ValueError as error:
            raise ValueError(f'resize={resize}, crop={crop}: {error}') from None
    weights = read(source, prefix=prefix, ema=ema, known=known)
    require_classifier(weights.variables, source)
    artifact.write(folder, *_with_channels(weights, channels))
    return weights.report


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
        text = local(file).read_text('utf-8')
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


def run(*, source: str, out: str, classes: str | None = None, **given: Any) -> dict[str, Any]:
    """The verb: write, print the tables and return them for --json."""
    report = import_weights(source, out, classes=read_classes(classes), **given)
    console = Console(soft_wrap=True)
    for table in tables(report):
        console.print(table)
    metadata, _ = artifact.read(local(out))
    steps = ', '.join(' '.join(map(str, step.values())) for step in metadata['preprocess'])
    assumed = f' (assumed: {", ".join(metadata["assumed"])})' if metadata.get('assumed') else ''
    name = metadata['architecture']['name']
    print(f'{out}: {name}, {len(metadata["classes"])} classes, {steps}{assumed}')
    return report.json()
