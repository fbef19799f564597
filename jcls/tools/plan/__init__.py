"""Plan a run: ``jcls plan --config FILE --topology v5e:4x4 [MORE ...]``.

The training and evaluation steps of the run are compiled on this machine for others, and the
compiler's results are reported for each chip:

    topology (and the chips it has) -> compile, in a process of its own -> hlo (reads the compiled
    program) -> fit (whether it fits, and what would) -> roofline (how long it takes) -> table

`measure` measures a step on the devices that are here; `input_rate` keeps the measured speed of the
input pipeline.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jcls.assembly import build_or_assume, load_config
from jcls.config.schema import plain
from jcls.host.cache import cache_folder
from jcls.host.disk import local
from jcls.host.machine import cores
from jcls.host.terminal import status
from jcls.tools.plan import fit, input_rate, measure, roofline, table
from jcls.tools.plan.compile import compiled, whole_run, with_batch
from jcls.tools.plan.topology import Topology, parse
from jcls.training.experiment import Experiment

CURES = 'config.model.remat=True, a larger config.accumulate or a smaller image saves memory'


def plan(
    config: Mapping[str, Any],
    topology: str,
    *,
    per_chip_batch: int | None = None,
    search: bool = True,
    keep: str | Path | None = 'auto',
) -> dict[str, Any]:
    """Compile a run's steps for other machines, and predict its time there.

    Args:
      config: a config as `jcls.load_config` returns it.
      topology: 'v5e:4x4', 'gpu:2xh100x8', ..., see `jcls.tools.plan.topology.parse`; 'cpu' measures
        this machine.
      per_chip_batch: number of examples for each chip; None for the config's global batch.
      search: also find the largest batch that fits, by compiling more programs.
      keep: folder of earlier results; 'auto' for ``plans`` in jcls's cache, None for none.

    Returns:
      topology, chips, hosts, per_chip_batch; the results of `jcls.tools.plan.compile.compiled` for
      the training step and of `jcls.tools.plan.roofline.seconds` for its time, for each chip;
      images_per_second (of all chips), hours (of the recipe, with its evaluations), host_cores,
      host_images_per_second_per_core (which the input pipeline must deliver),
      input_images_per_second_per_core (the last result of ``jcls bench input`` here, or None),
      memory_bytes (of a chip), usable_bytes (the part of it that JAX uses), largest_batch (None if
      not searched), eval (the results for the evaluation step) and assumptions.

    Raises:
      ValueError: for an unknown topology, a missing compiler, or a step that does not fit; the
        error then names the largest batch that fits, or what would help.
    """
    machines, tree = parse(topology), json.loads(json.dumps(plain(config)))
    if per_chip_batch is not None and per_chip_batch < 1:
        raise ValueError(f'--per_chip_batch={per_chip_batch}: at least 1')
    if machines.platform == 'cpu':
        return _measured(tree, per_chip_batch)
    if per_chip_batch is None and tree['batch_size'] % machines.chips:
        raise ValueError(
            f'--topology={topology}: config.batch_size={tree["batch_size"]} does not divide over '
            f'{machines.chips} chips; --per_chip_batch=N plans for another'
        )
    folder = cache_folder() / 'plans' if keep == 'auto' else None
    if keep not in ('auto', '', None):
        folder = local(str(keep))
    results = compiled(
        tree,
        machines,
        per_chip_batch=per_chip_batch,
        steps=('train', 'phases', 'eval'),
        keep=folder,
    )
    run, train, evaluation = results['run'], results['train'], results['eval']
    batch = run['batch_size'] // machines.chips
    largest = None
    if search:
        most = run['train_examples'] // machines.chips
        largest = fit.largest_batch(tree, machines, batch, train, most, folder)
    if fit.excess(train, machines):
        helps = [f'{largest} fit: config.batch_size={largest * machines.chips}'] if largest else []
        helps += fit.cures(tree, machines, batch, folder) if search else []
        text = '; or '.join(helps) or CURES
        raise ValueError(fit.too_large(machines, batch, train, 'a training step', text))
    if fit.excess(evaluation, machines):
        size, text = run['eval_batch_size'] // machines.chips, 'Set a smaller config.evaluate.'
        raise ValueError(
            fit.too_large(machines, size, evaluation, 'an evaluation step', f'{text}batch_size')
        )
    times = roofline.seconds(train, machines)
    rate = run['batch_size'] / times['step_seconds']
    return {
        'topology': topology,
        'chip': machines.chip.name,
        'chips': machines.chips,
        'hosts': machines.hosts,
        'image_shape': run['image_shape'],
        'dtype': run['dtype'],
        'per_chip_batch': batch,
        **{key: value for key, value in train.items() if key != 'collectives'},
        'collectives': sum(kind['count'] for kind in train['collectives'].values()),
        'collective_bytes': sum(kind['bytes'] for kind in train['collectives'].values()),
        'collectives_by_kind': train['collectives'],
        'memory_bytes': machines.chip.memory,
        'usable_bytes': machines.chip.usable,
        'largest_batch': largest,
        **times,
        'images_per_second': rate,
        'hours': _hours(results, machines),
        'host_cores': machines.host_cores,
        'host_images_per_second_per_core': rate / machines.hosts / machines.host_cores,
        'input_images_per_second_per_core': input_rate.per_core(tree),
        'eval': evaluation,
        'assumptions': _assumptions(tree, machines),
    }


def _measured(tree: dict[str, Any], batch: int | None) -> dict[str, Any]:
    """The result of `plan` for this machine's own devices, by measuring."""
    experiment, _ = build_or_assume(
        {**tree, **(with_batch(tree, batch * jax.device_count()) if batch else {})}
    )
    devices, run = experiment.mesh.size, experiment.horizon
    measured = measure.bench_step(experiment, steps=3, rounds=2)
    collectives = measured.pop('collectives')
    return {
        'topology': 'cpu',
        'chip': measured['devices'],
        'chips': devices,
        'hosts': jax.process_count(),
        'image_shape': experiment.image_shape,
        'dtype': tree['model']['dtype'],
        'per_chip_batch': run.batch_size // devices,
        **measured,
        'collectives': sum(kind['count'] for kind in collectives.values()),
        'collective_bytes': sum(kind['bytes'] for kind in collectives.values()),
        'collectives_by_kind': collectives,
        'beside_bytes': None,
        'memory_bytes': None,
        'usable_bytes': None,
        'largest_batch': None,
        'collective_seconds': None,
        'cycle_seconds': None,
        'roofline_bound': 'not told',
        'time_from': 'measured',
        'hours': (run.total * measured['step_seconds'] + _evaluating(experiment)) / 3600,
        'host_cores': cores(),
        'host_images_per_second_per_core': measured['images_per_second'] / cores(),
        'input_images_per_second_per_core': input_rate.per_core(tree),
        'eval': None,
        'assumptions': (
            *(('every step takes as long as the first',) if tree['sizes'] else ()),
            *_teacher(tree),
        ),
    }


