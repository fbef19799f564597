"""Evaluate a model on a validation set: ``jcls evaluate WORKDIR``, or weights from elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from jcls.assembly import SECTIONS, build, load_config
from jcls.config.schema import complete, plain
from jcls.training.experiment import Experiment
from jcls.weights import fetch
from jcls.weights.load import choose_variables, find, is_run, read, usable
from jcls.workdir.files import read_config
from jcls.workdir.log import format_metrics


def evaluate(
    workdir: str | Path,
    step: int | str = 'last',
    *,
    ema: str = 'auto',
    overrides: Mapping[str, Any] | None = None,
    config: str | None = None,
    data: Any = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint exactly: {top1, top5, loss, examples, damaged, step, ema}.

    Args:
      workdir: of a run; or, with a `config`, whatever `jcls.load` takes.
      step: of a workdir: 'last', 'best' or a number.
      ema: 'auto' evaluates averaged weights if there are any, 'yes' insists, 'no' the raw ones.
      overrides: changes to its config, such as {'data.dir': ..., 'evaluate.batch_size': 500}; none
        of what belongs to the weights: model (but for its dtype), norm and init.
      config: a config file, whose data are evaluated on instead of a workdir's own. Network and
        preprocessing are still those of the weights.
      data: images and labels in memory instead of a workdir's own data, see `jcls.build`; what is
        held out of them is evaluated on, or all of ``{'train': ..., 'val': ...}``'s 'val'.
    """
    for key in overrides or {}:
        section, _, field = key.removeprefix('config.').partition('.')
        if section in ('model', 'norm', 'init') and (section, field) != ('model', 'dtype'):
            raise ValueError(
                f'{key}: belongs to the weights of {workdir}; evaluate cannot change it'
            )
    if config is not None:
        return _elsewhere(workdir, step, ema, dict(overrides or {}), config)
    if not is_run(workdir) and (fetch.is_remote(str(workdir)) or Path(workdir).exists()):
        raise ValueError(f'{workdir} is no workdir of jcls; name a config with the data: --config')
    path, number, checkpoints = find(workdir, step)
    with closing(checkpoints):
        tree = complete(read_config(path), overrides, sections=SECTIONS)
        experiment = build(tree, data=data)
        saved = checkpoints.variables(number)
    variables, averaged = choose_variables(saved, ema, path)
    return {**_results(experiment, variables), 'step': number, 'ema': averaged}


def _elsewhere(
    path: str | Path, step: int | str, ema: str, overrides: dict[str, Any], config: str
) -> dict[str, Any]:
    """Evaluate weights on the data of a config."""
    card, variables = read(path, step, ema=ema)
    usable(card, variables, path)
    own = {
        'evaluate.preprocess': tuple(card['preprocess']),
        'data.mean': tuple(card['mean']),
        'data.std': tuple(card['std']),
        'data.exif': card.get('exif', False),
    }
    tree = plain(load_config(config, {**own, **overrides}))
    tree['model'] = {**card['architecture'], 'dtype': tree['model']['dtype']}
    tree['norm'], tree['init'] = card['norm'], {}
    experiment = build(tree)
    classes = list(experiment.data.train.classes)
    if card['classes'] != classes and 'classes' not in card.get('assumed', ()):
        raise ValueError(
            f'{path} knows the classes {", ".join(card["classes"][:3])}, ..., the data of {config} '
            f'have {", ".join(classes[:3])}, ...: they must be the same, in the same order'
        )
    # Of weights of another system neither is known.
    origin = {'step': card.get('step'), 'ema': card.get('averaged')}
    return {**_results(experiment, variables), **origin}


def _results(experiment: Experiment, variables: dict[str, Any]) -> dict[str, Any]:
    results = experiment.evaluations(variables, train=False)['eval']
    return {**results, 'damaged': len(experiment.damage.reasons)}


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The verb: print the result and return it for --json."""
    result = evaluate(
        args.workdir, args.step, ema=args.ema, overrides=overrides, config=args.config
    )
    metrics = {key: result[key] for key in result if key not in ('step', 'ema', 'damaged')}
    step = '' if result['step'] is None else f', checkpoint {result["step"]}'
    averaged = ', averaged weights' if result['ema'] else ''
    print(
        f'{args.workdir}{step}{averaged}: '
        f'{format_metrics(metrics)} on {result["examples"]:,} images ({result["damaged"]} damaged)'
    )
    return result
