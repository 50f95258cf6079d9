"""Graft's import as a job on a Ray of so many CPUs: JSON options in, a line out."""

import json
import sys
import time

import ray

from graft.cluster.local_ray import ray_session
from graft.import_job.ray_data import RayWorkers
from graft.import_job.run_import import create_import, run_import
from graft.spec import Import
from graft.store import Store

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    store, workers = Store.open(options["store"]), options["workers"]
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    with ray_session():
        began = time.perf_counter()
        spec = Import(
            kind="import",
            name="bench",
            source=options["source"],
            max_side=options["max_side"],
            test_fraction=0,
            workers=workers,
            part_files=options["part_files"],
        )
        create_import(store, spec, "bench")
        steps: dict[str, float] = {}

        def progress(pace: object) -> None:
            steps[pace.step] = time.perf_counter() - began

        finished = run_import(store, "bench", RayWorkers(store), progress)
        seconds = time.perf_counter() - began
    version = finished.dataset.partition("@")[2]
    print(f"until the last part of each step: {steps}", file=sys.stderr)
    print(json.dumps({"images": options["images"], "seconds": seconds, "version": version}))
