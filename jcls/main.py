"""The command line and nothing else.

python -m jcls.main --config FILE.py[:arg] --workdir DIR [--config.section.field=value ...]
jcls VERB ...
"""

from __future__ import annotations

import argparse
import importlib
import json
import keyword
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from jcls import arguments

EXIT_ERROR, EXIT_KILLED = 1, 130
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later; the same command resumes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = arguments.parser()
    if not words or (words[0].startswith('-') and words[0] not in ('-h', '--help')):
        words = ['train', *words]  # the verb that may be left out
    overrides, words = _split_overrides(words, parser)
    args = parser.parse_args(words)
    if args.verb == 'train' and not (args.workdir or args.dry_run):
        parser.error('--workdir=DIR is missing: where the run keeps everything')
    _set_up_logging()
    try:
        code, result = _train(args, overrides) if args.verb == 'train' else _verb(args, overrides)
    except KeyboardInterrupt:
        print('interrupted; what was saved before is intact', file=sys.stderr)
        return _leave(EXIT_KILLED)
    except Exception as error:
        expected = isinstance(error, (ValueError, OSError, FloatingPointError))
        if _has_peers() and type(error).__name__ == 'JaxRuntimeError':
            print(f'error: a process of this run failed; see its output ({error})', file=sys.stderr)
        elif expected and not os.environ.get('JCLS_TRACEBACK'):
            print(f'error: {error}', file=sys.stderr)
        elif _has_peers():
            traceback.print_exc()
        else:
            raise
        return _leave(EXIT_ERROR)
    if args.json:
        print(json.dumps(result))
    return code


def _split_overrides(
    words: list[str], parser: argparse.ArgumentParser
) -> tuple[dict[str, str], list[str]]:
    """Take ``--config.a.b=value`` (or with a space) out of the words."""
    overrides: dict[str, str] = {}
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if re.match(r'config\.[\w.\[\]]+=', word):
            parser.error(f'{word!r}: write --{word}')
        if not word.startswith('--config.'):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix('--config.').partition('=')
        if not equals:
            value = next(remaining, '--')
            if value.startswith('--'):
                parser.error(f'{word!r} lacks a value: write {word}=VALUE')
        overrides[key] = value
    return overrides, rest


def _train(args: argparse.Namespace, overrides: dict[str, Any]) -> tuple[int, Any]:
    from jcls.distributed import launch

    launch.initialize(args.distributed, wait=args.distributed_wait)
    from jcls.distributed import watch
    from jcls.tools import train

    if args.dry_run:
        return 0, _dry_run(args, overrides)
    with watch.watching():
        config = train.load_config(args.config, overrides)
        result = train.train(config, args.workdir)
    facts = {'step': result.step, 'total': result.total, 'workdir': str(result.workdir)}
    code = EXIT_INTERRUPTED if result.interrupted else 0
    return code, {**facts, **result.metrics, 'interrupted': result.interrupted}


def _dry_run(args: argparse.Namespace, overrides: dict[str, Any]) -> Any:
    import tempfile

    import jax

    from jcls.tools import train

    if jax.process_count() > 1:
        raise ValueError('--dry_run is for one process: add --distributed=off')
    shrunk = train.dry_run(args.config, overrides)
    print('dry run of', args.config, 'with')
    print('\n'.join(f'  --config.{key}={value}' for key, value in shrunk.items()))
    config = train.load_config(args.config, shrunk)
    with tempfile.TemporaryDirectory() as folder:
        result = train.train(config, folder, summary=False)
    print(f'dry run of {args.config}: done')
    return {'step': result.step, **result.metrics}


def _verb(args: argparse.Namespace, overrides: dict[str, Any]) -> tuple[int, Any]:
    name = f'{args.verb}_' if keyword.iskeyword(args.verb) else args.verb
    tool = importlib.import_module(f'jcls.tools.{name}')
    return 0, tool.run(args, overrides)


def _has_peers() -> bool:
    return 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized()


def _leave(code: int) -> int:
    if not _has_peers():
        return code
    from jcls.distributed import launch

    launch.leave(code)


def _set_up_logging() -> None:
    """Our own notes at INFO, libraries' from WARNING on; Orbax's (absl) errors reach us anyway."""
    logging.basicConfig(format='%(message)s', level=logging.WARNING)
    logging.getLogger('jcls').setLevel(logging.INFO)
    for name in ('absl', 'asyncio'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = _thread_error


def _thread_error(args: threading.ExceptHookArgs) -> None:
    """Orbax's writers raise their errors again where the loop waits for them: once will do."""
    if not type(args.thread).__module__.startswith('orbax'):
        threading.__excepthook__(args)


if __name__ == '__main__':
    sys.exit(main())
