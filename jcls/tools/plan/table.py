"""Plans as a table: a row for each fact, a column for each topology."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(plans: list[dict[str, Any]], console: Console) -> None:
    """Print a column for each plan, with as many side by side as fit into the terminal."""
    rest = [_lines(plan) for plan in plans]
    widths = [max(map(len, column.values())) + 2 for column in rest]
    names = max(map(len, rest[0])) if rest else 0
    while rest:
        count = len(rest)
        while console.is_terminal and count > 1 and names + sum(widths[:count]) > console.width:
            count -= 1
        table = Table(box=None, pad_edge=False, show_header=False)
        for _ in range(1 + count):
            table.add_column(justify='right' if table.columns else 'left', no_wrap=True)
        for name in rest[0]:
            table.add_row(name, *(column[name] for column in rest[:count]))
        console.width = max(console.width, names + sum(widths[:count]))
        console.print(table)
        rest, widths = rest[count:], widths[count:]
        if rest:
            console.print()
    for text in dict.fromkeys(text for plan in plans for text in plan['assumptions']):
        console.print(f'assumed: {text}', highlight=False)


def _lines(result: Mapping[str, Any]) -> dict[str, str]:
    def gigabytes(key: str) -> str:
        return '-' if result[key] is None else f'{result[key] / 1e9:.2f} GB'

    def milliseconds(key: str) -> str:
        return '-' if result[key] is None else f'{1e3 * result[key]:.1f} ms'

    def cycles(of: int, digits: int) -> str:
        count = result['estimated_cycles']
        return '-' if count is None else f'{count / of / 1e6:.{digits}f} M'

    measured_here = result['input_images_per_second_per_core']
    return {
        'for each chip, unless of all': result['topology'],
        'chips (of all), hosts': f'{result["chips"]:,}, {result["hosts"]:,}',
        'batch': str(result['per_chip_batch']),
        'largest batch that fits': str(result['largest_batch'] or '-'),
        'memory: arguments': gigabytes('argument_bytes'),
        'memory: temporaries': gigabytes('temporary_bytes'),
        'memory: peak': gigabytes('peak_bytes'),
        'memory: batches on their way': gigabytes('beside_bytes'),
        'memory: JAX may use': gigabytes('usable_bytes'),
        'floating point operations': f'{result["flops"] / 1e12:.2f} T',
        'bytes accessed': gigabytes('bytes_accessed'),
        'kernels': f'{sum(result["kernels"].values()):,}',
        'collectives': f'{result["collectives"]:,}',
        'collectives: bytes': f'{result["collective_bytes"] / 1e6:.1f} MB',
        'estimated cycles': cycles(1, 1),
        'estimated cycles an image': cycles(result['per_chip_batch'], 3),
        'step': milliseconds('step_seconds'),
        'step: roofline': milliseconds('roofline_seconds'),
        'step: of that, collectives': milliseconds('collective_seconds'),
        'step: told from': result['time_from'],
        'bound by': result['roofline_bound'],
        'images a second (of all)': f'{result["images_per_second"]:,.0f}',
        'hours of the recipe (of all)': f'{result["hours"]:.1f}',
        'cores of a host': f'{result["host_cores"]:.0f}',
        'images a second a host core must feed': f'{result["host_images_per_second_per_core"]:.0f}',
        'bench input measured here, of a core': f'{measured_here:.0f}' if measured_here else '-',
    }
