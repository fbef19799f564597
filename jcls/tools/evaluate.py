"""Evaluate a trained model on the validation set of its own config: ``jcls evaluate WORKDIR``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from jcls.assembly import SECTIONS, build
from jcls.schema import complete
from jcls.training import workdir as folder
from jcls.training.load import choose_variables, find


def evaluate(
    workdir: str | Path,
    step: int | str = 'last',
    *,
    ema: str = 'auto',
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint exactly: {top1, top5, loss, examples, damaged, step, ema}.

    Args:
      workdir: of a run.
      step: 'last', 'best' or a number.
      ema: 'auto' evaluates averaged weights if there are any, 'yes' insists, 'no' the raw ones.
      overrides: changes to its config, such as {'data.dir': ..., 'evaluate.batch_size': 500}.
    """
    path, number, checkpoints = find(workdir, step)
    with closing(checkpoints):
        experiment = build(complete(folder.read_config(path), overrides, sections=SECTIONS))
        saved = checkpoints.variables(number)
    variables, averaged = choose_variables(saved, ema, path)
    results = experiment.evaluations(variables, train=False)['eval']
    damaged = len(experiment.damage.reasons)
    return {**results, 'damaged': damaged, 'step': number, 'ema': averaged}


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The verb: print the result and return it for --json."""
    result = evaluate(args.workdir, args.step, ema=args.ema, overrides=overrides)
    averaged = ', averaged weights' if result['ema'] else ''
    print(
        f'checkpoint {result["step"]}{averaged}: '
        f'top-1 {result["top1"]:.4f}, top-5 {result["top5"]:.4f}, '
        f'loss {result["loss"]:.4f} on {result["examples"]:,} images ({result["damaged"]} damaged)'
    )
    return result
