"""Traps: settings of a config that look right and are not.

Each is a function from an experiment to a warning, or None. A run prints its warnings when it
starts, and ``jcls config explain`` before that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jcls.data.sources import exif
from jcls.data.sources.classes import listed
from jcls.optim import schedule
from jcls.training.experiment import Experiment

SMALL = 12e6  # parameters of a small network: ResNet-18 and below
SMALLEST = 5e6
RATES = 1 << 20  # most steps whose learning rate is looked at
LOOKED_AT = 64  # images whose orientation is read
MANY = 100  # classes, so that one probability is a small part of their mean


def coupled_equivalent(section: dict[str, Any]) -> float | None:
    """The coupled decay that acts about like this section's, for SGD with momentum; else None."""
    if section['name'] != 'sgd' or not section['weight_decay']:
        return None
    w = section['weight_decay']
    return w if section['decay'] == 'coupled' else w * (1 - section['momentum'])


def warnings(experiment: Experiment) -> list[str]:
    """The warnings that apply to an experiment."""
    return [text for trap in TRAPS if (text := trap(experiment)) is not None]


def smoothing_with_threshold(e: Experiment) -> str | None:
    """Smoothing moves no target over the threshold."""
    loss = e.config['loss']
    if loss.get('threshold') is None or not loss.get('label_smoothing'):
        return None
    return (
        f'loss.label_smoothing={loss["label_smoothing"]} together with loss.threshold='
        f'{loss["threshold"]}: the threshold makes targets 0 or 1 again, smoothing does nothing'
    )


def slow_average(e: Experiment) -> str | None:
    """A run so short that the average at its end still holds part of the first weights."""
    if e.ema is None or not e.ema.decay:
        return None
    h = e.horizon
    warm = (
        h.steps(e.config['schedule']['warmup']) if e.config['ema']['name'] == 'torchvision' else 0
    )
    updates = (h.total - warm) / h.steps_per_epoch * math.ceil(h.steps_per_epoch / e.ema.every)
    left = e.ema.decay**updates
    if left < 0.01:
        return None
    return (
        f'ema.decay={e.config["ema"]["decay"]} is slower than the run: at its end the average '
        f'still consists to {left:.0%} of the weights that it began with; lower it'
    )


def small_binary_gradient(e: Experiment) -> str | None:
    """Binary cross-entropy averaged over K classes has gradients K times smaller."""
    loss, classes = e.config['loss'], len(e.data.train.classes)
    mean = loss['name'] == 'binary' and loss['reduction'] == 'mean'
    if not mean or e.config['optimizer']['name'] != 'sgd' or classes < MANY:
        return None
    return (
        f"loss.reduction='mean' divides by {classes} classes, and SGD's steps become as much "
        "smaller than softmax's at the same rate: use optimizer.name='lamb' as A1 to A3 do, or "
        "loss.reduction='sum'"
    )


def smoothing_on_small_net(e: Experiment) -> str | None:
    """Label smoothing costs small networks accuracy."""
    amount = e.config['loss'].get('label_smoothing')
    if not amount or _parameters(e) > SMALL or len(e.data.train.classes) < MANY:
        return None
    return (
        f'loss.label_smoothing={amount} on a small network ({_parameters(e) / 1e6:.1f} million '
        'parameters): PaddleClas measured ResNet-18 at 70.98 without and 70.81 with it'
    )


def strong_crops_on_small_net(e: Experiment) -> str | None:
    """Very small networks do better with larger crops."""
    crops = [s for s in e.config['augment'] if s['name'] == 'random_resized_crop']
    if not crops or crops[0]['scale'][0] >= 0.2 or _parameters(e) > SMALLEST:
        return None
    return (
        f'random_resized_crop.scale begins at {crops[0]["scale"][0]} on a very small network '
        f'({_parameters(e) / 1e6:.1f} million parameters): PaddleClas recommends 0.2'
    )


def decoupled_too_weak(e: Experiment) -> str | None:
    """A decay for coupled decay, used as decoupled decay, is too weak."""
    section = e.config['optimizer']
    acts = coupled_equivalent(section)
    if acts is None or acts == section['weight_decay'] or acts >= 1.5e-5:
        return None
    w = section['weight_decay']
    return (
        f"optimizer.weight_decay={w:g} with decay='decoupled' acts like {acts:.2g} coupled: "
        f'{w / acts:.3g} times weaker. If {w:g} is from a recipe for torch, set '
        f"decay='coupled', or weight_decay={w * w / acts:.3g}"
    )


