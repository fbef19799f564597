"""What the command line takes: the verbs and their arguments.

All in one place, without other imports: ``jcls --help`` loads neither JAX nor TensorFlow.
"""

from __future__ import annotations

import argparse

VERBS = {
    'train': 'train a config; the default verb',
    'evaluate': 'evaluate a trained model on a validation set',
    'config': 'show a config, explain it, or compare two',
    'predict': 'classify images with a trained model',
    'import': 'import weights of torchvision, timm, mmpretrain or PaddleClas',
    'export': 'export trained weights for timm, torchvision, StableHLO or TensorFlow',
    'preview': 'draw what the network will see, beside the originals',
    'plan': 'compile a run for TPUs or GPUs elsewhere, and predict memory and time',
    'bench': 'measure how fast images come in, stage by stage, or a training step',
    'prepare': 'turn a folder or tar of images into a dataset, and report on the images',
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
    parser.add_argument('--workdir', help='folder of the run; a run that is in it resumes')
    parser.add_argument(
        '--dry_run',
        action='store_true',
        help='run two steps of a shrunken copy, in a temporary folder',
    )
    parser.add_argument(
        '--distributed', default='auto', choices=('auto', 'on', 'off'),
        help='whether to join the other processes of a run on several hosts (default: auto, which '
        'joins where a launcher has started some)',
    )  # fmt: skip
    parser.add_argument(
        '--distributed_wait', type=int, default=300, metavar='SECONDS',
        help='how long to wait for the other processes (default: 300)',
    )  # fmt: skip


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('workdir', help='folder of a run; with --config, any weights')
    parser.add_argument(
        '--config',
        metavar='FILE.py[:arg]',
        help="config on whose data to evaluate, instead of the run's own",
    )
    _weights_arguments(parser)


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', help='a workdir, imported weights, or whatever `jcls import` takes')
    parser.add_argument(
        'images', nargs='+', metavar='image-or-folder', help='image files, and folders of them'
    )
    parser.add_argument(
        '--top', type=int, default=5, help='number of classes to print for each image (default: 5)'
    )
    parser.add_argument(
        '--flip',
        action='store_true',
        help='average the probabilities of each image and its mirror image',
    )
    parser.add_argument(
        '--batch_size', type=int, default=64, help='number of images in a batch (default: 64)'
    )
    _weights_arguments(parser)


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--step',
        default='last',
        help="checkpoint of a workdir: 'last', 'best' or a step (default: last)",
    )
    parser.add_argument(
        '--ema', default='auto', choices=('auto', 'yes', 'no'),
        help='whether to take the averaged weights (default: auto, if there are any)',
    )  # fmt: skip


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'src', help="a file, an https address, a folder, or 'hf:owner/name' on the Hub"
    )
    parser.add_argument('out', help='folder to write')
    parser.add_argument(
        '--prefix', default='', help='import only the tensors whose names begin so (default: all)'
    )
    parser.add_argument(
        '--ema', default='auto', choices=('auto', 'yes', 'no'),
        help='whether to take the averaged weights (default: auto, if there are any)',
    )  # fmt: skip
    parser.add_argument(
        '--classes', metavar='FILE', help='file of class names: one a line, or a JSON list'
    )
    parser.add_argument(
        '--resize',
        type=int,
        metavar='PIXELS',
        help='shorter side of an image before the crop at evaluation; give both or neither',
    )
    parser.add_argument(
        '--crop', type=int, metavar='PIXELS', help='side of the central square at evaluation'
    )
    parser.add_argument(
        '--interpolation',
        default='bilinear',
        choices=('bilinear', 'bicubic'),
        help='interpolation of --resize (default: bilinear)',
    )
    parser.add_argument(
        '--channels',
        type=int,
        help="channels of your images, if not the weights' (the first convolution is adapted)",
    )


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', help='a workdir or imported weights')
    parser.add_argument('out', help='folder to write')
    parser.add_argument(
        '--format', default='jcls',
        choices=('jcls', 'torchvision', 'timm', 'stablehlo', 'savedmodel'),
        help='timm: a folder for timm.create_model; torchvision: safetensors with its names; '
        'stablehlo: jax.export, pixels of any size to logits; savedmodel: for TensorFlow, image '
        'files to probabilities; jcls: what `jcls import` writes (default: jcls)',
    )  # fmt: skip
    _weights_arguments(parser)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'action',
        choices=('show', 'explain', 'diff'),
        help='show every field, explain what they mean for a run, or diff two configs',
    )
    parser.add_argument('configs', nargs='+', help='config files (file.py:arg) or workdirs')
    parser.add_argument(
        '--out',
        default='explain.png',
        help="file for the plot of explain; '' for none (default: explain.png)",
    )


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'src',
        help='folder of class folders, or of train/ and val/; a tar of one, or a tar of tars',
    )
    parser.add_argument('out', help='folder of datasets; the new one is OUT/NAME/1.0.0')
    parser.add_argument('--name', help="name of the dataset (default: made from the source's)")
    parser.add_argument('--val', metavar='SRC2', help='folder or tar of validation images')
    parser.add_argument(
        '--val_fraction', type=float, metavar='F',
        help='fraction of each class to set aside where there are no validation images '
        '(default: 0.1; 0 for none)',
    )  # fmt: skip
    parser.add_argument(
        '--max_side', type=int, default=0, metavar='PIXELS',
        help='shrink images whose shorter side is longer than this (default: 0, none)',
    )  # fmt: skip
    parser.add_argument(
        '--quality',
        type=int,
        default=95,
        help='JPEG quality of images that are encoded anew (default: 95)',
    )
    parser.add_argument(
        '--workers', type=int, metavar='N', help='number of threads (default: one a core)'
    )
    parser.add_argument(
        '--drop', default='none', choices=('damaged', 'none'),
        help='leave damaged images out instead of stopping (default: none)',
    )  # fmt: skip


