"""From a folder or tar of images to a TFDS dataset: ``jcls prepare SRC OUT``.

The result is in OUT/NAME/1.0.0, either complete or absent. After an interruption, the same command
goes on. The report names everything that is left out. The steps are files of this folder:

    find, archive (the files) -> inspect (the images) -> report, divide (what goes where)
    -> encode, write (the dataset)

`job` is the folder of an unfinished dataset, from which a run goes on.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from jcls.config.parts import choose
from jcls.data.sources.layout import TRAIN, VALIDATION, Layout
from jcls.host.disk import free_space, local
from jcls.host.machine import cores
from jcls.host.terminal import progress, say
from jcls.tools.prepare import write
from jcls.tools.prepare.divide import Inspected, Shard, fingerprint, set_aside, shards, split_rows
from jcls.tools.prepare.encode import change
from jcls.tools.prepare.find import find_files, name_dataset
from jcls.tools.prepare.inspect import Inspector
from jcls.tools.prepare.job import REPORT, Job, dump, identify
from jcls.tools.prepare.report import compose, printable, rows, sort_out

SHARD_BYTES = 256 << 20
DROP = ('none', 'damaged')
NAMED = 10  # damaged files that an error message names


def prepare(
    src: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    val: str | Path | None = None,
    val_fraction: float | None = None,
    val_incomplete: bool = False,
    max_side: int = 0,
    quality: int = 95,
    workers: int | None = None,
    drop: str = 'none',
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write a TFDS dataset in ARRAY_RECORD to OUT/NAME/1.0.0 and return the report on it.

    Its features are image (the bytes of the file), label and file_name ('<class>/<file>').

    Args:
      src: folder of class folders, with or without train/ and val/, or a tar of either, or a tar of
        a tar for each class.
      out: folder of datasets, TFDS's data_dir.
      name: name of the dataset; None to make one from the name of `src`.
      val: another such folder or tar, with the validation images.
      val_fraction: fraction of each class to set aside if there are no validation images, by
        default 0.1; 0 for a training set only.
      val_incomplete: whether the validation images may lack classes.
      max_side: limit of the shorter side in pixels, to which larger images are shrunk; 0 for no
        limit.
      quality: quality of JPEG, 1 to 100, for images that are encoded again.
      workers: number of threads; None for one on each core.
      drop: 'damaged' to leave out images that cannot be read; with 'none' they are an error.
      shard_bytes: approximate size of a file of the dataset.

    Returns:
      The report of `jcls.tools.prepare.report.compose`, which is also in report.json.
    """
    source, target = local(src), local(out)
    validation = None if val is None else local(val)
    workers = cores() if workers is None else workers
    _check(val_fraction, max_side, quality, workers, drop)
    if '://' in str(out):
        raise ValueError(
            f'{out!r}: prepare writes to local disks only; copy the dataset afterwards'
        )
    job = Job(target.resolve(), name_dataset(source, name))
    for place in (source, validation):
        if place is not None and place.resolve() in job.final.parents:
            raise ValueError(f'the dataset would be {job.final}, inside its source {place}')
    with job.locked(), ThreadPoolExecutor(workers) as pool:
        layout = find_files(source, validation, job.work, val_incomplete=val_incomplete)
        fraction = _fraction(val_fraction, layout)
        arguments = {
            'val_fraction': fraction,
            'max_side': max_side,
            'quality': quality,
            'drop': drop,
            'shard_bytes': shard_bytes,
        }
        identity = identify(layout, arguments)
        if report := job.finished(identity):
            say(f'{job.final} is complete; nothing to do')
            _show(report)
            job.clean()
            return report
        if not max_side and not job.dataset.exists():
            _check_space(identity['source.bytes'], target)
        if fraction:
            # Now already, so that its error comes first.
            split_rows(layout.files[TRAIN], layout.classes, fraction)
        began = time.perf_counter()
        splits, damaged = _inspect(layout, job, Inspector(pool, workers), drop, val_incomplete)
        if fraction:
            splits = set_aside(splits[TRAIN], layout.classes, fraction)
        report = compose(splits, layout, damaged)
        inspected = time.perf_counter()
        parts = shards(splits, shard_bytes, max_side)
        job.begin_writing({**identity, 'images.digest': fingerprint(parts)})
        content = functools.partial(write.content_of, max_side=max_side, quality=quality)
        _write(job, parts, layout.classes, content, pool, workers)
        changes = [change(image.info, max_side) for part in splits.values() for image in part]
        report |= {
            'dataset': str(job.final),
            'dropped': report['damaged']['count'],
            'shrunk': changes.count('shrunk'),
            'converted': changes.count('converted'),
            'written_bytes': job.size(job.dataset),
            'shards': {split: sum(part.split == split for part in parts) for split in splits},
            'seconds': {'inspect': inspected - began, 'write': time.perf_counter() - inspected},
            'source': [str(place) for place in (source, validation) if place is not None],
            'identity': identity,
        }
        dump(job.dataset / REPORT, report)
        job.finish()
    _show(report)
    return report


