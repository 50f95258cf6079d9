"""An S3 endpoint to read from that has any key, as AWS has; MinIO refuses many."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest


@contextlib.contextmanager
def s3_endpoint(objects: Mapping[str, bytes | str], etag: str = '"tag"') -> Iterator[None]:
    """Have this process's AWS variables point at an endpoint whose one bucket is called `bucket`.

    `objects`: by key, the content, or the code of the error that a GET is answered with; `etag`:
    of all of them.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if "list-type" in query:
                self.answer(200, listing(objects, query.get("prefix", [""])[0]))
                return
            content = objects.get(unquote(url.path.removeprefix("/bucket/")), "NoSuchKey")
            if isinstance(content, bytes):
                self.answer(200, content)
            else:
                status = 404 if content == "NoSuchKey" else 403
                self.answer(status, f"<Error><Code>{content}</Code></Error>".encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", etag)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "graft-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        yield
        server.shutdown()


def listing(objects: Mapping[str, bytes | str], prefix: str) -> bytes:
    """Return a page of a listing, its keys encoded as botocore asks for it."""
    items = "".join(
        f"<Contents><Key>{quote(key)}</Key><Size>{len(content)}</Size></Contents>"
        for key, content in sorted(objects.items())
        if key.startswith(prefix)
    )
    head = "<IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>"
    return f"<ListBucketResult>{head}{items}</ListBucketResult>".encode()
