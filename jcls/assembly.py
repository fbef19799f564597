"""From config to objects: the only file that knows every section and its function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jcls import models
from jcls.config import as_config_dict, load
from jcls.config.horizon import create_horizon
from jcls.config.schema import Section, complete, fields, plain
from jcls.data import mix, pipeline, sources
from jcls.data.augment import OPERATIONS, compose, compose_by_step
from jcls.data.sources.from_python import checksum_of
from jcls.data.sources.known import Known
from jcls.distributed import compiler
from jcls.distributed.mesh import create_mesh, make_deterministic
from jcls.host.disk import local
from jcls.models.batch_norm import batch_norm, group_count
from jcls.optim import ema, optimizer, schedule
from jcls.optim.update_rules import OPTIMIZERS
from jcls.training import distill, freezing, losses, step
from jcls.training.evaluate import EvaluateSettings, check_best
from jcls.training.experiment import Experiment, process_shard
from jcls.training.metrics import choose_metrics
from jcls.training.reference import Reference
from jcls.weights.init import InitSettings
from jcls.workdir.checkpoint import CheckpointSettings
from jcls.workdir.log import LogSettings


def assemble(
    sections: Mapping[str, Any],
    devices: Sequence[jax.Device] | None = None,
    given: Any = None,
    known: Known | None = None,
    *,
    recipe: str = '',
    batch_size: int = 256,
    accumulate: int = 1,
    duration: str = '90 epochs',
    seed: int = 0,
    platform: str = 'any',
    deterministic: bool = False,
    augment: tuple = (),
    sizes: tuple[tuple[str, int], ...] = (),
) -> Experiment:
    """The top level of a config, with all other `sections`.

    Args:
      sections: the complete sections by name.
      devices: devices to run on; None for all.
      given: images from Python, see `build`.
      known: what a run that goes on knows of its data, see `build`.
      recipe: name of this config, which is copied into model.json.
      batch_size: number of examples in a step, over all devices.
      accumulate: number of micro-batches that a step's gradient is summed over, to save memory.
        BatchNorm sees one of them at a time, so norm.batch_size=0 no longer means the whole batch,
        and the running statistics move this many times in a step.
      duration: length of the run, such as '90 epochs' or '1000 steps'.
      seed: seed of the initial weights, the order and every random draw.
      platform: 'cpu', 'gpu' or 'tpu' to refuse any other device; 'any' to use what is there.
      deterministic: also make GPUs bit-reproducible, at some cost in speed.
      augment: operations on a training image, in their order.
      sizes: changes of the training images' size: (('30 epochs', 192), ('60 epochs', 224)) sets the
        size of random_resized_crop from these times on.
    """
    del recipe  # it is in the config, which the experiment keeps
    if not 0 <= seed < 2**32:
        raise ValueError(f'config.seed={seed}: must be in 0..{2**32 - 1}')
    if deterministic:
        make_deterministic()
    mesh = create_mesh(platform, batch_size, devices)
    _check_accumulate(accumulate, batch_size, mesh.size)
    data = sources.create(given, known, **sections['data'])
    horizon = create_horizon(duration, batch_size, len(data.train))
    init_from = InitSettings(**sections['init'])
    model, frozen = _model(sections, data, init_from)
    if isinstance(model, models.ResNet):  # and not a network of the user's own
        model = model.clone(materialise_gradient=compiler.must_materialise(mesh))
    group_count(batch_size // accumulate, sections['norm']['batch_size'])
    updates = optimizer.create(
        batch_size,
        functools.partial(freezing.trained, freeze=init_from.freeze),
        len(data.train),
        **sections['optimizer'],
    )
    rate = schedule.create(updates.peak, horizon.total, horizon.steps, **sections['schedule'])
    warmup = horizon.steps(sections['schedule']['warmup'])
    average = ema.create(
        ema.Run(batch_size, horizon.steps_per_epoch, horizon.total, warmup), **sections['ema']
    )
    evaluation = EvaluateSettings(**sections['evaluate'])
    checkpoint = CheckpointSettings(**sections['checkpoint'])
    log = LogSettings(**sections['log'])
    metrics = choose_metrics(evaluation.metrics, len(data.train.classes))
    check_best(checkpoint.best, metrics, evaluation, averaged=average is not None)
    if evaluation.batch_size and evaluation.batch_size % mesh.size:
        raise ValueError(
            f'config.evaluate.batch_size={evaluation.batch_size} does not divide over {mesh.size} '
            'devices'
        )
    intervals = {'evaluate': evaluation.every, 'checkpoint': checkpoint.every, 'log': log.every}
    common: dict[str, Any] = {
        'mean': data.mean,
        'std': data.std,
        'compiler_options': compiler.create(mesh, **sections['compiler']),
    }
    loss = losses.create(
        lambda: np.bincount(data.train.labels, minlength=len(data.train.classes)),
        **sections['loss'],
    )
    distillation = distill.create(**sections['distill'])
    mixing = mix.create(batch_size, seed, horizon.steps, **sections['mix'])
    if mixing is not None:
        mixing.within(process_shard(batch_size).rows())
    return Experiment(
        config={},
        sections=SECTIONS,
        model=model,
        data=data,
        mesh=mesh,
        horizon=horizon,
        optimizer=updates,
        schedule=rate,
        train_step=step.create_train_step(
            model,
            loss,
            updates,
            rate,
            mesh,
            seed=seed,
            accumulate=accumulate,
            rows_kept_together=_rows_kept_together(
                batch_size // accumulate, sections['norm']['batch_size'], mixing
            ),
            damage_tolerated=data.max_damaged > 0 and isinstance(model, models.ResNet),
            ema=average,
            distillation=distillation,
            **common,
        ),
        eval_step=step.create_eval_step(model, mesh, metrics=metrics, **common),
        augmentation_by_step=compose_by_step(augment, sizes, horizon),
        mix=mixing,
        ema=average,
        init_from=init_from,
        frozen=frozen,
        distillation=distillation,
        eval_operation=compose(evaluation.preprocess, 'evaluate.preprocess'),
        evaluate=evaluation,
        metrics=metrics,
        checkpoint=checkpoint,
        log=log,
        reference=Reference(**sections['reference']),
        every={key: horizon.every(text, f'{key}.every') for key, text in intervals.items()},
        damage=pipeline.Damage(data.max_damaged),
    )


def _check_accumulate(accumulate: int, batch_size: int, devices: int) -> None:
    share = batch_size // devices
    if accumulate < 1 or share % accumulate:
        divisors = ', '.join(str(n) for n in range(1, share + 1) if share % n == 0)
        raise ValueError(
            f'config.accumulate={accumulate} does not divide the {share} examples that each of '
            f'{devices} device(s) has of config.batch_size={batch_size}: use one of {divisors}'
        )


def _model(
    sections: Mapping[str, Any], data: sources.Data, init_from: InitSettings
) -> tuple[models.ResNet, freezing.Frozen]:
    """The model, and the part of it that never changes."""
    section = {**sections['model'], 'num_classes': _classes(sections['model'], data)}
    model = models.create(**section, norm=batch_norm(**sections['norm']))
    freeze, norm_eval = init_from.freeze, init_from.norm_eval
    if freeze in (-1, ()) and not norm_eval:
        return model, freezing.Frozen()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, data.channels)))
    frozen_stats = freezing.norms_with_frozen_stats(
        shapes['params'], shapes['batch_stats'], freeze, norm_eval
    )
    trained = freezing.trained(shapes['params'], freeze)
    model = models.create(**section, norm=batch_norm(frozen_stats, **sections['norm']))
    return model, freezing.Frozen(freezing.paths(trained), frozen_stats)


def _rows_kept_together(part: int, ghost: int, mixing: mix.Mix | None) -> int:
    """How many rows of a batch stay together in micro-batches of `part` examples.

    They are those that are normalised together or mixed together. The copies of an image
    (`data.repeats`) are in different ones, and so remain apart.
    """
    if ghost:
        return ghost
    return mixing.size if mixing is not None and part % mixing.size == 0 else 1


def _classes(section: Mapping[str, Any], data: sources.Data) -> int:
    """The number of classes of the data; a ValueError if the config says another number."""
    count, wanted = len(data.train.classes), section['num_classes']
    if wanted is not None and wanted != count:
        raise ValueError(
            f'config.model.num_classes={wanted}, but the data have {count} classes '
            f'({", ".join(data.train.classes[:4])}, ...); set it to {count}, or to None'
        )
    if count < 2:
        raise ValueError(f'the data have only {count} class; a classifier needs at least 2')
    return count


SECTIONS: dict[str, Section] = {
    '': Section(assemble, free=('platform',), host_specific=('recipe',)),
    'augment[]': Section(None, OPERATIONS),
    'checkpoint': Section(CheckpointSettings, free=('*',)),
    'compiler': Section(compiler.create, free=('*',)),
    'data': Section(
        sources.create, sources.SOURCES, free=('max_damaged',), host_specific=sources.HOST_SPECIFIC
    ),
    'distill': Section(distill.create, distill.DISTILLATIONS),
    'ema': Section(ema.create, ema.EMAS),
    'evaluate': Section(EvaluateSettings, free=('*',)),
    'evaluate.preprocess[]': Section(None, OPERATIONS),
    'init': Section(InitSettings),
    'log': Section(LogSettings, free=('*',)),
    'loss': Section(losses.create, losses.LOSSES),
    'mix': Section(mix.create, mix.MIXES),
    'model': Section(models.create, models.MODELS),
    'norm': Section(batch_norm),
    'optimizer': Section(optimizer.create, OPTIMIZERS),
    'reference': Section(Reference, free=('*',)),
    'schedule': Section(schedule.create, schedule.SCHEDULES),
}


def load_config(path: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Load ``'configs/file.py:arg'`` with every default filled in; see `jcls.config.load`.

    >>> load_config('configs/quickstart.py', {'batch_size': 128, 'optimizer.lr': 0.2})
    """
    tree = load(path, overrides, sections=SECTIONS)
    tree['recipe'] = tree['recipe'] or path
    return as_config_dict(tree)


