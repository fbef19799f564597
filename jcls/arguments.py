"""What the command line takes: the verbs and their arguments.

All in one place, without other imports: ``jcls --help`` loads neither JAX nor TensorFlow.
"""

from __future__ import annotations

import argparse

VERBS = {
    'train': 'train a config; the default verb',
    'evaluate': 'evaluate a trained model on its validation set',
    'config': 'show or explain a config, or the difference of two',
    'predict': 'name what is in images, with a trained model',
    'import': 'take over weights of torchvision, timm, mmpretrain or PaddleClas',
    'export': 'give trained weights to timm, torchvision, StableHLO or TensorFlow',
    'preview': 'draw what the network will see, beside the originals',
    'plan': 'compile a run for TPUs or GPUs elsewhere, and predict memory and time',
    'bench': 'measure how fast images come in, stage by stage, or a training step',
    'prepare': 'make a dataset for training of a folder or tar of images, and report on it',
}

DESCRIPTION = """\
Train ResNet image classifiers with JAX.

  jcls --config configs/quickstart.py --workdir runs/quickstart
  jcls --config configs/quickstart.py --workdir runs/other --config.optimizer.lr=0.2
  jcls config show configs/quickstart.py
  jcls evaluate runs/quickstart

Every field of a config can be set as --config.section.field=value. The same command in the same
workdir resumes. Exit codes: 0 done, 1 an error, 2 a wrong command line, 75 stopped by SIGTERM or
SIGINT with the state saved, 130 interrupted outside of training or twice.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        'jcls', description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(dest='verb', metavar='VERB', required=True)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        verb.add_argument('--json', action='store_true', help='end with one line of JSON')
        _ARGUMENTS[name](verb)
    return top


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--config', required=True, metavar='FILE.py[:arg]', help='what to train')
    parser.add_argument('--workdir', help='where everything goes; a run in it is resumed')
    parser.add_argument(
        '--dry_run', action='store_true', help='two steps of a shrunken copy, in a temporary folder'
    )
    parser.add_argument(
        '--distributed', default='auto', choices=('auto', 'on', 'off'),
        help='join the processes of a multi-host run (auto: where a launcher shows some)',
    )  # fmt: skip
    parser.add_argument(
        '--distributed_wait', type=int, default=300, metavar='SECONDS',
        help='for the other processes, before giving up (default: 300)',
    )  # fmt: skip


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('workdir', help='the folder of a run; with --config any weights')
    parser.add_argument(
        '--config', metavar='FILE.py[:arg]', help="evaluate on this config's data, not the run's"
    )
    _weights_arguments(parser)


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', help='a workdir, imported weights, or what import would take')
    parser.add_argument('images', nargs='+', metavar='image-or-folder', help='what to look at')
    parser.add_argument('--top', type=int, default=5, help='how many classes (default: 5)')
    parser.add_argument('--flip', action='store_true', help='average with the mirror images')
    parser.add_argument('--batch_size', type=int, default=64, help='images at a time')
    _weights_arguments(parser)


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--step', default='last', help="of a workdir: 'last', 'best' or a number")
    parser.add_argument(
        '--ema', default='auto', choices=('auto', 'yes', 'no'),
        help='averaged weights (auto: if there are any) or the raw ones',
    )  # fmt: skip


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'src', help="a file, an https address, a folder, or 'hf:owner/name' on the Hub"
    )
    parser.add_argument('out', help='the folder to make')
    parser.add_argument('--prefix', default='', help="of the tensors' names; others are left out")
    parser.add_argument(
        '--ema', default='auto', choices=('auto', 'yes', 'no'),
        help='averaged weights (auto: if there are any) or the raw ones',
    )  # fmt: skip
    parser.add_argument('--classes', metavar='FILE', help='class names, one a line or a JSON list')
    parser.add_argument('--resize', type=int, metavar='PIXELS', help='shorter side at evaluation')
    parser.add_argument('--crop', type=int, metavar='PIXELS', help='central square at evaluation')
    parser.add_argument(
        '--interpolation', default='bilinear', choices=('bilinear', 'bicubic'), help='of --resize'
    )
    parser.add_argument(
        '--channels',
        type=int,
        help='of the images, other than 3 (the first convolution is adapted)',
    )


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', help='a workdir or imported weights')
    parser.add_argument('out', help='the folder to make')
    parser.add_argument(
        '--format', default='jcls',
        choices=('jcls', 'torchvision', 'timm', 'stablehlo', 'savedmodel'),
        help='names and files (default: jcls)',
    )  # fmt: skip
    _weights_arguments(parser)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'action',
        choices=('show', 'explain', 'diff'),
        help='show: every field; explain: what it means for a run; diff: what differs, in both',
    )
    parser.add_argument('configs', nargs='+', help='config files (file.py:arg) or workdirs')
    parser.add_argument(
        '--out', default='explain.png', help="explain's plot of the learning rate; '' for none"
    )


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'src', help='a folder of class folders (or of train/ and val/), a tar of one, or of tars'
    )
    parser.add_argument('out', help='the folder of datasets; the new one is OUT/NAME/1.0.0')
    parser.add_argument('--name', help="of the dataset (default: made from the source's)")
    parser.add_argument('--val', metavar='SRC2', help='a folder or tar of validation images')
    parser.add_argument(
        '--val_fraction', type=float, metavar='F',
        help='else the part of each class to set aside (default: 0.1; 0: none)',
    )  # fmt: skip
    parser.add_argument(
        '--max_side', type=int, default=0, metavar='PIXELS',
        help='shrink images whose shorter side is longer (default: 0, none)',
    )  # fmt: skip
    parser.add_argument(
        '--quality', type=int, default=95, help='of JPEG, for what is encoded anew (default: 95)'
    )
    parser.add_argument('--workers', type=int, metavar='N', help='threads (default: one a core)')
    parser.add_argument(
        '--drop', default='none', choices=('damaged', 'none'),
        help='leave damaged images out instead of stopping',
    )  # fmt: skip


def _preview_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--config', required=True, metavar='FILE.py[:arg]', help='whose images')
    parser.add_argument('--out', default='preview.png', help='the PNG file to write')
    parser.add_argument('--images', type=int, default=8, help='how many (rows)')
    parser.add_argument('--step', type=int, default=0, help='of which training step')
    parser.add_argument(
        '--operations', action='store_true', help='a row for each operation and its magnitudes'
    )


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--config', required=True, metavar='FILE.py[:arg]', help='whose steps')
    parser.add_argument(
        '--topology', required=True, nargs='+', metavar='NAME',
        help='v5e:4x4, v4:2x2x1, gpu:h100x8, gpu:2xh100x8 (hosts x GPUs), cpu; several: a table',
    )  # fmt: skip
    parser.add_argument(
        '--per_chip_batch', type=int, metavar='N',
        help="images of a chip, instead of the config's batch over the chips",
    )  # fmt: skip
    parser.add_argument(
        '--no_search', action='store_true', help='do not look for the largest batch that fits'
    )
    parser.add_argument(
        '--keep', default='auto', metavar='DIR',
        help="for results, by the program's hash (default: ~/.cache/jcls/plans; '' for none)",
    )  # fmt: skip


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'what', choices=('input', 'step'), help='the data pipeline, or a training step'
    )
    parser.add_argument('--config', required=True, metavar='FILE.py[:arg]', help='what to measure')
    parser.add_argument('--cores', type=int, default=0, help='use only so many; 0: all')
    parser.add_argument('--seconds', type=float, help='of each measurement (input); 5')
    parser.add_argument('--rounds', type=int, default=3, help='of measurements; the best counts')
    parser.add_argument('--steps', type=int, help='of a round (step); 20')
    parser.add_argument('--trace', metavar='DIR', help='write a profile of a few steps (step)')
    parser.add_argument(
        '--topology', metavar='NAME', help='also plan for this, such as v5e:2x2 (step)'
    )
    parser.add_argument(
        '--step_seconds', type=float, help='of a training step (input): is it input-bound?'
    )
    parser.add_argument(
        '--compare', action='store_true', help='with torchvision and DALI, too (input)'
    )
    parser.add_argument('--peer_python', help='the Python that has them (input); this one')


_ARGUMENTS = {
    'train': _train_arguments,
    'evaluate': _evaluate_arguments,
    'config': _config_arguments,
    'predict': _predict_arguments,
    'import': _import_arguments,
    'export': _export_arguments,
    'preview': _preview_arguments,
    'plan': _plan_arguments,
    'bench': _bench_arguments,
    'prepare': _prepare_arguments,
}
