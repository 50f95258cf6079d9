"""A served ONNX file on LitServe, as its documentation has it: decode, batch, predict, encode.

Its one argument is a JSON object; see `Options`.
"""

import json
import sys
from time import perf_counter
from typing import Annotated, Any, TypedDict

import litserve
import numpy as np
from answers import Task, onnx_session
from fastapi import Body


class Options(TypedDict):
    model: str
    """Path of the ONNX file; its description lies beside it."""
    port: int
    workers: int
    threads: int
    batch: int


class Api(litserve.LitAPI):
    def __init__(self, options: Options):
        batch = options["batch"]
        waits = 0.005 if batch > 1 else 0.0
        super().__init__(max_batch_size=batch, batch_timeout=waits, api_path="/predict")
        self._options = options

    def setup(self, device: str) -> None:
        self._task = Task(f"{self._options['model']}.json")
        self._session = onnx_session(self._options["model"], self._options["threads"])

    # The raw body: LitServe takes any other request for JSON or a form.
    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Any:
        began = perf_counter()
        return self._task.pixels(request), began, perf_counter()

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: Any) -> Any:
        if self._options["batch"] == 1:
            return self._answers([x])[0]
        return self._answers(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output

    def _answers(self, inputs: list[Any]) -> list[dict[str, Any]]:
        pixels = np.stack([pixels for pixels, _, _ in inputs])
        rows = self._session.run(["logits"], {"pixels": pixels})[0]
        return [
            self._task.document(row, began, decoded)
            for row, (_, began, decoded) in zip(rows, inputs, strict=True)
        ]


def main(options: Options) -> None:
    server = litserve.LitServer(
        Api(options), accelerator="cpu", workers_per_device=options["workers"]
    )
    server.run(
        host="127.0.0.1",
        port=options["port"],
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
