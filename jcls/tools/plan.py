"""Plan a run: ``jcls plan --config FILE --topology v5e:4x4 [MORE ...]``.

The training and evaluation steps that the run itself would use are compiled on this machine for
others, and what comes out of the compiler is told for each chip. See `jcls.machines`.
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
from rich.table import Table

from jcls.assembly import build_or_assume, load_config
from jcls.data import disk
from jcls.data.runtime import cores
from jcls.machines import predict
from jcls.machines.topology import Topology, parse
from jcls.schema import plain
from jcls.tools import bench_step, measured
from jcls.tools.compile import compiled, with_batch

BATCHES = 16  # the largest batch is found among multiples of this
TRIES = 4  # programs compiled at most in search of it
CURES = 'config.model.remat=True, a larger config.accumulate, or a smaller image'


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
      topology: 'v5e:4x4', 'gpu:2xh100x8', ..., see `jcls.machines.topology.parse`; 'cpu' measures
        this machine.
      per_chip_batch: instead of the config's global batch over the chips.
      search: also look for the largest batch that fits, by compiling more programs.
      keep: the folder of earlier results; 'auto' is $XDG_CACHE_HOME/jcls/plans (~/.cache/...), None
        keeps none.

    Returns:
      topology, chips, hosts, per_chip_batch; of the training step and for each chip the facts of
      `jcls.machines.program.analysis`, and of its time those of `jcls.machines.predict.seconds`;
      images_per_second (of all chips), hours (of the recipe, with its evaluations),
      host_images_per_second_per_core (that the input pipeline must deliver),
      input_images_per_second_per_core (that ``jcls bench input`` measured here last; None if it did
      not), memory_bytes (that a chip has), largest_batch (None: not searched), eval (the evaluation
      step's facts) and assumptions.

    Raises:
      ValueError: for a topology that is none, or no compiler; where the step does not fit, with
        the largest batch that does, or what would help.
    """
    machines, tree = parse(topology), json.loads(json.dumps(plain(config)))
    if machines.platform == 'cpu':
        return _measured(tree, per_chip_batch)
    folder = disk.folder() / 'plans' if keep == 'auto' else None
    if keep not in ('auto', None):
        folder = Path(str(keep)).expanduser()
    found = compiled(tree, machines, per_chip_batch=per_chip_batch, keep=folder)
    run, train, evaluation = found['run'], found['train'], found['eval']
    batch = run['batch_size'] // machines.chips
    memory = machines.facts.memory
    most = run['train_examples'] // machines.chips
    largest = _largest(tree, machines, batch, train, most, folder) if search else None
    if _excess(train, memory):
        raise ValueError(_too_large(machines, batch, train, largest))
    times = predict.seconds(train, machines)
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
        'memory_bytes': memory,
        'largest_batch': largest,
        **times,
        'images_per_second': rate,
        'hours': _hours(run, times, evaluation, machines),
        'host_images_per_second_per_core': rate / machines.hosts / machines.facts.host_cores,
        'input_images_per_second_per_core': measured.per_core(tree),
        'eval': evaluation,
        'assumptions': predict.ASSUMED,
    }


def _measured(tree: dict[str, Any], batch: int | None) -> dict[str, Any]:
    """What `plan` returns, of the devices of this machine, measured."""
    experiment, _ = build_or_assume(
        {**tree, **(with_batch(tree, batch * jax.device_count()) if batch else {})}
    )
    devices, run = experiment.mesh.size, experiment.horizon
    found = bench_step.bench_step(experiment, steps=3, rounds=2)
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
        'memory_bytes': None,
        'largest_batch': None,
        'collective_seconds': None,
        'cycle_seconds': None,
        'roofline_bound': 'not told',
        'time_from': 'measured',
        'hours': run.total * found['step_seconds'] / 3600,
        'host_images_per_second_per_core': found['images_per_second'] / cores(),
        'input_images_per_second_per_core': measured.per_core(tree),
        'eval': None,
        'assumptions': (),
    }


def _excess(found: Mapping[str, Any], memory: int) -> bool:
    return 'error' in found or found['peak_bytes'] > memory


