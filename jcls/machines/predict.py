"""How long a compiled step takes on machines that are not here, and what it asks of their hosts.

    step = cycles / clock + collectives                      (TPUs: the compiler estimates cycles)
    step = max(flops / peak, bytes / bandwidth) + collectives                      (the roofline)

Collectives are assumed not to overlap with anything: c of them, of b bytes in all, over n chips
take 2 (n - 1) / n b / link + c latency (a ring; all-gather and reduce-scatter are half of one). The
link is the chip's, or between hosts without such links its share of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jcls.machines.topology import Topology

HOP = 1e-6  # seconds from a chip to the next, assumed
LAUNCH = 10e-6  # seconds of a collective over GPUs, assumed
ASSUMED = (
    'collectives do not overlap with computation',
    'a TPU hop takes 1 us, a collective of GPUs 10 us',
    "memory: the libraries' work space on GPUs is not counted",
    'rooflines are reached: peak rates as published, every byte that the compiler counts',
)


def collective_seconds(collectives: Mapping[str, Mapping[str, int]], topology: Topology) -> float:
    """All collectives of a step, one after the other."""
    chips, facts = topology.chips, topology.facts
    if chips == 1:
        return 0.0
    between_hosts = topology.platform == 'gpu' and topology.hosts > 1
    rate = facts.network if between_hosts else facts.link
    if topology.platform == 'tpu':
        latency = HOP * sum(side // 2 for side in topology.shape)  # half around each ring
    else:
        latency = LAUNCH
    seconds = 0.0
    for kind, total in collectives.items():
        passes = 2 if kind == 'all-reduce' else 1
        seconds += passes * (chips - 1) / chips * total['bytes'] / rate
        seconds += passes * latency * total['count']
    return seconds


def seconds(found: Mapping[str, Any], topology: Topology) -> dict[str, Any]:
    """What a step takes, by each way of telling; `step_seconds` is the best founded of them."""
    facts = topology.facts
    collective = collective_seconds(found['collectives'], topology)
    flops, moved = found['flops'] / facts.flops, found['bytes_accessed'] / facts.bandwidth
    roofline = max(flops, moved) + collective
    cycles = found['estimated_cycles']
    from_cycles = cycles / facts.clock + collective if cycles and facts.clock else None
    return {
        'collective_seconds': collective,
        'roofline_seconds': roofline,
        'roofline_bound': 'compute' if flops > moved else 'memory',
        'cycle_seconds': from_cycles,
        'step_seconds': roofline if from_cycles is None else from_cycles,
        'time_from': 'roofline' if from_cycles is None else 'estimated cycles',
    }
