"""From config to objects: the only place that knows every section and the function behind it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jcls import config as configs
from jcls import models, schema
from jcls.data import augment as operations
from jcls.data import mix as mixing
from jcls.data import pipeline
from jcls.data import source as sources
from jcls.data.chain import Chain
from jcls.experiment import Experiment, share_of
from jcls.models import norm as norms
from jcls.optim import ema as emas
from jcls.optim import optimizer, schedule
from jcls.optim.directions import OPTIMIZERS
from jcls.training import (
    checkpoint,
    compiler,
    distill,
    evaluate,
    freezing,
    horizon,
    log,
    losses,
    step,
)
from jcls.training import mesh as meshes
from jcls.training import reference as references
from jcls.weights import init as starting

# fields of the data section that every source has, but for what is there
SHARED = ('mean', 'std', 'repeats', 'balanced', 'folds', 'fold', 'subset', 'subset_seed')


def assemble(
    sections: Mapping[str, Any],
    devices: Sequence[jax.Device] | None = None,
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
    """The top level of a config; `sections` are the others.

    Args:
      sections: the sections by name, complete.
      devices: to run on; None: all there are.
      recipe: what this config is called; model.json passes it on.
      batch_size: examples in a step, over all devices.
      accumulate: micro-batches that a step's gradient is summed over, to save memory. BatchNorm
        sees one of them at a time: with norm.batch_size=0 it is not over the whole batch any more,
        and running statistics move so many times a step.
      duration: of the run: '90 epochs', '1000 steps'.
      seed: of the initial weights, the order and every random draw.
      platform: 'cpu', 'gpu' or 'tpu' refuses to run elsewhere; 'any' takes what is there.
      deterministic: also make GPUs bit-reproducible, at some cost in speed.
      augment: operations on a training image, in their order.
      sizes: of training images, changing in the run: (('30 epochs', 192), ('60 epochs', 224)) sets
        the size of random_resized_crop from these times on.
    """
    del recipe  # for people; it is part of the config, which the experiment keeps
    if not 0 <= seed < 2**32:
        raise ValueError(f'config.seed={seed}: must be in 0..{2**32 - 1}')
    if deterministic:
        meshes.make_deterministic()
    mesh = meshes.create(platform, batch_size, devices)
    share = batch_size // mesh.size
    if accumulate < 1 or share % accumulate:
        divisors = ', '.join(str(n) for n in range(1, share + 1) if share % n == 0)
        raise ValueError(
            f'config.accumulate={accumulate} does not divide the {share} examples that each of '
            f'{mesh.size} device(s) has of config.batch_size={batch_size}: use one of {divisors}'
        )
    data = sources.create(**sections['data'])
    length = horizon.create(duration, batch_size, len(data.train))
    start = starting.create(**sections['init'])
    model, frozen = _model(sections, data, start)
    model = model.clone(store=compiler.must_store(mesh))
    norms.group_count(batch_size // accumulate, sections['norm']['batch_size'])
    update = optimizer.create(
        batch_size,
        functools.partial(starting.trained, freeze=start.freeze),
        len(data.train),
        **sections['optimizer'],
    )
    lr = schedule.create(update.peak, length.total, length.steps, **sections['schedule'])
    warmup = length.steps(sections['schedule']['warmup'])
    average = emas.create(
        emas.Run(batch_size, length.steps_per_epoch, length.total, warmup), **sections['ema']
    )
    evaluating = evaluate.create(**sections['evaluate'])
    saving = checkpoint.create(average is not None, **sections['checkpoint'])
    if (saving.best or '').startswith('eval_train/') and not evaluating.train_examples:
        raise ValueError(
            f'config.checkpoint.best={saving.best!r} needs config.evaluate.train_examples > 0'
        )
    logging = log.create(**sections['log'])
    intervals = {'evaluate': evaluating.every, 'checkpoint': saving.every, 'log': logging.every}
    eval_batch = evaluating.batch_size
    if eval_batch and eval_batch % mesh.size:
        raise ValueError(
            f'config.evaluate.batch_size={eval_batch} does not divide over {mesh.size} devices'
        )
    options = compiler.create(mesh, **sections['compiler'])
    common: dict[str, Any] = {
        'mean': data.mean,
        'std': data.std,
        'compiler_options': options,
    }
    loss = losses.create(
        lambda: np.bincount(data.train.labels, minlength=len(data.train.classes)),
        **sections['loss'],
    )
    distillation = distill.create(**sections['distill'])
    mix = mixing.create(batch_size, seed, length.steps, **sections['mix'])
    if mix is not None:
        mix.within(share_of(batch_size).rows())
    return Experiment(
        config={},
        complete=functools.partial(schema.complete, sections=SECTIONS),
        model=model,
        data=data,
        mesh=mesh,
        horizon=length,
        optimizer=update,
        schedule=lr,
        train_step=step.create_train_step(
            model,
            loss,
            update,
            lr,
            mesh,
            seed=seed,
            accumulate=accumulate,
            unit=_unit(batch_size // accumulate, sections['norm']['batch_size'], mix),
            ema=average,
            distillation=distillation,
            **common,
        ),
        eval_step=step.create_eval_step(model, mesh, **common),
        phases=_phases(augment, sizes, length),
        mix=mix,
        ema=average,
        start=start,
        frozen=frozen,
        distillation=distillation,
        eval_operation=operations.compose(evaluating.preprocess, 'evaluate.preprocess'),
        evaluate=evaluating,
        checkpoint=saving,
        log=logging,
        reference=references.create(**sections['reference']),
        every={key: length.every(text, f'{key}.every') for key, text in intervals.items()},
        damage=pipeline.Damage(data.max_damaged),
    )


def _model(
    sections: Mapping[str, Any], data: sources.Data, start: starting.Settings
) -> tuple[models.ResNet, freezing.Frozen]:
    """The model, and what of it never changes."""
    section = {**sections['model'], 'num_classes': _classes(sections['model'], data)}
    model = models.create(**section, norm=norms.batch_norm(**sections['norm']))
    if start.freeze in (-1, ()) and not start.norm_eval:
        return model, freezing.Frozen()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, data.channels)))
    still = starting.still_norms(shapes['params'], shapes['batch_stats'], start)
    trained = starting.trained(shapes['params'], start.freeze)
    model = models.create(**section, norm=norms.batch_norm(still, **sections['norm']))
    return model, freezing.Frozen(freezing.paths(trained), still)


def _unit(part: int, ghost: int, mix: mixing.Mix | None) -> int:
    """Rows that stay together in micro-batches of `part`: those normalised or mixed together.

    The copies of an image (`data.repeats`) are in different ones of these, and so remain apart.
    """
    if ghost:
        return ghost
    return mix.size if mix is not None and part % mix.size == 0 else 1


def _phases(
    augment: tuple, sizes: tuple[tuple[str, int], ...], length: horizon.Horizon
) -> tuple[tuple[int, Chain], ...]:
    """(first step, augmentation) of each part of the run."""
    phases = [(0, operations.compose(augment, 'augment'))]
    crops = [i for i, section in enumerate(augment) if section['name'] == 'random_resized_crop']
    if sizes and len(crops) != 1:
        raise ValueError(
            f'config.sizes={sizes} is about the one random_resized_crop of config.augment, but '
            f'there are {len(crops)}'
        )
    for i, (when, size) in enumerate(sizes):
        if size < 1:
            raise ValueError(f'config.sizes[{i}]: {size} pixels; at least 1')
        begin = length.every(when, f'sizes[{i}]')
        if not phases[-1][0] < begin < length.total:
            raise ValueError(
                f'config.sizes[{i}]: {when!r} is step {begin}; times must increase, and lie before '
                f'the end of the run, step {length.total}'
            )
        changed = [dict(section) for section in augment]
        changed[crops[0]]['size'] = size
        phases.append((begin, operations.compose(tuple(changed), 'augment')))
    return tuple(phases)


def _classes(section: Mapping[str, Any], data: sources.Data) -> int:
    """The classifier's width: the data's, unless the config contradicts it."""
    found, wanted = len(data.train.classes), section['num_classes']
    if wanted is not None and wanted != found:
        raise ValueError(
            f'config.model.num_classes={wanted}, but the data have {found} classes '
            f'({", ".join(data.train.classes[:4])}, ...); set it to {found}, or to None'
        )
    if found < 2:
        raise ValueError(f'the data have only {found} class; a classifier needs at least 2')
    return found


SECTIONS: dict[str, schema.Section] = {
    '': schema.Section(assemble),
    'augment[]': schema.Section(None, operations.OPERATIONS),
    'checkpoint': schema.Section(checkpoint.create),
    'compiler': schema.Section(compiler.create),
    'data': schema.Section(sources.create, sources.SOURCES),
    'distill': schema.Section(distill.create, distill.DISTILLATIONS),
    'ema': schema.Section(emas.create, emas.EMAS),
    'evaluate': schema.Section(evaluate.create),
    'evaluate.preprocess[]': schema.Section(None, operations.OPERATIONS),
    'init': schema.Section(starting.create),
    'log': schema.Section(log.create),
    'loss': schema.Section(losses.create, losses.LOSSES),
    'mix': schema.Section(mixing.create),
    'model': schema.Section(models.create, models.MODELS),
    'norm': schema.Section(norms.batch_norm),
    'optimizer': schema.Section(optimizer.create, OPTIMIZERS),
    'reference': schema.Section(references.create),
    'schedule': schema.Section(schedule.create, schedule.SCHEDULES),
}


def load_config(path: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Load ``'configs/file.py:arg'`` with every default filled in; see `jcls.config.load`.

    >>> load_config('configs/quickstart.py', {'batch_size': 128, 'optimizer.lr': 0.2})
    """
    tree = configs.load(path, overrides, sections=SECTIONS)
    tree['recipe'] = tree['recipe'] or path
    return configs.as_config_dict(tree)


