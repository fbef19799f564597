"""XLA: its options, which the config alone states, and the programs it compiled before."""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jcls.distributed.mesh import kind, replicated
from jcls.host.cache import cache_folder, unusable
from jcls.host.machine import processor

logger = logging.getLogger(__name__)

# libtpu 0.0.42, compiling for chips with 256 x 256 matrix units, overflows its stack where it fuses
# the gradient of a 3x3 convolution with stride 2 and 128 channels into what follows (128 images of
# 44 x 44 a chip are enough). Storing that gradient avoids it. Other chips do not store it: a step
# of a v5e would take 1.5 % longer.
MUST_MATERIALISE = ('TPU v6 lite', 'TPU v6e', 'TPU7x')


def must_materialise(mesh: Mesh) -> bool:
    """Whether the compiler of these devices needs the gradients of strided convolutions stored."""
    return mesh.devices.flat[0].device_kind in MUST_MATERIALISE


def create(
    mesh: Mesh,
    *,
    cache: bool = True,
    cpu: tuple[str, ...] = (),
    gpu: tuple[str, ...] = (),
    tpu: tuple[str, ...] = (),
) -> dict[str, Any] | None:
    """The ``compiler`` section: options for the platform of `mesh`; None if there are none.

    Args:
      mesh: devices to compile for.
      cache: keep compiled programs, so that the next start is short, in the folder
        JAX_COMPILATION_CACHE_DIR or else in jcls's own (`jcls.host.cache`).
      cpu: options for CPUs, such as 'xla_cpu_enable_fast_math=true'.
      gpu: options for GPUs.
      tpu: options for TPUs, such as 'xla_tpu_scoped_vmem_limit_kib=65536'.

    Raises:
      ValueError: for an option that is not written as option=value, or that the compiler refuses.
    """
    place = getattr(jax.config, 'jax_compilation_cache_dir', None)
    ours = _cache() if bool(place) != cache else None
    if cache and not place:
        jax.config.update('jax_compilation_cache_dir', ours)
        if ours and (why := unusable()):
            logger.warning('caching in %s, since %s', ours, why)
    elif not cache and place == ours:  # an earlier config of this process has set it
        jax.config.update('jax_compilation_cache_dir', None)
    platform = kind(mesh.devices.flat)
    chosen = {'cpu': cpu, 'gpu': gpu, 'tpu': tpu}
    for name, texts in chosen.items():
        for text in texts:
            if not text.partition('=')[0].isidentifier() or '=' not in text:
                raise ValueError(f'config.compiler.{name}: {text!r} is not written as option=value')
    options = dict(_pair(text) for text in chosen[platform])
    if not options:
        return None
    try:
        _try(options, mesh)
    except Exception as error:  # the compiler raises several kinds
        reason = str(error).strip().split('\n')[0]
        raise ValueError(f'config.compiler.{platform}={chosen[platform]}: {reason}') from None
    return options


def _cache() -> str | None:
    """The folder of compiled programs; None, and a warning, if no folder can be written."""
    try:
        return str(cache_folder() / 'xla' / processor())
    except OSError as error:
        logger.warning('compiled programs are not kept: %s', error)
        return None


def _pair(text: str) -> tuple[str, Any]:
    name, _, value = text.partition('=')
    if value.lower() in ('true', 'false'):
        return name, value.lower() == 'true'
    return name, int(value) if value.lstrip('-').isdigit() else value


def _try(options: dict[str, Any], mesh: Mesh) -> None:
    """Compile a small program with these options, which takes milliseconds."""
    everywhere = replicated(mesh)
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere)
    jax.jit(lambda x: x + 1, compiler_options=options).lower(number).compile()
