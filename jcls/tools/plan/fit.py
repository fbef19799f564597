"""What fits into a chip's memory, found by compiling: the largest batch, or what else helps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jcls.tools.plan.compile import compiled
from jcls.tools.plan.topology import Topology

BATCHES = 16  # the largest batch is found among multiples of this, where it is as large
TRIES = 4  # programs compiled at most in search of it
ACCUMULATE = (2, 4)  # tried where a batch does not fit
PIXELS = 32  # smaller images have a multiple of it as their side: what the stages divide by


def needed(found: Mapping[str, Any]) -> int:
    """Bytes of a chip while a program runs, as `jcls.tools.plan.compile` tells of it."""
    return found['peak_bytes'] + found['beside_bytes']


def excess(found: Mapping[str, Any], on: Topology) -> bool:
    """Whether a program needs more than a chip has."""
    return 'error' in found or needed(found) > on.facts.usable


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
    peaks = {} if 'error' in train else {batch: needed(train)}
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
        try:
            found = compiled(tree, on, per_chip_batch=guess, steps=('train',), keep=keep)['train']
        except ValueError:  # the compiler crashes at a batch that nobody asked for
            break
        if 'error' not in found:
            peaks[guess] = needed(found)
        fits, fails = (fits, guess) if excess(found, on) else (guess, fails)
    return fits or None


def _unit(tree: Mapping[str, Any], on: Topology) -> int:
    """Of what a chip's batch must be a multiple, for accumulation and ghost groups to divide it."""
    parts, group = tree['accumulate'], tree['norm']['batch_size'] or 1
    whole = parts * group
    return math.lcm(parts, whole // math.gcd(whole, on.chips))


def cures(tree: Mapping[str, Any], on: Topology, batch: int, keep: Path | None) -> list[str]:
    """Which settings make `batch` fit, as texts: remat, accumulation, smaller images."""
    found = []
    for text, changed in _changes(tree, on, batch):
        try:
            step = compiled(changed, on, per_chip_batch=batch, steps=('train',), keep=keep)['train']
        except ValueError:  # a run that cannot be so, or a crash of the compiler
            continue
        if not excess(step, on):
            found.append(f'{text} ({needed(step) / 1e9:.2f} GB)')
    return found


def _changes(
    tree: Mapping[str, Any], on: Topology, batch: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each setting that may help, and the config with it."""
    if not tree['model']['remat']:
        yield 'config.model.remat=True', {**tree, 'model': {**tree['model'], 'remat': True}}
    for parts in ACCUMULATE:
        changed = {**tree, 'accumulate': parts}
        if parts > tree['accumulate'] and batch % _unit(changed, on) == 0:
            yield f'config.accumulate={parts}', changed
    crops = [i for i, one in enumerate(tree['augment']) if one['name'] == 'random_resized_crop']
    if len(crops) == 1 and not tree['sizes']:  # or else the largest size is not the crop's
        (at,) = crops
        side = tree['augment'][at]['size']
        smaller = side * 3 // 4 // PIXELS * PIXELS
        if smaller:
            changed = {**tree, 'augment': [dict(one) for one in tree['augment']]}
            changed['augment'][at]['size'] = smaller
            yield f'config.augment[{at}].size={smaller}', changed


def too_large(on: Topology, batch: int, step: Mapping[str, Any], what: str, helps: str) -> str:
    """The message."""
    reason = step.get('error') or (
        f'it needs {needed(step) / 1e9:.2f} GB, and JAX may use '
        f'{on.facts.usable / 1e9:.2f} of a chip'
    )
    return (
        f'--topology={on.name}: {what} with {batch} images a chip does not fit ({reason}). {helps}'
    )
