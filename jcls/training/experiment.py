"""The parts of a run, put together: states, batches, evaluations. `jcls.assembly.build` makes one.

exp = jcls.build(jcls.load_config('configs/quickstart.py'))
state = exp.init()
for batch in exp.train_batches():
    state, metrics = exp.train_step(state, batch)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jcls import models
from jcls.config.horizon import Horizon
from jcls.config.parts import own_sources
from jcls.config.schema import Sections
from jcls.data import pipeline, sampler
from jcls.data.augment.chain import Chain
from jcls.data.mix import Mix
from jcls.data.sources import Data
from jcls.data.sources.source import Source
from jcls.distributed import agree
from jcls.distributed.mesh import batch_split, put_batches, replicated
from jcls.models.batch_norm import group_count
from jcls.optim.ema import Ema
from jcls.optim.optimizer import Optimizer
from jcls.optim.schedule import Schedule
from jcls.training import teacher
from jcls.training.distill import Distillation
from jcls.training.evaluate import EvaluateSettings, evaluate
from jcls.training.freezing import Frozen
from jcls.training.metrics import Metric
from jcls.training.reference import Reference
from jcls.training.state import State, initial_variables, new_state
from jcls.training.step import Batch, EvalStep, TrainStep
from jcls.weights import metadata
from jcls.weights.init import InitSettings, source_variables
from jcls.workdir.checkpoint import CheckpointSettings
from jcls.workdir.log import LogSettings


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All parts of a run."""

    config: dict[str, Any]  # complete
    sections: Sections  # the sections that a config may have
    model: models.ResNet
    data: Data
    mesh: Mesh
    horizon: Horizon
    optimizer: Optimizer
    schedule: Schedule
    train_step: TrainStep
    eval_step: EvalStep
    augmentation_by_step: tuple[tuple[int, Chain], ...]  # (first step, chain); the first step is 0
    mix: Mix | None
    ema: Ema | None
    init_from: InitSettings
    frozen: Frozen
    distillation: Distillation | None
    eval_operation: Chain
    evaluate: EvaluateSettings
    metrics: dict[str, Metric]  # the metrics of evaluations
    checkpoint: CheckpointSettings
    log: LogSettings
    reference: Reference
    every: dict[str, int]  # steps between logs, evaluations and checkpoints; 0: never
    damage: pipeline.Damage

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a training image; of the first one if their size changes."""
        return self._image_shape(0)

    def _image_shape(self, step: int) -> tuple[int, int, int]:
        size = pipeline.output_size(self.data.train, self.augmentation(step))
        return (*size, self.data.train.channels)

    def augmentation(self, step: int = 0) -> Chain:
        """The operations on a training image at this step."""
        return [chain for begin, chain in self.augmentation_by_step if begin <= step][-1]

    def _random_variables(self) -> dict[str, Any]:
        return initial_variables(self.model, self.image_shape, self.config['seed'])

    def _new_state(self, variables: dict[str, Any] | None = None) -> State:
        variables = self._random_variables() if variables is None else variables
        return new_state(variables, self.optimizer.direction, ema=self.ema is not None)

    def init(self) -> State:
        """A new state on every device, with random weights or those of ``config.init.source``."""
        new = jax.jit(self._new_state, out_shardings=replicated(self.mesh))
        return new() if self.init_from.source is None else new(self._source_variables)

    @functools.cached_property
    def _source_variables(self) -> dict[str, Any]:
        """The variables to start from, read from ``config.init.source`` and checked to fit."""
        return source_variables(
            self.init_from,
            self.model,
            jax.device_get(jax.jit(self._random_variables)()),
            epsilon=self.config['norm']['epsilon'],
            mean=self.data.mean,
            std=self.data.std,
            classes=self.data.train.classes,
        )

    def check_sources(self, *, start: bool) -> None:
        """Read what the run needs of other runs: its teacher and, at its `start`, its weights."""
        if start and self.init_from.source is not None:
            agree.require_same('config.init.source', self._source_variables)
        _ = self._teacher

    def state_shapes(self) -> State:
        """The state as `jax.ShapeDtypeStruct`s with shardings; nothing is allocated."""
        everywhere = replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
            self._shapes,
        )

    @functools.cached_property
    def _shapes(self) -> State:
        return jax.eval_shape(self._new_state)

    def train_shapes(self, step: int = 0) -> Batch:
        """A batch of `train_batches` at `step` as `jax.ShapeDtypeStruct`s with shardings."""
        size = self.horizon.batch_size
        shapes = self._batch_shapes(size, self._image_shape(step))
        of_batch = shapes['mask']
        if self.mix is not None:
            shapes |= {'label2': shapes['label'], 'lam': of_batch}
        if self.distillation is not None:
            logits = (size, len(self.data.train.classes))
            shapes['teacher'] = of_batch.update(shape=logits)
        return shapes

    def eval_shapes(self) -> Batch:
        """A batch of `eval_batches` as `jax.ShapeDtypeStruct`s with shardings."""
        return self._batch_shapes(self.eval_batch_size, self.eval_image_shape)

    @property
    def eval_batch_size(self) -> int:
        """The number of examples in a batch of an evaluation."""
        return self.evaluate.batch_size or self.horizon.batch_size

    @property
    def eval_image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image in an evaluation."""
        size = pipeline.output_size(self.data.val, self.eval_operation)
        return (*size, self.data.val.channels)

    def _batch_shapes(self, size: int, image: tuple[int, int, int]) -> Batch:
        split = batch_split(self.mesh)
        fields = {'image': (image, 'uint8'), 'label': ((), 'int32'), 'mask': ((), 'float32')}
        return {
            name: jax.ShapeDtypeStruct((size, *shape), np.dtype(dtype), sharding=split)
            for name, (shape, dtype) in fields.items()
        }

    def train_batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The global batches of steps start..stop-1, on the devices; None is the end of the run."""
        mix, shard = self.mix, process_shard(self.horizon.batch_size)
        stop = self.horizon.total if stop is None else stop
        mixing = {} if mix is None else {'mix': mix, 'groups': mix.within(shard.rows())}
        sample, asked = self.train_sampler(shard), self._teacher
        ends = [begin for begin, _ in self.augmentation_by_step[1:]] + [stop]
        for (begin, operation), end in zip(self.augmentation_by_step, ends, strict=True):
            first, last = max(start, begin), min(stop, end)
            if first >= last:
                continue
            for batch in self._batches(self.data.train, operation, sample, first, last, **mixing):
                if asked is not None:
                    batch = {**batch, 'teacher': asked.logits(batch['image'])}
                yield batch

    @functools.cached_property
    def _teacher(self) -> teacher.Teacher | None:
        if self.distillation is None:
            return None
        return teacher.create(
            self.distillation, self.data.train.classes, self.data.channels, self.mesh
        )

    def with_teacher(self, step: int | str | None) -> Experiment:
        """The experiment with this checkpoint of the teacher; None for what the config names now.

        A run keeps the checkpoint that it began with, even if the teacher has newer ones.
        """
        if self.distillation is None:
            return self
        step = self.distillation.step if step is None else step
        return dataclasses.replace(self, distillation=self.distillation._replace(step=step))

    def train_sampler(self, shard: sampler.ProcessShard) -> sampler.Sampler:
        """Which examples each step of training sees."""
        data = self.data
        return sampler.train_sampler(
            len(data.train),
            self.config['seed'],
            shard,
            labels=data.train.labels if data.balanced else None,
            repeats=data.repeats,
            groups=self.groups,
        )

    @property
    def groups(self) -> int:
        """The number of groups in a batch, of mixing or BatchNorm; repeats are spread over them."""
        if self.mix is not None:
            return self.mix.groups
        return group_count(self.horizon.batch_size, self.config['norm']['batch_size'])

    def eval_batches(self, source: Source, examples: np.ndarray) -> Iterator[Batch]:
        """Batches, on the devices, of each of `examples` (int64 indices) of `source` once."""
        sample, steps = sampler.eval_sampler(examples, process_shard(self.eval_batch_size))
        return self._batches(source, self.eval_operation, sample, 0, steps)

    def _batches(self, *args: Any, **mixing: Any) -> Iterator[Batch]:
        batches = pipeline.batches(*args, mean=self.data.mean, damage=self.damage, **mixing)
        return put_batches(batches, self.mesh)

    def evaluations(
        self,
        variables: dict[str, Any],
        ema: dict[str, Any] | None = None,
        *,
        train: bool = True,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, dict[str, Any]]:
        """Evaluate on the validation set ('eval') and, if the config asks, on training images.

        Averaged variables, if there are any, are evaluated on the validation set ('eval_ema').
        Before each batch `stop` is asked whether to leave with `jcls.training.interrupt.Stopped`.
        """
        source, count = self.data.train, self.evaluate.train_examples
        held_out = (self.data.val, np.arange(len(self.data.val)))
        sets = {'eval': (variables, held_out)}
        if ema:
            sets['eval_ema'] = (ema, held_out)
        if train and count:
            fixed = sampler.epoch_order(0, 0, len(source))[:count]  # the same in every run
            sets['eval_train'] = (variables, (source, fixed))
        return {
            name: evaluate(self.eval_step, weights, self.eval_batches(*examples), stop)
            for name, (weights, examples) in sets.items()
        }

    @property
    def best_is_highest(self) -> bool | None:
        """Whether config.checkpoint.best is highest at the best checkpoint; None if not kept."""
        best = self.checkpoint.best
        return None if best is None else self.metrics[best.split('/')[1]].higher_is_better

    def metadata(self) -> dict[str, Any]:
        """The content of model.json when a run starts."""
        content = metadata.of_run(
            self.config,
            classes=self.data.train.classes,
            image_shape=self.eval_image_shape,
            train_examples=len(self.data.train),
        )
        content |= {'averaged': self.ema is not None}
        if self.data.train.left_out:
            content |= {'left_out': self.data.train.left_out}
        if self.best_is_highest is not None:
            content |= {'best_is_highest': self.best_is_highest}
        if self._teacher is not None:
            content |= {'teacher_step': self._teacher.step}
        own = own_sources(self.config)
        return content | {'own_parts': own} if own else content


def process_shard(batch_size: int) -> sampler.ProcessShard:
    """The part of a global batch that this process reads."""
    return sampler.ProcessShard(batch_size, jax.process_index(), jax.process_count())
