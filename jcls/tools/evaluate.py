"""Evaluate a model on a validation set: ``jcls evaluate WORKDIR``, or weights from elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from jcls.assembly import SECTIONS, build, load_config
from jcls.config.schema import complete, plain
from jcls.data.sources.known import Known, differences
from jcls.training.experiment import Experiment
from jcls.training.same_data import known_data
from jcls.weights import fetch
from jcls.weights.load import choose_variables, find, is_run, read, usable
from jcls.workdir.files import read_config
from jcls.workdir.log import format_metrics

logger = logging.getLogger(__name__)


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
      workdir: a workdir; with a `config`, anything that `jcls.load` takes.
      step: checkpoint of a workdir: 'last', 'best' or a number.
      ema: 'auto' evaluates averaged weights if there are any, 'yes' insists, 'no' the raw ones.
      overrides: changes to the config, such as {'data.dir': ..., 'evaluate.batch_size': 500}. The
        sections model (except its dtype), norm and init belong to the weights, so changes to them
        are an error.
      config: config file whose data to evaluate on, instead of the workdir's own. The network and
        the preprocessing remain those of the weights.
      data: images and labels in memory to evaluate on, see `jcls.build`: the part of them that is
        held out, or the 'val' of ``{'train': ..., 'val': ...}``.
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
        known = known_data(path)
        experiment = build(tree, data=data, known=known)
        _say_changes(known, experiment)
        saved = checkpoints.variables(number)
    variables, averaged = choose_variables(saved, ema, path)
    return {**_results(experiment, variables), 'step': number, 'ema': averaged}


def _say_changes(known: Known | None, experiment: Experiment) -> None:
    """Say in numbers how the images differ from those that the run began with."""
    if known is None:
        return
    changes = differences(known, experiment.data.train, experiment.data.val)
    for what, lines in zip(('training', 'held-out'), changes, strict=True):
        if lines:
            logger.warning('%s images since the run began: %s', what, '; '.join(lines))


def _elsewhere(
    path: str | Path, step: int | str, ema: str, overrides: dict[str, Any], config: str
) -> dict[str, Any]:
    """Evaluate weights on the data of a config."""
    metadata, variables = read(path, step, ema=ema)
    usable(metadata, variables, path)
    own = {
        'evaluate.preprocess': tuple(metadata['preprocess']),
        'data.mean': tuple(metadata['mean']),
        'data.std': tuple(metadata['std']),
        'data.exif': metadata.get('exif', False),
    }
    tree = plain(load_config(config, {**own, **overrides}))
    tree['model'] = {**metadata['architecture'], 'dtype': tree['model']['dtype']}
    tree['norm'], tree['init'] = metadata['norm'], {}
    experiment = build(tree)
    classes = list(experiment.data.train.classes)
    if metadata['classes'] != classes and 'classes' not in metadata.get('assumed', ()):
        raise ValueError(
            f'{path} knows the classes {", ".join(metadata["classes"][:3])}, ..., the data of '
            f'{config} have {", ".join(classes[:3])}, ...: they must be the same, in the same order'
        )
    # Neither is known for weights of another system.
    origin = {'step': metadata.get('step'), 'ema': metadata.get('averaged')}
    return {**_results(experiment, variables), **origin}


def _results(experiment: Experiment, variables: dict[str, Any]) -> dict[str, Any]:
    results = experiment.evaluations(variables, train=False)['eval']
    return {**results, 'damaged': len(experiment.damage.reasons)}


def run(overrides: Mapping[str, Any], *, workdir: str, **given: Any) -> dict[str, Any]:
    """The verb: print the result and return it for --json."""
    result = evaluate(workdir, overrides=overrides, **given)
    metrics = {key: result[key] for key in result if key not in ('step', 'ema', 'damaged')}
    step = '' if result['step'] is None else f', checkpoint {result["step"]}'
    averaged = ', averaged weights' if result['ema'] else ''
    print(
        f'{workdir}{step}{averaged}: '
        f'{format_metrics(metrics)} on {result["examples"]:,} images ({result["damaged"]} damaged)'
    )
    return result
