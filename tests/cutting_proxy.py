"""A TCP proxy that cuts connections in the middle of an answer, as networks do."""

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards connections to a server; resets some while an answer is on its way.

    Clients keep connections, so each piece that one sends, mostly a request, decides anew.
    """

    def __init__(self, target: str, share: float, span: int, seed: int = 0):
        self.share = share
        """Which part of the requests is cut off from its answer."""
        self.span = span
        """An answer that is cut breaks off within so many bytes."""
        self.cuts = 0
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._serve, args=(client, server)).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        left: list[int] = []  # the bytes of the answer before it is cut; empty: it is not
        with client, server:
            upstream = threading.Thread(target=self._ask, args=(client, server, left))
            upstream.start()
            self._answer(server, client, left)
            upstream.join()

    def _ask(self, client: socket.socket, server: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                cut = self._random.random() < self.share
                left[:] = [self._random.randrange(self.span)] if cut else []
                server.sendall(data)
        _end(client, server)

    def _answer(self, server: socket.socket, client: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                allowed = next(iter(left[:1]), len(data))  # at once: the other thread sets it
                if allowed < len(data):
                    client.sendall(data[:allowed])
                    self.cuts += 1
                    # Reset, not closed in good order.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                left[:] = [count - len(data) for count in left]
                client.sendall(data)
        _end(server, client)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cutting(target: str, share: float, span: int) -> Iterator[CuttingProxy]:
    """Run a proxy in front of the server at this URL."""
    proxy = CuttingProxy(target, share, span)
    try:
        yield proxy
    finally:
        proxy.close()
