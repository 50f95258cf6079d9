"""The bare engine: decoding and forwards of one photograph, with no server around them.

    python bare.py STORE REF ENGINE GRAPH PHOTOGRAPH SECONDS

is one process with one thread. It writes "ready", waits for a line, and then images a second as
JSON, by the batch: all processes of a measurement go through the batches at the same time.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

BATCHES = (1, 8)
READY_S = 120


def rates(
    store: str, ref: str, engine: str, graph: Path, photograph: Path, seconds: float, processes: int
) -> dict[int, float]:
    """Return images a second of so many processes together, by the batch."""
    words = [store, ref, engine, str(graph), str(photograph), str(seconds)]
    command = [sys.executable, __file__, *words]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for process in started:
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a process of the bare engine has died; see above")
        outputs = []
        for process in started:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in started:
            outputs.append(process.communicate(timeout=READY_S + 3 * seconds)[0])
    finally:
        for process in started:
            process.kill()
            process.wait()
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {batch: sum(one[str(batch)] for one in found) for batch in BATCHES}


def main(store: str, ref: str, engine: str, graph: str, photograph: str, seconds: str) -> None:
    """Be one of the processes."""
    from graft.backbones.process_setup import set_up_process
    from graft.registry import get_model
    from graft.serving.engines.engine import OnnxEngine
    from graft.serving.predictor import Predictor
    from graft.store import Store

    set_up_process(cpus=1)
    opened = Store.open(store)
    predictor = Predictor.load(opened, get_model(opened, ref))
    if engine == "onnx":
        predictor.engine = OnnxEngine(Path(graph), threads=1)
    data = Path(photograph).read_bytes()

    def answer(batch: int) -> None:
        predictor.predict([predictor.prepare(data) for _ in range(batch)])

    for batch in BATCHES:
        answer(batch)
    print("ready", flush=True)
    sys.stdin.readline()
    found = {}
    for batch in BATCHES:
        began, images = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < float(seconds):
            answer(batch)
            images += batch
        found[batch] = images / spent
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
