"""Find by compiling what fits into a chip's memory: the largest batch, or other settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jcls.tools.plan.compile import compiled
from jcls.tools.plan.topology import Topology

BATCHES = 16  # the search tries multiples of this, and finer ones only for small batches
TRIES = 4  # programs to compile at most
ACCUMULATE = (2, 4)  # values to try if a batch does not fit
PIXELS = 32  # smaller images have a side that is a multiple of it, by which the stages divide


def needed(program: Mapping[str, Any]) -> int:
    """The bytes that a chip needs while a program runs, by results of `jcls.tools.plan.compile`."""
    return program['peak_bytes'] + program['beside_bytes']


def excess(program: Mapping[str, Any], on: Topology) -> bool:
    """Whether a program needs more than a chip has."""
    return 'error' in program or needed(program) > on.chip.usable


def largest_batch(
    tree: Mapping[str, Any],
    on: Topology,
    batch: int,
    train: Mapping[str, Any],
    most: int,
    keep: Path | None,
) -> int | None:
    """The largest batch of a chip that fits, at most `most`; None if none does.

    Memory grows almost in proportion to the batch, so two programs predict it, and a few more check
    the prediction. `train` has the results for `batch`.
    """
    memory = on.chip.usable
    peaks = {} if 'error' in train else {batch: needed(train)}
    fits, fails = (0, batch) if excess(train, on) else (batch, most + 1)
    fine = _unit(tree, on)
    for _ in range(TRIES):
        if len(peaks) > 1:  # two peaks give a line
            (small, low), *_, (big, high) = sorted(peaks.items())
            guess = small + (memory - low) * (big - small) / max(high - low, 1)
        else:
            guess = (fits + fails) / 2 if fails <= most else 2 * fits
        unit = math.lcm(BATCHES, fine) if guess >= math.lcm(BATCHES, fine) else fine
        # A multiple between what fits and what does not, if there is one.
        lowest = (fits // unit + 1) * unit
        guess = max(int(min(guess, fails - 1, most)) // unit * unit, lowest)
        if guess >= fails or guess > most:
            break
        try:
            program = compiled(tree, on, per_chip_batch=guess, steps=('train',), keep=keep)['train']
        except ValueError:  # the compiler crashes at a batch that nobody needs
            break
        if 'error' not in program:
            peaks[guess] = needed(program)
        fits, fails = (fits, guess) if excess(program, on) else (guess, fails)
    return fits or None


def _unit(tree: Mapping[str, Any], on: Topology) -> int:
    """The number that accumulation and ghost groups need to divide a chip's batch."""
    parts, group = tree['accumulate'], tree['norm']['batch_size'] or 1
    whole = parts * group
    return math.lcm(parts, whole // math.gcd(whole, on.chips))


def cures(tree: Mapping[str, Any], on: Topology, batch: int, keep: Path | None) -> list[str]:
    """The settings that make `batch` fit, as texts: remat, accumulation, smaller images."""
    texts = []
    for text, changed in _changes(tree, on, batch):
        try:
            step = compiled(changed, on, per_chip_batch=batch, steps=('train',), keep=keep)['train']
        except ValueError:  # an impossible run, or a crash of the compiler
            continue
        if not excess(step, on):
            texts.append(f'{text} ({needed(step) / 1e9:.2f} GB)')
    return texts


def _changes(
    tree: Mapping[str, Any], on: Topology, batch: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings that may help, each with its config."""
    if not tree['model']['remat']:
        yield 'config.model.remat=True', {**tree, 'model': {**tree['model'], 'remat': True}}
    for parts in ACCUMULATE:
        changed = {**tree, 'accumulate': parts}
        if parts > tree['accumulate'] and batch % _unit(changed, on) == 0:
            yield f'config.accumulate={parts}', changed
    crops = [i for i, op in enumerate(tree['augment']) if op['name'] == 'random_resized_crop']
    if len(crops) == 1 and not tree['sizes']:  # with sizes, the crop's is not the largest
        (at,) = crops
        side = tree['augment'][at]['size']
        smaller = side * 3 // 4 // PIXELS * PIXELS
        if smaller:
            changed = {**tree, 'augment': [dict(op) for op in tree['augment']]}
            changed['augment'][at]['size'] = smaller
            yield f'config.augment[{at}].size={smaller}', changed


def too_large(on: Topology, batch: int, step: Mapping[str, Any], what: str, helps: str) -> str:
    """The message about a step that does not fit."""
    reason = step.get('error') or (
        f'it needs {needed(step) / 1e9:.2f} GB, and JAX may use '
        f'{on.chip.usable / 1e9:.2f} of a chip'
    )
    return (
        f'--topology={on.name}: {what} with {batch} images a chip does not fit ({reason}). {helps}'
    )
