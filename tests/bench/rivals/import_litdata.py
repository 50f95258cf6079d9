"""LitData's `optimize` over the objects of a prefix: decoded, shrunk where too large, in chunks.

It writes into a local folder, which spares it the upload that the others do.
"""

import functools
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import boto3
from litdata import optimize
from PIL import Image


@functools.cache
def client():
    return boto3.client("s3")


def prepare(bucket, max_side, item):
    label, key = item
    data = client().get_object(Bucket=bucket, Key=key)["Body"].read()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if max(image.size) > max_side or image.mode != "RGB":
            image = image.convert("RGB")
            image.thumbnail((max_side, max_side), Image.Resampling.BILINEAR)
            file = io.BytesIO()
            image.save(file, "JPEG", quality=95)
            data = file.getvalue()
    return {"image": data, "label": label}


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    bucket, _, prefix = options["source"].removeprefix("s3://").partition("/")
    began = time.perf_counter()
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [listed["Key"] for page in pages for listed in page.get("Contents", ())]
    client.cache_clear()  # each of its processes has one of its own
    classes = sorted({key.split("/")[-2] for key in keys})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        optimize(
            functools.partial(prepare, bucket, options["max_side"]),
            [(classes.index(key.split("/")[-2]), key) for key in keys],
            output_dir=f"{folder}/chunks",
            chunk_bytes="64MB",
            num_workers=options["cores"],
        )
        seconds = time.perf_counter() - began
        index = json.loads(Path(folder, "chunks", "index.json").read_text())
    images = sum(chunk["chunk_size"] for chunk in index["chunks"])
    print(json.dumps({"images": images, "seconds": seconds}))
