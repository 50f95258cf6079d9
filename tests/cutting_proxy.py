"""A TCP proxy that cuts connections in the middle of an answer, as networks do."""

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards connections to a server; resets some of them after a random number of bytes."""

    def __init__(self, target: str, share: float, span: int, seed: int = 0):
        self.share = share
        """Which part of the connections is cut."""
        self.span = span
        """A cut connection breaks off within so many bytes of the server's answers."""
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
                cut = self._random.random() < self.share
                left = self._random.randrange(self.span) if cut else None
                server = socket.create_connection(self._target)
                threading.Thread(target=self._serve, args=(client, server, left)).start()

    def _serve(self, client: socket.socket, server: socket.socket, left: int | None) -> None:
        with client, server:
            upstream = threading.Thread(target=self._forward, args=(client, server, None))
            upstream.start()
            self._forward(server, client, left)
            upstream.join()

    def _forward(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if left is not None and len(data) > left:
                    sink.sendall(data[:left])
                    self.cuts += 1
                    # Reset, not closed in good order.
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                left = None if left is None else left - len(data)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cutting(target: str, share: float, span: int) -> Iterator[CuttingProxy]:
    """Run a proxy in front of the server at this URL."""
    proxy = CuttingProxy(target, share, span)
    try:
        yield proxy
    finally:
        proxy.close()
