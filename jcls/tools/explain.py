"""What a config means before any run: ``jcls config explain FILE``.

Facts are worked out by the objects that the run itself uses: the learning rate is the schedule's,
what decays is the optimizer's. Where the data are not there yet, the images that the published
accuracy was reached with are counted instead, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jcls.assembly import build
from jcls.experiment import Experiment
from jcls.optim.groups import path_of
from jcls.schema import plain
from jcls.training import freezing, traps

BLOCKS = '▁▂▃▄▅▆▇█'
COMMON = ('mean', 'std', 'repeats', 'balanced', 'folds', 'fold', 'subset', 'subset_seed')


def build_or_assume(config: Mapping[str, Any]) -> tuple[Experiment, str]:
    """The experiment, with made-up images if its folder is not there; and which it has."""
    tree = plain(config)
    known, data = tree['reference'], tree['data']
    folder = data.get('dir')
    if folder is None or not known['examples'] or Path(folder).expanduser().exists():
        return build(tree), data['name']
    made_up = {
        'name': 'synthetic',
        'examples': known['examples'],
        'num_classes': known['classes'],
        'channels': len(data['mean']),
    }
    kept = {key: data[key] for key in COMMON}
    said = f'{folder} is not there; counted as the published run had them'
    return build({**tree, 'data': {**kept, **made_up}}), said


def promises(experiment: Experiment) -> list[str]:
    """What holds for this run's data and devices."""
    data, deterministic = experiment.data, experiment.config['deterministic']
    bits = 'bit for bit' + ('' if deterministic else ' (on GPUs with deterministic=True)')
    found = [
        f'resuming at any step is exact, {bits}',
        'the same images in the same order on any number of hosts and devices',
        'evaluation counts each example exactly once',
    ]
    h = experiment.horizon
    distinct = h.steps_per_epoch * h.batch_size // data.repeats
    if data.balanced:
        return [*found, 'an epoch draws every class equally often, examples of small ones again']
    copies = f', each {data.repeats} times in a step' if data.repeats > 1 else ''
    return [
        *found,
        f'an epoch sees {distinct:,} distinct examples{copies}, others left over each time',
    ]


def facts(experiment: Experiment, data: str) -> dict[str, Any]:
    """All facts by name; 'learning_rate' has one number for each epoch, the first step's."""
    c, h = experiment.config, experiment.horizon
    shapes = experiment.state_shapes()
    groups = experiment.optimizer.groups(shapes.params)
    sizes = {
        path_of(k): leaf.size for k, leaf in jax.tree_util.tree_leaves_with_path(shapes.params)
    }
    decay = {path_of(k): w for k, w in jax.tree_util.tree_leaves_with_path(groups.decay)}
    rate = {path_of(k): r for k, r in jax.tree_util.tree_leaves_with_path(groups.rate)}
    frozen, decaying = experiment.frozen.params, c['optimizer']['weight_decay'] > 0
    decays = {path: size for path, size in sizes.items() if decay[path] and path not in frozen}
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
            begin: _side(experiment, i) for i, (begin, _) in enumerate(experiment.phases)
        },
        'eval_size': [s.get('size') for s in c['evaluate']['preprocess']],
        'peak_learning_rate': experiment.optimizer.peak,
        'learning_rate': rates(experiment),
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
        'learning_rate_multipliers': sorted(set(rate.values())),
        'norm_group': norm,
        'norm_groups_a_step': h.batch_size // norm,
        'norms_still': len(experiment.frozen.still),
        'mix_draws_a_step': _draws(experiment),
        'starts_from': _start(experiment),
        'teacher': experiment.distillation.teacher if experiment.distillation else None,
        'ema': _ema(experiment),
        'published': str(experiment.reference),
        'curve': sparkline(rates(experiment)),
        'promises': promises(experiment),
        'warnings': traps.warnings(experiment),
    }


def rates(experiment: Experiment) -> list[float]:
    """The learning rate at the first step of each epoch."""
    h = experiment.horizon
    first = np.arange(math.ceil(h.epoch(h.total))) * h.steps_per_epoch
    return [float(rate) for rate in jax.vmap(experiment.schedule)(first)]


