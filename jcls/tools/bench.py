"""Measure: ``jcls bench input`` tells how fast images come in, and what bounds it.

``jcls bench step`` is in `jcls.tools.bench_step`.

Every figure comes out of rounds in which all that is compared takes turns, because machines are
noisy; the best round of each counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from jcls.assembly import build, load_config
from jcls.data import augment, order, pipeline
from jcls.data.chain import Chain
from jcls.data.operation import Operation
from jcls.data.runtime import cores, tensorflow
from jcls.experiment import Experiment
from jcls.tools import bench_step, measured, peers

WARM_UP = 2  # batches, in which programs are compiled
SECONDS = 5.0
ONLY = {  # what the other would ignore
    'input': ('seconds', 'step_seconds', 'compare', 'peer_python'),
    'step': ('steps', 'trace', 'topology'),
}


class Speed(NamedTuple):
    """Of one measurement; the CPU time suffers less from what else the machine does."""

    images_per_second: float
    cpu_ms: float  # of all cores, for each image


def bench_input(
    experiment: Experiment,
    *,
    seconds: float = SECONDS,
    rounds: int = 3,
    step_seconds: float | None = None,
    compare: bool = False,
    peer_python: str = sys.executable,
) -> dict[str, Any]:
    """Measure the training pipeline of an experiment on the cores that this process may use.

    Args:
      experiment: see `jcls.build`.
      seconds: of each measurement.
      rounds: of measurements; the best of each counts.
      step_seconds: what a training step takes on the accelerator: is the run input-bound?
      compare: also measure the same augmentations in torchvision and DALI where they are installed.
      peer_python: the Python that has them.

    Returns:
      images_per_second, images_per_second_per_core, cores, stages {name: CPU milliseconds for each
      image}, memory_bytes (resident, the most so far), and on request input_bound, cores_needed and
      peers {name: {images_per_second, cpu_ms_per_image, ratio, cpu_ratio}}.
    """
    for field, value in (('seconds', seconds), ('rounds', rounds), ('step_seconds', step_seconds)):
        if value is not None and not value > 0:
            raise ValueError(f'--{field}={value}: must be positive')
    if compare:
        peers.check(experiment)
    chains = _stages(experiment)
    best: dict[str, Speed] = {}
    others: dict[str, Speed] = {}
    for number in range(rounds):
        _say(f'round {number + 1} of {rounds}')
        for name, batches in chains.items():
            found = _measure(batches, experiment.horizon.batch_size, seconds)
            best[name] = _better(found, best.get(name))
        if compare:
            for name, figures in peers.measure(experiment, peer_python, seconds).items():
                others[name] = _better(Speed(*figures), others.get(name))
    whole = best[next(reversed(best))]
    result: dict[str, Any] = {
        'images_per_second': whole.images_per_second,
        'images_per_second_per_core': whole.images_per_second / cores(),
        'cores': cores(),
        'cpu_ms_per_image': whole.cpu_ms,
        'stages': _differences({name: speed.cpu_ms for name, speed in best.items()}),
        'memory_bytes': memory_bytes(),
    }
    if step_seconds is not None:
        needed = experiment.horizon.batch_size / step_seconds
        result |= {
            'images_per_second_needed': needed,
            'input_bound': needed > whole.images_per_second,
            'cores_needed': needed / result['images_per_second_per_core'],
        }
    if compare:
        result['peers'] = {
            name: {
                'images_per_second': other.images_per_second,
                'cpu_ms_per_image': other.cpu_ms,
                'ratio': whole.images_per_second / other.images_per_second,
                'cpu_ratio': other.cpu_ms / whole.cpu_ms,
            }
            for name, other in others.items()
        }
    return result


def _stages(experiment: Experiment) -> dict[str, Iterable[Any]]:
    """Pipelines, each with one stage more than the one before: read, the operations, mixing."""
    source, sections = experiment.data.train, experiment.config['augment']
    share = order.Share(experiment.horizon.batch_size)
    rows = experiment.train_rows(share)

    def endless(operation: Chain, **mixing: Any) -> Iterable[Any]:
        class Batches:
            def __iter__(self) -> Iterator[Any]:
                return pipeline.batches(
                    source,
                    operation,
                    rows,
                    0,
                    sys.maxsize,
                    mean=experiment.data.mean,
                    damage=experiment.damage,
                    **mixing,
                )

        return Batches()

    def unread(image: Any, _: Any) -> Any:
        tf = tensorflow()
        size = tf.strings.length(image) if image.dtype == tf.string else tf.size(image)
        return tf.fill([1, 1, source.channels], tf.cast(size % 256, tf.uint8))

    chains = {'read': endless(Chain([Operation(unread, lambda _: (1, 1))]))}
    skipped = ''
    for count, section in enumerate(sections, 1):
        operation = augment.compose(sections[:count], 'augment')
        name = skipped + section['name']
        if operation.extent(source.extent) is None:
            skipped = f'{name} + '  # measured with the next: batches need images of one size
            continue
        skipped, label = '', f'{count}. {name}'
        chains[label] = endless(operation)
    if not sections:
        chains['decode'] = endless(experiment.augmentation())
    if experiment.mix is not None:
        groups = experiment.mix.within(share.rows())
        chains['mix'] = endless(experiment.augmentation(), mix=experiment.mix, groups=groups)
    return chains


def _measure(batches: Iterable[Any], batch_size: int, seconds: float) -> Speed:
    iterator = iter(batches)
    for _ in range(WARM_UP):
        next(iterator)
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds:
        next(iterator)
        images += batch_size
    return Speed(images / elapsed, 1e3 * (time.process_time() - cpu) / images)


def _better(found: Speed, before: Speed | None) -> Speed:
    """The best of each figure."""
    if before is None:
        return found
    return Speed(
        max(found.images_per_second, before.images_per_second), min(found.cpu_ms, before.cpu_ms)
    )


def _differences(cumulative: Mapping[str, float]) -> dict[str, float]:
    """What each stage adds; noise may make that a little less than nothing."""
    before = [0.0, *cumulative.values()]
    return {name: cumulative[name] - before[i] for i, name in enumerate(cumulative)}


def memory_bytes() -> int:
    """The most memory that this process has had resident so far; 0 where that is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The verb: measure, print tables and return the figures for --json."""
    for what, names in ONLY.items():
        for name in names:
            if what != args.what and getattr(args, name) not in (None, False):
                raise ValueError(f'--{name} is of `bench {what}`; `bench {args.what}` has none')
    if args.cores:
        _pin(args.cores)
    if args.what == 'step':
        return bench_step.run(args, overrides)
    config = load_config(args.config, overrides)
    result = bench_input(
        build(config),
        seconds=SECONDS if args.seconds is None else args.seconds,
        rounds=args.rounds,
        step_seconds=args.step_seconds,
        compare=args.compare,
        peer_python=args.peer_python or sys.executable,
    )
    measured.remember(config, result)
    _show(result)
    return result


def _pin(count: int) -> None:
    """Use only so many cores, from now on and in every process that is started."""
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
    _say(
        f'{result["images_per_second"]:,.0f} images/s on {result["cores"]} core(s): '
        f'{result["images_per_second_per_core"]:,.0f} a core, '
        f'{result["cpu_ms_per_image"]:.3f} CPU ms an image; '
        f'{result["memory_bytes"] / 2**20:,.0f} MiB at most'
    )
    if 'input_bound' in result:
        verdict = 'input-bound' if result['input_bound'] else 'not input-bound'
        _say(
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
            _say('DALI is measured without random erasing and mixing: it has less to do')


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def _say(text: str) -> None:
    print(text, flush=True)
