"""An S3 endpoint whose conditional writes are not exclusive: it checks first, and writes later.

So some servers do; `graft store check` finds that out.
"""

import contextlib
import http.client
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from fault_proxy import Answer, HttpProxy, Request, forward

BETWEEN_S = 0.003
"""Seconds from the check to the write."""
_CONDITIONS = ("if-match", "if-none-match")


class Unfenced(HttpProxy):
    """Forwards requests; decides on conditions by itself, and sends the writes without them."""

    def __init__(self, environment: Mapping[str, str]):
        self._credentials = Credentials(
            environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        )
        self._region = environment["AWS_REGION"]
        super().__init__(environment["AWS_ENDPOINT_URL"])

    def answer(self, request: Request, server: http.client.HTTPConnection) -> Answer:
        conditions = {n.lower(): v for n, v in request.headers if n.lower() in _CONDITIONS}
        if request.method != "PUT" or not conditions:
            return forward(request, server)
        now = forward(self._signed("HEAD", request, b""), server)
        etag = dict(now.headers).get("ETag") if now.status == 200 else None
        holds = etag == conditions["if-match"] if "if-match" in conditions else etag is None
        if not holds:
            body = b"<Error><Code>PreconditionFailed</Code></Error>"
            return Answer(412, "Failed", [("Content-Length", str(len(body)))], body)
        time.sleep(BETWEEN_S)
        return forward(self._signed("PUT", request, request.body), server)

    def _signed(self, method: str, request: Request, body: bytes) -> Request:
        """Return a request without conditions; its signature is new, since it covers headers."""
        url = f"http://{self._target[0]}:{self._target[1]}{request.path}"
        signed = AWSRequest(method=method, url=url, data=body)
        S3SigV4Auth(self._credentials, "s3", self._region).add_auth(signed)
        headers = [*signed.headers.items(), ("Host", url.split("/")[2])]
        headers.append(("Content-Length", str(len(body))))
        return replace(request, method=method, headers=headers, body=body)


@contextlib.contextmanager
def unfenced(environment: Mapping[str, str]) -> Iterator[str]:
    """Run such an endpoint in front of a server; yield its URL."""
    proxy = Unfenced(environment)
    try:
        yield proxy.url
    finally:
        proxy.close()
