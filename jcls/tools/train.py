"""Train from a config, as ``python -m jcls.main --config ...`` does, also from a notebook."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jcls.assembly import build, load_config
from jcls.config.horizon import is_length
from jcls.distributed import launch, watch
from jcls.host import output, tensorflow
from jcls.host.disk import local
from jcls.models import PRESETS
from jcls.training import loop
from jcls.training.report import Result
from jcls.training.same_data import known_data
from jcls.weights.fetch import is_remote
from jcls.workdir import checkpoint, files

logger = logging.getLogger(__name__)

ELSEWHERE = ('init.source', 'init.step', 'init.ema', 'init.prefix', 'init.head', 'distill.')


def train(
    config: ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    *,
    data: Any = None,
    summary: bool = True,
    own_process: bool = False,
) -> Result:
    """Train `config` in `workdir`, or resume the run that is there; see `jcls.training.loop`.

    Args:
      config: a config as `jcls.load_config` returns it.
      workdir: folder of the run.
      data: images and labels in memory instead of config.data's, see `jcls.build`.
      summary: print at the end what was reached, where the files are and what to do next.
      own_process: this process ends with the run: once everything is saved, it ignores signals
        until it is gone, instead of restoring the handlers that were there.
    """
    with output.lasting():
        experiment = build(config, data=data, known=known_data(workdir))
        # The import takes seconds, in which JAX traces and compiles.
        threading.Thread(target=tensorflow.load).start()
        return loop.train(experiment, workdir, summary=summary, own_process=own_process)


def dry_run(path: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that turn any config into a smoke test: they shrink it and change nothing else.

    The run has two steps of a tiny batch, one narrow block in each stage, and synthetic images. It
    uses no weights or teachers of other runs, which would not fit. The user's own `overrides` win,
    except for those on weights and teachers; one on ``data`` keeps all of the config's data.
    """
    config = load_config(path, {'data.name': 'synthetic', **_but_data(overrides)})
    overrides = {key: value for key, value in overrides.items() if not key.startswith(ELSEWHERE)}
    batch_size = config.batch_size if 'batch_size' in overrides else 8 * jax.device_count()
    shrunk = {
        'duration': '2 steps',
        'batch_size': batch_size,
        'norm.batch_size': 0,
        'mix.batch_size': 0,
        'sizes': (),
        'accumulate': 1,
        'init.source': None,
        'init.step': 'last',
        'init.ema': 'auto',
        'init.prefix': '',
        'init.head': 'keep',
        'distill.name': 'none',
        'evaluate.every': 'never',
        'evaluate.batch_size': None,
        'checkpoint.every': 'never',
        'log.every': '1 steps',
    }
    shrunk |= _within_two_steps(config.schedule)
    if config.model.name in PRESETS:  # a network of the user's own stays as it is
        stages = len(PRESETS[config.model.name]['blocks'])
        shrunk |= {'model.width': 16, 'model.blocks': (1,) * stages}
    if isinstance(config.init.freeze, tuple):  # it may name blocks that are gone
        shrunk['init.freeze'] = -1
    if isinstance(config.loss.class_weights, tuple):
        shrunk['loss.class_weights'] = None
    shrunk['optimizer.lr_groups'] = (('.*', 1.0),)
    if not any(key.startswith('data.') for key in overrides):
        shrunk |= {
            'data.name': 'synthetic',
            'data.examples': 2 * batch_size,
            'data.size': 64,
            'data.channels': len(config.data.mean),
            'data.num_classes': 10,
            'model.num_classes': None,
        }
    return {**shrunk, **overrides}


def _within_two_steps(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that set every length of time in a schedule to one step, and leave the warm-up out.

    Lists of times, and lists of values beside them, keep their first entry.
    """
    lists = [value for value in schedule.values() if isinstance(value, tuple) and value]
    lengths = {len(value) for value in lists if all(map(is_length, value))}
    changes: dict[str, Any] = {}
    for field, value in schedule.items():
        if is_length(value):
            changes[f'schedule.{field}'] = '1 step'
        elif isinstance(value, tuple) and len(value) in lengths:
            changes[f'schedule.{field}'] = ('1 step',) if is_length(value[0]) else value[:1]
    return changes | {'schedule.warmup': '0 steps'}


def _but_data(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in overrides.items() if not key.startswith('data.')}


def run(
    overrides: Mapping[str, Any],
    *,
    config: str,
    workdir: str = '',
    dry_run: bool = False,
    own_process: bool = False,
    **joining: Any,
) -> dict[str, Any]:
    """The verb: join the other processes of the run, if there are any, and train."""
    launch.initialize(**joining)
    if dry_run:
        return _dry_run(config, overrides)
    with watch.watching():
        prepared = _config(config, overrides, local(workdir))
        result = train(prepared, workdir, own_process=own_process)
    ended = {'step': result.step, 'total': result.total, 'workdir': str(result.workdir)}
    return {**ended, **result.metrics, 'interrupted': result.interrupted}


def _config(path: str, overrides: Mapping[str, Any], workdir: Path) -> ConfigDict:
    """The config; where the weights that a run began with are gone, with the run's own model.

    A config file may take its model from ``init.source``, which a run needs only at its start.
    """
    config = load_config(path, overrides)
    source = config.init.source
    if source is None or is_remote(source) or local(source).exists():
        return config
    if not checkpoint.has_checkpoint(workdir):
        return config
    begun = files.read_config(workdir)
    if begun.get('init', {}).get('source') != source:
        return config
    logger.info('%s is gone: the model is that of %s, which needs it no longer', source, workdir)
    model = {
        f'{name}.{field}': value
        for name in ('model', 'norm')
        for field, value in begun.get(name, {}).items()
    }
    return load_config(path, {**model, **overrides})


def _dry_run(path: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    if jax.process_count() > 1:
        raise ValueError('--dry_run is for one process: add --distributed=off')
    shrunk = dry_run(path, overrides)
    print('dry run of', path, 'with')
    print('\n'.join(f'  --config.{key}={value}' for key, value in shrunk.items()))
    with tempfile.TemporaryDirectory() as folder:
        result = train(load_config(path, shrunk), folder, summary=False)
    if result.interrupted:  # nothing is left that could be resumed
        raise KeyboardInterrupt
    print(f'dry run of {path}: done')
    return {'step': result.step, **result.metrics}
