"""Measure the data pipeline, ``jcls bench input``, or a training step, ``jcls bench step``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from jcls.assembly import build, build_or_assume, load_config
from jcls.host.terminal import say, status
from jcls.tools.bench.input import bench_input
from jcls.tools.plan import input_rate, plan
from jcls.tools.plan.measure import WARM_UP, bench_step
from jcls.tools.plan.topology import parse

OPTIONS = {  # options of each benchmark, which the other would ignore
    'input': ('seconds', 'step_seconds', 'compare', 'peer_python'),
    'step': ('steps', 'trace', 'topology'),
}


def run(
    overrides: Mapping[str, Any], *, what: str, config: str, cores: int = 0, **given: Any
) -> dict[str, Any]:
    """The verb: measure, print tables and return the figures for --json."""
    for other, names in OPTIONS.items():
        for name in names:
            if what != other and name in given:
                raise ValueError(f'--{name} is of `bench {other}`; `bench {what}` has none')
    if cores:
        _pin(cores)
    tree = load_config(config, overrides)
    return _step(tree, **given) if what == 'step' else _input(tree, **given)


def _input(config: Any, **given: Any) -> dict[str, Any]:
    result = bench_input(build(config), **given)
    input_rate.remember(config, result)
    _show(result)
    return result


def _pin(count: int) -> None:
    """Use only this many cores, also in every process that is started from now on."""
    if not hasattr(os, 'sched_setaffinity'):
        raise ValueError('--cores needs Linux: this system cannot bind a process to cores')
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(allowed):
        raise ValueError(f'--cores={count}: this process may use 1 to {len(allowed)}')
    os.sched_setaffinity(0, allowed[-count:])


def _show(result: Mapping[str, Any]) -> None:
    table = Table('stage', 'CPU ms per image', 'share', title='what each stage takes')
    total = sum(result['stages'].values())
    for name, cost in result['stages'].items():
        table.add_row(name, f'{cost:.3f}', f'{cost / total:.0%}')
    _print(table)
    say(
        f'{result["images_per_second"]:,.0f} images/s on {result["cores"]} core(s): '
        f'{result["images_per_second_per_core"]:,.0f} a core, '
        f'{result["cpu_ms_per_image"]:.3f} CPU ms an image; '
        f'{result["memory_bytes"] / 2**20:,.0f} MiB at most'
    )
    if 'input_bound' in result:
        verdict = 'input-bound' if result['input_bound'] else 'not input-bound'
        say(
            f'{verdict}: the steps take {result["images_per_second_needed"]:,.0f} images/s, which '
            f'needs {result["cores_needed"]:.1f} cores like these'
        )
    if 'peers' in result:
        table = Table(
            'peer', 'images/s', 'CPU ms per image', 'jcls is faster by', 'in CPU time by',
            title='the same work elsewhere',
        )  # fmt: skip
        for name, peer in result['peers'].items():
            speed, cost = f'{peer["images_per_second"]:,.0f}', f'{peer["cpu_ms_per_image"]:.3f}'
            table.add_row(name, speed, cost, f'{peer["ratio"]:.2f}', f'{peer["cpu_ratio"]:.2f}')
        _print(table)
        if 'DALI' in result['peers']:
            say('DALI is measured without random erasing and mixing: it has less to do')


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def _step(config: Any, *, topology: str | None = None, **given: Any) -> dict[str, Any]:
    experiment, _ = build_or_assume(config)
    if topology:
        parse(topology)  # so that a mistake shows before anything is measured
    with status('measuring training steps'):
        result = bench_step(experiment, **given)
    rows = {
        'devices': result['devices'],
        'batch': f'{experiment.horizon.batch_size:,} of {experiment.image_shape}',
        'step': f'{1e3 * result["step_seconds"]:.1f} ms',
        'images a second': f'{result["images_per_second"]:,.1f}',
        'compiling': f'{result["compile_seconds"]:.1f} s',
    }
    if result['roofline_share'] is not None:
        rows['of the roofline'] = f'{result["roofline_share"]:.0%}'
    if topology:
        with status(f'compiling for {topology}'):
            planned = plan(config, topology, search=False)
        result['plan'] = planned
        rows[f'planned for {topology}'] = (
            f'{1e3 * planned["step_seconds"]:.1f} ms, from {planned["time_from"]}'
        )
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in rows.items():
        table.add_row(name, text)
    Console(soft_wrap=True, markup=False).print(table)
    if 'trace' in given:
        print(f'profile of {WARM_UP} steps: tensorboard --logdir {given["trace"]}')
    return result
