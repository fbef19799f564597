"""The arguments of the command line: the verbs and what each takes.

This file imports nothing of jcls, so that ``jcls --help`` loads neither JAX nor TensorFlow. An
argument that is not given is not passed on, so that the verb's function decides the default. The
help text repeats the default as '(default: ...)'. The choices of an argument are repeated here,
too, so that a wrong one is an error at once.
"""

from __future__ import annotations

import argparse

VERBS = {
    'train': 'train a config; the default verb',
    'evaluate': 'evaluate a trained model on a validation set',
    'config': 'show a config, explain it, or compare two',
    'predict': 'classify images with a trained model',
    'import': 'import weights of torchvision, timm, mmpretrain, PaddleClas and others',
    'export': 'export trained weights for timm, torchvision, StableHLO or TensorFlow',
    'preview': 'draw what the network will see, beside the originals',
    'plan': 'compile a run for TPUs or GPUs elsewhere, and predict memory and time',
    'bench': 'measure how fast images come in, stage by stage, or a training step',
    'prepare': 'turn a folder or tar of images into a dataset, and report on the images',
}
WITHOUT_CONFIG = ('predict', 'import', 'export', 'prepare')

DESCRIPTION = """\
Train ResNet image classifiers with JAX.

  jcls --config configs/quickstart.py --workdir runs/quickstart
  jcls --config configs/quickstart.py --workdir runs/lower --config.optimizer.lr=0.05
  jcls config show configs/quickstart.py
  jcls evaluate runs/quickstart

Every field of a config can be set as --config.section.field=value. The same command in the same
workdir resumes. Exit codes: 0 done, 1 an error, 2 a wrong command line, 75 stopped by SIGTERM,
SIGINT, SIGHUP, SIGUSR1 or SIGUSR2 with the state saved, 130 interrupted twice, in a dry run, or
outside of training.
"""
FIELDS = '--config.section.field=value sets a field of the config.'