def build(
    config: ConfigDict | Mapping[str, Any], devices: Sequence[jax.Device] | None = None
) -> Experiment:
    """Make an `Experiment` from a config, complete or not, for `devices` (None: all there are).

    Looks at the data's names and labels, not at images; allocates nothing on the devices.

    Raises:
      ValueError: for anything in the config that cannot be, with its place and the cure.
    """
    tree = schema.complete(config, sections=SECTIONS)
    top = {key: tree[key] for key in schema.fields(SECTIONS[''])}
    experiment = dataclasses.replace(assemble(tree, devices, **top), config=tree)
    experiment.state_shapes()  # finds what is wrong with model, groups and image sizes now
    pipeline.output_extent(experiment.data.val, experiment.eval_operation)
    return experiment


def build_or_assume(
    config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None
) -> tuple[Experiment, str]:
    """The experiment, with made-up images if its folder is not there; and which it has."""
    tree = schema.plain(config)
    known, data = tree['reference'], tree['data']
    folder = data.get('dir')
    if folder is None or not known['examples'] or Path(folder).expanduser().exists():
        return build(tree, devices), data['name']
    made_up = {
        'name': 'synthetic',
        'examples': known['examples'],
        'num_classes': known['classes'],
        'channels': len(data['mean']),
    }
    kept = {key: data[key] for key in SHARED}
    said = f'{folder} is not there; counted as the published run had them'
    return build({**tree, 'data': {**kept, **made_up}}, devices), said
