"""What fits into a chip's memory, found by compiling: the largest batch, or what else helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jcls.machines.topology import Topology
from jcls.tools.compile import compiled

BATCHES = 16  # the largest batch is found among multiples of this, where it is as large
TRIES = 4  # programs compiled at most in search of it
CURES: tuple[dict[str, Any], ...] = ({'remat': True}, {'accumulate': 2}, {'accumulate': 4})


def excess(found: Mapping[str, Any], on: Topology) -> bool:
    """Whether a program, as `jcls.tools.compile` tells of it, needs more than a chip has."""
    return 'error' in found or found['peak_bytes'] > on.facts.usable


def largest_batch(
    tree: Mapping[str, Any],
    on: Topology,
    batch: int,
    train: Mapping[str, Any],
    most: int,
    keep: Path | None,
) -> int | None:
    """The largest batch of a chip that fits, at most `most`; None if none does.

    Memory grows almost in proportion to the batch: two programs predict it, and a few more make
    sure. `train` is of the program with `batch`.
    """
    memory = on.facts.usable
    peaks = {batch: train['peak_bytes']} if 'peak_bytes' in train else {}
    fits, fails = (0, batch) if excess(train, on) else (batch, most + 1)
    fine = _unit(tree, on)
    for _ in range(TRIES):
        if len(peaks) > 1:  # on a line
            (small, low), *_, (big, high) = sorted(peaks.items())
            guess = small + (memory - low) * (big - small) / max(high - low, 1)
        else:
            guess = (fits + fails) / 2 if fails <= most else 2 * fits
        unit = math.lcm(BATCHES, fine) if guess >= math.lcm(BATCHES, fine) else fine
        # A multiple between what is known to fit and what is known not to, if there is one.
        lowest = (fits // unit + 1) * unit
        guess = max(int(min(guess, fails - 1, most)) // unit * unit, lowest)
        if guess >= fails or guess > most:
            break
        found = compiled(tree, on, per_chip_batch=guess, steps=('train',), keep=keep)['train']
        if 'peak_bytes' in found:
            peaks[guess] = found['peak_bytes']
        fits, fails = (fits, guess) if excess(found, on) else (guess, fails)
    return fits or None


def _unit(tree: Mapping[str, Any], on: Topology) -> int:
    """Of what a chip's batch must be a multiple, for accumulation and ghost groups to divide it."""
    parts, group = tree['accumulate'], tree['norm']['batch_size'] or 1
    whole = parts * group
    return math.lcm(parts, whole // math.gcd(whole, on.chips))


def cures(tree: Mapping[str, Any], on: Topology, batch: int, keep: Path | None) -> list[str]:
    """Which settings make `batch` fit, as texts."""
    found = []
    for change in CURES:
        if 'accumulate' in change:
            changed = {**tree, **change}
            text = f'config.accumulate={change["accumulate"]}'
            if batch % _unit(changed, on) or change['accumulate'] <= tree['accumulate']:
                continue
        else:
            changed = {**tree, 'model': {**tree['model'], **change}}
            text = 'config.model.remat=True'
        step = compiled(changed, on, per_chip_batch=batch, steps=('train',), keep=keep)['train']
        if not excess(step, on):
            found.append(f'{text} ({step["peak_bytes"] / 1e9:.2f} GB)')
    return found


def too_large(on: Topology, batch: int, step: Mapping[str, Any], what: str, helps: str) -> str:
    """The message."""
    reason = step.get('error') or (
        f'it needs {step["peak_bytes"] / 1e9:.2f} GB, and JAX may use '
        f'{on.facts.usable / 1e9:.2f} of a chip'
    )
    return (
        f'--topology={on.name}: {what} with {batch} images a chip does not fit ({reason}). {helps}'
    )
