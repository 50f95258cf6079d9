"""Graft's import in this process, of any release: JSON options in, a line out."""

import json
import sys
import time

from graft.data.importing import import_dataset
from graft.store import Store

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    began = time.perf_counter()
    manifest = import_dataset(
        Store.open(options["store"]),
        options["source"],
        "bench",
        max_side=options["max_side"],
        test_fraction=0,
    ).manifest
    seconds = time.perf_counter() - began
    print(json.dumps({"images": manifest.images, "seconds": seconds, "version": manifest.version}))
