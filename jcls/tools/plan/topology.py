"""Names of machines, such as 'v5e:4x4', 'gpu:2xh100x8' and 'cpu', and their devices."""

from __future__ import annotations

import importlib.util
import math
import re
from typing import Any, NamedTuple

from jcls.config.parts import suggest
from jcls.tools.plan.chips import CHIPS, Chip, target_config


class Topology(NamedTuple):
    """Machines with chips of one kind."""

    name: str  # such as 'v5e:2x2'
    platform: str  # 'tpu', 'gpu' or 'cpu'
    chip_name: str  # a key of `CHIPS`; '' for a CPU
    shape: tuple[int, ...]  # chips along each axis of a TPU slice; (hosts, GPUs of a host)

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip:
        return CHIPS[self.chip_name]

    @property
    def hosts(self) -> int:
        if self.platform == 'tpu':
            return -(-self.chips // self.chip.host_chips)
        return self.shape[0]

    @property
    def host_cores(self) -> float:
        """Cores of each host; a slice that is a part of a host has that part of its cores."""
        part = min(1, self.chips / self.hosts / self.chip.host_chips)
        return self.chip.host_cores * part

    def is_ring(self, side: int) -> bool:
        """Whether an axis with `side` chips of a TPU slice is a ring."""
        return side % self.chip.ring == 0


def parse(name: str) -> Topology:
    """The topology called `name`: 'v5e:2x2', 'v4:2x2x1', 'gpu:h100x8', 'gpu:2xh100x8' or 'cpu'.

    Raises:
      ValueError: if it is none of these; the error lists the possible ones.
    """
    if name == 'cpu':
        return Topology(name, 'cpu', '', (1, 1))
    kind, _, rest = name.partition(':')
    if kind == 'gpu':
        match = re.fullmatch(r'(?:(\d+)x)?([a-z]+\d+[a-z]*?)(?:x(\d+))?', rest)
        if not match or match[2] not in _names('gpu'):
            raise _unknown(name, match[2] if match else rest, 'gpu')
        topology = Topology(name, 'gpu', match[2], (int(match[1] or 1), int(match[3] or 1)))
    else:
        match = re.fullmatch(r'\d+(x\d+){1,2}', rest)
        if not match or kind not in _names('tpu'):
            raise _unknown(name, kind, 'tpu')
        topology = Topology(name, 'tpu', kind, tuple(map(int, rest.split('x'))))
        _check_slice(topology)
    if not topology.chips:
        raise ValueError(f'--topology={name}: that has no chips')
    return topology


def _check_slice(topology: Topology) -> None:
    """Raise ValueError for a TPU slice that does not exist."""
    chip, shape = topology.chip, topology.shape
    if chip.axes == 2:
        sides = [2**i for i in range(6) if 4**i <= chip.largest]
        known: list[tuple[int, ...]] = [
            (a, b) for a in sides for b in sides if a == b or (a > 1 and 2 * a == b)
        ]
        more = ''
    else:
        known = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8)]
        more = f' and others whose sides are multiples of 4, up to {chip.largest:,} chips'
    large = len(shape) == 3 == chip.axes and not any(side % 4 for side in shape)
    if shape not in known and not (large and 0 < topology.chips <= chip.largest):
        texts = ', '.join('x'.join(map(str, slice_)) for slice_ in known)
        raise ValueError(
            f'--topology={topology.name}: {chip.name} has no such slice; there are {texts}{more}'
        )


def _names(platform: str) -> list[str]:
    return [name for name, chip in CHIPS.items() if chip.platform == platform]


def _unknown(name: str, chip: str, platform: str) -> ValueError:
    return ValueError(
        f'--topology={name}: unknown{suggest(chip, _names(platform))}; TPUs are written as '
        f'generation:shape in chips, such as v5e:4x4 or v4:2x2x1 (generations: '
        f'{", ".join(_names("tpu"))}); GPUs as gpu:h100x8 or, hosts first, gpu:2xh100x8 (chips: '
        f'{", ".join(_names("gpu"))}); cpu is this machine'
    )


def devices(topology: Topology) -> list[Any]:
    """The devices of a TPU or GPU topology, to compile for.

    Raises:
      ValueError: if the compiler is not installed, or knows no such shape.
    """
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.platform == 'tpu':
        text = f'{topology.chip_name}:{"x".join(map(str, topology.shape))}'
        if topology.chips < topology.chip.host_chips:  # the slice is a part of a host
            options['chips_per_host_bounds'] = [*topology.shape, 1][:3]
        if topology.chip_name == 'v4':  # both cores as one device, as on the machine itself
            options['chip_config_name'] = 'megacore'
        platform, extra, plugins = 'tpu', 'tpu', ['libtpu']
    else:
        text = topology.chip_name
        options['topology'] = f'1x{topology.shape[0]}x{topology.shape[1]}'  # slices, hosts, GPUs
        options['target_config'] = target_config(topology.chip_name)
        platform, extra = 'cuda', 'cuda12'
        plugins = ['jax_cuda12_plugin', 'jax_cuda13_plugin']
    if not any(importlib.util.find_spec(name) for name in plugins):
        raise ValueError(
            f'--topology={topology.name} needs the compiler for it, which runs without the '
            f"hardware: pip install 'jax[{extra}]=={jax.__version__}'"
        )
    try:
        described = topologies.get_topology_desc(text, platform, **options).devices
    except Exception as error:  # the plugin raises several kinds
        reason = str(error).strip().split('\n')[0]
        raise ValueError(f'--topology={topology.name}: the compiler refuses it: {reason}') from None
    return list(described)
