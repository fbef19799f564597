"""Read a compiled program: cycles, collectives, traffic and kernels, from XLA's own text of it."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
BITS = {
    'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 'bf16': 16, 'f16': 16,
    's32': 32, 'u32': 32, 'f32': 32, 's64': 64, 'u64': 64, 'f64': 64, 'c64': 64, 'c128': 128,
}  # fmt: skip
MOVE_NO_BYTES = (  # kinds of instructions
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
    'while', 'conditional', 'call',
)  # fmt: skip

HEAD = r'^(ENTRY )?%?([\w.\-]+) .*\{$'
LINE = r'^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$'
SHAPE = r'\b([a-z]+\d*)\[([\d,]*)\]'
CYCLES = r'"estimated_cycles":"(\d+)"'
TRIPS = r'"known_trip_count":\{"n":"(\d+)"\}'
BODY = r'body=%?([\w.\-]+)'
CONDITION = r'condition=%?([\w.\-]+)'
CALLS = r'calls=%?([\w.\-]+)'
OPERANDS = r'%([\w.\-]+)'
CONTRACTED = r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)'  # in a dot; in a call of cuBLAS
LABELS = r'dim_labels=\w+_(\w+)->'
SCOPE = r'op_name="([^"]*)"'
TARGET = r'custom_call_target="([^"]*)"'


class Instruction(NamedTuple):
    """A line of a program."""

    name: str
    shape: str  # shape of the result, as text
    operation: str
    rest: str  # operands and attributes
    times: int  # how often it runs in a step, which is more than once in a loop
    entry: bool  # whether it is a kernel by itself, not a part of a fusion


def instructions(text: str) -> Iterator[Instruction]:
    """All instructions of a program, also those inside fusions and loops."""
    computations: dict[str, list[re.Match[str]]] = {}
    inside, entry = '', ''
    for line in text.split('\n'):
        if head := re.match(HEAD, line):
            inside = head[2]
            entry = inside if head[1] else entry
            computations[inside] = []
        elif inside and (match := re.match(LINE, line)):
            computations[inside].append(match)
    times, kernels, waiting = {entry: 1}, {entry}, [entry]
    while waiting:
        name = waiting.pop()
        for match in computations.get(name, ()):
            if match[3] == 'while' and (body := re.search(BODY, match[4])):
                times[body[1]] = times[name] * _trips(match[4], computations)
                kernels.add(body[1])
                waiting.append(body[1])
            elif called := re.search(CALLS, match[4]):
                times[called[1]] = times[name]
                waiting.append(called[1])
    for name, lines in computations.items():
        for match in lines:
            label, shape, operation, rest = match.groups()
            yield Instruction(label, shape, operation, rest, times.get(name, 1), name in kernels)


def _trips(rest: str, computations: dict[str, list[re.Match[str]]]) -> int:
    """How often a loop runs, by the compiler's note or else by the condition (i < 4).

    The result is 1 if neither says it.
    """
    if known := re.search(TRIPS, rest):
        return int(known[1])
    condition = re.search(CONDITION, rest)
    lines = list(computations.get(condition[1], ())) if condition else []
    for line in lines:  # grows while it is read, by the functions that are called
        if called := re.search(CALLS, line[4]):
            lines += computations.get(called[1], ())
    bounds = [
        int(match[0])
        for line in lines
        if line[3] == 'constant' and (match := re.match(r'\d+', line[4]))
    ]
    counts_up = any(line[3] == 'compare' and 'direction=LT' in line[4] for line in lines)
    return bounds[0] if counts_up and len(bounds) == 1 else 1


def size(shape: str) -> int:
    """Bytes of a shape as XLA writes it: 'f32[64,256]{1,0}', or a tuple of such."""
    return sum(
        math.prod(int(side) for side in sides.split(',') if side) * BITS[dtype] // 8
        for dtype, sides in re.findall(SHAPE, re.sub(r'\{[^{}]*\}', '', shape))
        if dtype in BITS
    )


def analysis(lowered: Any, devices: int, chips: int) -> dict[str, Any]:
    """Compile a lowered program and analyse it, for each chip.

    A chip of v2, v3 or TPU7x is two `devices`: its cores, which share its memory.

    Returns:
      argument_bytes, output_bytes (without donated arguments), temporary_bytes, code_bytes,
      peak_bytes (all of these), flops, bytes_accessed, estimated_cycles (None except for TPUs),
      collectives, kernels, and the costliest fusions.
    """
    compiled, cores = lowered.compile(), devices // chips
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    text = compiled.as_text()
    parts = {
        'argument_bytes': memory.argument_size_in_bytes,
        'output_bytes': memory.output_size_in_bytes - memory.alias_size_in_bytes,
        'temporary_bytes': memory.temp_size_in_bytes,
        'code_bytes': memory.generated_code_size_in_bytes,
    }
    parts = {name: cores * count for name, count in parts.items()}
    cost = cost[0] if isinstance(cost, list) else cost
    if cost and 'bytes accessed' in cost:  # which counts loops once
        done = cost['flops'] * _repetition(flops, text)
        moved = cost['bytes accessed'] * _repetition(traffic, text)
    else:  # GPUs have no such analysis
        done, moved = flops(text), traffic(text)
    return {
        **parts,
        'peak_bytes': sum(parts.values()),
        'flops': float(cores * done),
        'bytes_accessed': float(cores * moved),
        'estimated_cycles': cycles(text),
        'collectives': collectives(text),
        'kernels': kernels(text),
        'costliest': costliest(text, 10),
    }


def _repetition(count: Callable[..., int], text: str) -> float:
    """The ratio of a program's work to its work if every loop ran once."""
    return count(text) / max(count(text, loops=False), 1)


