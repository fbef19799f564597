"""Measure a training step: ``jcls bench step``, on the devices that are there.

It is the step of the training loop, with a batch that is on the devices already, so that nothing
waits for input.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jcls.distributed.mesh import describe, put_batch
from jcls.tools.plan.chips import chip_of
from jcls.tools.plan.hlo import analysis
from jcls.training.experiment import Experiment

WARM_UP, STEPS = 3, 20  # steps before a measurement, and in a round


def bench_step(
    experiment: Experiment, *, steps: int = STEPS, rounds: int = 3, trace: str | None = None
) -> dict[str, Any]:
    """Time training steps on images of noise.

    Args:
      experiment: the experiment, from `jcls.build`.
      steps: number of steps in a round.
      rounds: number of rounds; the median of the best one counts as the step's time.
      trace: folder for a profile of a few steps, for TensorBoard or Perfetto.

    Returns:
      step_seconds (the median of the best round), step_seconds_by_round, images_per_second,
      compile_seconds, devices, the results of `jcls.tools.plan.hlo.analysis` (for a step and each
      device), roofline_seconds and roofline_share (roofline over step). The last two are None for
      devices that are not in `jcls.tools.plan.chips`. A CPU has no such bound, since much of what
      the compiler counts as moved stays in its caches.
    """
    for field, value in (('steps', steps), ('rounds', rounds)):
        if value < 1:
            raise ValueError(f'--{field}={value}: must be at least 1')
    state, batch = experiment.init(), noise(experiment, experiment.train_shapes())
    began = time.perf_counter()
    lowered = experiment.train_step.lower(state, batch)  # type: ignore[attr-defined]
    analysed = analysis(lowered, experiment.mesh.size, experiment.mesh.size)  # for each device
    compile_seconds = time.perf_counter() - began
    for _ in range(WARM_UP):
        state, metrics = experiment.train_step(state, batch)
    jax.block_until_ready(metrics)
    medians = []
    for _ in range(rounds):
        times = []
        for _ in range(steps):
            began = time.perf_counter()
            state, metrics = experiment.train_step(state, batch)
            jax.block_until_ready((state, metrics))
            times.append(time.perf_counter() - began)
        medians.append(statistics.median(times))
    if trace is not None:
        with jax.profiler.trace(trace):
            for _ in range(WARM_UP):
                state, metrics = experiment.train_step(state, batch)
            jax.block_until_ready((state, metrics))
    seconds = min(medians)
    chip = chip_of(experiment.mesh.devices.flat[0].device_kind)
    roofline = None
    if chip is not None:
        compute = analysed['flops'] / chip.flops
        roofline = chip.devices * max(compute, analysed['bytes_accessed'] / chip.bandwidth)
    return {
        'step_seconds': seconds,
        'step_seconds_by_round': medians,
        'images_per_second': experiment.horizon.batch_size / seconds,
        'compile_seconds': compile_seconds,
        'devices': describe(experiment.mesh.devices.flat),
        **analysed,
        'roofline_seconds': roofline,
        'roofline_share': None if roofline is None else roofline / seconds,
    }


def noise(
    experiment: Experiment, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """A batch of noise, of the shapes of `Experiment.train_shapes` or `eval_shapes`."""
    random = np.random.default_rng(0)
    classes = len(experiment.data.train.classes)

    def draw(name: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
        if name == 'image':
            return random.integers(0, 256, like.shape, np.uint8)
        if name.startswith('label'):
            return random.integers(0, classes, like.shape, np.int32)
        return np.ones(like.shape, like.dtype)

    rows = {name: draw(name, like) for name, like in shapes.items()}
    return put_batch(rows, experiment.mesh)


def fastest(function: Callable[..., Any], *arguments: Any, calls: int = 6) -> float:
    """The seconds of the fastest of a few calls."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)
