"""Measure the data pipeline, stage by stage: ``jcls bench input``.

Machines are noisy, so everything that is compared takes turns in rounds, and the best round of each
counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jcls.data import augment, pipeline, sampler
from jcls.data.augment.chain import Chain
from jcls.data.augment.operation import Operation
from jcls.host.machine import cores, peak_memory
from jcls.host.tensorflow import tf
from jcls.host.terminal import say
from jcls.tools.bench import peers
from jcls.training.experiment import Experiment

WARM_UP = 2  # batches that are not timed, since programs are compiled for them
SECONDS = 5.0


class Speed(NamedTuple):
    """The result of a measurement; the CPU time depends less on what else the machine does."""

    images_per_second: float
    cpu_ms: float  # CPU milliseconds of all cores for an image


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
      experiment: the experiment, from `jcls.build`.
      seconds: length of each measurement.
      rounds: number of rounds; the best one counts.
      step_seconds: duration of a training step on the accelerator, to tell whether the run is
        input-bound.
      compare: also measure the same augmentations in torchvision and DALI, if they are installed.
      peer_python: the Python that has torchvision and DALI.

    Returns:
      images_per_second, images_per_second_per_core, cores, stages {name: CPU milliseconds for each
      image}, memory_bytes (the highest resident memory so far), and on request input_bound,
      cores_needed and peers {name: {images_per_second, cpu_ms_per_image, ratio, cpu_ratio}}.
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
        say(f'round {number + 1} of {rounds}')
        for name, batches in chains.items():
            measured = _measure(batches, experiment.horizon.batch_size, seconds)
            best[name] = _better(measured, best.get(name))
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
        'memory_bytes': peak_memory(),
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
    """Pipelines by name, each with one stage more: reading, the operations, mixing."""
    source, sections = experiment.data.train, experiment.config['augment']
    shard = sampler.ProcessShard(experiment.horizon.batch_size)
    sample = experiment.train_sampler(shard)

    def endless(operation: Chain, **mixing: Any) -> Iterable[Any]:
        class Batches:
            def __iter__(self) -> Iterator[Any]:
                return pipeline.batches(
                    source,
                    operation,
                    sample,
                    0,
                    sys.maxsize,
                    mean=experiment.data.mean,
                    damage=experiment.damage,
                    **mixing,
                )

        return Batches()

    def unread(image: Any, _: Any) -> Any:
        size = tf.strings.length(image) if image.dtype == tf.string else tf.size(image)
        return tf.fill([1, 1, source.channels], tf.cast(size % 256, tf.uint8))

    chains = {'read': endless(Chain([Operation(unread, lambda _: (1, 1))]))}
    skipped = ''
    for count, section in enumerate(sections, 1):
        operation = augment.compose(sections[:count], 'augment')
        name = skipped + section['name']
        if operation.output_size(source.image_size) is None:
            skipped = f'{name} + '  # measured with the next one, since batches need one size
            continue
        skipped, label = '', f'{count}. {name}'
        chains[label] = endless(operation)
    if not sections:
        chains['decode'] = endless(experiment.augmentation())
    if experiment.mix is not None:
        groups = experiment.mix.within(shard.rows())
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


def _better(measured: Speed, before: Speed | None) -> Speed:
    """The better of two measurements, figure by figure."""
    if before is None:
        return measured
    return Speed(
        max(measured.images_per_second, before.images_per_second),
        min(measured.cpu_ms, before.cpu_ms),
    )


def _differences(cumulative: Mapping[str, float]) -> dict[str, float]:
    """The cost that each stage adds, which noise may make slightly negative."""
    before = [0.0, *cumulative.values()]
    return {name: cumulative[name] - before[i] for i, name in enumerate(cumulative)}
