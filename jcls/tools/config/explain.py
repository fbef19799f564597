"""``jcls config explain FILE``: the facts of `jcls.tools.config.facts` as text and picture.

In Python: ``jcls.explain(config)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jcls.assembly import build_or_assume
from jcls.tools.config import facts

Facts = Mapping[str, Any]


def explain(config: Mapping[str, Any], out: str | Path | None = None) -> dict[str, Any]:
    """Print what `config` means, before any run, and return these facts by name.

    Args:
      config: a config as `jcls.load_config` returns it.
      out: PNG file to draw the learning rate in; None for none.
    """
    found = facts.facts(*build_or_assume(config))
    show(found, Console(soft_wrap=True, markup=False))
    if out:
        plot(found, Path(out))
        print(f'the learning rate is drawn in {out}')
    return found


def show(found: Facts, console: Console) -> None:
    """Print the facts."""
    lines = {
        'recipe': found['recipe'],
        'published': found['published'] or 'nothing for this variant',
        'data': f'{found["data"]}: {found["train_examples"]:,} training images, '
        f'{found["classes"]:,} classes',
        'run': f'{found["steps"]:,} steps of {found["batch_size"]:,} = {found["epochs"]:g} epochs '
        f'of {found["steps_per_epoch"]:,}; {found["images_seen"]:,} images seen',
        'images': _images(found),
        'learning rate': _rates(found),
        '': found['curve'],
        'optimizer': found['optimizer'],
        'weight decay': _decay(found),
        'starts from': found['starts_from'],
        'frozen': _frozen(found),
        'teacher': found['teacher'] or 'none',
        'BatchNorm': f'over {found["norm_group"]:,} examples, {found["norm_groups_a_step"]:,} '
        'group(s) a step',
        'mixing': f'{found["mix_draws_a_step"]} draw(s) a step',
        'average': _average(found['ema']),
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, line in lines.items():
        table.add_row(name, line)
    console.print(table)
    console.print(_rate_table(found['learning_rate']))
    for kind, texts in (('promise', found['promises']), ('warning', found['warnings'])):
        for text in texts:
            console.print(f'{kind}: {text}', highlight=False)
    if not found['warnings']:
        console.print('no warnings', highlight=False)


def _images(found: Facts) -> str:
    sizes = [
        f'{_by(side)} px' + (f' from step {begin:,}' if begin else '')
        for begin, side in found['image_size'].items()
    ]
    evaluated = ' -> '.join(map(str, found['eval_size'])) or 'their own'
    text = f'{", ".join(sizes)}; evaluated at {evaluated}'
    if found['distinct_images_a_step'] != found['batch_size']:
        text += f'; {found["distinct_images_a_step"]:,} distinct ones a step'
    return text


def _rates(found: Facts) -> str:
    text = (
        f'{found["learning_rate"][0]:.4g} at first, peak {found["peak_learning_rate"]:.4g}, '
        f'{found["last_learning_rate"]:.4g} at the last step'
    )
    if found['learning_rate_rule']:
        text += f'; {found["learning_rate_rule"]}'
    multipliers = found['learning_rate_multipliers']
    if len(multipliers) > 1:
        text += f'; multiplied by {multipliers[0]:.3g} to {multipliers[-1]:.3g}'
    return text


def _decay(found: Facts) -> str:
    text = found['weight_decay']
    if found['coupled_equivalent'] is not None and 'decoupled' in text:
        text += f', acts about like {found["coupled_equivalent"]:.3g} coupled'
    text += f'; of {found["decayed"]:,} of {found["parameters"]:,} parameters'
    return f'{text}, not of {", ".join(found["not_decayed"]) or "none"}'


def _frozen(found: Facts) -> str:
    text = 'nothing'
    if found['frozen']:
        text = f'{found["frozen"]:,} parameters in {", ".join(found["frozen_in"])}'
    if found['norms_with_frozen_stats']:
        text += f'; {found["norms_with_frozen_stats"]} normalisation layers keep their statistics'
    return text


def _average(ema: Facts) -> str:
    if not ema:
        return 'none'
    return (
        f'decay {ema["decay"]:.8g}, {ema["updates_an_epoch"]} updates an epoch: remembers '
        f'{ema["time_constant_epochs"]:.3g} epochs (half-life {ema["half_life_epochs"]:.3g})'
    )


def _rate_table(curve: list[float]) -> Table:
    """A table of the rate: the first epochs, then about twenty of all, and the last."""
    stride = max(1, len(curve) // 20)
    chosen = sorted({*range(min(len(curve), 7)), *range(0, len(curve), stride), len(curve) - 1})
    table = Table(title='learning rate at the start of epoch', title_justify='left', box=None)
    columns = 4
    for _ in range(columns):
        table.add_column('epoch', justify='right')
        table.add_column('rate')
    rows = -(-len(chosen) // columns)
    for row in range(rows):
        cells = [(str(e), f'{curve[e]:.6g}') for e in chosen[row::rows]]
        table.add_row(*(text for cell in cells for text in cell))
    return table


def plot(found: Mapping[str, Any], file: Path) -> None:
    """Draw the learning rate over the epochs."""
    from matplotlib.figure import Figure

    curve = found['learning_rate']
    figure = Figure(figsize=(8, 3.2), layout='constrained')
    axes = figure.add_subplot()
    axes.step(range(len(curve)), curve, where='post')
    axes.set(xlabel='epoch', ylabel='learning rate', title=found['recipe'], ylim=(0, None))
    axes.grid(alpha=0.3)
    for begin, side in found['image_size'].items():
        if begin:
            axes.axvline(begin / found['steps_per_epoch'], linestyle=':')
            axes.annotate(f'{_by(side)} px', (begin / found['steps_per_epoch'], max(curve)))
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        raise ValueError(f'cannot write --out={file}: {error.strerror or error}') from None


def _by(side: list[int] | None) -> str:
    return ' x '.join(map(str, side)) if side else 'any'
