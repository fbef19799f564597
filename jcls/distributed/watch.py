"""Processes of one run watch each other: when one dies, the others say which, and end.

Every process keeps a connection to the first one. A process that ends says so on it; the operating
system closes the connection of a process that is killed. Where there is no connection, JAX notices
after `launch.SILENCE` seconds.
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
from typing import Any, TextIO

import jax

from jcls.distributed.agree import gather
from jcls.distributed.launch import GRACE, SILENCE

WELCOME, DONE, FAILED = 'welcome', 'done', 'failed'  # the first and last words on a connection
DIED = 'has died: killed, out of memory, or its host is gone'
FAILING = 'has failed, and says why'
PATIENCE = 5.0  # seconds to wait for a connection
ALIVE = 30  # seconds after which an idle connection shows routers that it is in use


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """End this process with a message and code 1 when another one dies or fails inside.

    A process that leaves with an exception has failed. All processes must enter this context, after
    `jcls.distributed.launch.initialize`, as `jcls.tools.train.run` does. A single process watches
    nothing.
    """
    if jax.process_count() == 1:
        yield
        return
    watch = _Watch()
    try:
        yield
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            # Its cause may be the end of another process, which is heard of meanwhile.
            time.sleep(GRACE / 2)
        watch.leave(FAILED)
        raise
    watch.leave(DONE)


class _Watch:
    """The connections of this process."""

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self.peers: list[socket.socket] = []
        self.all_here = threading.Event()
        self.over = threading.Lock()  # held once this process ends, or another one dies or fails
        if self.index:
            self._connect(gather({})[0])
            return
        server = _server(self.count)
        port, token = server.getsockname()[1], secrets.token_hex()
        address = {'host': socket.gethostname(), 'port': port, 'token': token}
        _start(self._accept, server, gather(address)[0]['token'])
        self.all_here.wait(PATIENCE)

    def leave(self, word: str) -> None:
        """Tell the others how this process ends, unless one died or failed; stop watching."""
        if self.over.acquire(blocking=False):
            self._send_all(word)

    def _accept(self, server: socket.socket, token: str) -> None:
        while not self.all_here.is_set():
            try:
                peer, _ = server.accept()
            except OSError:  # the peer hung up, or too many files are open for now
                time.sleep(1)
            else:
                _start(self._greet, peer, token)
        server.close()

    def _greet(self, peer: socket.socket, token: str) -> None:
        """Listen to a peer that knows the token; hang up on others, such as port scanners."""
        lines = _lines(peer)
        try:
            hello = json.loads(lines.readline())
            known = secrets.compare_digest(hello['token'], token)
            name = self._name(hello['index'], hello['host'])
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            peer.close()
            return
        self.peers.append(peer)
        _send(peer, WELCOME)
        if len(self.peers) == self.count - 1:
            self.all_here.set()
        self._listen(peer, lines, name)

    def _connect(self, address: dict[str, Any]) -> None:
        by_hand = os.environ.get('JAX_COORDINATOR_ADDRESS', '').rpartition(':')[0].strip('[]')
        ours = {'index': self.index, 'host': socket.gethostname(), 'token': address['token']}
        for host in filter(None, (by_hand, address['host'])):
            with contextlib.suppress(OSError):
                peer = socket.create_connection((host, address['port']), timeout=PATIENCE)
                _send(peer, json.dumps(ours))
                lines = _lines(peer)
                # A stranger may answer, or a proxy with nobody behind it.
                if lines.readline().strip() == WELCOME:
                    self.peers.append(peer)
                    _start(self._listen, peer, lines, self._name(0, address['host']))
                    return
                peer.close()
        print(
            f'{self._name(self.index, socket.gethostname())}: no connection to {address["host"]}:'
            f'{address["port"]}; a process that dies is noticed after {SILENCE} seconds',
            flush=True,
        )

    def _listen(self, peer: socket.socket, lines: TextIO, name: str) -> None:
        """Wait for the last word of a peer, and end this process if the peer died or failed."""
        try:
            peer.settimeout(None)
            word = lines.readline().strip()
        except OSError:
            return  # the network is at fault: JAX decides what to do
        if word == DONE or not self.over.acquire(blocking=False):
            return
        died = not word or word.endswith(DIED)
        text = f'{name}, {DIED if died else FAILING}' if word in ('', FAILED) else word
        self._send_all(text)
        try:
            print(f'error: {text}; this process ends, too', file=sys.stderr, flush=True)
            # The first process ends last: as soon as it is gone, JAX aborts the others with a stack
            # trace. The pause lets a process that fails by itself say why.
            time.sleep(GRACE if self.index == 0 else 0 if died else GRACE / 2)
        finally:
            os._exit(1)  # the process may wait in C++ for the other

    def _send_all(self, word: str) -> None:
        for peer in self.peers:
            _send(peer, word)

    def _name(self, index: int, host: str) -> str:
        return f'process {index} of {self.count}, on {host}'


def _server(backlog: int) -> socket.socket:
    """A socket that listens on a free port, for IPv4 and, where there is any, IPv6."""
    if socket.has_dualstack_ipv6():
        family = socket.AF_INET6
        return socket.create_server(('', 0), family=family, backlog=backlog, dualstack_ipv6=True)
    return socket.create_server(('', 0), backlog=backlog)


def _lines(peer: socket.socket) -> TextIO:
    """A reader of what a peer says, by lines; a peer must have only one, since it reads ahead."""
    peer.settimeout(PATIENCE)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, 'TCP_KEEPIDLE'):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ALIVE)
    return peer.makefile('r')


def _send(peer: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # the peer has ended
        peer.sendall(f'{line}\n'.encode())


def _start(function: Any, *args: Any) -> None:
    threading.Thread(target=function, args=args, daemon=True).start()
