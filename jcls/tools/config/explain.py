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
from jcls.tools.config.facts import collect

Facts = Mapping[str, Any]


def explain(config: Mapping[str, Any], out: str | Path | None = None) -> dict[str, Any]:
    """Print what `config` means, before any run, and return these facts by name.

    Args:
      config: a config as `jcls.load_config` returns it.
      out: PNG file to draw the learning rate in; None for none.
    """
    facts = collect(*build_or_assume(config))
    show(facts, Console(soft_wrap=True, markup=False))
    if out:
        plot(facts, Path(out))
        print(f'the learning rate is drawn in {out}')
    return facts


def show(facts: Facts, console: Console) -> None:
    """Print the facts."""
    lines = {
        'recipe': facts['recipe'],
        'published': facts['published'] or 'nothing for this variant',
        'data': f'{facts["data"]}: {facts["train_examples"]:,} training images, '
        f'{facts["classes"]:,} classes',
        'run': f'{facts["steps"]:,} steps of {facts["batch_size"]:,} = {facts["epochs"]:g} epochs '
        f'of {facts["steps_per_epoch"]:,}; {facts["images_seen"]:,} images seen',
        'images': _images(facts),
        'learning rate': _rates(facts),
        '': facts['curve'],
        'optimizer': facts['optimizer'],
        'weight decay': _decay(facts),
        'starts from': facts['starts_from'],
        'frozen': _frozen(facts),
        'teacher': facts['teacher'] or 'none',
        'BatchNorm': f'over {facts["norm_group"]:,} examples, {facts["norm_groups_a_step"]:,} '
        'group(s) a step',
        'mixing': f'{facts["mix_draws_a_step"]} draw(s) a step',
        'average': _average(facts['ema']),
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, line in lines.items():
        table.add_row(name, line)
    console.print(table)
    console.print(_rate_table(facts['learning_rate']))
    for kind, texts in (('promise', facts['promises']), ('warning', facts['warnings'])):
        for text in texts:
            console.print(f'{kind}: {text}', highlight=False)
    if not facts['warnings']:
        console.print('no warnings', highlight=False)


def _images(facts: Facts) -> str:
    sizes = [
        f'{_by(side)} px' + (f' from step {begin:,}' if begin else '')
        for begin, side in facts['image_size'].items()
    ]
    evaluated = ' -> '.join(map(str, facts['eval_size'])) or 'their own'
    text = f'{", ".join(sizes)}; evaluated at {evaluated}'
    if facts['distinct_images_a_step'] != facts['batch_size']:
        text += f'; {facts["distinct_images_a_step"]:,} distinct ones a step'
    return text


def _rates(facts: Facts) -> str:
    text = (
        f'{facts["learning_rate"][0]:.4g} at first, peak {facts["peak_learning_rate"]:.4g}, '
        f'{facts["last_learning_rate"]:.4g} at the last step'
    )
    if facts['learning_rate_rule']:
        text += f'; {facts["learning_rate_rule"]}'
    multipliers = facts['learning_rate_multipliers']
    if len(multipliers) > 1:
        text += f'; multiplied by {multipliers[0]:.3g} to {multipliers[-1]:.3g}'
    return text


def _decay(facts: Facts) -> str:
    text = facts['weight_decay']
    if facts['coupled_equivalent'] is not None and 'decoupled' in text:
        text += f', acts about like {facts["coupled_equivalent"]:.3g} coupled'
    text += f'; of {facts["decayed"]:,} of {facts["parameters"]:,} parameters'
    return f'{text}, not of {", ".join(facts["not_decayed"]) or "none"}'


def _frozen(facts: Facts) -> str:
    text = 'nothing'
    if facts['frozen']:
        text = f'{facts["frozen"]:,} parameters in {", ".join(facts["frozen_in"])}'
    if facts['norms_with_frozen_stats']:
        text += f'; {facts["norms_with_frozen_stats"]} normalisation layers keep their statistics'
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


def plot(facts: Mapping[str, Any], file: Path) -> None:
    """Draw the learning rate over the epochs."""
    from matplotlib.figure import Figure

    curve = facts['learning_rate']
    figure = Figure(figsize=(8, 3.2), layout='constrained')
    axes = figure.add_subplot()
    axes.step(range(len(curve)), curve, where='post')
    axes.set(xlabel='epoch', ylabel='learning rate', title=facts['recipe'], ylim=(0, None))
    axes.grid(alpha=0.3)
    for begin, side in facts['image_size'].items():
        if begin:
            axes.axvline(begin / facts['steps_per_epoch'], linestyle=':')
            axes.annotate(f'{_by(side)} px', (begin / facts['steps_per_epoch'], max(curve)))
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        raise ValueError(f'cannot write --out={file}: {error.strerror or error}') from None


def _by(side: list[int] | None) -> str:
    return ' x '.join(map(str, side)) if side else 'any'