def _draws(experiment: Experiment) -> int:
    """Of Mixup or CutMix in a step."""
    mix = experiment.mix
    if mix is None:
        return 0
    return mix.groups * {'batch': 1, 'pair': mix.size // 2, 'elem': mix.size}[mix.mode]


def _start(experiment: Experiment) -> str:
    start = experiment.start
    if start.source is None:
        return 'random weights'
    return f'{start.source}, {start.head} head'


def _ema(experiment: Experiment) -> dict[str, Any]:
    """The average's decay, and how long it remembers, in epochs."""
    ema, h = experiment.ema, experiment.horizon
    if ema is None:
        return {}
    updates = math.ceil(h.steps_per_epoch / ema.every)  # counting starts anew in each epoch
    epochs = -1 / math.log(ema.decay) / updates if ema.decay else 0.0
    return {
        'decay': ema.decay,
        'updates_an_epoch': updates,
        'time_constant_epochs': epochs,
        'half_life_epochs': epochs * math.log(2),
    }


def _side(experiment: Experiment, phase: int) -> Any:
    extent = experiment.phases[phase][1].extent(experiment.data.train.extent)
    return list(extent) if extent else None


def _shape_of(path: str) -> str:
    """'stage2_block1/norm3/scale' -> 'norm/scale': what kind of parameter it is."""
    layer, _, leaf = path.rpartition('/')
    return f'norm/{leaf}' if 'norm' in layer else path


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the facts."""
    size = ', '.join(
        f'{_by(side)} px' + (f' from step {begin:,}' if begin else '')
        for begin, side in found['image_size'].items()
    )
    peak, curve = found['peak_learning_rate'], found['learning_rate']
    lines = {
        'recipe': found['recipe'],
        'published': found['published'] or 'nothing for this variant',
        'data': f'{found["data"]}: {found["train_examples"]:,} training images, '
        f'{found["classes"]:,} classes',
        'run': f'{found["steps"]:,} steps of {found["batch_size"]:,} = {found["epochs"]:g} epochs '
        f'of {found["steps_per_epoch"]:,}; {found["images_seen"]:,} images seen',
        'images': f'{size}; evaluated at {" -> ".join(map(str, found["eval_size"])) or "their own"}'
        + (
            f'; {found["distinct_images_a_step"]:,} distinct ones a step'
            if found['distinct_images_a_step'] != found['batch_size']
            else ''
        ),
        'learning rate': f'{curve[0]:.4g} at first, peak {peak:.4g}, '
        f'{found["last_learning_rate"]:.4g} at the last step',
        '': found['curve'],
        'optimizer': found['optimizer']
        + (
            f', rates multiplied by {found["learning_rate_multipliers"][0]:.3g} to '
            f'{found["learning_rate_multipliers"][-1]:.3g}'
            if len(found['learning_rate_multipliers']) > 1
            else ''
        ),
        'weight decay': f'{found["weight_decay"]}'
        + (
            f', acts about like {found["coupled_equivalent"]:.3g} coupled'
            if found['coupled_equivalent'] is not None and 'decoupled' in found['weight_decay']
            else ''
        )
        + f'; of {found["decayed"]:,} of {found["parameters"]:,} parameters, not of '
        + (', '.join(found['not_decayed']) or 'none'),
        'starts from': found['starts_from'],
        'teacher': found['teacher'] or 'none',
        'frozen': f'{found["frozen"]:,} parameters in {", ".join(found["frozen_in"])}'
        if found['frozen']
        else 'nothing',
        'BatchNorm': f'over {found["norm_group"]:,} examples, '
        f'{found["norm_groups_a_step"]:,} group(s) a step'
        + (
            f'; {found["norms_still"]} layers keep their statistics' if found['norms_still'] else ''
        ),
        'mixing': f'{found["mix_draws_a_step"]} draw(s) a step'
        if found['mix_draws_a_step']
        else 'none',
        'average': 'decay {decay:.8g}, {updates_an_epoch} updates an epoch: remembers '
        '{time_constant_epochs:.3g} epochs (half-life {half_life_epochs:.3g})'.format(
            **found['ema']
        )
        if found['ema']
        else 'none',
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, line in lines.items():
        table.add_row(name, line)
    console.print(table)
    console.print(_rate_table(curve))
    console.print('promises: ' + '; '.join(found['promises']), highlight=False)
    for warning in found['warnings']:
        console.print(f'warning: {warning}', highlight=False, markup=False)
    if not found['warnings']:
        console.print('no warnings', highlight=False)


def _rate_table(curve: list[float]) -> Table:
    """The rate at some epochs: every one of the first, then twenty of all, and the last."""
    stride = max(1, len(curve) // 20)
    chosen = sorted({*range(min(len(curve), 7)), *range(0, len(curve), stride), len(curve) - 1})
    table = Table(title='learning rate at the start of epoch', title_justify='left', box=None)
    columns = 4
    for _ in range(columns):
        table.add_column('epoch', justify='right')
        table.add_column('rate')
    rows = -(-len(chosen) // columns)
    for row in range(rows):
        cells = [(str(e), f'{curve[e]:.6g}') for e in chosen[row::rows]]
        table.add_row(*(text for cell in cells for text in cell))
    return table


def sparkline(values: list[float], width: int = 60) -> str:
    """The curve as one line of blocks."""
    points = np.interp(np.linspace(0, len(values) - 1, width), range(len(values)), values)
    top = max(float(np.max(points)), 1e-30)
    return ''.join(BLOCKS[round(float(p / top) * (len(BLOCKS) - 1))] for p in points)


def plot(found: Mapping[str, Any], file: Path) -> None:
    """Draw the learning rate over the epochs."""
    from matplotlib.figure import Figure

    curve = found['learning_rate']
    figure = Figure(figsize=(8, 3.2), layout='constrained')
    axes = figure.add_subplot()
    axes.step(range(len(curve)), curve, where='post')
    axes.set(xlabel='epoch', ylabel='learning rate', title=found['recipe'], ylim=(0, None))
    axes.grid(alpha=0.3)
    for begin, side in found['image_size'].items():
        if begin:
            axes.axvline(begin / found['steps_per_epoch'], linestyle=':')
            axes.annotate(f'{_by(side)} px', (begin / found['steps_per_epoch'], max(curve)))
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        raise ValueError(f'cannot write --out={file}: {error.strerror or error}') from None


def _by(side: list[int] | None) -> str:
    return ' x '.join(map(str, side)) if side else 'any'