def run(**given: Any) -> dict[str, Any]:
    """The verb: prepare, print the report and return it for --json."""
    return prepare(**given)


def _check(
    val_fraction: float | None, max_side: int, quality: int, workers: int, drop: str
) -> None:
    """Raise ValueError for arguments that are wrong whatever the source contains."""
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise ValueError(f'--val_fraction={val_fraction}: must be at least 0 and less than 1')
    if max_side < 0:
        raise ValueError(f'--max_side={max_side}: must be a number of pixels, or 0 for no limit')
    if not 1 <= quality <= 100:
        raise ValueError(f'--quality={quality}: must be in 1..100')
    if workers < 1:
        raise ValueError(f'--workers={workers}: must be at least 1')
    choose(dict.fromkeys(DROP), drop, '--drop')


def _fraction(val_fraction: float | None, layout: Layout) -> float:
    """The fraction to set aside, which is 0 if there is a validation set."""
    if VALIDATION not in layout.files:
        return 0.1 if val_fraction is None else val_fraction
    if val_fraction:
        raise ValueError(f'--val_fraction={val_fraction}, but there are validation images already')
    return 0.0


def _inspect(
    layout: Layout, job: Job, inspector: Inspector, drop: str, val_incomplete: bool
) -> tuple[dict[str, list[Inspected]], list[Inspected]]:
    """Inspect every file, for `sort_out`; damaged ones are an error unless `drop` allows them."""
    everything = [file for files in layout.files.values() for file in files]
    with timed('inspecting', len(everything)) as advance:
        inspector.run(everything, job.known, job.record, advance)
    infos = {split: [job.info(file) for file in files] for split, files in layout.files.items()}
    splits, damaged = sort_out(layout, infos)
    if damaged and drop == 'none':
        report, path = compose(splits, layout, damaged), job.work / REPORT
        dump(path, report)
        _show(report)
        lines = [f'  {image.file.path}: {image.info.damage}' for image in damaged[:NAMED]]
        raise ValueError(
            f'{len(damaged):,} of {len(everything):,} files are damaged and nothing is written:\n'
            + printable('\n'.join([*lines, *['  ...'][: len(damaged) > NAMED]]))
            + f'\nall are in {path}; repair them, or leave them out with --drop damaged'
        )
    for split, images in splits.items():
        missing = set(range(len(layout.classes))) - {image.file.label for image in images}
        if missing and not (split == VALIDATION and val_incomplete):
            raise ValueError(
                f'class {layout.classes[min(missing)]!r} has no image in {split} that can be '
                'read; every class needs one'
            )
    return splits, damaged


def _write(
    job: Job,
    parts: Sequence[Shard],
    classes: tuple[str, ...],
    content: Callable[[Inspected], bytes],
    pool: ThreadPoolExecutor,
    workers: int,
) -> None:
    """Write the shards that are missing, then the metadata."""
    made_of = write.features(classes)
    paths = {job.dataset / part.file_name(job.name): part for part in parts}
    for unexpected in set(job.dataset.iterdir()) - set(paths):
        unexpected.unlink()
    todo = {p: part for p, part in paths.items() if write.count(p) != len(part.images)}
    _check_space(sum(part.estimate for part in todo.values()), job.work)
    total = sum(len(part.images) for part in parts)
    with timed('writing', total) as advance:
        advance(total - sum(len(part.images) for part in todo.values()))
        write.write_shards(todo, made_of, content, pool=pool, workers=workers, advance=advance)
    text = f'{total:,} images of {len(classes):,} classes, prepared by `jcls prepare`.'
    write.write_metadata(job.dataset, parts, made_of, text)


def _check_space(needed: int, folder: Path) -> None:
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = free_space(existing)
    if free is not None and needed * 1.02 > free:
        raise ValueError(
            f'the dataset needs about {needed / 1e9:,.2f} GB, but {existing} has only '
            f'{free / 1e9:,.2f} GB free; make room, or shrink the images with --max_side'
        )


def _show(report: Mapping[str, Any]) -> None:
    """Print the report as a table."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for justify in ('left', 'right', 'left'):
        table.add_column(justify=justify, overflow='fold')
    for row in rows(report):
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
    if 'dataset' in report:
        say(f'read it with tfds.builder_from_directory({report["dataset"]!r}).as_data_source()')


@contextmanager
def timed(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of something and, at its end, how long it took."""
    began = time.perf_counter()
    with progress(what, total) as advance:
        yield advance
    seconds = time.perf_counter() - began
    say(f'{what} {total:,} took {seconds:.1f} s ({total / max(seconds, 1e-9):,.0f} images/s)')
