"""Conversion of other systems' tensors to variables of a jcls model and back, with a report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jcls import models
from jcls.weights.foreign import beside, layouts
from jcls.weights.foreign.recognise import kernel, recognise, the_network

SHOWN = 12  # number of differences that a message shows
# What the tensors do not tell of a network, and the values that they leave open. No preset has the
# last ones.
UNTOLD = {
    'shortcut': ('pad', 'pad_both'),
    'stem': ('cifar', 'cifar_pool'),
    'stride_in_1x1': (False, True),
    'padding': models.PADDINGS,
}


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
    """The result of a conversion.

    Attributes:
      section: the ``model`` section.
      variables: {'params', 'batch_stats'} in float32.
      report: what became of every tensor.
      untold: fields of the section that the tensors do not tell, with the values assumed.
      moments: 'mean' and 'std' of the images, if the network has them as tensors; or {}.
    """

    section: dict[str, Any]
    variables: dict[str, Any]
    report: Report
    untold: dict[str, Any]
    moments: dict[str, list[float]]


def convert(
    tensors: Mapping[str, np.ndarray],
    *,
    classifier: bool = True,
    choices: Mapping[str, Any] | None = None,
) -> Converted:
    """Convert a state dict of any layout, whatever wrappers its names have.

    A missing classifier is reported; any other missing tensor is an error, and so is one that the
    network does not have, unless it computes nothing with it, see `beside`.

    Args:
      tensors: the state dict.
      classifier: whether the classifier is wanted. If it is not, it is skipped, and so is whatever
        else may lie behind the network, as a projection head.
      choices: fields of `UNTOLD` to have instead of the values that are assumed.

    Raises:
      ValueError: if this is no ResNet of jcls; the error names the nearest one, and what differs.
    """
    root = the_network({name: np.shape(value) for name, value in tensors.items()}).root
    inside = {name.removeprefix(root): v for name, v in tensors.items() if name.startswith(root)}
    report = Report([], [], [])
    shapes = {name: np.shape(value) for name, value in inside.items()}
    layout, section = recognise(shapes)
    classes = section.pop('num_classes')
    if not classifier:
        classes = None
    elif classes == 1:
        raise ValueError(
            f'{root}{layout.head}.weight {shapes[f"{layout.head}.weight"]}: a classifier of one '
            f'logit, where jcls has one for each class (at least 2); {_WITHOUT}'
        )
    section, untold = _chosen(section, choices or {})
    model = models.create(**section, num_classes=classes)
    names = layouts.tensors(model, layout)
    first = names['params/stem/conv1/kernel']
    own = flatten_dict(shapes_of(model, kernel(shapes, first)[1]), sep='/')
    problems: list[str] = []
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    for path, name in names.items():
        of_head = path.startswith('params/head/')
        if of_head and not classifier:
            continue
        if name not in inside:
            report.missing.append(Row(path, root + name, own[path].shape))
            if classes is not None or not of_head:
                problems.append(f'+ {root}{name}, for {path} {own[path].shape}: not in the source')
            continue
        value = layouts.to_own(layouts.as_matrix(inside[name]) if of_head else inside[name], layout)
        report.loaded.append(Row(path, root + name, shapes[name]))
        if value.shape != own[path].shape:
            problems.append(f'! {root}{name}: {value.shape}, but {path} is {own[path].shape}')
            continue
        if not (np.issubdtype(value.dtype, np.floating) or value.dtype == jnp.bfloat16):
            problems.append(f'! {root}{name}: numbers of type {value.dtype}')
            continue
        leaves[tuple(path.split('/'))] = np.ascontiguousarray(value, np.float32)
    used = {row.name for row in report.loaded}
    others = {name: value for name, value in tensors.items() if name not in used}
    channels = kernel(shapes, layouts.stem_of(layout, model.stem)[0][0] + '.weight')[1]
    normalising, moments = beside.moments(others, root, channels)
    report.loaded.extend(Row(key, name, np.shape(others.pop(name))) for key, name in normalising)
    report.skipped.extend(Row(None, name, np.shape(value)) for name, value in others.items())
    parts = {name.split('.')[0] for path, name in names.items() if 'params/head/' not in path}
    within, around = beside.suspects(others, root, parts, None if classifier else channels)
    problems.extend(
        f'- {name} {np.shape(others[name])}: {section["name"]} has no such tensor'
        for name in (*within, *around)
    )
    if problems and len(problems) == len(around):
        cure = _EDITS
        if classifier:
            matrices = [name for name in around if np.ndim(others[name]) == 2]
            cure = _cure(matrices, root, None if classes else f'{root}{layout.head}')
        raise ValueError(
            f'before or behind the network, {_said(section)}, are tensors that it may compute '
            f'with:\n{shown(problems)}\n{cure}'
        )
    if problems:
        left = any(line[0] == '-' for line in problems)
        raise ValueError(
            f'this is no ResNet of jcls; the nearest is {_said(section)}, but:\n{shown(problems)}'
            + (f'\n{_EDITS}' if left else '')
        )
    section = {**section, 'num_classes': classes}
    return Converted(section, unflatten_dict(leaves), report, untold, moments)


_WITHOUT = (
    "a run that starts from this source with config.init.head='new' leaves out what is behind the "
    'network, and `jcls import --drop PATTERN` what you say'
)
_EDITS = (
    '`jcls import` has --rename PATTERN=NEW for tensors with other names, and --drop PATTERN for '
    'those that the network computes nothing with.'
)


# Names of parameters that a weight is computed from, and what puts the weight in their place.
PARAMETRISED = {
    r'\.parametrizations\.': 'call torch.nn.utils.parametrize.remove_parametrizations',
    r'\.weight_g$': 'call torch.nn.utils.remove_weight_norm on the module',
    r'\.weight_u$': 'call torch.nn.utils.remove_spectral_norm on the module',
    r'\.weight_(mask|orig)$': 'make its pruning permanent with torch.nn.utils.prune',
}


def parametrised(names: Iterable[str]) -> str:
    """What to do if weights are kept in other parts, such as a length and a direction; or ''."""
    for pattern, undo in PARAMETRISED.items():
        found = next((name for name in names if re.search(pattern, name)), None)
        if found:
            return (
                f'\n{found} is a part that a weight is computed from; before you save the weights, '
                f'{undo}'
            )
    return ''


def _cure(matrices: list[str], root: str, head: str | None) -> str:
    """What to do about tensors beside a network; `head` is the name of a missing classifier."""
    if not head:
        alone = f', --prefix {root.removesuffix(".")} all of them' if root else ''
        return f'If it computes nothing with them: {_WITHOUT}{alone}.'
    if len(matrices) != 1:
        return f'The network has no classifier of its own: {_WITHOUT}.'
    old = re.escape(matrices[0].removesuffix('.weight'))
    return (
        f'The network has no classifier; if {matrices[0]} is the one, name it so: '
        f"--rename '^{old}[.]={head}.'. If not: {_WITHOUT}."
    )


def _chosen(
    section: dict[str, Any], choices: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The section with the `choices`, and the values of the other fields of `UNTOLD`."""
    model = models.create(**section)
    section, untold = dict(section), {}
    for field, values in UNTOLD.items():
        value = getattr(model, field)
        open_ = value in values and (field != 'stride_in_1x1' or model.block == 'bottleneck')
        chosen = choices.get(field, value)
        if chosen not in ((value, *values) if open_ else (value,)):
            known = ', '.join(map(repr, values if open_ else (value,)))
            raise ValueError(f'{field}={chosen!r}: the tensors are those of {known}')
        if chosen != value:
            section[field] = chosen
        if open_ and field not in choices:
            untold[field] = value
    return section, untold


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
