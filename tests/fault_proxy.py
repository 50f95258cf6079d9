"""An HTTP proxy in front of an S3 server that fails as networks and servers do.

Which fault a request meets depends on the seed, on what it asks for, and on how often that has been
asked for: not on which of several clients is faster.
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO
from urllib.parse import urlsplit

Headers = list[tuple[str, str]]

REFUSED = "refused"
"""The connection is reset, and new ones are refused for a moment."""
RESET = "reset"
"""The connection is reset in the middle of a body: the request's, which does not reach the server
then, or the answer's."""
SLOW_DOWN = "slow down"
"""503 for a while, to all, with the document that S3 sends."""
STALL = "stall"
"""Nothing comes for a while."""
TRUNCATED = "truncated"
"""The answer's body ends early, and in good order."""
ALTERED = "altered"
"""A bit of an object's body is another one."""
LOST = "lost answer"
"""The server has done it, and the connection is reset."""
FAULTS = (REFUSED, RESET, SLOW_DOWN, STALL, TRUNCATED, ALTERED, LOST)

_SLOW_DOWN_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message><RequestId>0</RequestId></Error>"
)


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    headers: Headers
    body: bytes

    @property
    def range(self) -> str:
        """Which bytes are asked for; empty: all."""
        return next((value for name, value in self.headers if name.lower() == "range"), "")

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.method in ("PUT", "POST", "DELETE")

    @property
    def is_for_an_object(self) -> bool:
        """Whether its answer is an object's body, and no listing."""
        return self.method == "GET" and "list-type=" not in self.path


@dataclass(frozen=True)
class Answer:
    """What the server says."""

    status: int
    reason: str
    headers: Headers
    body: bytes


class _ResetError(Exception):
    """The client's connection is to be reset."""


class HttpProxy:
    """Forwards requests to a server, each as `answer` says."""

    def __init__(self, target: str):
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port)
        self._closed = False
        self._refusing = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._address = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self._address[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._closed = True
        _close(self._listener)

    def answer(self, request: Request, server: http.client.HTTPConnection) -> Answer:
        """Return the server's answer; what is derived from this does worse."""
        return forward(request, server)

    def send(self, client: socket.socket, request: Request, answer: Answer) -> None:
        """Send an answer to the client."""
        client.sendall(_head(answer) + (b"" if request.method == "HEAD" else answer.body))

    def check(self, request: Request) -> None:
        """Is called before a request's body is read."""

    def _refuse(self, seconds: float) -> None:
        """Have connections refused for so long; meanwhile, nothing more comes of this."""
        if not self._refusing.acquire(blocking=False):
            return
        try:
            _close(self._listener)
            time.sleep(seconds)
            if not self._closed:
                self._listener = socket.create_server(self._address, backlog=256)
        finally:
            self._refusing.release()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:  # refusing
                time.sleep(0.005)
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        host, port = self._target
        server = http.client.HTTPConnection(host, port)
        try:
            with client, client.makefile("rb") as stream, contextlib.closing(server):
                while request := self._receive(client, stream):
                    self.send(client, request, self.answer(request, server))
        except _ResetError:
            pass
        except (OSError, http.client.HTTPException):  # one of the two has gone
            pass

    def _receive(self, client: socket.socket, stream: BinaryIO) -> Request | None:
        line = stream.readline()
        if not line.endswith(b"\r\n"):
            return None
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers: Headers = []
        while (line := stream.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name, value.strip()))
        request = Request(method, path, headers, b"")
        try:
            self.check(request)
        except _ResetError:
            _reset(client)
            raise
        fields = {name.lower(): value for name, value in headers}
        if fields.get("expect", "").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = stream.read(int(fields.get("content-length", 0)))
        return replace(request, body=body)


def forward(request: Request, server: http.client.HTTPConnection) -> Answer:
    """Return what a server answers, whole."""
    server.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers:
        if name.lower() not in ("expect", "connection"):
            server.putheader(name, value)
    server.endheaders(request.body)
    response = server.getresponse()
    body = response.read()
    headers = [(n, v) for n, v in response.getheaders() if n.lower() != "transfer-encoding"]
    if not any(name.lower() == "content-length" for name, _ in headers):
        headers.append(("Content-Length", str(len(body))))
    return Answer(response.status, response.reason, headers, body)


