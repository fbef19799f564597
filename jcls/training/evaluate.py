"""Evaluation: every example exactly once on any number of hosts and devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jcls.config.parts import choose
from jcls.training.interrupt import Stopped
from jcls.training.metrics import Metric
from jcls.training.step import Batch, EvalStep

IMAGENET = ({'name': 'resize', 'size': 256}, {'name': 'center_crop', 'size': 224})


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The ``evaluate`` section.

    Attributes:
      every: interval between evaluations, such as '1 epoch' or '500 steps'. With 'never' there is
        only the one at the end of the run.
      preprocess: operations on an image, in their order, as for ``augment``.
      batch_size: examples in a batch, which changes no result; None for the training batch.
      train_examples: number of training images (at most all) to evaluate on as well, without
        augmentation and always the same ones (``eval_train/...``): accuracy on augmented images
        says little.
      at_start: evaluate before the first update, too.
      metrics: names from `jcls.training.metrics.METRICS`, or your own, 'package.module:function': a
        function of logits [N, K] and labels [N] to [N], or to [N, D] for a vector of D numbers.
    """

    every: str = '1 epoch'
    preprocess: tuple = IMAGENET
    batch_size: int | None = None
    train_examples: int = 0
    at_start: bool = False
    metrics: tuple[str, ...] = ('top1', 'top5', 'loss')

    def __post_init__(self) -> None:
        count, size = self.train_examples, self.batch_size
        if count < 0:
            raise ValueError(f'config.evaluate.train_examples={count}: must not be negative')
        if size is not None and size < 1:
            raise ValueError(f'config.evaluate.batch_size={size}: at least 1')


def check_best(
    best: str | None,
    metrics: Mapping[str, Metric],
    settings: EvaluateSettings,
    *,
    averaged: bool,
) -> None:
    """Raise ValueError if config.checkpoint.best is not evaluated."""
    if best is None:
        return
    known = [
        f'{prefix}/{name}' for prefix in ('eval', 'eval_ema', 'eval_train') for name in metrics
    ]
    choose(dict.fromkeys(known), best, 'config.checkpoint.best')
    prefix = best.split('/')[0]
    if prefix == 'eval_ema' and not averaged:
        raise ValueError(
            f"config.checkpoint.best={best!r}, but config.ema.name='none': there are no averaged "
            'weights'
        )
    if prefix == 'eval_train' and not settings.train_examples:
        raise ValueError(
            f'config.checkpoint.best={best!r} needs config.evaluate.train_examples > 0'
        )


def evaluate(
    eval_step: EvalStep,
    variables: dict[str, Any],
    batches: Iterator[Batch],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The mean of each metric over the examples with mask 1, and their number.

    A vector becomes a list of numbers. The devices sum each batch, and the host adds up the
    batches, in their order, in float64.

    Raises:
      Stopped: if `stop`, which is asked before each batch, says so.
      ValueError: if there is no example.
      FloatingPointError: for a metric that is not finite.
    """
    sums: dict[str, list[jax.Array]] = {}
    for batch in batches:
        if stop():
            raise Stopped
        for name, value in eval_step(variables, batch).items():
            sums.setdefault(name, []).append(value)
    totals = {
        name: np.sum(np.asarray(jax.device_get(values), np.float64), axis=0)
        for name, values in sums.items()
    }
    count = float(totals.pop('examples', 0.0))
    if not count:
        raise ValueError('there is no readable example to evaluate on')
    for name, total in totals.items():
        if not np.isfinite(total).all():
            raise FloatingPointError(
                f'the evaluation gives {name} = {total / count}: the weights or the images hold '
                'numbers that are none, or activations overflow'
            )
    return {name: (total / count).tolist() for name, total in totals.items()} | {
        'examples': int(count)
    }
