"""Weights that no run of jcls has made: imported folders and other systems' files, anywhere."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from jcls import models
from jcls.config.parts import choose
from jcls.host.disk import local
from jcls.models.resnet import ARCHITECTURE
from jcls.weights import artifact, assumed
from jcls.weights.classes import SHOWN, twins
from jcls.weights.fetch import fetch, forget, hash_in, wrong_hash
from jcls.weights.foreign import files
from jcls.weights.foreign.beside import COUNTERS
from jcls.weights.foreign.convert import UNTOLD, Converted, Report, Row, convert, parametrised
from jcls.weights.foreign.edits import Edits
from jcls.weights.foreign.kinds import NoWeightsError
from jcls.weights.metadata import (
    epsilon,
    model_of,
    of_source,
    read_model_json,
    revised,
    torchvision_metadata,
)
from jcls.weights.sound import require_sound, require_sound_tensors
from jcls.workdir.files import METADATA

logger = logging.getLogger(__name__)

ARCHITECTURE_FIELDS = (
    'name', 'stem', 'blocks', 'width', 'shortcut', 'stride_in_1x1', 'padding', 'project_first',
)  # fmt: skip
EMA_CHOICES = ('auto', 'yes', 'no')


class Weights(NamedTuple):
    """Variables with their metadata, and a report of what became of the source's tensors."""

    metadata: dict[str, Any]
    variables: dict[str, Any]
    report: Report


def read(
    source: str | Path,
    *,
    prefix: str = '',
    ema: str = 'auto',
    classifier: bool = True,
    known: dict[str, Any] | None = None,
    edits: Edits | None = None,
    choices: dict[str, Any] | None = None,
    bgr: bool | None = None,
) -> Weights:
    """Read weights of torchvision, timm, mmpretrain or PaddleClas, or a folder of jcls.

    The metadata of a folder of ``jcls import`` or ``jcls export`` are its model.json. Some networks
    of timm (resnetaa50, resnetblur50) have a ResNet's tensors but compute something else. Their
    config.json tells them apart; a bare file cannot. What a file does not tell is assumed, and
    listed in the metadata, see `jcls.weights.assumed`.

    Args:
      source: a path, an https address, or a name on the Hub: 'hf:timm/resnet50.a1_in1k'.
      prefix: common prefix of the tensors' names, such as 'module.encoder'; other tensors are left
        out. Wrappers such as 'module.' need not be named.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      classifier: whether the classifier is wanted; if not, a file's is left out, of whatever kind.
      known: metadata that replace the file's, see `jcls.weights.metadata.revised`.
      edits: what to rename and to leave out.
      choices: fields of the network that the tensors do not tell, see `convert.UNTOLD`.
      bgr: whether the network takes blue, green, red; its first convolution is turned around then.
        None for red, green, blue, as an assumption.

    Raises:
      ValueError: if the source cannot be fetched or read, or is no ResNet of jcls.
    """
    choose(dict.fromkeys(EMA_CHOICES), ema, 'ema')
    known, choices = dict(known or {}), dict(choices or {})
    if bgr is not None:
        known['settled'] = ('bgr',)
    path = fetch(str(source))
    if path.is_dir() and artifact.is_artifact(path):
        if ema == 'yes':
            raise ValueError(f"ema='yes', but {source} holds one set of weights")
        if edits:
            raise ValueError(f'rename and drop are for files of other systems; {source} is of jcls')
        described, variables = artifact.read(path)
        variables = below(variables, prefix, source)
        require_sound(variables, source)
        rows = [
            Row(name, name, leaf.shape) for name, leaf in flatten_dict(variables, sep='/').items()
        ]
        described = _rebuilt(described, choices, bgr, source)
        variables = with_turned_channels(variables) if bgr else variables
        described = revised(described, known, str(source))
        if 'classes' in known:
            _say_twins(described, source)
        return Weights(described, variables, Report(rows, [], []))
    try:
        weights = files.read(path, prefix=prefix, ema=ema, edits=edits)
    except NoWeightsError as error:
        if not forget(str(source), path):
            raise
        raise NoWeightsError(f'{error}. It was not kept: the next try fetches it again') from None
    card = (path.parent if files.is_of_folder(path) else path) / METADATA
    exported = read_model_json(card) if card.is_file() else None
    if exported:  # written by `jcls export`; it tells what the tensors do not
        of_card = model_of(exported)
        choices = {
            field: getattr(of_card, field)
            for field, values in UNTOLD.items()
            if getattr(of_card, field) in values
        } | choices
    choices = weights.metadata.pop('choices', {}) | choices
    try:
        converted = convert(weights.tensors, classifier=classifier, choices=choices)
    except ValueError as error:
        raise ValueError(f'{source}: {error}{parametrised(weights.tensors)}') from None
    _require_sound(converted, source)
    section, variables = converted.section, converted.variables
    if exported:
        _check_same(exported, section, card)
        description = revised(exported, known, str(source))
    else:
        published, beside = _published(path), dict(weights.metadata)
        settled = (*published.pop('settled', ()), *beside.pop('settled', ()))
        if section['num_classes'] is None:
            # A backbone: the file's class names belong to its head.
            published.pop('classes', None)
            beside.pop('classes', None)
        known['settled'] = (*known.get('settled', ()), *settled)
        channels = variables['params']['stem']['conv1']['kernel'].shape[2]
        untold = dict(converted.untold)
        if weights.both and ema == 'auto':
            untold['averaged'] = True
        moments = {key: v[::-1] if bgr else v for key, v in converted.moments.items()}
        known = {**published, **beside, **moments, **known}
        description = of_source(section, known, str(source), channels=channels, untold=untold)
    if weights.averaged is not None:
        description['averaged'] = weights.averaged
    if bgr:
        variables = with_turned_channels(variables)
    _say_twins(description, source)
    skipped = [str(row.name) for row in converted.report.skipped]
    left_out = [name for name in skipped if not re.search(COUNTERS, name)]
    done = {**(edits.json() if edits else {}), 'prefix': prefix, 'bgr': bgr, 'left_out': left_out}
    done = {what: value for what, value in done.items() if value}
    if done:
        description['imported'] = done
    return Weights(description, variables, converted.report)