def accumulated_statistics(e: Experiment) -> str | None:
    """With accumulation, BatchNorm over the whole batch becomes BatchNorm over a micro-batch."""
    parts = e.config['accumulate']
    if parts == 1 or e.config['norm']['batch_size']:
        return None
    return (
        f'accumulate={parts}: BatchNorm sees micro-batches of {e.horizon.batch_size // parts}, not '
        f'the batch of {e.horizon.batch_size}; set norm.batch_size to say over how many examples'
    )


def finetuning_from_nothing(e: Experiment) -> str | None:
    """A learning rate for finetuning, used with random weights."""
    lr = e.config['optimizer']['lr']
    if not isinstance(lr, str) or e.init_from.source is not None:
        return None
    return (
        f'optimizer.lr={lr!r} is a rate to finetune with, but the run starts from random weights: '
        'name some with init.source'
    )


def no_rate(e: Experiment) -> str | None:
    """A learning rate of 0 for an epoch or a tenth of the run, in which nothing is learned."""
    section, h = e.config['schedule'], e.horizon
    count = _steps_without_rate(e, e.schedule)
    # One step is the first one of a warm-up.
    if count < min(h.steps_per_epoch, h.total / 10) or count < min(2, h.total):
        return None
    moving = schedule.create(e.optimizer.peak, h.total, h.steps, **{**section, 'every': '1 step'})
    if not e.optimizer.peak:
        why = f'optimizer.lr={e.config["optimizer"]["lr"]}'
    elif _steps_without_rate(e, moving) < count:
        why = (
            f'schedule.every={section["every"]!r} keeps the rate of the first step, which is 0: '
            "set schedule.every='1 step', or schedule.warmup_start above 0"
        )
    elif section['warmup_shape'] == 'constant' and not section['warmup_start']:
        why = "schedule.warmup_shape='constant' keeps schedule.warmup_start, which is 0"
    else:
        why = f'schedule.name={section["name"]!r} has come to its end by then'
    return (
        f'the learning rate is 0 in {count:,} of the {h.total:,} steps, in which nothing is '
        f'learned: {why}'
    )


def classes_without_images(e: Experiment) -> str | None:
    """Classes that no training image has, so that nothing is learned of them."""
    train = e.data.train
    absent = train.absent()
    if not absent:
        return None
    name, cure = e.config['data']['name'], ''
    if absent == ['0'] and name == 'list':
        cure = (
            '. If your labels count from 1, name the classes in a file (config.data.classes), each '
            'on a line'
        )
    if absent == ['0'] and name == 'records':
        cure = '. If your labels count from 1, set data.label_offset=1'
    return (
        f'{len(absent)} of the {len(train.classes)} classes have no training image: '
        f'{listed(absent)}{cure}'
    )


def turned_images(e: Experiment) -> str | None:
    """Images that say they are turned, and are taken as they are stored."""
    train = e.data.train
    if e.config['data']['exif'] or train.names is None:  # without names, these are no files
        return None
    rows = np.unique(np.linspace(0, len(train) - 1, LOOKED_AT).astype(int))
    count = exif.turned(train.name(row) for row in rows)
    if not count:
        return None
    return (
        f'{count} of {len(rows)} training images that were looked at say that they are turned '
        '(EXIF orientation); they are taken as they are stored. data.exif=true turns them, as '
        'viewers do'
    )


def _steps_without_rate(e: Experiment, rate: schedule.Schedule) -> int:
    """The number of steps whose rate is 0; of a long run, from every n-th step."""
    total = e.horizon.total
    stride = -(-total // RATES)
    values = jax.vmap(rate)(np.arange(0, total, stride))
    return min(stride * int(np.count_nonzero(np.asarray(values) == 0)), total)


def _parameters(e: Experiment) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(e.state_shapes().params))


TRAPS: tuple[Callable[[Experiment], str | None], ...] = (
    smoothing_with_threshold,
    slow_average,
    small_binary_gradient,
    smoothing_on_small_net,
    strong_crops_on_small_net,
    decoupled_too_weak,
    accumulated_statistics,
    finetuning_from_nothing,
    no_rate,
    classes_without_images,
    turned_images,
)
