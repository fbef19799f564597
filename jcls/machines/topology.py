"""Names of machines, such as 'v5e:4x4', 'gpu:2xh100x8' and 'cpu', and their devices."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from jcls.machines.chips import CHIPS, Chip, target_config
from jcls.schema import suggest


class Topology(NamedTuple):
    """Machines of one kind of chip."""

    name: str  # as given
    platform: str  # 'tpu', 'gpu', 'cpu'
    chip: str  # a key of `CHIPS`; '' for a CPU
    shape: tuple[int, ...]  # of a TPU slice, in chips; of GPUs (hosts, GPUs of a host)

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def facts(self) -> Chip:
        return CHIPS[self.chip]

    @property
    def hosts(self) -> int:
        if self.platform == 'tpu':
            return -(-self.chips // self.facts.host_chips)
        return self.shape[0]


def parse(name: str) -> Topology:
    """The topology called `name`: 'v5e:2x2', 'v4:2x2x1', 'gpu:h100x8', 'gpu:2xh100x8' or 'cpu'.

    Raises:
      ValueError: if it is none of these, with what there is.
    """
    if name == 'cpu':
        return Topology(name, 'cpu', '', (1, 1))
    kind, _, rest = name.partition(':')
    if kind == 'gpu':
        found = re.fullmatch(r'(?:(\d+)x)?([a-z]+\d+)(?:x(\d+))?', rest)
        if not found or found[2] not in _names('gpu'):
            raise _unknown(name, found[2] if found else rest, 'gpu')
        topology = Topology(name, 'gpu', found[2], (int(found[1] or 1), int(found[3] or 1)))
    else:
        found = re.fullmatch(r'\d+(x\d+){1,2}', rest)
        if not found or kind not in _names('tpu'):
            raise _unknown(name, kind, 'tpu')
        topology = Topology(name, 'tpu', kind, tuple(map(int, rest.split('x'))))
    if not topology.chips:
        raise ValueError(f'--topology={name}: that has no chips')
    return topology


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
    """Devices to compile for, of a TPU or GPU topology.

    Raises:
      ValueError: if the compiler is not installed, or knows no such shape.
    """
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.platform == 'tpu':
        text = f'{topology.chip}:{"x".join(map(str, topology.shape))}'
        if topology.chips < topology.facts.host_chips:  # a part of a host
            options['chips_per_host_bounds'] = [*topology.shape, 1][:3]
        extra = 'tpu'
    else:
        text = topology.chip
        options['topology'] = f'1x{topology.shape[0]}x{topology.shape[1]}'  # slices, hosts, GPUs
        options['target_config'] = target_config(topology.chip)
        extra = 'cuda12'
    try:
        platform = {'tpu': 'tpu', 'gpu': 'cuda'}[topology.platform]
        found = topologies.get_topology_desc(text, platform, **options).devices
    except Exception as error:  # of whatever kind the plugin raises
        reason = str(error).strip().split('\n')[0]
        if 'not installed' in reason or 'nknown backend' in reason or 'plugin' in reason.lower():
            raise ValueError(
                f'--topology={topology.name} needs the compiler for it, which runs without the '
                f"hardware: pip install 'jax[{extra}]=={jax.__version__}'"
            ) from None
        raise ValueError(f'--topology={topology.name}: the compiler refuses it: {reason}') from None
    return list(found)
