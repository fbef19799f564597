"""Processes of one run watch each other: when one dies, the others say which, and end.

Every process keeps a connection to the first one. A process that ends says so on it; of one that is
killed the operating system closes it. JAX alone notices that after `launch.SILENCE` seconds, and
where there is no connection it still does.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jcls.training.launch import GRACE, SILENCE

DONE, FAILED = 'done', 'failed'  # the last words of a process
PATIENCE = 5.0  # seconds for a connection
LETTER = 512  # bytes in which the first process tells where it listens


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """End this process with a message and code 1 when another one dies or fails inside.

    A process that leaves with an exception has failed. All processes enter it, after
    `jcls.training.launch.initialize`; nothing is watched where there is but one.
    """
    if jax.process_count() == 1:
        yield
        return
    watch = _Watch()
    try:
        yield
    except BaseException:
        watch.leave(FAILED)
        raise
    watch.leave(DONE)


class _Watch:
    """The connections of this process."""

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self.peers: list[socket.socket] = []
        self.over = threading.Lock()  # held from the first end on, whosever it is
        letter: dict[str, Any] = {}
        if self.index == 0:
            server = socket.create_server(('', 0), backlog=self.count)
            letter = {
                'host': socket.gethostname(),
                'port': server.getsockname()[1],
                'token': secrets.token_hex(),
            }
            letter = _from_first(letter)
            self._thread(self._accept, server, letter['token'])
        else:
            self._connect(_from_first(letter))

    def leave(self, word: str) -> None:
        """Say so, and watch no more."""
        if self.over.acquire(blocking=False):
            self._tell(word)

    def _accept(self, server: socket.socket, token: str) -> None:
        while True:
            peer, _ = server.accept()
            self._thread(self._greet, peer, token)

    def _greet(self, peer: socket.socket, token: str) -> None:
        """Listen to whoever knows the token; others, such as port scanners, are sent away."""
        peer.settimeout(PATIENCE)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            hello = json.loads(peer.makefile('r').readline())
            if secrets.compare_digest(hello['token'], token):
                self._listen(peer, self._name(hello['index'], hello['host']))
                return
        peer.close()

    def _connect(self, letter: dict[str, Any]) -> None:
        by_hand = os.environ.get('JAX_COORDINATOR_ADDRESS', '').rpartition(':')[0]
        for host in filter(None, (by_hand, letter['host'])):
            with contextlib.suppress(OSError):
                peer = socket.create_connection((host, letter['port']), timeout=PATIENCE)
                ours = {'index': self.index, 'host': socket.gethostname()}
                _send(peer, json.dumps({**ours, 'token': letter['token']}))
                self._thread(self._listen, peer, self._name(0, letter['host']))
                return
        print(
            f'{self._name(self.index, socket.gethostname())}: no connection to {letter["host"]}:'
            f'{letter["port"]}; a process that dies is noticed after {SILENCE} seconds',
            flush=True,
        )

    def _listen(self, peer: socket.socket, name: str) -> None:
        """Wait for the last word of a process."""
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.peers.append(peer)
        try:
            word = peer.makefile('r').readline().strip()
        except ConnectionResetError:
            word = ''
        except OSError:
            return  # the network is at fault: left to JAX
        if word == DONE or not self.over.acquire(blocking=False):
            return
        text = word or f'{name}, has died: killed, out of memory, or its host is gone'
        if word == FAILED:
            text = f'{name}, has failed, and says why'
        self._tell(text)
        print(f'error: {text}; this process ends, too', file=sys.stderr, flush=True)
        if 'has died' not in text:
            time.sleep(GRACE)  # what failed there may fail here, which is told better by itself
        os._exit(1)  # the process may wait in C++ for the other

    def _tell(self, word: str) -> None:
        for peer in self.peers:
            _send(peer, word)

    def _name(self, index: int, host: str) -> str:
        return f'process {index} of {self.count}, on {host}'

    @staticmethod
    def _thread(function: Any, *args: Any) -> None:
        threading.Thread(target=function, args=args, daemon=True).start()


def _from_first(letter: dict[str, Any]) -> dict[str, Any]:
    """The first process's letter, in all."""
    padded = np.frombuffer(json.dumps(letter).encode().ljust(LETTER), np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def _send(peer: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # one that has ended
        peer.sendall(f'{line}\n'.encode())
