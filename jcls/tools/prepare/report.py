"""The report on a source, as one JSON object and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jcls.data.sources.layout import Layout
from jcls.tools.prepare.divide import Inspected, copies
from jcls.tools.prepare.encode import change
from jcls.tools.prepare.inspect import ImageInfo

GREY = ('1', 'L', 'LA', 'I', 'I;16', 'I;16B', 'I;16L', 'F')
TINY = 8  # pixels; an image with both sides below is tiny
ASPECT, LARGE = 10, 10_000  # limits of longer side over shorter, and of the longer in pixels
EXAMPLES = 3  # file names in a row of the table

PROBLEMS = {
    'damaged': 'cannot be read',
    'ignored': 'not images of the dataset',
    'leaks': 'groups of exact copies in training and validation',
    'conflicts': 'groups of exact copies in different classes',
    'repeats': 'groups of exact copies in one class',
}
DONE = {
    'dropped': 'damaged images left out',
    'shrunk': 'to the shorter side asked for, as JPEG',
    'converted': 'to JPEG or PNG',
}
FINDINGS = {
    'suspicious': 'decodes, but not all of it is there',
    'wrong_extension': 'named for another format',
    'other_format': 'not read by TensorFlow; encoded anew as JPEG or PNG',
    'cmyk': 'CMYK or YCCK',
    'deep': 'more than 8 bits a channel',
    'grey': 'greyscale',
    'transparent': 'training ignores transparency',
    'animated': 'several frames; training sees the first',
    'rotated': 'EXIF orientation; training ignores it',
    'tiny': f'both sides below {TINY} px',
    'extreme': f'aspect over {ASPECT}:1 or side over {LARGE:,} px',
}


def findings(image: Inspected) -> list[str]:
    """The names in `FINDINGS` that apply to an image that is not damaged."""
    info = image.info
    short, long = sorted((info.width, info.height))
    holds = {
        'suspicious': bool(info.complaint),
        'wrong_extension': not _named_right(image),
        'other_format': change(info, 0) == 'converted',
        'cmyk': info.mode in ('CMYK', 'YCCK'),
        'deep': info.bits > 8,
        'grey': info.mode in GREY,
        'transparent': info.alpha,
        'animated': info.frames > 1,
        'rotated': info.orientation != 1,
        'tiny': long < TINY,
        'extreme': long > ASPECT * short or long > LARGE,
    }
    return [name for name, applies in holds.items() if applies]


def _named_right(image: Inspected) -> bool:
    suffix = '.' + image.file.name.rpartition('.')[2].lower()
    meant = Image.registered_extensions().get(suffix)
    return meant == image.info.format or (meant, image.info.format) == ('JPEG', 'MPO')


def sort_out(
    layout: Layout, infos: Mapping[str, Sequence[ImageInfo]]
) -> tuple[dict[str, list[Inspected]], list[Inspected]]:
    """Separate the images of each split from damaged files."""
    good: dict[str, list[Inspected]] = {split: [] for split in layout.files}
    damaged: list[Inspected] = []
    for split, files in layout.files.items():
        for file, info in zip(files, infos[split], strict=True):
            image = Inspected(file, info)
            (damaged if info.damage else good[split]).append(image)
    return good, damaged


def compose(
    splits: Mapping[str, Sequence[Inspected]],
    layout: Layout,
    damaged: Sequence[Inspected],
) -> dict[str, Any]:
    """The report as a JSON object; files are named by their path below the source."""
    images = [image for part in splits.values() for image in part]
    by_finding: dict[str, list[str]] = {name: [] for name in FINDINGS}
    for image in images:
        for name in findings(image):
            by_finding[name].append(image.file.path)
    sides = np.array([sorted(image.info[2:4]) for image in images] or [[0, 0]])
    classes, left_out = layout.classes, layout.left_out
    same = Counter(name.casefold() for name in classes)
    return {
        'images': len(images),
        'classes': len(classes),
        'damaged': {
            'count': len(damaged),
            'files': [{'file': i.file.path, 'reason': i.info.damage} for i in damaged],
        },
        'ignored': {
            'count': len(left_out),
            'files': [{'file': file, 'reason': reason} for file, reason in left_out],
        },
        **{name: {'count': len(files), 'files': files} for name, files in by_finding.items()},
        'suspicious': {
            'count': len(by_finding['suspicious']),
            'files': [
                {'file': i.file.path, 'reason': i.info.complaint}
                for i in images
                if i.info.complaint
            ],
        },
        **{
            name: {'count': len(groups), 'groups': [[i.file.path for i in g] for g in groups]}
            for name, groups in copies(splits).items()
        },
        'balance': {split: _balance(part, classes) for split, part in splits.items()},
        'similar_classes': [name for name in classes if same[name.casefold()] > 1],
        'sides': {
            name: {'min': int(side.min()), 'median': float(np.median(side)), 'max': int(side.max())}
            for name, side in zip(('shorter', 'longer'), sides.T, strict=True)
        },
        'formats': dict(Counter(image.info.format for image in images).most_common()),
        'source_bytes': sum(image.file.size for image in images),
    }


def _balance(images: Iterable[Inspected], classes: tuple[str, ...]) -> dict[str, Any]:
    counts = np.bincount([image.file.label for image in images], minlength=len(classes))
    small, large = int(np.argmin(counts)), int(np.argmax(counts))
    return {
        'smallest': {'class': classes[small], 'images': int(counts[small])},
        'largest': {'class': classes[large], 'images': int(counts[large])},
        'ratio': float(counts[large] / counts[small]) if counts[small] else None,
        'images': dict(zip(classes, counts.tolist(), strict=True)),
    }


def rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The rows of the table, (what, how much, details), without empty ones."""
    lines = [('images', f'{report["images"]:,}', f'{report["classes"]:,} classes')]
    for split, balance in report['balance'].items():
        small, large, ratio = balance['smallest'], balance['largest'], balance['ratio']
        images = f'{small["images"]:,} of each class'
        if ratio != 1:
            images = f'{small["class"]}: {small["images"]:,} to {large["class"]}: '
            images += f'{large["images"]:,}' + (f' (ratio {ratio:.3g})' if ratio else '')
        lines.append((split, f'{sum(balance["images"].values()):,}', images))
    shorter, longer = report['sides']['shorter'], report['sides']['longer']
    for name, side in (('shorter side', shorter), ('longer side', longer)):
        lines.append(
            (name, f'{side["median"]:,.6g} px', f'median of {side["min"]:,} to {side["max"]:,}')
        )
    formats = ', '.join(f'{count:,} {name}' for name, count in report['formats'].items())
    lines.append(('formats', f'{len(report["formats"])}', formats))
    for name, meaning in {**PROBLEMS, **FINDINGS}.items():
        entry = report[name]
        if entry['count']:
            shown = [_shown(item) for item in entry.get('files', entry.get('groups'))[:EXAMPLES]]
            more = [f'... ({entry["count"] - EXAMPLES:,} more)'][: entry['count'] > EXAMPLES]
            lines.append((name, f'{entry["count"]:,}', '\n'.join([f'{meaning}:', *shown, *more])))
    for name, meaning in DONE.items():
        if report.get(name):
            lines.append((name, f'{report[name]:,}', meaning))
    if 'written_bytes' in report:
        before, after = (
            f'{report[key] / 1e6:,.6g} MB' for key in ('source_bytes', 'written_bytes')
        )
        lines.append(('bytes', after, f'of {before} in the source'))
    if report['similar_classes']:
        lines.append(('similar_classes', '', ', '.join(report['similar_classes'])))
    return lines


def _shown(item: Any) -> str:
    if isinstance(item, dict):
        return printable(f'{item["file"]}: {item["reason"]}')
    return printable(item if isinstance(item, str) else ' = '.join(item[:4]))


def printable(text: str) -> str:
    """Text that a terminal can print, also from names that are not UTF-8."""
    return text.encode(errors='backslashreplace').decode()