def build(
    config: ConfigDict | Mapping[str, Any],
    devices: Sequence[jax.Device] | None = None,
    *,
    data: Any = None,
    known: Known | None = None,
) -> Experiment:
    """Make an `Experiment` from a config, complete or not.

    It reads names and labels of the data, but no images, and allocates nothing on the devices.

    Args:
      config: a config as `load_config` returns it, or nested dicts.
      devices: devices to run on; None for all.
      data: images and labels in memory instead of config.data's, see
        `jcls.data.sources.from_python`: ``{'image': images, 'label': labels}``, a list of
        ``{'image': ..., 'label': ...}``, or ``{'train': ..., 'val': ...}`` of either.
      known: what a run that goes on knows of its data, so that no image changes its side.

    Raises:
      ValueError: for any mistake in the config; the error names its place and the cure.
    """
    changes = {}
    if data is not None:
        changes = {'data.name': 'from_python', 'data.checksum': checksum_of(data)}
    tree = complete(config, changes, sections=SECTIONS)
    top = {key: tree[key] for key in fields(SECTIONS[''])}
    experiment = dataclasses.replace(assemble(tree, devices, data, known, **top), config=tree)
    experiment.state_shapes()  # so that mistakes about model, groups and image sizes show now
    pipeline.output_size(experiment.data.val, experiment.eval_operation)
    return experiment


def _exists(folder: str) -> bool:
    try:
        return local(folder).exists()
    except ValueError:  # ~ without a home
        return False


def build_or_assume(
    config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None
) -> tuple[Experiment, str]:
    """The experiment, with synthetic images if its data are missing; and which data it has."""
    tree = plain(config)
    known, data = tree['reference'], tree['data']
    folder = data.get('dir')
    if folder is None or not known['examples'] or _exists(folder):
        return build(tree, devices), data['name']
    made_up = {
        'name': 'synthetic',
        'examples': known['examples'],
        'num_classes': known['classes'],
        'channels': len(data['mean']),
    }
    of_every_source = fields(SECTIONS['data']._replace(table=None))
    common = {key: data[key] for key in of_every_source if key not in ('name', 'cache', 'exif')}
    description = f'{folder} is not there; counted as the published run had them'
    return build({**tree, 'data': {**common, **made_up}}, devices), description