def _preview_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--config', required=True, metavar='FILE.py[:arg]', help='config whose images to draw'
    )
    parser.add_argument(
        '--out', default='preview.png', help='PNG file to write (default: preview.png)'
    )
    parser.add_argument(
        '--images', type=int, default=8, help='number of images, each a row (default: 8)'
    )
    parser.add_argument(
        '--step', type=int, default=0, help='training step that they are of (default: 0)'
    )
    parser.add_argument(
        '--operations', action='store_true', help='draw every operation and its magnitudes instead'
    )


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--config', required=True, metavar='FILE.py[:arg]', help='config whose steps to compile'
    )
    parser.add_argument(
        '--topology', required=True, nargs='+', metavar='NAME',
        help='machines: v5e:4x4, v4:2x2x1, gpu:h100x8, gpu:2xh100x8 (two hosts with eight '
        'GPUs each) or cpu (this machine, measured); several make a table',
    )  # fmt: skip
    parser.add_argument(
        '--per_chip_batch', type=int, metavar='N',
        help="number of images for each chip, instead of the config's batch over all chips",
    )  # fmt: skip
    parser.add_argument(
        '--no_search', action='store_true', help='do not look for the largest batch that fits'
    )
    parser.add_argument(
        '--keep', default='auto', metavar='DIR',
        help="folder that keeps results (default: ~/.cache/jcls/plans; '' for none)",
    )  # fmt: skip


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'what', choices=('input', 'step'), help='measure the data pipeline, or a training step'
    )
    parser.add_argument(
        '--config', required=True, metavar='FILE.py[:arg]', help='config to measure'
    )
    parser.add_argument(
        '--cores', type=int, default=0, help='number of cores to use (default: 0, all)'
    )
    parser.add_argument(
        '--seconds', type=float, help='length of a measurement of `bench input` (default: 5)'
    )
    parser.add_argument(
        '--rounds', type=int, default=3,
        help='how often to measure; the best round is reported (default: 3)',
    )  # fmt: skip
    parser.add_argument(
        '--steps', type=int, help='training steps in a round of `bench step` (default: 20)'
    )
    parser.add_argument(
        '--trace', metavar='DIR', help='folder for a profile of a few steps of `bench step`'
    )
    parser.add_argument(
        '--topology',
        metavar='NAME',
        help='machines that `bench step` also plans for, such as v5e:2x2',
    )
    parser.add_argument(
        '--step_seconds',
        type=float,
        help='duration of a training step: `bench input` tells whether it waits for images',
    )
    parser.add_argument(
        '--compare', action='store_true', help='let `bench input` also measure torchvision and DALI'
    )
    parser.add_argument(
        '--peer_python', help='Python interpreter that has torchvision and DALI (default: this one)'
    )


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
