"""Compile the steps of a run for a topology, in a process of its own, and keep the results.

The compilers of TPUs and GPUs run without the hardware. But they need an environment that the
calling process may not have, and they may abort, so they get a process of their own. Results are
kept by the hash of program, options, topology and versions, so that the same plan is there at once
the next time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jcls.assembly import build_or_assume
from jcls.distributed.mesh import AHEAD
from jcls.tools.plan import hlo
from jcls.tools.plan.topology import Topology, devices, parse
from jcls.training.experiment import Experiment

ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',  # for what is computed while tracing
    'TPU_SKIP_MDS_QUERY': '1',  # there is no metadata server
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # for two plans at a time, since nobody owns a chip
    'TF_CPP_MIN_LOG_LEVEL': '3',
}
LIBRARIES = ('jax', 'jaxlib', 'libtpu', 'jax-cuda12-plugin', 'jax-cuda13-plugin')
ANSWER = 'jcls: '  # the beginning of the line with the worker's answer


def compiled(
    config: Mapping[str, Any],
    topology: Topology,
    *,
    per_chip_batch: int | None = None,
    steps: tuple[str, ...] = ('train', 'eval'),
    keep: Path | None = None,
) -> dict[str, Any]:
    """Compile `steps` of the run that `config` describes, for `topology`, in another process.

    Args:
      config: complete config of plain values.
      topology: topology from `jcls.tools.plan.topology.parse`.
      per_chip_batch: number of examples for each chip; None for the config's batch.
      steps: any of 'train' (with the largest images), 'phases' (with images of every size) and
        'eval'.
      keep: folder of earlier results; None to keep none.

    Returns:
      {'train': {...}, 'phases': [{'steps': N, ...}, ...], 'eval': {...}, 'run': {...}}. Each step
      has the results of `jcls.tools.plan.hlo.analysis`, or {'error': ...} if the program does not
      fit into the chip's memory, and beside_bytes: what a chip holds in addition to the program,
      such as waiting batches and, during an evaluation, the optimizer's state. 'run' is
      the result of `whole_run`.

    Raises:
      ValueError: the other process found an error.
    """
    request = {
        'config': config,
        'topology': topology.name,
        'per_chip_batch': per_chip_batch,
        'steps': steps,
        'keep': None if keep is None else str(keep),
    }
    done = subprocess.run(
        [sys.executable, '-m', 'jcls.tools.plan.compile'],
        input=json.dumps(request),
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.split('\n') if line.startswith(ANSWER)]
    if done.returncode or not lines:
        raise ValueError(f'--topology={topology.name}: {_ended(done.returncode, done.stderr)}')
    answer = json.loads(lines[-1].removeprefix(ANSWER))
    if 'error' in answer:
        raise ValueError(answer['error'])
    return answer


def _ended(code: int, errors: str) -> str:
    """Why the process ended without an answer, from its `errors`."""
    lines = errors.strip().split('\n')
    crash = [line for line in lines if line.startswith('***') or 'Check failed' in line]
    if code >= 0 and not crash:
        text = '\n'.join(lines[-5:])
        return f'the process that compiles ended with code {code}: {text}'
    why = crash[0] if crash else ''
    how = f'by {signal.Signals(-code).name}' if code < 0 else f'with code {code}'
    return (
        f'the compiler ended {how}, which is a defect of it, or too little memory of this machine. '
        f'Another batch or image size, or another version of it, may do: {why}'
    )


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compile what `compiled` requests, in this process."""
    topology = parse(request['topology'])
    config = {**request['config'], 'platform': 'any'}  # the run itself may be anywhere
    described = devices(topology)
    if request['per_chip_batch']:
        config |= with_batch(config, request['per_chip_batch'] * topology.chips)
    experiment, _ = build_or_assume(config, described)
    shapes = {begin: experiment.train_shapes(begin) for begin, _ in experiment.augmentation_by_step}
    largest = max(shapes, key=lambda begin: shapes[begin]['image'].size)
    result: dict[str, Any] = {'run': whole_run(experiment, shapes[largest]['image'].shape[1:])}
    state, key = (
        experiment.state_shapes(),
        json.dumps([config['compiler'], config['deterministic']]),
    )

    def analyse(step: Any, used: Any, batch: Any) -> dict[str, Any]:
        results = _analysed(step.lower(used, batch), topology, len(described), key, request['keep'])
        waiting = AHEAD * _bytes(batch)
        if used is not state:  # an evaluation interrupts the training
            waiting += (1 + AHEAD) * _bytes(shapes[largest])
        rest = (_bytes(state) - _bytes(used)) * (len(described) // topology.chips)
        return {**results, 'beside_bytes': waiting // topology.chips + rest}

    for name in request['steps']:
        if name == 'train':
            result[name] = analyse(experiment.train_step, state, shapes[largest])
        elif name == 'eval':
            result[name] = analyse(experiment.eval_step, state.variables, experiment.eval_shapes())
        else:
            ends = [*list(shapes)[1:], experiment.horizon.total]
            result[name] = [
                {'steps': end - begin}
                | (
                    result['train']
                    if begin == largest
                    else analyse(experiment.train_step, state, shapes[begin])
                )
                for begin, end in zip(shapes, ends, strict=True)
            ]
    return result


def _bytes(shapes: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def whole_run(experiment: Experiment, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Facts about the whole run, such as the batches of all its evaluations."""
    horizon, settings = experiment.horizon, experiment.evaluate
    interval = experiment.every['evaluate']
    size = settings.batch_size or horizon.batch_size
    times = (-(-horizon.total // interval) if interval else 1) + settings.at_start
    sets = (1 + (experiment.ema is not None)) * -(-len(experiment.data.val) // size)
    return {
        'batch_size': horizon.batch_size,
        'train_examples': len(experiment.data.train),
        'eval_batch_size': size,
        'eval_batches': times * (sets + -(-settings.train_examples // size)),
        'image_shape': image_shape,
        'dtype': experiment.config['model']['dtype'],
    }


def with_batch(config: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Overrides for another global batch; the hosts mix, so any size of mixing groups will do."""
    mix = config['mix']
    size = mix['batch_size']
    if size and batch_size % size:
        mix = {**mix, 'batch_size': 0}
    return {'batch_size': batch_size, 'mix': mix}


def _analysed(
    lowered: Any, topology: Topology, count: int, key: str, keep: str | None
) -> dict[str, Any]:
    """The result of `analysis`, from `keep` if it is there."""
    versions = [f'{name} {version}' for name in LIBRARIES if (version := _version(name))]
    # Everything the result depends on: program, machine, options, libraries, this folder's code.
    options = [f'{name}={os.environ.get(name, "")}' for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')]
    sources = [file.read_text() for file in sorted(Path(hlo.__file__).parent.glob('*.py'))]
    known = [topology.name, key, *options, *versions, *sources]
    text = '\n'.join([lowered.as_text(), *known])
    file = Path(keep or '.') / f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.json'
    if keep and file.exists():
        return json.loads(file.read_text())
    try:
        result = hlo.analysis(lowered, count, topology.chips)
    except Exception as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        result = {'error': str(error).strip().split('\n')[0]}
    if keep:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f'.{os.getpid()}')
        part.write_text(json.dumps(result))
        part.replace(file)
    return result


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Answer the request on standard input."""
    try:
        response = answer(json.load(sys.stdin))
    except ValueError as error:
        response = {'error': str(error)}
    print(ANSWER + json.dumps(response))


if __name__ == '__main__':
    main()
