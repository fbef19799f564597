"""The time of a compiled step on machines that are not here.

    step = cycles / clock + collectives                      (TPUs: the compiler estimates cycles)
    step = max(flops / peak, bytes / bandwidth) + collectives                      (the roofline)

Collectives are assumed not to overlap with anything. An all-reduce of b bytes over n chips takes
2 (n - 1) / n b / rate, an all-gather or a reduce-scatter half of that, plus the latency of its
hops. Of a TPU's links, only those to other chips of its slice count: two along an axis that is a
ring, one along any other axis with more than one chip. GPUs of a host reduce among themselves; then
each reduces its part with the GPUs of other hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jcls.tools.plan.topology import Topology

HOP = 1e-6  # assumed seconds from a chip to the next
LAUNCH = 10e-6  # assumed seconds to start a collective over GPUs
ASSUMED = {
    'tpu': (
        'memory: of batches two wait; steps that the host starts ahead hold theirs beside it',
        'collectives do not overlap with computation; a hop takes 1 us',
        'cycles: as the compiler estimates them, which leaves out copies and the gradient of '
        'max pooling',
    ),
    'gpu': (
        'memory: of batches two wait; steps that the host starts ahead hold theirs beside it',
        'collectives do not overlap with computation; each takes 10 us to start',
        'the time is a lower bound: peak rates in bfloat16 as published, every byte once',
        'JAX uses 75 % of the memory (XLA_PYTHON_CLIENT_MEM_FRACTION); work space of libraries is '
        'not counted',
    ),
}


def collective_seconds(collectives: Mapping[str, Mapping[str, int]], topology: Topology) -> float:
    """The seconds of all collectives of a step, one after the other."""
    if topology.chips == 1:
        return 0.0
    pace, latency = _pace(topology), _latency(topology)
    passes = {kind: 2 if kind == 'all-reduce' else 1 for kind in collectives}
    return sum(
        passes[kind] * (total['bytes'] * pace + total['count'] * latency)
        for kind, total in collectives.items()
    )


def _pace(topology: Topology) -> float:
    """The seconds of a reduce-scatter or an all-gather for each byte of the whole array."""
    chip, chips = topology.chip, topology.chips
    if topology.platform == 'tpu':
        used = sum(2 if topology.is_ring(side) else side > 1 for side in topology.shape)
        return (chips - 1) / chips / (chip.link * used / (2 * chip.axes))
    hosts, gpus = topology.shape
    inside = (gpus - 1) / gpus / chip.link
    return inside + (hosts - 1) / hosts / gpus / chip.network


def _latency(topology: Topology) -> float:
    if topology.platform == 'gpu':
        return LAUNCH
    return HOP * sum(side // 2 if topology.is_ring(side) else side - 1 for side in topology.shape)


def seconds(analysed: Mapping[str, Any], topology: Topology) -> dict[str, Any]:
    """The seconds of a step by each method; `step_seconds` is the most accurate of them."""
    chip = topology.chip
    collective = collective_seconds(analysed['collectives'], topology)
    flops, moved = analysed['flops'] / chip.flops, analysed['bytes_accessed'] / chip.bandwidth
    roofline = max(flops, moved) + collective
    cycles = analysed['estimated_cycles']
    from_cycles = cycles / chip.clock + collective if cycles and chip.clock else None
    return {
        'collective_seconds': collective,
        'roofline_seconds': roofline,
        'roofline_bound': 'compute' if flops > moved else 'memory',
        'cycle_seconds': from_cycles,
        'step_seconds': roofline if from_cycles is None else from_cycles,
        'time_from': 'roofline' if from_cycles is None else 'estimated cycles',
    }