def _head(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _reset(client: socket.socket) -> None:
    """Have the connection reset, and not closed in good order, when it is closed."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _close(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # else who waits in `accept` goes on waiting
    listener.close()


@dataclass
class Faults:
    """Which faults there are, and how long they last."""

    shares: Mapping[str, float] = field(default_factory=dict)
    """Part of the requests that meet a fault, among those that can, by fault."""
    seed: int = 0
    stall_s: float = 30
    storm_s: float = 0.5
    """How long a server asks all to slow down."""
    refusal_s: float = 0.2
    """How long connections are refused."""


class FaultProxy(HttpProxy):
    """Forwards requests, of which some meet a fault."""

    def __init__(self, target: str, faults: Faults):
        self.faults = faults
        self.met: Counter[str] = Counter()
        """How often each fault was met."""
        self.altered: list[str] = []
        """The paths of what came altered."""
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._storm_until = 0.0
        super().__init__(target)

    def check(self, request: Request) -> None:
        length = next((int(v) for n, v in request.headers if n.lower() == "content-length"), 0)
        if length and self._meets(RESET, request, "upload"):
            raise _ResetError
        if self._meets(REFUSED, request):
            threading.Thread(target=self._refuse, args=(self.faults.refusal_s,)).start()
            raise _ResetError

    def answer(self, request: Request, server: http.client.HTTPConnection) -> Answer:
        if self._meets(SLOW_DOWN, request):
            self._storm_until = time.monotonic() + self.faults.storm_s
        if time.monotonic() < self._storm_until:
            headers = [("Content-Type", "application/xml")]
            headers.append(("Content-Length", str(len(_SLOW_DOWN_BODY))))
            return Answer(503, "Slow Down", headers, _SLOW_DOWN_BODY)
        if self._meets(STALL, request):
            time.sleep(self.faults.stall_s)
        answer = super().answer(request, server)
        has_object = request.is_for_an_object and answer.status in (200, 206) and answer.body
        if has_object and self._meets(ALTERED, request):
            with self._lock:
                self.altered.append(request.path)
            return replace(answer, body=self._flipped(request, answer.body))
        return answer

    def send(self, client: socket.socket, request: Request, answer: Answer) -> None:
        lost = request.is_write and answer.status < 300 and self._meets(LOST, request)
        broken = request.method == "GET" and answer.body and self._meets(RESET, request, "answer")
        if lost:
            _reset(client)
            raise _ResetError
        if broken:
            client.sendall(_head(answer) + answer.body[: len(answer.body) // 2])
            _reset(client)
            raise _ResetError
        if request.method == "GET" and answer.body and self._meets(TRUNCATED, request):
            client.sendall(_head(answer) + answer.body[: self._place(request, answer.body)])
            raise _ResetError  # closed in good order: nobody has asked for a reset
        super().send(client, request, answer)

    def _meets(self, fault: str, request: Request, where: str = "") -> bool:
        share = self.faults.shares.get(fault, 0)
        if not share:
            return False
        asked = f"{request.method} {request.path} {request.range}"
        what = f"{self.faults.seed} {fault}{where} {asked}"
        with self._lock:
            self._asked[what] += 1
            meets = random.Random(f"{what} {self._asked[what]}").random() < share
            self.met[fault] += meets
        return meets

    def _place(self, request: Request, body: bytes) -> int:
        return random.Random(f"{self.faults.seed} {request.path} {self.met.total()}").randrange(
            len(body)
        )

    def _flipped(self, request: Request, body: bytes) -> bytes:
        place = self._place(request, body)
        return body[:place] + bytes([body[place] ^ 1 << place % 8]) + body[place + 1 :]


@contextlib.contextmanager
def failing(target: str, faults: Faults) -> Iterator[FaultProxy]:
    """Run a proxy in front of the server at this URL."""
    proxy = FaultProxy(target, faults)
    try:
        yield proxy
    finally:
        proxy.close()
