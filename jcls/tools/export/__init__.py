"""Export trained weights to other systems: ``jcls export PATH OUT --format timm``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from rich.console import Console

from jcls import models
from jcls.config.parts import choose
from jcls.host.disk import local
from jcls.models import ResNet
from jcls.tools.import_ import tables
from jcls.weights import artifact
from jcls.weights.foreign import layouts
from jcls.weights.foreign.convert import Report, Row, state_dict
from jcls.weights.load import read, usable
from jcls.weights.metadata import EPSILON, epsilon, resize_and_crop
from jcls.workdir.files import METADATA, write_json

# Writes into a folder: the model, its variables as NumPy arrays, and the metadata.
Write = Callable[[Path, ResNet, Any, dict[str, Any]], None]


def export(
    path: str | Path,
    out: str | Path,
    *,
    format: str = 'jcls',
    step: int | str = 'last',
    ema: str = 'auto',
) -> Report:
    """Write the folder `out`, which appears only when it is complete; model.json is always in it.

    Args:
      path: weights, anything that `jcls.load` takes.
      out: folder to make.
      format: one of `FORMATS`.
      step: checkpoint of a workdir: 'last', 'best' or a number.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.

    Raises:
      ValueError: if the weights cannot be read, the format cannot store them, or `out` exists.
    """
    write, folder = choose(FORMATS, format, 'format'), artifact.new_folder(out)
    metadata, variables = read(path, step, ema=ema)
    model, _ = usable(metadata, variables, path)
    if write in NAMED and not isinstance(model, ResNet):
        raise ValueError(
            f'format={format!r} has names for ResNets only, not for '
            f'{metadata["architecture"]["name"]}'
        )

    def fill(inside: Path) -> None:
        write(inside, model, variables, metadata)
        write_json(inside / METADATA, metadata)

    artifact.write_folder(folder, fill)
    names = layouts.tensors(model, layouts.TORCH) if write in NAMED else {}
    rows = [
        Row(own, names.get(own, own), leaf.shape)
        for own, leaf in flatten_dict(variables, sep='/').items()
    ]
    return Report(rows, [], [])


def _jcls(folder: Path, _: ResNet, variables: Any, __: dict[str, Any]) -> None:
    artifact.save_tensors(folder / artifact.WEIGHTS, flatten_dict(variables, sep='/'))


def _require_usual_epsilon(metadata: dict[str, Any], format: str) -> None:
    """Raise ValueError for an epsilon that the file cannot store: readers would use theirs."""
    if epsilon(metadata) != EPSILON:
        raise ValueError(
            f'format={format!r} cannot hold config.norm.epsilon={epsilon(metadata)}: its readers '
            f"take {EPSILON}; 'jcls', 'stablehlo' and 'savedmodel' can"
        )


def _require_usual_strides(model: ResNet, format: str) -> None:
    """Raise ValueError for what has the tensors of a reader's network and computes otherwise."""
    if model.stride_in_1x1 or model.padding != 'torch':
        raise ValueError(
            f'format={format!r} cannot hold stride_in_1x1={model.stride_in_1x1}, padding='
            f"{model.padding!r}: its readers take False and 'torch'; 'jcls', 'stablehlo' and "
            "'savedmodel' can"
        )


def _torchvision(folder: Path, model: ResNet, variables: Any, metadata: dict[str, Any]) -> None:
    if model.stem == 'deep' or model.shortcut == 'pool':
        raise ValueError(
            f'torchvision has no {metadata["architecture"]["name"]}: its ResNets have one '
            "convolution in the stem and no pool in the shortcuts; format='timm' can hold it"
        )
    _require_usual_strides(model, 'torchvision')
    _require_usual_epsilon(metadata, 'torchvision')
    tensors = state_dict(model, variables, layouts.TORCH)
    artifact.save_tensors(folder / 'model.safetensors', tensors)


def _timm(folder: Path, model: ResNet, variables: Any, metadata: dict[str, Any]) -> None:
    section = metadata['architecture']
    preset = models.create(section['name'], num_classes=model.num_classes)
    _require_usual_strides(model, 'timm')
    fixed = ('blocks', 'width', 'stem', 'shortcut', 'project_first')
    different = [field for field in fixed if getattr(model, field) != getattr(preset, field)]
    if different or model.stem == 'cifar':
        what = f' with another {", ".join(different)}' if different else ''
        raise ValueError(f"timm has no {section['name']}{what}; format='torchvision' has its names")
    _require_usual_epsilon(metadata, 'timm')
    config = timm_config(model, metadata)
    artifact.save_tensors(folder / 'model.safetensors', state_dict(model, variables, layouts.TORCH))
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')


def timm_config(model: ResNet, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json that ``timm.create_model('local-dir:FOLDER', pretrained=True)`` reads."""
    size, side, interpolation = resize_and_crop(metadata, "timm's config.json")
    channels = len(metadata['mean'])
    return {
        'architecture': metadata['architecture']['name'],
        'num_classes': model.num_classes,
        'label_names': list(metadata['classes']),
        'model_args': {'num_classes': model.num_classes, 'in_chans': channels},
        'pretrained_cfg': {
            'input_size': [channels, side, side],
            # Slightly below the quotient: rounding could otherwise lose a pixel of the resize.
            'crop_pct': float(np.nextafter(side / size, 0)),
            'crop_mode': 'center',
            'interpolation': interpolation,
            'mean': list(metadata['mean']),
            'std': list(metadata['std']),
            'num_classes': model.num_classes,
            'first_conv': 'conv1.0' if model.stem == 'deep' else 'conv1',
            'classifier': 'fc',
        },
    }


def _stablehlo(folder: Path, model: ResNet, variables: Any, metadata: dict[str, Any]) -> None:
    from jcls.tools.export import program

    (folder / 'model.stablehlo').write_bytes(program.stablehlo(model, variables, metadata))


def _saved_model(folder: Path, model: ResNet, variables: Any, metadata: dict[str, Any]) -> None:
    from jcls.tools.export import program

    program.saved_model(folder, model, variables, metadata)


FORMATS: dict[str, Write] = {
    'jcls': _jcls,  # weights.safetensors with jcls's names
    'torchvision': _torchvision,  # model.safetensors with torchvision's names
    'timm': _timm,  # the same, and config.json: a folder as timm keeps on the Hub
    'stablehlo': _stablehlo,  # model.stablehlo: `jax.export`, from pixels to logits
    'savedmodel': _saved_model,  # TensorFlow's, from image files to probabilities
}
NAMED = (_torchvision, _timm)


def run(*, path: str, out: str, **given: Any) -> dict[str, Any]:
    """The verb: write, print the table and return it for --json."""
    report = export(path, out, **given)
    for table in tables(report):
        Console(soft_wrap=True).print(table)
    files = sorted(path.name for path in local(out).iterdir())
    print(f'{out}: {", ".join(files)}')
    return report.json()