def _hours(
    run: Mapping[str, Any], times: Mapping[str, Any], evaluation: Mapping[str, Any], on: Topology
) -> float:
    steps = run['steps'] * times['step_seconds']
    batches = run['evaluations'] * -(-run['eval_examples'] // run['eval_batch_size'])
    if not _excess(evaluation, on.facts.memory):
        steps += batches * predict.seconds(evaluation, on)['step_seconds']
    return steps / 3600


def _largest(
    tree: dict[str, Any],
    on: Topology,
    batch: int,
    train: Mapping[str, Any],
    most: int,
    keep: Path | None,
) -> int | None:
    """The largest batch of a chip that fits, of the multiples of `BATCHES`; None if none does.

    At most `most`, of which the dataset has one.

    Memory grows almost in proportion to the batch: two programs predict it, and a few more make
    sure.
    """
    memory = on.facts.memory
    peaks = {batch: train['peak_bytes']} if 'peak_bytes' in train else {}
    fits, fails = (0, batch) if _excess(train, memory) else (batch, most + 1)
    for _ in range(TRIES):
        if len(peaks) > 1:  # on a line
            (small, low), *_, (big, high) = sorted(peaks.items())
            guess = small + (memory - low) * (big - small) / max(high - low, 1)
        else:
            guess = (fits + fails) / 2 if fails <= most else 2 * fits
        # Between what is known to fit and what is known not to, and a multiple if there is one.
        guess = min(max(int(guess) // BATCHES * BATCHES, fits + BATCHES), fails - 1, most)
        guess = guess // BATCHES * BATCHES or guess
        if guess <= fits:
            break
        found = compiled(tree, on, per_chip_batch=guess, steps=('train',), keep=keep)['train']
        if 'peak_bytes' in found:
            peaks[guess] = found['peak_bytes']
        fits, fails = (fits, guess) if _excess(found, memory) else (guess, fails)
    return fits or None


def _too_large(on: Topology, batch: int, train: Mapping[str, Any], largest: int | None) -> str:
    reason = train.get('error') or (
        f'it needs {train["peak_bytes"] / 1e9:.2f} GB, and a chip has {on.facts.memory / 1e9:.2f}'
    )
    cure = f'{largest} fit: config.batch_size={largest * on.chips}' if largest else ''
    return (
        f'--topology={on.name}: a training step with {batch} images a chip does not fit ({reason}).'
        f' Of smaller ones, {cure or "none that was tried fits"}. Otherwise {CURES} saves memory'
    )


def show(plans: list[dict[str, Any]], console: Console) -> None:
    """A column for each plan, as many side by side as the terminal has room for."""
    rest = [_lines(one) for one in plans]
    widths = [max(map(len, column.values())) + 2 for column in rest]
    names = max(map(len, rest[0])) if rest else 0
    while rest:
        count = len(rest)
        while console.is_terminal and count > 1 and names + sum(widths[:count]) > console.width:
            count -= 1
        table = Table(box=None, pad_edge=False, show_header=False)
        for _ in range(1 + count):
            table.add_column(justify='right' if table.columns else 'left', no_wrap=True)
        for name in rest[0]:
            table.add_row(name, *(column[name] for column in rest[:count]))
        console.width = max(console.width, names + sum(widths[:count]))
        console.print(table)
        rest, widths = rest[count:], widths[count:]
        if rest:
            console.print()
    for text in dict.fromkeys(text for one in plans for text in one['assumptions']):
        console.print(f'assumed: {text}', highlight=False)


def _lines(one: Mapping[str, Any]) -> dict[str, str]:
    def gigabytes(key: str) -> str:
        return '-' if one[key] is None else f'{one[key] / 1e9:.2f} GB'

    def milliseconds(key: str) -> str:
        return '-' if one[key] is None else f'{1e3 * one[key]:.1f} ms'

    def cycles(of: int, digits: int) -> str:
        count = one['estimated_cycles']
        return '-' if count is None else f'{count / of / 1e6:.{digits}f} M'

    measured_here = one['input_images_per_second_per_core']
    return {
        'for each chip, unless of all': one['topology'],
        'chips (of all), hosts': f'{one["chips"]:,}, {one["hosts"]:,}',
        'batch': str(one['per_chip_batch']),
        'largest batch that fits': str(one['largest_batch'] or '-'),
        'memory: arguments': gigabytes('argument_bytes'),
        'memory: temporaries': gigabytes('temporary_bytes'),
        'memory: peak': gigabytes('peak_bytes'),
        'memory: there is': gigabytes('memory_bytes'),
        'floating point operations': f'{one["flops"] / 1e12:.2f} T',
        'bytes accessed': gigabytes('bytes_accessed'),
        'kernels': f'{sum(one["kernels"].values()):,}',
        'collectives': f'{one["collectives"]:,}',
        'collectives: bytes': f'{one["collective_bytes"] / 1e6:.1f} MB',
        'estimated cycles': cycles(1, 1),
        'estimated cycles an image': cycles(one['per_chip_batch'], 3),
        'step': milliseconds('step_seconds'),
        'step: roofline': milliseconds('roofline_seconds'),
        'step: of that, collectives': milliseconds('collective_seconds'),
        'step: told from': one['time_from'],
        'bound by': one['roofline_bound'],
        'images a second (of all)': f'{one["images_per_second"]:,.0f}',
        'hours of the recipe (of all)': f'{one["hours"]:.1f}',
        'images a second a host core must feed': f'{one["host_images_per_second_per_core"]:.0f}',
        'bench input measured here, of a core': f'{measured_here:.0f}' if measured_here else '-',
    }


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verb: plan for each topology, one after the other."""
    config, console = load_config(args.config, overrides), Console(soft_wrap=True, markup=False)
    plans = []
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
    show(plans, console)
    return plans