def _evaluating(experiment: Experiment) -> float:
    """Seconds of all evaluations of a run, from the time of one batch."""
    count = whole_run(experiment, experiment.image_shape)['eval_batches']
    variables = experiment.init().variables
    batch = measure.noise(experiment, experiment.eval_shapes())
    return count * measure.fastest(experiment.eval_step, variables, batch, calls=3)


def _hours(results: Mapping[str, Any], on: Topology) -> float:
    """Hours of the whole recipe: training with images of every size, and evaluations."""
    run = results['run']
    seconds = [
        phase['steps'] * roofline.seconds(phase, on)['step_seconds'] for phase in results['phases']
    ]
    seconds.append(run['eval_batches'] * roofline.seconds(results['eval'], on)['step_seconds'])
    return sum(seconds) / 3600


def _assumptions(tree: Mapping[str, Any], on: Topology) -> tuple[str, ...]:
    assumed = [*roofline.ASSUMED[on.platform]]
    if on.platform == 'gpu' and tree['model']['dtype'] != 'bfloat16':
        assumed.append(
            f'the peak rate is that of bfloat16, though model.dtype is {tree["model"]["dtype"]}'
        )
    if len(tree['sizes']):
        assumed.append(
            'memory and step are those of the largest images; the hours are of all sizes'
        )
    return (*assumed, *_teacher(tree))


def _teacher(tree: Mapping[str, Any]) -> tuple[str, ...]:
    there = tree['distill']['name'] != 'none'
    return ("the teacher's forward pass is not counted",) if there else ()


def run(
    overrides: Mapping[str, Any], *, config: str, topology: Sequence[str], **given: Any
) -> list[dict[str, Any]]:
    """The verb: plan for each topology, one after the other."""
    tree, console = load_config(config, overrides), Console(soft_wrap=True, markup=False)
    for name in topology:
        parse(name)  # so that a mistake shows before minutes of compiling
    plans = []
    try:
        for name in topology:
            began = time.perf_counter()
            with status(f'compiling for {name} (minutes)'):
                plans.append(plan(tree, name, **given))
            took = time.perf_counter() - began
            console.print(f'{name}: {took:.0f} s on {cores()} cores', highlight=False)
    finally:  # if one plan fails, the others are still shown
        table.show(plans, console)
    return plans
