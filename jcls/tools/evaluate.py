"""Evaluate a trained model on the validation set of its own config: ``jcls evaluate WORKDIR``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from jcls.experiment import SECTIONS, build
from jcls.schema import complete
from jcls.tools.load import find
from jcls.training import workdir as folder


def evaluate(
    workdir: str | Path,
    step: int | str = 'last',
    *,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Evaluate a checkpoint exactly: {top1, top5, loss, examples, damaged, step}.

    Args:
      workdir: of a run.
      step: 'last', 'best' or a number.
      overrides: changes to its config, such as {'data.dir': ..., 'evaluate.batch_size': 500}.
    """
    path, number, checkpoints = find(workdir, step)
    with closing(checkpoints):
        experiment = build(complete(folder.read_config(path), overrides, sections=SECTIONS))
        variables = checkpoints.read(number, experiment.state_shapes().variables)
    results = experiment.evaluations(variables, train=False)['eval']
    return {**results, 'damaged': len(experiment.damage.reasons), 'step': number}


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, float]:
    """The verb: print the result and return it for --json."""
    result = evaluate(args.workdir, args.step, overrides=overrides)
    print(
        f'checkpoint {result["step"]}: top-1 {result["top1"]:.4f}, top-5 {result["top5"]:.4f}, '
        f'loss {result["loss"]:.4f} on {result["examples"]:,} images ({result["damaged"]} damaged)'
    )
    return result