def parser() -> argparse.ArgumentParser:
    """The parser of the command line, without ``--config.section.field=value``."""
    top = argparse.ArgumentParser(
        'jcls',
        usage='jcls [-h] [VERB] ...',
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(prog='jcls', dest='verb', metavar='VERB', required=True)
    for name, text in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=None if name in WITHOUT_CONFIG else FIELDS,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        verb.add_argument('--json', action='store_true', help='end with one line of JSON')
        _ARGUMENTS[name](verb)
    return top


def _config_argument(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument('--config', required=True, metavar='FILE.py[:arg]', help=text)


def _ema_argument(parser: argparse.ArgumentParser) -> None:
    text = "'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones"
    parser.add_argument('--ema', choices=('auto', 'yes', 'no'), help=f'{text} (default: auto)')


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    text = "checkpoint of a workdir: 'last', 'best' or a step (default: last)"
    parser.add_argument('--step', help=text)
    _ema_argument(parser)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _config_argument(parser, 'config to train')
    add('--workdir', help='folder of the run; a run that is in it resumes')
    text = 'run two steps of a tiny version, in a temporary folder'
    add('--dry_run', action='store_true', help=text)
    text = (
        "'auto' joins the other processes of a run on several hosts if the environment "
        "names some, 'on' always, 'off' never (default: auto)"
    )
    add('--distributed', dest='mode', choices=('auto', 'on', 'off'), help=text)
    text = 'how long to wait for the other processes (default: 300)'
    add('--distributed_wait', dest='wait', type=int, metavar='SECONDS', help=text)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    text = 'folder of a run; with IMAGES or --config, any weights'
    parser.add_argument('workdir', help=text)
    text = (
        "labelled folder or list, of which all images are taken, instead of the run's held-out ones"
    )
    parser.add_argument('images', nargs='?', metavar='IMAGES', help=text)
    text = "config on whose data to evaluate, instead of the run's own"
    parser.add_argument('--config', metavar='FILE.py[:arg]', help=text)
    _weights_arguments(parser)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = 'show every field, explain what they mean for a run, or diff two configs'
    add('action', choices=('show', 'explain', 'diff'), help=text)
    add('configs', nargs='+', help='config files (file.py:arg) or workdirs')
    add('--out', help="file for the plot of explain; '' for none (default: explain.png)")


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('path', help='a workdir, imported weights, or anything that `jcls import` takes')
    add('images', nargs='+', metavar='image-or-folder', help='image files, and folders of them')
    add('--top', type=int, help='number of classes to print for each image (default: 5)')
    text = 'average the probabilities of each image and its mirror image'
    add('--flip', action='store_true', help=text)
    text = 'turn images as their EXIF orientation says, although the training did not'
    add('--exif', action='store_true', help=text)
    add('--batch_size', type=int, help='number of images in a batch (default: 64)')
    _weights_arguments(parser)


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = (
        "a file, an https address (with '#sha256=...' at its end it must have that hash), a "
        "folder, or 'hf:owner/name' on the Hub"
    )
    add('source', metavar='src', help=text)
    add('out', help='folder to write')
    text = (
        'import only tensors whose names begin with this (default: all; wrappers such as module. '
        'need not be named)'
    )
    add('--prefix', help=text)
    _ema_argument(parser)
    text = (
        'rename tensors: a regular expression in their names, and what replaces it, such as '
        "linear=fc or '^enc[.]='; may be given again"
    )
    add('--rename', action='append', metavar='PATTERN=NEW', help=text)
    text = 'leave out tensors whose names have this regular expression; may be given again'
    add('--drop', action='append', metavar='PATTERN', help=text)
    text = 'file of class names: one on each line, or a JSON list'
    add('--classes', metavar='FILE', help=text)
    text = "mean of the images' channels, red first, as fractions of 255 (default: ImageNet's)"
    add('--mean', type=float, nargs='+', metavar='X', help=text)
    text = "standard deviation of the channels, as fractions of 255 (default: ImageNet's)"
    add('--std', type=float, nargs='+', metavar='X', help=text)
    text = 'shorter side of an image before the crop at evaluation; give --crop, too'
    add('--resize', type=int, metavar='PIXELS', help=text)
    text = 'side of the central square at evaluation; give --resize, too'
    add('--crop', type=int, metavar='PIXELS', help=text)
    text = 'interpolation of the resize (default: bilinear)'
    add('--interpolation', choices=('bilinear', 'bicubic'), help=text)
    yes_or_no = argparse.BooleanOptionalAction
    text = 'filter what the resize makes smaller, as Pillow does; OpenCV does not (default: yes)'
    add('--antialias', action=yes_or_no, help=text)
    text = 'number of channels of your images, to which the first convolution is adapted'
    add('--channels', type=int, help=text)
    text = 'the network takes blue, green, red, as those of Caffe do (default: no)'
    add('--bgr', action=yes_or_no, help=text)
    text = 'turn images as their EXIF says (default: no)'
    add('--exif', action=yes_or_no, help=text)
    add('--epsilon', type=float, help='epsilon of the normalisation layers (default: 1e-5)')
    text = 'of a 3x3 first convolution: max pooling follows (cifar_pool) or not (default: cifar)'
    add('--stem', choices=('cifar', 'cifar_pool'), help=text)
    text = (
        'of shortcuts without parameters: their zeros are behind the channels (pad) or half of '
        "them before (pad_both; default for networks whose classifier is called 'linear')"
    )
    add('--shortcut', choices=('pad', 'pad_both'), help=text)
    text = 'bottlenecks stride in their first 1x1 convolution, not in their 3x3 (default: no)'
    add('--stride_in_1x1', action=yes_or_no, help=text)
    text = "padding of convolutions: torch's, or TensorFlow's SAME (default: torch)"
    add('--padding', choices=('torch', 'same'), help=text)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', help='a workdir or imported weights')
    parser.add_argument('out', help='folder to write')
    text = (
        'timm: a folder for timm.create_model; torchvision: safetensors with its names; '
        'stablehlo: jax.export, pixels of any size to logits; savedmodel: for TensorFlow, image '
        'files to probabilities; jcls: what `jcls import` writes (default: jcls)'
    )
    formats = ('jcls', 'torchvision', 'timm', 'stablehlo', 'savedmodel')
    parser.add_argument('--format', choices=formats, help=text)
    _weights_arguments(parser)


def _preview_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _config_argument(parser, 'config whose images to draw')
    add('--out', help='PNG file to write (default: preview.png)')
    add('--images', type=int, help='number of images, one in each row (default: 8)')
    add('--step', type=int, help='training step that sees them (default: 0)')
    text = 'draw every operation and its magnitudes instead'
    add('--operations', dest='by_operation', action='store_true', help=text)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _config_argument(parser, 'config whose steps to compile')
    text = (
        'machines: v5e:4x4, v4:2x2x1, gpu:h100x8, gpu:2xh100x8 (two hosts with eight GPUs each) '
        'or cpu (this machine, measured); several make a table'
    )
    add('--topology', required=True, nargs='+', metavar='NAME', help=text)
    text = "number of images for each chip, instead of the config's batch over all chips"
    add('--per_chip_batch', type=int, metavar='N', help=text)
    text = 'do not look for the largest batch that fits'
    add('--no_search', dest='search', action='store_false', help=text)
    text = (
        "folder that keeps results; 'auto' is plans/ in jcls's cache (~/.cache/jcls), '' is none "
        '(default: auto)'
    )
    add('--keep', metavar='DIR', help=text)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = 'measure the data pipeline, or a training step'
    add('what', choices=('input', 'step'), help=text)
    _config_argument(parser, 'config to measure')
    add('--cores', type=int, help='number of cores to use; 0 for all (default: 0)')
    text = 'how often to measure; the best round is reported (default: 3)'
    add('--rounds', type=int, help=text)
    add('--seconds', type=float, help='seconds of a measurement of `bench input` (default: 5)')
    text = 'seconds of a training step: `bench input` tells whether it would wait for images'
    add('--step_seconds', type=float, help=text)
    text = 'let `bench input` also measure torchvision and DALI'
    add('--compare', action='store_true', help=text)
    add('--peer_python', help='Python that has torchvision and DALI (default: this one)')
    add('--steps', type=int, help='training steps in a round of `bench step` (default: 20)')
    add('--trace', metavar='DIR', help='folder for a profile of a few steps of `bench step`')
    text = 'machines that `bench step` also plans for, such as v5e:2x2'
    add('--topology', metavar='NAME', help=text)


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = 'folder of class folders, or of train/ and val/; a tar of one, or a tar of tars'
    add('src', help=text)
    add('out', help='folder of datasets; the new one is OUT/NAME/1.0.0')
    add('--name', help="name of the dataset (default: made from the source's)")
    add('--val', metavar='SRC2', help='folder or tar of validation images')
    text = (
        'fraction of each class to set aside if there are no validation images; 0 for none '
        '(default: 0.1)'
    )
    add('--val_fraction', type=float, metavar='F', help=text)
    text = 'let the validation images lack some of the classes'
    add('--val_incomplete', action='store_true', help=text)
    text = 'shrink images whose shorter side is longer than this; 0 for none (default: 0)'
    add('--max_side', type=int, metavar='PIXELS', help=text)
    text = 'JPEG quality of images that are encoded again (default: 95)'
    add('--quality', type=int, help=text)
    add('--workers', type=int, metavar='N', help='number of threads (default: one on each core)')
    text = "'damaged' leaves damaged images out, 'none' stops at them (default: none)"
    add('--drop', choices=('damaged', 'none'), help=text)


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
