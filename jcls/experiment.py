"""From config to objects: the only place that knows every section and the function behind it.

`build` turns a config into an `Experiment`, whose parts the loop, the verbs and your own training
loop use:

    exp = jcls.build(jcls.load_config('configs/quickstart.py'))
    state = exp.init()
    for batch in exp.train_batches():
        state, metrics = exp.train_step(state, batch)
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

import jcls
from jcls import config as configs
from jcls import models, schema
from jcls.data import augment as operations
from jcls.data import mix as mixing
from jcls.data import order, pipeline
from jcls.data import source as sources
from jcls.data.chain import Chain
from jcls.models import layers
from jcls.optim import optimizer, schedule
from jcls.training import checkpoint, evaluate, horizon, log, losses, step
from jcls.training import mesh as meshes
from jcls.training import state as states
from jcls.training.state import State

AHEAD = 2  # batches on their way to the devices while one is computed


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run consists of; see `build`."""

    config: dict[str, Any]
    model: models.ResNet
    data: sources.Data
    mesh: Mesh
    horizon: horizon.Horizon
    optimizer: optimizer.Optimizer
    schedule: schedule.Schedule
    train_step: step.TrainStep
    eval_step: step.EvalStep
    operation: Chain
    mix: mixing.Mix | None
    eval_operation: Chain
    evaluate: evaluate.Settings
    checkpoint: checkpoint.Settings
    log: log.Settings
    every: dict[str, int]  # steps between logs, evaluations and checkpoints; 0: never
    damage: pipeline.Damage

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a training image."""
        extent = pipeline.output_extent(self.data.train, self.operation)
        return (*extent, self.data.train.channels)

    def _new_state(self) -> State:
        direction = self.optimizer.direction
        return states.create(self.model, direction, self.image_shape, self.config['seed'])

    def init(self) -> State:
        """A new state, on every device."""
        return jax.jit(self._new_state, out_shardings=meshes.replicated(self.mesh))()

    def state_shapes(self) -> State:
        """The state as `jax.ShapeDtypeStruct` with shardings; nothing is allocated."""
        everywhere = meshes.replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
            jax.eval_shape(self._new_state),
        )

    def train_batches(self, start: int = 0, stop: int | None = None) -> Iterator[step.Batch]:
        """The global batches of steps start..stop-1 (None: the run's end), on the devices."""
        mix, share = self.mix, _share(self.horizon.batch_size)
        stop = self.horizon.total if stop is None else stop
        mixing = {} if mix is None else {'mix': mix, 'groups': mix.within(share.rows())}
        rows = self.train_rows(share)
        return self._to_devices(self.data.train, self.operation, rows, start, stop, **mixing)

    def train_rows(self, share: order.Share) -> order.Rows:
        """Which examples each step sees."""
        data = self.data
        return order.train_rows(
            len(data.train),
            self.config['seed'],
            share,
            labels=data.train.labels if data.balanced else None,
            repeats=data.repeats,
            groups=self.groups,
        )

    @property
    def groups(self) -> int:
        """In a global batch, of mixing or else of BatchNorm; repeats are spread over them."""
        if self.mix is not None:
            return self.mix.groups
        return layers.group_count(self.horizon.batch_size, self.config['norm']['batch_size'])

    def eval_batches(self, source: sources.Source, examples: np.ndarray) -> Iterator[step.Batch]:
        """The `examples` (int64 indices) of `source`, once each, preprocessed, on devices."""
        size = self.evaluate.batch_size or self.horizon.batch_size
        rows, steps = order.eval_rows(examples, _share(size))
        return self._to_devices(source, self.eval_operation, rows, 0, steps)

    def evaluations(
        self, variables: dict[str, Any], *, train: bool = True
    ) -> dict[str, dict[str, float]]:
        """Evaluate on the validation set ('eval') and, if the config asks, on training images."""
        source, count = self.data.train, self.evaluate.train_examples
        sets = {'eval': (self.data.val, np.arange(len(self.data.val)))}
        if train and count:
            fixed = order.epoch_order(0, 0, len(source))[:count]  # the same in every run
            sets['eval_train'] = (source, fixed)
        return {
            name: evaluate.evaluate(self.eval_step, variables, self.eval_batches(*examples))
            for name, examples in sets.items()
        }

    def _to_devices(self, *args: Any, **mixing: Any) -> Iterator[step.Batch]:
        """Copy batches to the devices a few ahead of their use."""
        mean = self.data.mean
        batches = pipeline.batches(*args, mean=mean, damage=self.damage, **mixing)
        waiting: collections.deque[step.Batch] = collections.deque()
        for batch in batches:
            waiting.append(meshes.put_batch(batch, self.mesh))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config read from a file, with the defaults of fields that it does not have."""
        return schema.complete(config, sections=SECTIONS)

    def card(self) -> dict[str, Any]:
        """What model.json says of the weights."""
        section = self.config['model']
        return {
            'jcls': jcls.__version__,
            'recipe': self.config['recipe'],
            'architecture': {**section, 'num_classes': self.model.num_classes},
            'norm': self.config['norm'],
            'image_shape': self.image_shape,
            'classes': self.data.train.classes,
            'train_examples': len(self.data.train),
            'mean': self.data.mean,
            'std': self.data.std,
            'exif': self.config['data']['exif'],
            'preprocess': self.config['evaluate']['preprocess'],
        }

    def describe(self) -> str:
        """The run in a few lines: devices, model, data, length, rate."""
        shapes = jax.eval_shape(self._new_state)
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
        data, c, h = self.data, self.config, self.horizon
        return (
            f'devices: {meshes.describe(self.mesh.devices.flat)}\n'
            f'model: {c["model"]["name"]}, {count:,} parameters, {c["model"]["dtype"]}, '
            f'images {" x ".join(map(str, self.image_shape))}\n'
            f'data: {c["data"]["name"]}, {len(data.train):,} training and {len(data.val):,} '
            f'held-out images, {len(data.train.classes)} classes\n'
            f'run: {h.total:,} steps of {h.batch_size} ({h.epoch(h.total):.4g} epochs of '
            f'{h.steps_per_epoch:,}), peak learning rate {self.optimizer.peak:.4g}'
        )


def assemble(
    sections: Mapping[str, Any],
    devices: Sequence[jax.Device] | None = None,
    *,
    recipe: str = '',
    batch_size: int = 256,
    duration: str = '90 epochs',
    seed: int = 0,
    platform: str = 'any',
    deterministic: bool = False,
    augment: tuple = (),
) -> Experiment:
    """The top level of a config; `sections` are the others.

    Args:
      sections: the sections by name, complete.
      devices: to run on; None: all there are.
      recipe: what this config is called; model.json passes it on.
      batch_size: examples in a step, over all devices.
      duration: of the run: '90 epochs', '1000 steps'.
      seed: of the initial weights, the order and every random draw.
      platform: 'cpu', 'gpu' or 'tpu' refuses to run elsewhere; 'any' takes what is there.
      deterministic: also make GPUs bit-reproducible, at some cost in speed.
      augment: operations on a training image, in their order.
    """
    del recipe  # for people; it is part of the config, which the experiment keeps
    if not 0 <= seed < 2**32:
        raise ValueError(f'config.seed={seed}: must be in 0..{2**32 - 1}')
    if deterministic:
        meshes.make_deterministic()
    mesh = meshes.create(platform, batch_size, devices)
    data = sources.create(**sections['data'])
    length = horizon.create(duration, batch_size, len(data.train))
    model = models.create(
        **{**sections['model'], 'num_classes': _classes(sections['model'], data)},
        norm=layers.batch_norm(**sections['norm']),
    )
    layers.group_count(batch_size, sections['norm']['batch_size'])
    rate = optimizer.create(batch_size, **sections['optimizer'])
    lr = schedule.create(rate.peak, length.total, length.steps, **sections['schedule'])
    evaluating = evaluate.create(**sections['evaluate'])
    saving = checkpoint.create(**sections['checkpoint'])
    logging = log.create(**sections['log'])
    intervals = {'evaluate': evaluating.every, 'checkpoint': saving.every, 'log': logging.every}
    eval_batch = evaluating.batch_size
    if eval_batch and eval_batch % mesh.size:
        raise ValueError(
            f'config.evaluate.batch_size={eval_batch} does not divide over {mesh.size} devices'
        )
    moments = {'mean': data.mean, 'std': data.std}
    loss = losses.create(**sections['loss'])
    mix = mixing.create(batch_size, seed, length.steps, **sections['mix'])
    if mix is not None:
        mix.within(_share(batch_size).rows())
    return Experiment(
        config={},
        model=model,
        data=data,
        mesh=mesh,
        horizon=length,
        optimizer=rate,
        schedule=lr,
        train_step=step.create_train_step(
            model, loss, rate.direction, lr, mesh, seed=seed, **moments
        ),
        eval_step=step.create_eval_step(model, mesh, **moments),
        operation=operations.compose(augment, 'augment'),
        mix=mix,
        eval_operation=operations.compose(evaluating.preprocess, 'evaluate.preprocess'),
        evaluate=evaluating,
        checkpoint=saving,
        log=logging,
        every={key: length.every(text, f'{key}.every') for key, text in intervals.items()},
        damage=pipeline.Damage(data.max_damaged),
    )


def _share(batch_size: int) -> order.Share:
    return order.Share(batch_size, jax.process_index(), jax.process_count())


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
    'data': schema.Section(sources.create, sources.SOURCES),
    'evaluate': schema.Section(evaluate.create),
    'evaluate.preprocess[]': schema.Section(None, operations.OPERATIONS),
    'log': schema.Section(log.create),
    'loss': schema.Section(losses.create, losses.LOSSES),
    'mix': schema.Section(mixing.create),
    'model': schema.Section(models.create, models.MODELS),
    'norm': schema.Section(layers.batch_norm),
    'optimizer': schema.Section(optimizer.create, optimizer.OPTIMIZERS),
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
