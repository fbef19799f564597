"""Conversion of other systems' tensors to variables of a jcls model and back, with a report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jcls import models
from jcls.weights.foreign import layouts
from jcls.weights.foreign.recognise import kernel, recognise

SHOWN = 12  # number of differences that a message shows
# Other systems also save counters and the image normalisation beside a model's variables.
BESIDE = r'(.*\.)?num_batches_tracked|n_averaged|steps|data_preprocessor\..*'


class Row(NamedTuple):
    """A tensor: its path in jcls (None if jcls has none such), its name in the source, its shape.

    The shape is the source's if it has the tensor, else jcls's.
    """

    own: str | None
    name: str | None
    shape: tuple[int, ...]


class Report(NamedTuple):
    """A report of what became of every tensor."""

    loaded: list[Row]
    skipped: list[Row]
    missing: list[Row]

    def json(self) -> dict[str, list[dict[str, Any]]]:
        """The report as plain objects, for JSON."""
        return {key: [row._asdict() for row in rows] for key, rows in self._asdict().items()}


class Converted(NamedTuple):
    """The result of a conversion: the ``model`` section, the variables and the report."""

    section: dict[str, Any]
    variables: dict[str, Any]
    report: Report


def convert(tensors: Mapping[str, np.ndarray]) -> Converted:
    """Variables {'params', 'batch_stats'} in float32 from a state dict of any layout.

    A missing classifier is reported; any other missing tensor is an error.

    Raises:
      ValueError: if this is no ResNet of jcls; the error names the nearest one, and what differs.
    """
    tensors = {
        name.removeprefix('module.').removeprefix('_orig_mod.'): value
        for name, value in tensors.items()
    }
    shapes = {name: np.shape(value) for name, value in tensors.items()}
    layout, section = recognise(shapes)
    classes = section.pop('num_classes')
    model = models.create(**section, num_classes=classes)
    names = layouts.tensors(model, layout)
    first = names['params/stem/conv1/kernel']
    own = flatten_dict(shapes_of(model, kernel(shapes, first)[1]), sep='/')
    report = Report([], [], [])
    problems: list[str] = []
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    for path, name in names.items():
        if name not in tensors:
            report.missing.append(Row(path, name, own[path].shape))
            if classes is not None or not path.startswith('params/head/'):
                problems.append(f'+ {name}, for {path} {own[path].shape}: not in the source')
            continue
        value = layouts.to_own(tensors[name], layout)
        report.loaded.append(Row(path, name, shapes[name]))
        if value.shape != own[path].shape:
            problems.append(f'! {name}: {value.shape}, but {path} is {own[path].shape}')
            continue
        if not (np.issubdtype(value.dtype, np.floating) or value.dtype == jnp.bfloat16):
            problems.append(f'! {name}: numbers of type {value.dtype}')
            continue
        leaves[tuple(path.split('/'))] = np.ascontiguousarray(value, np.float32)
    used = set(names.values())
    for name in tensors:
        if name not in used:
            report.skipped.append(Row(None, name, shapes[name]))
            if not re.fullmatch(BESIDE, name):
                problems.append(f'- {name} {shapes[name]}: {section["name"]} has no such tensor')
    if problems:
        raise ValueError(
            f'this is no ResNet of jcls; the nearest is {_said(section)}, but:\n{shown(problems)}'
        )
    return Converted({**section, 'num_classes': classes}, unflatten_dict(leaves), report)


def state_dict(
    model: models.ResNet, variables: Mapping[str, Any], layout: layouts.Layout
) -> dict[str, np.ndarray]:
    """The variables with the names and axes of the layout."""
    own = flatten_dict(variables, sep='/')
    return {
        name: np.ascontiguousarray(layouts.to_foreign(np.asarray(own[path]), layout))
        for path, name in layouts.tensors(model, layout).items()
    }


def shapes_of(model: models.ResNet, channels: int = 3) -> dict[str, Any]:
    """The model's variables as `jax.ShapeDtypeStruct`; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt a first convolution [H, W, 3, C] to images of other channels, as timm does.

    For 1 channel the three are added up, so that a grey image gives the same result as in colour.
    For other numbers they are repeated and scaled by 3 / channels.
    """
    if channels == kernel.shape[2]:
        return kernel
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, -(-channels // 3), 1))[:, :, :channels]
    return repeated * np.asarray(3 / channels, kernel.dtype)


def _said(section: Mapping[str, Any]) -> str:
    extra = ', '.join(f'{key}={value}' for key, value in section.items() if key != 'name')
    return f'{section["name"]} with {extra}' if extra else section['name']


def shown(lines: list[str]) -> str:
    """The first `SHOWN` of the lines, indented, and the number of the others."""
    more = [f'... and {len(lines) - SHOWN} more'] if len(lines) > SHOWN else []
    return '\n'.join(f'  {line}' for line in [*lines[:SHOWN], *more])