def _say_twins(description: dict[str, Any], source: str | Path) -> None:
    """Warn of classes with one name, which answers and tables do not tell apart."""
    names = twins(description['classes'])
    if names:
        more = ', ...' if names[SHOWN:] else ''
        logger.warning(
            'warning: several classes of %s have the same name, and answers do not tell them '
            'apart: %s%s; jcls import --classes gives them others',
            source,
            ', '.join(names[:SHOWN]),
            more,
        )


def _rebuilt(
    described: dict[str, Any], choices: dict[str, Any], bgr: bool | None, source: str | Path
) -> dict[str, Any]:
    """A card with other choices of what was assumed when it was written."""
    listed = assumed.of_card(described)
    asked = {*choices} if bgr is None else {*choices, 'bgr'}
    if asked - {*listed}:
        open_ = [what for what, entry in listed.items() if entry['option']]
        raise ValueError(
            f'{source}: {", ".join(sorted(asked - {*listed}))}: known of these weights, and not to '
            f'be chosen; only assumed: {", ".join(open_) or "nothing"}'
        )
    rest = {what: entry for what, entry in listed.items() if what not in choices}
    architecture = {**described['architecture'], **choices}
    return {**described, 'architecture': architecture, 'assumed': rest}


def with_turned_channels(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables for images whose channels are in the opposite order."""
    stem = variables['params']['stem']
    kernel = np.asarray(stem['conv1']['kernel'])[:, :, ::-1]
    stem = {**stem, 'conv1': {'kernel': np.ascontiguousarray(kernel)}}
    return {**variables, 'params': {**variables['params'], 'stem': stem}}


def _require_sound(converted: Converted, source: str | Path) -> None:
    """As `require_sound`, by the source's own names."""
    leaves = flatten_dict(converted.variables, sep='/')
    named = {
        str(row.name): (leaves[row.own], row.own.endswith('/var'))
        for row in converted.report.loaded
        if row.own is not None and row.own in leaves
    }
    require_sound_tensors(named, source)


def _published(path: Path) -> dict[str, Any]:
    """The metadata torchvision gives for a file of its own; {} if the file only has its name."""
    known = torchvision_metadata(path.name)
    wrong = wrong_hash(path, hash_in(path.name)) if known else None
    if wrong:
        logger.warning(
            "note: %s has the name of a file of torchvision's, but %s; what is published of that "
            'is left out',
            path,
            wrong,
        )
    return {} if wrong else known


def _check_same(exported: dict[str, Any], section: dict[str, Any], card: Path) -> None:
    """Raise ValueError if a model.json describes another network than the weights beside it."""
    described, built = model_of(exported), models.create(**section)
    different = [
        f'{field} is {getattr(built, field)}, not {getattr(described, field)}'
        for field in (*ARCHITECTURE, 'num_classes')
        if getattr(built, field) != getattr(described, field)
    ]
    if different:
        raise ValueError(
            f'{card} describes another network than the weights beside it, of '
            f'which {", ".join(different)}; put the weights and a model.json that belong together '
            'into one folder'
        )


def sections(source: str | Path) -> dict[str, dict[str, Any]]:
    """The fields of the sections 'model' and 'norm' that a model for a source's tensors must have.

    The result is {} if the source has no model.json; runs and folders of ``jcls import`` have one.
    """
    path = local(source).resolve()
    run = path.parent.parent if path.parent.name == 'checkpoints' else path
    if not (run / METADATA).is_file():
        return {}
    metadata = read_model_json(run / METADATA)
    shape = {key: metadata['architecture'].get(key) for key in ARCHITECTURE_FIELDS}
    return {
        'model': {key: value for key, value in shape.items() if value is not None},
        'norm': {'epsilon': epsilon(metadata)},
    }


def is_folder(path: Path) -> bool:
    """Whether `read` can read this folder."""
    return artifact.is_artifact(path) or any((path / name).is_file() for name in files.FILES)


def below(variables: dict[str, Any], prefix: str, path: str | Path) -> dict[str, Any]:
    """The part of each collection of `variables` that is below `prefix`."""
    for part in filter(None, prefix.strip('/').split('/')):
        subtrees = {name: tree[part] for name, tree in variables.items() if part in tree}
        if not subtrees:
            known = ', '.join(variables.get('params', {}))
            raise ValueError(
                f'prefix={prefix!r}: nothing of {path} lies below it; it has params of {known}'
            )
        variables = {name: subtrees.get(name, {}) for name in variables}
    return variables


def require_classifier(variables: dict[str, Any], path: str | Path) -> None:
    """Raise ValueError for a backbone without a classifier."""
    if 'head' not in variables['params']:
        raise ValueError(
            f'{path} has no classifier; train one on its weights with config.init.source and '
            "config.init.head='new'"
        )
