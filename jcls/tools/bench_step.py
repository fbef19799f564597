"""Measure a training step: ``jcls bench step``, on the devices that are there.

The step is the loop's own. Its batch lies on the devices already, so that no input is waited for.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jcls.assembly import build_or_assume, load_config
from jcls.experiment import Experiment
from jcls.machines.chips import CHIPS, Chip
from jcls.machines.program import analysis
from jcls.machines.topology import parse
from jcls.training import mesh as meshes

WARM_UP, STEPS = 3, 20  # steps
KINDS = {  # what JAX calls the chips of the table
    'TPU v2': 'v2', 'TPU v3': 'v3', 'TPU v4': 'v4', 'TPU v5 lite': 'v5e', 'TPU v5e': 'v5e',
    'TPU v5': 'v5p', 'TPU v5p': 'v5p', 'TPU v6 lite': 'v6e', 'TPU v6e': 'v6e', 'TPU7x': 'tpu7x',
}  # fmt: skip

OTHERS = ('PCIe', '40GB', 'NVL', 'GH200', 'GB200')  # GPUs whose peaks are not the table's


def bench_step(
    experiment: Experiment, *, steps: int = STEPS, rounds: int = 3, trace: str | None = None
) -> dict[str, Any]:
    """Time training steps on images of noise.

    Args:
      experiment: see `jcls.build`.
      steps: of a round.
      rounds: of measurements; the median of the best one counts as the step's time.
      trace: the folder to write a profile of a few steps to, for TensorBoard or Perfetto.

    Returns:
      step_seconds (the median of the best round), step_seconds_by_round, images_per_second,
      compile_seconds, devices, the facts of `jcls.machines.program.analysis` (of a step, for each
      device), peak_flops and peak_bandwidth (of each device: published, or of a CPU measured here),
      roofline_seconds and roofline_share (roofline over step).
    """
    for field, value in (('steps', steps), ('rounds', rounds)):
        if value < 1:
            raise ValueError(f'--{field}={value}: must be at least 1')
    state, batch = experiment.init(), noise(experiment, experiment.train_shapes())
    began = time.perf_counter()
    lowered = experiment.train_step.lower(state, batch)  # type: ignore[attr-defined]
    facts = analysis(lowered, experiment.mesh.size, experiment.mesh.size)  # of each device
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
    flops, bandwidth = _peaks(next(iter(experiment.mesh.devices.flat)))
    roofline = max(facts['flops'] / flops, facts['bytes_accessed'] / bandwidth)
    return {
        'step_seconds': seconds,
        'step_seconds_by_round': medians,
        'images_per_second': experiment.horizon.batch_size / seconds,
        'compile_seconds': compile_seconds,
        'devices': meshes.describe(experiment.mesh.devices.flat),
        **facts,
        'peak_flops': flops,
        'peak_bandwidth': bandwidth,
        'roofline_seconds': roofline,
        'roofline_share': roofline / seconds,
    }


def noise(
    experiment: Experiment, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """A batch of images of noise, as `Experiment.train_shapes` or `eval_shapes` describe it."""
    random = np.random.default_rng(0)
    classes = len(experiment.data.train.classes)

    def draw(name: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
        if name == 'image':
            return random.integers(0, 256, like.shape, np.uint8)
        if name.startswith('label'):
            return random.integers(0, classes, like.shape, np.int32)
        return np.ones(like.shape, like.dtype)

    rows = {name: draw(name, like) for name, like in shapes.items()}
    return meshes.put_batch(rows, experiment.mesh)


def _peaks(device: Any) -> tuple[float, float]:
    """Operations and bytes a second that a device can do at most."""
    chip = _chip(device.device_kind)
    if chip is not None:
        return chip.flops / chip.devices, chip.bandwidth / chip.devices
    side, bytes_moved = 2048, 2**28
    a = jnp.ones((side, side), jnp.float32)
    product = fastest(jax.jit(lambda a: a @ a), a)
    b = jnp.ones(bytes_moved // 4, jnp.float32)
    copy = fastest(jax.jit(lambda b: b + 1), b)
    return 2 * side**3 / product, 2 * bytes_moved / copy


def _chip(kind: str) -> Chip | None:
    names = [KINDS[kind]] if kind in KINDS else [n for n in CHIPS if n in kind.lower()]
    if any(other in kind for other in OTHERS):
        return None
    return CHIPS[names[0]] if names else None


def fastest(function: Callable[..., Any], *arguments: Any, calls: int = 6) -> float:
    """Seconds of the fastest of a few calls."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)


@contextlib.contextmanager
def _waiting(text: str) -> Iterator[None]:
    with Console(stderr=True).status(text):
        yield


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The verb: measure, print a table, and return the figures for --json."""
    config = load_config(args.config, overrides)
    experiment, _ = build_or_assume(config)
    steps = STEPS if args.steps is None else args.steps
    if args.topology:
        parse(args.topology)  # before anything is measured
    with _waiting(f'measuring {args.rounds} x {steps} steps'):
        found = bench_step(experiment, steps=steps, rounds=args.rounds, trace=args.trace)
    rows = {
        'devices': found['devices'],
        'batch': f'{experiment.horizon.batch_size:,} of {experiment.image_shape}',
        'step': f'{1e3 * found["step_seconds"]:.1f} ms',
        'images a second': f'{found["images_per_second"]:,.1f}',
        'of the roofline': f'{found["roofline_share"]:.0%}',
        'compiling': f'{found["compile_seconds"]:.1f} s',
    }
    if args.topology:
        from jcls.tools.plan import plan  # which measures CPUs with this file

        with _waiting(f'compiling for {args.topology}'):
            planned = plan(config, args.topology, search=False)
        found['plan'] = planned
        rows[f'planned for {args.topology}'] = (
            f'{1e3 * planned["step_seconds"]:.1f} ms, from {planned["time_from"]}'
        )
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in rows.items():
        table.add_row(name, text)
    Console(soft_wrap=True, markup=False).print(table)
    if args.trace:
        print(f'profile of {WARM_UP} steps: tensorboard --logdir {args.trace}')
    return found
