"""Time the same augmentations in torchvision (on PIL and on tensors) and in DALI on the CPU.

`measure` starts this file as a script, in a Python that has torchvision or DALI. The script imports
nothing of jcls, and jcls nothing of the peers. A peer makes batches of normalised float32 images,
in one process with a thread for each core. torchvision also erases and mixes if the config does;
DALI does neither.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ('torchvision on PIL', 'torchvision on tensors', 'DALI')
FILES = 1000  # images of the training set to read, at most
KNOWN = ('random_resized_crop', 'flip', 'trivial_augment', 'rand_augment', 'random_erasing')
WARM_UP = 100  # images that are not timed


def check(experiment: Any) -> None:
    """Raise ValueError for a config that the peers cannot run."""
    from jcls.data.formats import recogniser

    unknown = [s['name'] for s in experiment.config['augment'] if s['name'] not in KNOWN]
    if unknown:
        raise ValueError(
            f'--compare can measure {", ".join(KNOWN)} in the peers, but config.augment has '
            f'{", ".join(unknown)}'
        )
    source = experiment.data.train
    files, is_image = (source.name(i) for i in range(min(len(source), FILES))), recogniser()
    if not all(Path(file).is_file() and is_image(Path(file).name, file) for file in files):
        raise ValueError('--compare needs image files: a data source such as folder or list')


def measure(experiment: Any, python: str, seconds: float) -> dict[str, tuple[float, float]]:
    """(images per second, CPU milliseconds for an image) of each peer that `python` has.

    The peers run on the cores that this process may use.
    """
    from jcls.host.machine import cores

    check(experiment)
    source = experiment.data.train
    job = {
        'files': [source.name(i) for i in range(min(len(source), FILES))],
        'augment': experiment.config['augment'],
        'mix': experiment.config['mix'],
        'mean': experiment.data.mean,
        'std': experiment.data.std,
        'classes': len(source.classes),
        'batch_size': experiment.mix.size if experiment.mix else experiment.horizon.batch_size,
        'seconds': seconds,
        'threads': cores(),
    }
    speeds: dict[str, tuple[float, float]] = {}
    for name in NAMES:
        process = subprocess.run(
            [python, __file__, name], input=json.dumps(job), capture_output=True, text=True
        )
        if process.returncode == 0:
            speeds[name] = json.loads(process.stdout.splitlines()[-1])
        elif 'ModuleNotFoundError' not in process.stderr:
            errors = process.stderr.strip().splitlines() or [f'exit code {process.returncode}']
            raise ValueError(f'{name} failed: {errors[-1]}')
    if not speeds:
        raise ValueError(
            f'{python} has neither torchvision nor DALI; install one there, or name another Python '
            'with --peer_python'
        )
    return speeds


def _timed(batches: Iterator[int], seconds: float) -> tuple[float, float]:
    """Time an iterator of batch sizes: (images per second, CPU milliseconds for an image)."""
    warm = 0
    while warm < WARM_UP:
        warm += next(batches)
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds:
        images += next(batches)
    return images / elapsed, 1e3 * (time.process_time() - cpu) / images


def _torchvision(job: dict[str, Any], *, tensors: bool) -> Iterator[int]:
    import torch
    from torchvision import io, transforms
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms import v2

    torch.set_num_threads(job['threads'])
    module: Any = v2 if tensors else transforms
    mode = transforms.InterpolationMode

    def build(name: str, **fields: Any) -> Any:
        known = {
            k: fields[k] for k in ('size', 'scale', 'ratio', 'magnitude', 'num_ops') if k in fields
        }
        share = {'p': fields.get('probability')}
        if name == 'flip':
            return module.RandomHorizontalFlip(**share)
        if name == 'random_erasing':
            return module.RandomErasing(**share)
        if name == 'random_resized_crop':
            kind = mode.BICUBIC if fields['interpolation'] == 'bicubic' else mode.BILINEAR
            return module.RandomResizedCrop(**known, interpolation=kind, antialias=True)
        policy = {'trivial_augment': 'TrivialAugmentWide', 'rand_augment': 'RandAugment'}[name]
        return getattr(module, policy)(**known, interpolation=mode(fields['interpolation']))

    before = [build(**s) for s in job['augment'] if s['name'] != 'random_erasing']
    after = [build(**s) for s in job['augment'] if s['name'] == 'random_erasing']
    if tensors:
        convert = [v2.ToDtype(torch.float32, scale=True)]
    else:
        convert = [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float32)]
    norm = module.Normalize(job['mean'], job['std'])
    transform = module.Compose([*before, *convert, norm, *after])

    def load(file: str) -> Any:
        if tensors:
            return transform(io.decode_image(io.read_file(file), mode=io.ImageReadMode.RGB))
        return transform(pil_loader(file))

    mixes = [
        kind(alpha=job['mix'][name], num_classes=job['classes'])
        for name, kind in (('mixup', v2.MixUp), ('cutmix', v2.CutMix))
        if job['mix'][name]
    ]
    mix = v2.RandomChoice(mixes) if mixes else None
    for files in _forever(job):
        images, labels = torch.stack([load(file) for file in files]), torch.arange(len(files))
        if mix is not None:
            mix(images, labels % job['classes'])
        yield len(files)


def _dali(job: dict[str, Any]) -> Iterator[int]:
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import rand_augment, trivial_augment

    sections = {section['name']: section for section in job['augment']}

    @pipeline_def(enable_conditionals=True)
    def pipeline() -> Any:
        encoded, _ = fn.readers.file(files=job['files'], random_shuffle=True, name='reader')
        crop = sections.get('random_resized_crop', {'scale': (1, 1), 'ratio': (1, 1), 'size': 224})
        images = fn.decoders.image_random_crop(
            encoded,
            device='cpu',
            output_type=types.RGB,
            random_area=crop['scale'],
            random_aspect_ratio=crop['ratio'],
            num_attempts=10,
        )
        images = fn.resize(
            images, size=(crop['size'], crop['size']), interp_type=types.INTERP_TRIANGULAR
        )
        size = (crop['size'], crop['size'])
        if 'trivial_augment' in sections:
            images = trivial_augment.trivial_augment_wide(images, shape=size)
        if 'rand_augment' in sections:
            n, m = (sections['rand_augment'][key] for key in ('num_ops', 'magnitude'))
            images = rand_augment.rand_augment(images, n=n, m=m, shape=size)
        mirror = fn.random.coin_flip(probability=sections.get('flip', {}).get('probability', 0))
        return fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            mirror=mirror,
            mean=[255 * value for value in job['mean']],
            std=[255 * value for value in job['std']],
        )

    built = pipeline(batch_size=job['batch_size'], num_threads=job['threads'], device_id=None)
    built.build()
    while True:
        built.run()
        yield job['batch_size']


def _forever(job: dict[str, Any]) -> Iterator[list[str]]:
    files, size, place = job['files'], job['batch_size'], 0
    while True:
        yield [files[(place + i) % len(files)] for i in range(size)]
        place += size


if __name__ == '__main__':
    PEERS: dict[str, Callable[[dict[str, Any]], Iterator[int]]] = {
        NAMES[0]: lambda job: _torchvision(job, tensors=False),
        NAMES[1]: lambda job: _torchvision(job, tensors=True),
        NAMES[2]: _dali,
    }
    task = json.load(sys.stdin)
    print(json.dumps(_timed(PEERS[sys.argv[1]](task), task['seconds'])))
