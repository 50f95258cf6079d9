"""A served ONNX file on KServe's Python server: a custom predictor, which takes the raw body.

Its one argument is a JSON object; see `Options`.
"""

import asyncio
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from time import perf_counter
from typing import Any, TypedDict

import kserve
from answers import Task, onnx_session
from kserve import model_server
from kserve.protocol.rest.multiprocess import server as multiprocess
from kserve.protocol.rest.multiprocess.server import RESTServerProcess
from kserve.protocol.rest.server import RESTServer


class Options(TypedDict):
    model: str
    """Path of the ONNX file; its description lies beside it."""
    port: int
    workers: int
    threads: int


class Predictor(kserve.Model):
    """Goes to other processes as its options: each has a session of its own, made as it is used."""

    def __init__(self, options: Options):
        super().__init__("bench")
        self._options = options
        self.ready = True

    @cached_property
    def _task(self) -> Task:
        return Task(f"{self._options['model']}.json")

    @cached_property
    def _session(self) -> Any:
        return onnx_session(self._options["model"], self._options["threads"])

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._options["threads"] + 1)

    async def predict(self, payload: bytes, *_: object) -> dict[str, Any]:  # type: ignore[override]
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, payload)

    def _answer(self, data: bytes) -> dict[str, Any]:
        began = perf_counter()
        pixels = self._task.pixels(data)
        decoded = perf_counter()
        logits = self._session.run(["logits"], {"pixels": pixels[None]})[0][0]
        return self._task.document(logits, began, decoded)


class Quiet(RESTServer):
    """KServe's own listens at all addresses, and writes three lines for every request."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.config.host = "127.0.0.1"

    def create_application(self) -> None:
        super().create_application()
        for name in ("uvicorn.access", "kserve.trace"):
            logging.getLogger(name).disabled = True


class Patient(RESTServerProcess):
    """KServe's own kills a process that has not come up within 5 seconds, and starts another."""

    def is_alive(self, timeout: float = 60) -> bool:
        return super().is_alive(timeout)


def main(options: Options) -> None:
    model_server.RESTServer = multiprocess.RESTServer = Quiet
    multiprocess.RESTServerProcess = Patient
    server = kserve.ModelServer(
        http_port=options["port"],
        workers=options["workers"],
        enable_grpc=False,
        enable_latency_logging=False,
    )
    server.start([Predictor(options)])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
