"""What a run prints about itself: a description before it starts, and a summary at its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jcls.data.sources import classes
from jcls.distributed import mesh
from jcls.training import traps
from jcls.training.experiment import Experiment
from jcls.workdir import files, log
from jcls.workdir.checkpoint import FOLDER


class Result(NamedTuple):
    """The end of a run: at `step` of `total`, with the last evaluation's `metrics` by name."""

    step: int
    total: int
    metrics: dict[str, float]
    workdir: Path
    interrupted: str | None = None  # the signal that ended it early


def describe(experiment: Experiment) -> str:
    """A description of the run in a few lines: devices, model, data, length, rate."""
    count = sum(leaf.size for leaf in jax.tree.leaves(experiment.state_shapes().params))
    data, c, h = experiment.data, experiment.config, experiment.horizon
    return (
        f'devices: {mesh.describe(experiment.mesh.devices.flat)}\n'
        f'model: {c["model"]["name"]}, {count:,} parameters, {c["model"]["dtype"]}, '
        f'images {" x ".join(map(str, experiment.image_shape))}\n'
        f'data: {c["data"]["name"]}, {len(data.train):,} training and {len(data.val):,} '
        f'held-out images, {len(data.train.classes)} classes\n'
        f'{_left_out(data.train.left_out)}'
        f'run: {h.total:,} steps of {h.batch_size} ({h.epoch(h.total):.4g} epochs of '
        f'{h.steps_per_epoch:,}), peak learning rate {experiment.optimizer.peak:.4g}'
    )


def _left_out(counts: Mapping[str, Mapping[str, int]]) -> str:
    """A line about what was found beside the images; empty if there was nothing."""
    reasons = []
    for reason, by_folder in sorted(counts.items(), key=lambda item: -sum(item[1].values())):
        folders = [folder or 'the top' for folder in by_folder]
        reasons.append(f'{sum(by_folder.values()):,} {reason} (in {classes.listed(folders)})')
    return f'left out: {"; ".join(reasons)}\n' if reasons else ''


def last_evaluation(path: Path) -> dict[str, float]:
    """The metrics, by name, of the last line of metrics.jsonl that has an evaluation."""
    for line in reversed(log.read(path / log.FILE)):
        metrics = {key: value for key, value in line.items() if key.startswith('eval')}
        if metrics:
            return metrics
    return {}


def summary(experiment: Experiment, result: Result, checkpoints: list[int], seconds: float) -> str:
    """A summary: what was reached, where the files are, and what to do next."""
    path: Any = result.workdir
    path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    word = shlex.quote(str(path))
    epochs, took = experiment.horizon.epoch(result.step), log.duration(seconds)
    reference = experiment.reference
    same_data = reference.examples in (None, len(experiment.data.train))
    published = str(reference) if same_data else ''
    if result.interrupted:
        return (
            f'\nstopped by {result.interrupted} at step {result.step} of {result.total}, after '
            f'{took}; the state is saved in {path / FOLDER}. Run the same command to resume.'
        )
    lines = [f'\ndone: {result.step:,} steps, {epochs:.4g} epochs; this took {took}']
    if unlearned := traps.no_rate(experiment):
        lines.append(f'  warning: {unlearned}')
    for prefix, what in (('eval/', 'reached '), ('eval_ema/', 'averaged')):
        metrics = {
            name.removeprefix(prefix): value
            for name, value in result.metrics.items()
            if name.startswith(prefix)
        }
        if metrics:
            reached = log.format_metrics(metrics)
            lines.append(f'  {what}  {reached} on {metrics["examples"]:,} held-out images')
    if published:
        lines.append(f'  published {published}')
    lines += [
        f'  curves    {path / log.FILE}; tensorboard --logdir {word}',
        f'  weights   {path / FOLDER} (steps {", ".join(map(str, checkpoints))}), '
        f'described by {path / files.METADATA}',
        '  next      evaluate again:  jcls evaluate ' + word,
        "            train on:        the same command with a longer --config.duration='...'",
        f'            use it:          model, variables = jcls.load({str(path)!r})',
    ]
    return '\n'.join(lines)
