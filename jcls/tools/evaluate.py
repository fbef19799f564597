"""Evaluate a model on a validation set: ``jcls evaluate WORKDIR``, or weights from elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jcls.assembly import SECTIONS, build, load_config
from jcls.config.schema import complete, plain
from jcls.data.sources.exif import noting
from jcls.data.sources.known import Known, differences
from jcls.data.sources.labelled import labelled
from jcls.data.sources.source import Source
from jcls.training.experiment import Experiment
from jcls.training.same_data import known_data, trained_on
from jcls.weights import fetch
from jcls.weights.classes import require_same
from jcls.weights.load import choose_variables, is_run, place, read, usable
from jcls.weights.sound import require_sound
from jcls.workdir import reading
from jcls.workdir.files import read_config, read_metadata
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
    images: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint exactly: {top1, top5, loss, examples, damaged, step, ema}.

    Classes are matched by their names; data with other classes are an error.

    Args:
      workdir: a workdir; with `images` or a `config`, anything that `jcls.load` takes.
      step: checkpoint of a workdir: 'last', 'best' or a number.
      ema: 'auto' evaluates averaged weights if there are any, 'yes' insists, 'no' the raw ones.
      overrides: changes to the config, such as {'data.dir': ..., 'evaluate.batch_size': 500}. The
        sections model (except its dtype), norm and init belong to the weights, so changes to them
        are an error.
      config: config file whose data to evaluate on, instead of the workdir's own. The network and
        the preprocessing remain those of the weights.
      data: images and labels in memory to evaluate on, see `jcls.build`: the part of them that is
        held out, or the 'val' of ``{'train': ..., 'val': ...}``.
      images: labelled folder, or list of paths and labels, of which all images are evaluated on,
        prepared as the weights' model.json says.

    Raises:
      ValueError: for weights or data that cannot be used.
    """
    changes = {key.removeprefix('config.'): value for key, value in (overrides or {}).items()}
    for key in changes:
        section, _, field = key.partition('.')
        if section in ('model', 'norm', 'init') and (section, field) != ('model', 'dtype'):
            raise ValueError(
                f'{key}: belongs to the weights of {workdir}; evaluate cannot change it'
            )
    if images is not None:
        if config is not None or data is not None:
            raise ValueError('evaluate: give images, or a config or data, not both')
        return _on_images(workdir, step, ema, changes, images)
    if config is not None:
        return _elsewhere(workdir, step, ema, changes, config)
    if not is_run(workdir) and (fetch.is_remote(str(workdir)) or Path(workdir).exists()):
        raise ValueError(f'{workdir} is no workdir of jcls; name a config with the data: --config')
    path, step = place(workdir, step)
    saved = reading.read(path, step)  # now, since a run that trains here deletes it in a while
    tree = complete(read_config(path), changes, sections=SECTIONS)
    known = known_data(path)
    experiment = build(tree, data=data, known=known)
    ours = experiment.data.train.classes
    theirs = read_metadata(path).get('classes', ours)
    if tuple(theirs) != tuple(ours):
        require_same(theirs, ours, str(workdir))
    elsewhere = any(key.startswith('data.') for key in changes)
    if _say_changes(known, experiment) or elsewhere or data is not None:
        _say_trained_on(path, experiment.data.val)
    if elsewhere:
        held_out, rest = len(experiment.data.val), len(experiment.data.train)
        logger.warning(
            'these are the %s held-out images of %s; jcls evaluate %s FOLDER takes all',
            f'{held_out:,}',
            f'{held_out + rest:,}',
            workdir,
        )
    variables, averaged = choose_variables(saved.variables, ema, path)
    require_sound(variables, workdir)
    return {**_results(experiment, variables), 'step': saved.step, 'ema': averaged}


def _say_changes(known: Known | None, experiment: Experiment) -> bool:
    """Say in numbers how the images differ from those that the run began with; whether they do."""
    if known is None:
        return False
    changes = differences(known, experiment.data.train, experiment.data.val)
    for what, lines in zip(('training', 'held-out'), changes, strict=True):
        if lines:
            logger.warning('%s images since the run began: %s', what, '; '.join(lines))
    return any(changes)


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
    experiment = build(tree, known=Known(tuple(metadata['classes'])))
    ours = experiment.data.train.classes
    try:
        require_same(metadata['classes'], ours, str(path), f'the data of {config}')
    except ValueError as error:
        raise _with_cure(error, metadata) from None
    _say_trained_on(path, experiment.data.val)
    # Neither is known for weights of another system.
    origin = {'step': metadata.get('step'), 'ema': metadata.get('averaged')}
    return {**_results(experiment, variables), **origin}


def _with_cure(error: ValueError, metadata: Mapping[str, Any]) -> ValueError:
    """The error about classes, with what to do where the names of the weights are assumed."""
    if 'classes' not in metadata.get('assumed', ()):
        return error
    return ValueError(
        f'{error}. The names of the weights are assumed: give them with jcls import --classes'
    )


def _on_images(
    path: str | Path, step: int | str, ema: str, overrides: dict[str, Any], images: str | Path
) -> dict[str, Any]:
    """Evaluate weights on all images of a labelled folder or list."""
    metadata, variables = read(path, step, ema=ema)
    usable(metadata, variables, path)
    of_lists = () if Path(images).is_dir() else ('dir', 'classes')
    meaningful = ('mean', 'std', 'exif', 'max_damaged', 'cache', *of_lists)
    for key in overrides:
        section, _, field = key.partition('.')
        if section == 'data' and field not in meaningful:
            raise ValueError(
                f'{key}: means nothing for all images of {images}; here data has '
                f'{", ".join(meaningful)}'
            )
    of_list = {key: overrides.pop(f'data.{key}') for key in of_lists if f'data.{key}' in overrides}
    try:
        source = labelled(images, metadata['classes'], **of_list)
    except ValueError as error:
        raise _with_cure(error, metadata) from None
    _say_trained_on(path, source)
    run = read_config(place(path)[0]) if is_run(path) else {}
    batch = 64 * jax.device_count()
    tree = {
        'duration': '1 steps',
        'batch_size': batch,
        'augment': tuple(metadata['preprocess']),
        'model': {
            **metadata['architecture'],
            'dtype': run.get('model', {}).get('dtype', 'float32'),
        },
        'norm': {**metadata['norm'], 'batch_size': 0},
        'data': {
            'name': 'from_python',
            'mean': tuple(metadata['mean']),
            'std': tuple(metadata['std']),
            'exif': metadata.get('exif', False),
            'max_damaged': run.get('data', {}).get('max_damaged', 0),
        },
        'evaluate': {
            'preprocess': tuple(metadata['preprocess']),
            'metrics': tuple(run.get('evaluate', {}).get('metrics', ('top1', 'top5', 'loss'))),
        },
    }
    turned: set[int] = set()
    noted = noting(source, turned)
    experiment = build(complete(tree, overrides, sections=SECTIONS), data=noted)
    origin = {'step': metadata.get('step'), 'ema': metadata.get('averaged')}
    results = _results(experiment, variables)
    if turned and not experiment.config['data']['exif']:
        logger.warning(
            'note: %s of the %s images say that they are turned (EXIF orientation), and the '
            'weights were trained on images as they are stored: so they were read. '
            '--config.data.exif=true turns them, as viewers do',
            f'{len(turned):,}',
            f'{len(source):,}',
        )
    return {**results, **origin}


def _say_trained_on(path: str | Path, source: Source) -> None:
    for warning in trained_on(path, source):
        logger.warning('warning: %s', warning)


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
