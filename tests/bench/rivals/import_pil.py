"""A plain loop over the objects of a prefix: read, decode, resize, save, one after another."""

import io
import json
import sys
import time

import boto3
from PIL import Image, ImageOps

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    bucket, _, prefix = options["source"].removeprefix("s3://").partition("/")
    out_bucket, _, out = options["store"].removeprefix("s3://").partition("/")
    s3, count, began = boto3.client("s3"), 0, time.perf_counter()
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    for page in pages:
        for listed in page.get("Contents", ()):
            data = s3.get_object(Bucket=bucket, Key=listed["Key"])["Body"].read()
            with Image.open(io.BytesIO(data)) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
            if max(image.size) > options["max_side"]:
                image.thumbnail((options["max_side"],) * 2, Image.Resampling.BILINEAR)
            file = io.BytesIO()
            image.save(file, "JPEG", quality=95)
            key = f"{out}/{listed['Key'].removeprefix(f'{prefix}/')}"
            s3.put_object(Bucket=out_bucket, Key=key, Body=file.getvalue())
            count += 1
    print(json.dumps({"images": count, "seconds": time.perf_counter() - began}))
