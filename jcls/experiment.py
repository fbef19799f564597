"""A run's parts, put together: states, batches, evaluations. `jcls.assembly.build` makes one.

exp = jcls.build(jcls.load_config('configs/quickstart.py'))
state = exp.init()
for batch in exp.train_batches():
    state, metrics = exp.train_step(state, batch)
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import jcls
from jcls import models
from jcls.data import mix as mixing
from jcls.data import order, pipeline
from jcls.data import source as sources
from jcls.data.chain import Chain
from jcls.models import norm as norms
from jcls.optim import ema as emas
from jcls.optim import optimizer, schedule
from jcls.training import checkpoint, distill, evaluate, freezing, horizon, log, step
from jcls.training import load as loading
from jcls.training import mesh as meshes
from jcls.training import reference as references
from jcls.training import state as states
from jcls.training.state import State
from jcls.weights import init as starting
from jcls.weights.card import model_of

AHEAD = 2  # batches on their way to the devices while one is computed


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run consists of."""

    config: dict[str, Any]
    complete: Callable[[dict[str, Any]], dict[str, Any]]  # fills in the defaults of a config
    model: models.ResNet
    data: sources.Data
    mesh: Mesh
    horizon: horizon.Horizon
    optimizer: optimizer.Optimizer
    schedule: schedule.Schedule
    train_step: step.TrainStep
    eval_step: step.EvalStep
    phases: tuple[tuple[int, Chain], ...]  # the augmentation from a step on; the first from 0
    mix: mixing.Mix | None
    ema: emas.Ema | None
    start: starting.Settings
    frozen: freezing.Frozen
    distillation: distill.Distillation | None
    eval_operation: Chain
    evaluate: evaluate.Settings
    checkpoint: checkpoint.Settings
    log: log.Settings
    reference: references.Reference
    every: dict[str, int]  # steps between logs, evaluations and checkpoints; 0: never
    damage: pipeline.Damage

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a training image, of the first when their size changes."""
        return self._image_shape(0)

    def _image_shape(self, step: int) -> tuple[int, int, int]:
        extent = pipeline.output_extent(self.data.train, self.augmentation(step))
        return (*extent, self.data.train.channels)

    def augmentation(self, step: int = 0) -> Chain:
        """What is done to a training image at this step."""
        return [chain for begin, chain in self.phases if begin <= step][-1]

    def _new_state(self, variables: dict[str, Any] | None = None) -> State:
        if variables is None:
            seed = self.config['seed']
            variables = states.initial_variables(self.model, self.image_shape, seed)
        return states.create(variables, self.optimizer.direction, ema=self.ema is not None)

    def init(self) -> State:
        """A new state, on every device: random weights, or those of ``config.init.source``."""
        new = jax.jit(self._new_state, out_shardings=meshes.replicated(self.mesh))
        return new() if self.start.source is None else new(self.source_variables)

    @functools.cached_property
    def source_variables(self) -> dict[str, Any]:
        """The variables to start from, read from ``config.init.source``; checked to fit."""
        path, start = str(self.start.source), self.start
        try:
            card, source = loading.read(path, start.step, ema=start.ema, prefix=start.prefix)
        except ValueError as error:
            raise ValueError(f'config.init: {error}') from None
        if card:
            starting.check_architecture(model_of(card), self.model, self.start)
            starting.check_epsilon(card, self.config['norm']['epsilon'])
        starting.check_moments(card, self.data.mean, self.data.std)
        seed = self.config['seed']
        initial = jax.jit(lambda: states.initial_variables(self.model, self.image_shape, seed))
        return starting.merge(jax.device_get(initial()), source, self.start)

    def check_sources(self, *, start: bool) -> None:
        """Read what the run needs of other runs: a teacher and, at its `start`, weights."""
        if start and self.start.source is not None:
            _ = self.source_variables
        _ = self._teacher

    def state_shapes(self) -> State:
        """The state as `jax.ShapeDtypeStruct` with shardings; nothing is allocated."""
        everywhere = meshes.replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
            self._shapes,
        )

    @functools.cached_property
    def _shapes(self) -> State:
        return jax.eval_shape(self._new_state)

    def train_shapes(self, step: int = 0) -> step.Batch:
        """A batch of `train_batches` at `step` as `jax.ShapeDtypeStruct`s with shardings."""
        size = self.horizon.batch_size
        shapes = self._batch_shapes(size, self._image_shape(step))
        of_batch = shapes['mask']
        if self.mix is not None:
            shapes |= {'label2': shapes['label'], 'lam': of_batch}
        if self.distillation is not None:
            logits = (size, self.model.num_classes)
            shapes['teacher'] = of_batch.update(shape=logits)
        return shapes

    def eval_shapes(self) -> step.Batch:
        """A batch of `eval_batches`, see `train_shapes`."""
        extent = pipeline.output_extent(self.data.val, self.eval_operation)
        size = self.evaluate.batch_size or self.horizon.batch_size
        return self._batch_shapes(size, (*extent, self.data.val.channels))

    def _batch_shapes(self, size: int, image: tuple[int, int, int]) -> step.Batch:
        split = meshes.batch_split(self.mesh)
        fields = {'image': (image, 'uint8'), 'label': ((), 'int32'), 'mask': ((), 'float32')}
        return {
            name: jax.ShapeDtypeStruct((size, *shape), np.dtype(dtype), sharding=split)
            for name, (shape, dtype) in fields.items()
        }

    def train_batches(self, start: int = 0, stop: int | None = None) -> Iterator[step.Batch]:
        """The global batches of steps start..stop-1 (None: the run's end), on the devices."""
        mix, share = self.mix, share_of(self.horizon.batch_size)
        stop = self.horizon.total if stop is None else stop
        mixing = {} if mix is None else {'mix': mix, 'groups': mix.within(share.rows())}
        rows, teacher = self.train_rows(share), self._teacher
        ends = [begin for begin, _ in self.phases[1:]] + [stop]
        for (begin, operation), end in zip(self.phases, ends, strict=True):
            first, last = max(start, begin), min(stop, end)
            if first >= last:
                continue
            batches = self._to_devices(self.data.train, operation, rows, first, last, **mixing)
            for batch in batches:
                yield batch if teacher is None else {**batch, 'teacher': teacher(batch['image'])}

    @functools.cached_property
    def _teacher(self) -> Callable[[jax.Array], jax.Array] | None:
        """Images uint8 [N, H, W, C] -> the teacher's logits [N, K]; None if there is none."""
        if self.distillation is None:
            return None
        return loading.teacher(
            self.distillation, self.data.train.classes, self.data.channels, self.mesh
        )

    def with_teacher(self, step: int | str | None) -> Experiment:
        """The same with this checkpoint of the teacher; None: as the config says, now.

        A run keeps the teacher that it began with, also when that was trained on since.
        """
        if self.distillation is None:
            return self
        if step is None:
            step = loading.teacher_step(self.distillation)
        return dataclasses.replace(self, distillation=self.distillation._replace(step=step))

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
        return norms.group_count(self.horizon.batch_size, self.config['norm']['batch_size'])

    def eval_batches(self, source: sources.Source, examples: np.ndarray) -> Iterator[step.Batch]:
        """The `examples` (int64 indices) of `source`, once each, preprocessed, on devices."""
        size = self.evaluate.batch_size or self.horizon.batch_size
        rows, steps = order.eval_rows(examples, share_of(size))
        return self._to_devices(source, self.eval_operation, rows, 0, steps)

    def evaluations(
        self, variables: dict[str, Any], ema: dict[str, Any] | None = None, *, train: bool = True
    ) -> dict[str, dict[str, float]]:
        """Evaluate on the validation set ('eval') and, if the config asks, on training images.

        Averaged variables, where there are any, on the validation set as well ('eval_ema').
        """
        source, count = self.data.train, self.evaluate.train_examples
        held_out = (self.data.val, np.arange(len(self.data.val)))
        sets = {'eval': (variables, held_out)}
        if ema:
            sets['eval_ema'] = (ema, held_out)
        if train and count:
            fixed = order.epoch_order(0, 0, len(source))[:count]  # the same in every run
            sets['eval_train'] = (variables, (source, fixed))
        return {
            name: evaluate.evaluate(self.eval_step, weights, self.eval_batches(*examples))
            for name, (weights, examples) in sets.items()
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

    def card(self) -> dict[str, Any]:
        """What model.json says of the weights."""
        section = self.config['model']
        return {
            'jcls': jcls.__version__,
            'recipe': self.config['recipe'],
            'architecture': {**section, 'num_classes': self.model.num_classes},
            'norm': self.config['norm'],
            'image_shape': (
                *pipeline.output_extent(self.data.val, self.eval_operation),
                self.data.channels,
            ),
            'classes': self.data.train.classes,
            'train_examples': len(self.data.train),
            'mean': self.data.mean,
            'std': self.data.std,
            'exif': self.config['data']['exif'],
            'preprocess': self.config['evaluate']['preprocess'],
            **({'teacher_step': self.distillation.step} if self.distillation else {}),
        }

    def data_facts(self) -> dict[str, Any]:
        """What must be the same on all hosts: how many examples, and checksums of some of them."""
        train, val = self.data.train, self.data.val
        return {
            'training images': len(train),
            'held-out images': len(val),
            'classes': len(train.classes),
            'checksum of class names': zlib.crc32('\n'.join(train.classes).encode()),
            'checksum of training images and labels': train.checksum(),
            'checksum of held-out images and labels': val.checksum(),
        }

    def describe(self) -> str:
        """The run in a few lines: devices, model, data, length, rate."""
        count = sum(leaf.size for leaf in jax.tree.leaves(self._shapes.params))
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


def share_of(batch_size: int) -> order.Share:
    """What this process has of a global batch."""
    return order.Share(batch_size, jax.process_index(), jax.process_count())
