"""What a config means, before any run, as facts by name.

The objects that the run itself uses give the facts: the schedule gives the learning rate, the
optimizer what decays. If the data are not there yet, the number of images of the run with
the published accuracy is used instead, and the fact 'data' says so.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jcls.data.augment.chain import Chain
from jcls.optim import optimizer
from jcls.training import freezing, traps
from jcls.training.experiment import Experiment

BLOCKS = '▁▂▃▄▅▆▇█'


def promises(experiment: Experiment) -> list[str]:
    """The guarantees that hold for this run's data and devices."""
    data, deterministic = experiment.data, experiment.config['deterministic']
    bits = 'bit for bit' + ('' if deterministic else ' (on GPUs with deterministic=True)')
    always = [
        f'resuming at any step is exact, {bits}',
        'the same images in the same order on any number of hosts and devices',
        'evaluation counts each example exactly once',
    ]
    h = experiment.horizon
    distinct = h.steps_per_epoch * h.batch_size // data.repeats
    if data.balanced:
        return [*always, 'an epoch draws every class equally often, examples of small ones again']
    copies = f', each {data.repeats} times in a step' if data.repeats > 1 else ''
    return [
        *always,
        f'an epoch sees {distinct:,} distinct examples{copies}, others left over each time',
    ]


def collect(experiment: Experiment, data: str) -> dict[str, Any]:
    """All facts by name; 'learning_rate' has the rate of the first step of each epoch."""
    c, h = experiment.config, experiment.horizon
    shapes = experiment.state_shapes()
    groups = experiment.optimizer.groups(shapes.params)
    sizes = {path: leaf.size for path, leaf in flatten_dict(shapes.params, sep='/').items()}
    decay = flatten_dict(groups.decay, sep='/')
    frozen, decaying = experiment.frozen.params, c['optimizer']['weight_decay'] > 0
    decays = {path: size for path, size in sizes.items() if decay[path] and path not in frozen}
    curve = rates(experiment)
    norm = c['norm']['batch_size'] or h.batch_size // c['accumulate']
    return {
        'recipe': c['recipe'],
        'data': data,
        'train_examples': len(experiment.data.train),
        'classes': len(experiment.data.train.classes),
        'batch_size': h.batch_size,
        'steps_per_epoch': h.steps_per_epoch,
        'steps': h.total,
        'epochs': h.epoch(h.total),
        'images_seen': h.total * h.batch_size,
        'distinct_images_a_step': h.batch_size // experiment.data.repeats,
        'image_size': {
            begin: _side(experiment, chain) for begin, chain in experiment.augmentation_by_step
        },
        'eval_size': [s.get('size') for s in c['evaluate']['preprocess']],
        'peak_learning_rate': experiment.optimizer.peak,
        'learning_rate_rule': _rate_rule(experiment),
        'learning_rate': curve,
        'last_learning_rate': float(experiment.schedule(h.total - 1)),
        'optimizer': c['optimizer']['name'],
        'weight_decay': f'{c["optimizer"]["weight_decay"]:g} {c["optimizer"]["decay"]}',
        'coupled_equivalent': traps.coupled_equivalent(c['optimizer']),
        'parameters': sum(sizes.values()),
        'decayed': sum(decays.values()),
        'not_decayed': sorted({_shape_of(p) for p in sizes if p not in decays and p not in frozen})
        if decaying
        else ['all'],
        'frozen': sum(sizes[path] for path in frozen),
        'frozen_in': freezing.parts(experiment.frozen),
        'learning_rate_multipliers': sorted(set(jax.tree.leaves(groups.rate))),
        'norm_group': norm,
        'norm_groups_a_step': h.batch_size // norm,
        'norms_with_frozen_stats': len(experiment.frozen.stats),
        'mix_draws_a_step': _draws(experiment),
        'starts_from': _start(experiment),
        'teacher': experiment.distillation.teacher if experiment.distillation else None,
        'ema': _ema(experiment),
        'published': str(experiment.reference),
        'curve': sparkline(curve),
        'promises': promises(experiment),
        'warnings': traps.warnings(experiment),
    }


def rates(experiment: Experiment) -> list[float]:
    """The learning rate at the first step of each epoch."""
    h = experiment.horizon
    first = np.arange(math.ceil(h.epoch(h.total))) * h.steps_per_epoch
    return [float(rate) for rate in jax.vmap(experiment.schedule)(first)]


def _draws(experiment: Experiment) -> int:
    """The number of draws of Mixup or CutMix in a step."""
    mix = experiment.mix
    if mix is None:
        return 0
    return mix.groups * {'batch': 1, 'pair': mix.size // 2, 'elem': mix.size}[mix.mode]


def _start(experiment: Experiment) -> str:
    start = experiment.init_from
    if start.source is None:
        return 'random weights'
    return f'{start.source}, {start.head} head'


def _ema(experiment: Experiment) -> dict[str, Any]:
    """The decay of the average, and the epochs that it remembers."""
    ema, h = experiment.ema, experiment.horizon
    if ema is None:
        return {}
    updates = math.ceil(h.steps_per_epoch / ema.every)  # torchvision's count restarts in each epoch
    epochs = -1 / math.log(ema.decay) / updates if ema.decay else 0.0
    return {
        'decay': ema.decay,
        'updates_an_epoch': updates,
        'time_constant_epochs': epochs,
        'half_life_epochs': epochs * math.log(2),
    }


def _side(experiment: Experiment, chain: Chain) -> Any:
    size = chain.output_size(experiment.data.train.image_size)
    return list(size) if size else None


def _shape_of(path: str) -> str:
    """The kind of a parameter: 'stage2_block1/norm3/scale' -> 'norm/scale'."""
    layer, _, leaf = path.rpartition('/')
    return f'norm/{leaf}' if 'norm' in layer else path


def sparkline(values: list[float], width: int = 60) -> str:
    """A curve as one line of block characters."""
    points = np.interp(np.linspace(0, len(values) - 1, width), range(len(values)), values)
    top = max(float(np.max(points)), 1e-30)
    return ''.join(BLOCKS[round(float(p / top) * (len(BLOCKS) - 1))] for p in points)


def _rate_rule(e: Experiment) -> str | None:
    """The rule behind a rate that the config does not state as a number."""
    lr, count = e.config['optimizer']['lr'], len(e.data.train)
    if not isinstance(lr, str):
        return None
    return f'{lr}: {optimizer.rate_by_dataset_size(count):.4g} for {count:,} images'
