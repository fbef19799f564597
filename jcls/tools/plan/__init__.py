"""Plan a run: ``jcls plan --config FILE --topology v5e:4x4 [MORE ...]``.

The training and evaluation steps that the run itself would use are compiled on this machine for
others, and what comes out of the compiler is told for each chip:

    topology (with what its chips can do) -> compile, in a process of its own -> hlo (what the
    compiled program says) -> fit (does it fit, and what would) -> roofline (its time) -> table

`measure` measures a step on the devices that are here, `input_rate` remembers what the input
pipeline delivered.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jcls.assembly import build_or_assume, load_config
from jcls.config.schema import plain
from jcls.host.cache import cache_folder
from jcls.host.machine import cores
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
      config: as `jcls.load_config` returns it.
      topology: 'v5e:4x4', 'gpu:2xh100x8', ..., see `jcls.tools.plan.topology.parse`; 'cpu' measures
        this machine.
      per_chip_batch: instead of the config's global batch over the chips.
      search: also look for the largest batch that fits, by compiling more programs.
      keep: the folder of earlier results; 'auto' is $XDG_CACHE_HOME/jcls/plans (~/.cache/...), None
        keeps none.

    Returns:
      topology, chips, hosts, per_chip_batch; what `jcls.tools.plan.compile.compiled` returns of the
      training step, for each chip, and of its time what `jcls.tools.plan.roofline.seconds` returns;
      images_per_second (of all chips), hours (of the recipe, with its evaluations), host_cores,
      host_images_per_second_per_core (that the input pipeline must deliver),
      input_images_per_second_per_core (that ``jcls bench input`` measured here last; None if it did
      not), memory_bytes (that a chip has), usable_bytes (of it, by JAX), largest_batch (None: not
      searched), eval (the evaluation step's facts) and assumptions.

    Raises:
      ValueError: for a topology that is none, or no compiler; where the step does not fit, with
        the largest batch that does, or what would help.
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
    if keep not in ('auto', None):
        folder = Path(str(keep)).expanduser()
    found = compiled(
        tree,
        machines,
        per_chip_batch=per_chip_batch,
        steps=('train', 'phases', 'eval'),
        keep=folder,
    )
    run, train, evaluation = found['run'], found['train'], found['eval']
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
        'chip': machines.facts.name,
        'chips': machines.chips,
        'hosts': machines.hosts,
        'image_shape': run['image_shape'],
        'dtype': run['dtype'],
        'per_chip_batch': batch,
        **{key: value for key, value in train.items() if key != 'collectives'},
        'collectives': sum(kind['count'] for kind in train['collectives'].values()),
        'collective_bytes': sum(kind['bytes'] for kind in train['collectives'].values()),
        'collectives_by_kind': train['collectives'],
        'memory_bytes': machines.facts.memory,
        'usable_bytes': machines.facts.usable,
        'largest_batch': largest,
        **times,
        'images_per_second': rate,
        'hours': _hours(found, machines),
        'host_cores': machines.host_cores,
        'host_images_per_second_per_core': rate / machines.hosts / machines.host_cores,
        'input_images_per_second_per_core': input_rate.per_core(tree),
        'eval': evaluation,
        'assumptions': _assumptions(tree, machines),
    }


def _measured(tree: dict[str, Any], batch: int | None) -> dict[str, Any]:
    """What `plan` returns, of the devices of this machine, measured."""
    experiment, _ = build_or_assume(
        {**tree, **(with_batch(tree, batch * jax.device_count()) if batch else {})}
    )
    devices, run = experiment.mesh.size, experiment.horizon
    found = measure.bench_step(experiment, steps=3, rounds=2)
    every = found.pop('collectives')
    return {
        'topology': 'cpu',
        'chip': found['devices'],
        'chips': devices,
        'hosts': jax.process_count(),
        'image_shape': experiment.image_shape,
        'dtype': tree['model']['dtype'],
        'per_chip_batch': run.batch_size // devices,
        **found,
        'collectives': sum(kind['count'] for kind in every.values()),
        'collective_bytes': sum(kind['bytes'] for kind in every.values()),
        'collectives_by_kind': every,
        'beside_bytes': None,
        'memory_bytes': None,
        'usable_bytes': None,
        'largest_batch': None,
        'collective_seconds': None,
        'cycle_seconds': None,
        'roofline_bound': 'not told',
        'time_from': 'measured',
        'hours': (run.total * found['step_seconds'] + _evaluating(experiment)) / 3600,
        'host_cores': cores(),
        'host_images_per_second_per_core': found['images_per_second'] / cores(),
        'input_images_per_second_per_core': input_rate.per_core(tree),
        'eval': None,
        'assumptions': (
            *(('every step takes as long as the first',) if tree['sizes'] else ()),
            *_teacher(tree),
        ),
    }


def _evaluating(experiment: Experiment) -> float:
    """Seconds of all evaluations of a run, of what one batch takes here."""
    count = whole_run(experiment, experiment.image_shape)['eval_batches']
    variables = experiment.init().variables
    batch = measure.noise(experiment, experiment.eval_shapes())
    return count * measure.fastest(experiment.eval_step, variables, batch, calls=3)


def _hours(found: Mapping[str, Any], on: Topology) -> float:
    """Of the whole recipe: training images of every size, and evaluations."""
    run = found['run']
    seconds = [
        phase['steps'] * roofline.seconds(phase, on)['step_seconds'] for phase in found['phases']
    ]
    seconds.append(run['eval_batches'] * roofline.seconds(found['eval'], on)['step_seconds'])
    return sum(seconds) / 3600


def _assumptions(tree: Mapping[str, Any], on: Topology) -> tuple[str, ...]:
    told = [*roofline.ASSUMED[on.platform]]
    if on.platform == 'gpu' and tree['model']['dtype'] != 'bfloat16':
        told.append(
            f'the peak rate is that of bfloat16, though model.dtype is {tree["model"]["dtype"]}'
        )
    if len(tree['sizes']):
        told.append('memory and step are those of the largest images; the hours are of all sizes')
    return (*told, *_teacher(tree))


def _teacher(tree: Mapping[str, Any]) -> tuple[str, ...]:
    there = tree['distill']['name'] != 'none'
    return ("the teacher's forward pass is not counted",) if there else ()


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verb: plan for each topology, one after the other."""
    config, console = load_config(args.config, overrides), Console(soft_wrap=True, markup=False)
    for name in args.topology:
        parse(name)  # before minutes are spent on others
    plans = []
    try:
        for name in args.topology:
            began = time.perf_counter()
            with Console(stderr=True).status(f'compiling for {name} (minutes)'):
                plans.append(
                    plan(
                        config,
                        name,
                        per_chip_batch=args.per_chip_batch,
                        search=not args.no_search,
                        keep=args.keep or None,
                    )
                )
            took = time.perf_counter() - began
            console.print(f'{name}: {took:.0f} s on {os.cpu_count()} cores', highlight=False)
    finally:  # one that fails does not take the others with it
        table.show(plans, console)
    return plans
