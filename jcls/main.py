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

from jcls import arguments

EXIT_ERROR, EXIT_KILLED = 1, 130
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later; the same command resumes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Without `argv`, the words and the process are this command's own; with it, they are a caller's.
    """
    from jcls.host import output

    with output.lasting():
        code = _main(argv)
        if reason := output.lost():
            print(f'error: cannot write to standard output: {reason}', file=sys.stderr)
            code = code or EXIT_ERROR
    return code


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = arguments.parser()
    if not words or (words[0].startswith('-') and words[0] not in ('-h', '--help')):
        words = ['train', *words]  # the default verb
    overrides, words = _split_overrides(words, parser)
    args = vars(parser.parse_args(words))
    verb, as_json = args.pop('verb'), args.pop('json', False)
    if verb == 'train' and not (args.get('workdir') or 'dry_run' in args):
        parser.error('--workdir=DIR is missing: where the run keeps everything')
    if verb in arguments.WITHOUT_CONFIG and overrides:
        parser.error(f'{verb} has no config: --config.{next(iter(overrides))} means nothing')
    elif verb not in arguments.WITHOUT_CONFIG:
        args['overrides'] = overrides
    if verb == 'train':
        args['own_process'] = argv is None
    _set_up_logging()
    try:
        name = f'{verb}_' if keyword.iskeyword(verb) else verb
        module = importlib.import_module(f'jcls.tools.{name}')
        _ignore_absent_tpu()
        result = module.run(**args)
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
    if as_json:
        print(json.dumps(result, allow_nan=False))
    if verb == 'predict' and any('error' in prediction for prediction in result):
        return EXIT_ERROR
    return EXIT_INTERRUPTED if verb == 'train' and result.get('interrupted') else 0


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


def _ignore_absent_tpu() -> None:
    if 'jax' in sys.modules:  # not all verbs need it
        from jcls.distributed import mesh

        mesh.ignore_absent_tpu()


def _has_peers() -> bool:
    return 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized()


def _leave(code: int) -> int:
    if not _has_peers():
        return code
    from jcls.distributed import launch

    launch.leave(code)


def _set_up_logging() -> None:
    """Show jcls's messages from INFO on and libraries' from WARNING on.

    Orbax logs its errors through absl and raises them as well, so absl is silent. Matplotlib speaks
    of its cache where there is no home.
    """
    logging.basicConfig(format='%(message)s', level=logging.WARNING)
    logging.getLogger('jcls').setLevel(logging.INFO)
    for name in ('absl', 'asyncio', 'matplotlib'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = _thread_error


def _thread_error(args: threading.ExceptHookArgs) -> None:
    """Orbax raises errors of its writers again in the main thread; do not print them twice."""
    if not type(args.thread).__module__.startswith('orbax'):
        threading.__excepthook__(args)


if __name__ == '__main__':
    sys.exit(main())