def cycles(text: str) -> int | None:
    """The compiler's estimate of a step's cycles; None if there is none, as for GPUs.

    It is the sum over fusions, without instructions that XLA does not estimate, such as all-reduces
    and the gradient of max pooling.
    """
    estimates = [(op.times, re.search(CYCLES, op.rest)) for op in instructions(text)]
    counted = [times * int(match[1]) for times, match in estimates if match]
    return sum(counted) if counted else None


def collectives(text: str) -> dict[str, dict[str, int]]:
    """The collectives in a step of each chip: {'all-reduce': {'count': ..., 'bytes': ...}, ...}.

    The bytes are those of the whole array that a collective makes or divides: the result of an
    all-gather, the operands of others.
    """
    totals: dict[str, dict[str, int]] = {}
    program = list(instructions(text))
    sizes = {op.name: size(op.shape) for op in program}
    for op in program:
        kind = op.operation.removesuffix('-start')
        if kind in COLLECTIVES:
            moved = sum(sizes.get(name, 0) for name in _operands(op))
            if kind == 'all-gather':  # its start returns the operand, too
                moved = sizes[op.name] - (moved if op.operation != kind else 0)
            total = totals.setdefault(kind, {'count': 0, 'bytes': 0})
            total['count'] += op.times
            total['bytes'] += op.times * moved
    return totals


def flops(text: str, *, loops: bool = True) -> int:
    """Floating point operations of matrix products and convolutions, which are nearly all.

    A convolution has two for each product of an input and a filter entry, padding included; each of
    its gradients has as many. Without `loops`, every loop counts once.
    """
    program = list(instructions(text))
    sides = {op.name: _sides(op.shape) for op in program}
    total = 0
    for op in program:
        times = op.times if loops else 1
        operands = [sides[name] for name in _operands(op) if name in sides]
        target = match[1] if (match := re.search(TARGET, op.rest)) else ''
        if op.operation == 'dot' or 'gemm' in target:
            inner = re.search(CONTRACTED, op.rest)
            depth = [operands[0][int(i)] for i in re.findall(r'\d+', inner[1])] if inner else []
            total += 2 * times * math.prod(sides[op.name]) * math.prod(depth)
        elif op.operation == 'convolution' or 'cudnn$conv' in target:
            y, w = sides[op.name], operands[1]
            if 'BackwardInput' in target:
                y = operands[0]
            elif 'BackwardFilter' in target:
                y, w = operands[1], sides[op.name]
            labels = re.search(LABELS, op.rest)
            features = w[labels[1].index('o')] if labels else 1
            total += 2 * times * math.prod(y) * math.prod(w) // features
    return total


def _sides(shape: str) -> list[int]:
    """The dimensions of an array's shape, or of the first array in a tuple."""
    array = re.search(SHAPE, shape)
    return [int(side) for side in array[2].split(',') if side] if array else []


def _operands(op: Instruction) -> list[str]:
    return re.findall(OPERANDS, op.rest.split('), ')[0])


def traffic(text: str, *, loops: bool = True) -> int:
    """The bytes that the kernels of a step read and write, every operand and result once.

    Collectives do not count, since their time is separate. Without `loops`, every loop counts once.
    """
    program = list(instructions(text))
    sizes = {op.name: size(op.shape) for op in program}
    total = 0
    for op in program:
        if (
            op.entry
            and op.operation not in MOVE_NO_BYTES
            and not op.operation.startswith(COLLECTIVES)
        ):
            read = sum(sizes.get(name, 0) for name in _operands(op))
            total += (op.times if loops else 1) * (sizes[op.name] + read)
    return total


def kernels(text: str) -> dict[str, int]:
    """The number of kernels of each kind in a step: fusions, library calls by name, ..."""
    counts: collections.Counter[str] = collections.Counter()
    for op in instructions(text):
        if op.entry and op.operation not in MOVE_NO_BYTES:
            target = re.search(TARGET, op.rest)
            counts[target[1] if target else op.operation] += op.times
    return dict(counts.most_common())


def costliest(text: str, count: int) -> list[dict[str, Any]]:
    """The costliest fusions, with their cycles, their place in the model and their result."""
    fusions: list[dict[str, Any]] = [
        {
            'cycles': op.times * int(match[1]),
            'scope': scope[1] if (scope := re.search(SCOPE, op.rest)) else op.name,
            'result': re.sub(r'\{[^{}]*\}', '', op.shape),
        }
        for op in instructions(text)
        if (match := re.search(CYCLES, op.rest))
    ]
    return sorted(fusions, key=lambda row: -row['cycles'])[:count]
