"""Weights that no run of jcls left behind: imported folders, and other systems' files, anywhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from jcls import models
from jcls.models.resnet import ARCHITECTURE
from jcls.weights import artifact
from jcls.weights.fetch import fetch, local, wrong_hash
from jcls.weights.foreign import files
from jcls.weights.foreign.convert import Report, Row, convert
from jcls.weights.metadata import card, epsilon, model_of, read_card, revised, torchvision_facts
from jcls.workdir.files import METADATA

logger = logging.getLogger(__name__)

SHAPING = ('name', 'stem', 'blocks', 'width', 'project_first')  # fields of the model section


class Weights(NamedTuple):
    """Variables with what model.json says of them, and what became of the source's tensors."""

    card: dict[str, Any]
    variables: dict[str, Any]
    report: Report


def read(
    source: str | Path,
    *,
    prefix: str = '',
    ema: str = 'auto',
    facts: dict[str, Any] | None = None,
) -> Weights:
    """Read weights of torchvision, timm, mmpretrain or PaddleClas, or a folder of jcls.

    Of a folder of ``jcls import`` or ``jcls export``, model.json is the card. A file alone cannot
    tell a ResNet from one that computes otherwise with the same tensors, such as resnetaa50 or
    resnetblur50; the config.json of timm can.

    Args:
      source: a path, an https address, or a name on the Hub: 'hf:timm/resnet50.a1_in1k'.
      prefix: of the tensors' names, such as 'module.encoder'; others are left out.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      facts: what the user knows better than the file, see `jcls.weights.metadata.card`.

    Raises:
      ValueError: if it cannot be had, read, or is no ResNet of jcls.
    """
    path = fetch(str(source))
    if path.is_dir() and artifact.is_artifact(path):
        found, variables = artifact.read(path)
        if ema == 'yes':
            raise ValueError(f"ema='yes', but {source} holds one set of weights")
        variables = below(variables, prefix, source)
        rows = [
            Row(name, name, leaf.shape) for name, leaf in flatten_dict(variables, sep='/').items()
        ]
        return Weights(revised(found, facts or {}, str(source)), variables, Report(rows, [], []))
    weights = files.read(path, prefix=prefix, ema=ema)
    try:
        converted = convert(weights.tensors)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from None
    if (path / METADATA).is_file():  # of `jcls export`
        exported = read_card(path / METADATA)
        _check_same(exported, converted.section, path)
        description = revised(exported, facts or {}, str(source))
    else:
        beside = weights.facts
        if converted.section['num_classes'] is None:  # a backbone: the file's names are of its head
            beside = {key: value for key, value in beside.items() if key != 'classes'}
        known = {**_published(path), **beside, **(facts or {})}
        channels = converted.variables['params']['stem']['conv1']['kernel'].shape[2]
        description = card(converted.section, known, str(source), channels=channels)
    return Weights(description, converted.variables, converted.report)


def _published(path: Path) -> dict[str, Any]:
    """What torchvision says of a file of its own; of one that merely has its name, nothing."""
    facts = torchvision_facts(path.name)
    wrong = wrong_hash(path, path.name) if facts else None
    if wrong:
        logger.warning('note: %s: %s; what is published of that is left out', path, wrong)
    return {} if wrong else facts


def _check_same(exported: dict[str, Any], section: dict[str, Any], folder: Path) -> None:
    """Refuse a model.json that is about another network than the weights beside it."""
    described, found = model_of(exported), models.create(**section)
    different = [
        f'{field} is {getattr(found, field)}, not {getattr(described, field)}'
        for field in (*ARCHITECTURE, 'num_classes')
        if getattr(found, field) != getattr(described, field)
    ]
    if different:
        raise ValueError(
            f'{folder / METADATA} describes another network than the weights beside it, of '
            f'which {", ".join(different)}; remove it if it does not belong to them'
        )


def sections(source: str | Path) -> dict[str, dict[str, Any]]:
    """The fields of the sections 'model' and 'norm' that the use of a source's tensors depends on.

    They are known of what has a model.json (a run, a folder of ``jcls import``); of others {}.
    """
    path = local(source).resolve()
    run = path.parent.parent if path.parent.name == 'checkpoints' else path
    if not (run / METADATA).is_file():
        return {}
    known = read_card(run / METADATA)
    shape = {key: known['architecture'].get(key) for key in SHAPING}
    return {
        'model': {key: value for key, value in shape.items() if value is not None},
        'norm': {'epsilon': epsilon(known)},
    }


def is_folder(path: Path) -> bool:
    """Whether `read` can read this folder."""
    return artifact.is_artifact(path) or any((path / name).is_file() for name in files.FILES)


def below(variables: dict[str, Any], prefix: str, path: str | Path) -> dict[str, Any]:
    """What lies below `prefix` in each collection of `variables`."""
    for part in filter(None, prefix.strip('/').split('/')):
        kept = {name: tree[part] for name, tree in variables.items() if part in tree}
        if not kept:
            known = ', '.join(variables.get('params', {}))
            raise ValueError(
                f'prefix={prefix!r}: nothing of {path} lies below it; it has params of {known}'
            )
        variables = {name: kept.get(name, {}) for name in variables}
    return variables


def require_classifier(variables: dict[str, Any], path: str | Path) -> None:
    """Refuse a backbone alone."""
    if 'head' not in variables['params']:
        raise ValueError(
            f'{path} has no classifier; train one on its weights with config.init.source and '
            "config.init.head='new'"
        )
