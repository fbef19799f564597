"""Measure the data pipeline, stage by stage: ``jcls bench input``.

Every figure comes out of rounds in which everything that is compared takes turns, because machines
are noisy; the best round of each counts.
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
from jcls.tools.bench import peers
from jcls.training.experiment import Experiment

WARM_UP = 2  # batches, in which programs are compiled
SECONDS = 5.0


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
    """Pipelines, each with one stage more than the one before: read, the operations, mixing."""
    source, sections = experiment.data.train, experiment.config['augment']
    share = sampler.Share(experiment.horizon.batch_size)
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


def _say(text: str) -> None:
    print(text, flush=True)
