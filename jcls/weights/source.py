"""Weights that no run of jcls left behind: imported folders, and other systems' files, anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from jcls.optim.groups import flat
from jcls.weights import artifact, foreign
from jcls.weights.card import card, torchvision_facts
from jcls.weights.convert import Report, Row, convert
from jcls.weights.fetch import fetch

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
    """Read weights of torchvision, timm, mmpretrain or PaddleClas, or a folder of ``jcls import``.

    Args:
      source: a path, an https address, or a name on the Hub: 'hf:timm/resnet50.a1_in1k'.
      prefix: of the tensors' names, such as 'module.encoder'; others are left out.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      facts: what the user knows better than the file, see `jcls.weights.card.card`.

    Raises:
      ValueError: if it cannot be had, read, or is no ResNet of jcls.
    """
    path = fetch(str(source))
    if path.is_dir() and artifact.is_artifact(path):
        found, variables = artifact.read(path)
        if ema == 'yes':
            raise ValueError(f"ema='yes', but {source} holds one set of weights")
        variables = below(variables, prefix, source)
        rows = [Row(name, name, leaf.shape) for name, leaf in flat(variables).items()]
        return Weights({**found, **(facts or {})}, variables, Report(rows, [], []))
    weights = foreign.read(path, prefix=prefix, ema=ema)
    try:
        converted = convert(weights.tensors)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from None
    known = {**torchvision_facts(path.name), **weights.facts, **(facts or {})}
    description = card(converted.section, known, str(source))
    return Weights(description, converted.variables, converted.report)


def architecture(source: str | Path) -> dict[str, Any]:
    """The fields of the model section that fix the shapes of a source's tensors.

    They are known of what has a model.json (a run, a folder of ``jcls import``); of others {}.
    """
    path = Path(source).expanduser().resolve()
    for folder in (path, path.parent.parent):  # the latter of a checkpoint
        if (folder / 'model.json').is_file():
            found = json.loads((folder / 'model.json').read_text()).get('architecture') or {}
            return {key: found[key] for key in SHAPING if found.get(key) is not None}
    return {}


def is_folder(path: Path) -> bool:
    """Whether `read` can read this folder."""
    return artifact.is_artifact(path) or any((path / name).is_file() for name in foreign.FILES)


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
