"""Where training on many images would be held up, at how many GPUs: arithmetic from stated rates.

Prints the tables of docs/scale.md, which a test compares. Change an assumption, and print again:

    scale_model.py
    scale_model.py --set cores_per_node=192 --set image_bytes=60000
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

GPUS = (8, 64, 512)
IMAGES = (10_000_000, 100_000_000)
JOBS = {"fine-tuning": "gpu_finetune", "a frozen trunk, once": "gpu_forward"}
"""What an image is read for -> the rate of a GPU that it takes."""


def _rate(default: float, unit: str, source: str) -> float:
    rate: float = field(default=default, metadata={"unit": unit, "source": source})
    return rate


@dataclass(frozen=True)
class Assumptions:
    """What the tables follow from; each has a unit and says where it comes from."""

    image_bytes: float = _rate(120_000, "bytes", "a JPEG of 500 x 375, as import keeps it")
    gpus_per_node: float = _rate(8, "", "a usual node")
    cores_per_node: float = _rate(96, "", "a usual node: 192 threads")
    decode_rate: float = _rate(
        550, "images/s a core", "measured: decode, random crop to 224, one core (bench_input.py)"
    )
    gpu_finetune: float = _rate(
        2_500, "images/s a GPU", "ResNet-50 in bf16, published for an H100; not measured here"
    )
    gpu_forward: float = _rate(
        9_000, "images/s a GPU", "ResNet-50's forward alone; not measured here"
    )
    nic: float = _rate(12.5e9, "bytes/s a node", "100 Gbit/s")
    s3_bytes: float = _rate(50e9, "bytes/s in all", "400 Gbit/s, agreed with the provider")
    s3_requests: float = _rate(5_500, "GETs/s in all", "what AWS promises for one prefix")
    block_bytes: float = _rate(1 << 20, "bytes", "a range that the block shuffle reads at once")
    index_bytes: float = _rate(103, "bytes an image", "measured (scale.py)")
    open_s: float = _rate(
        2.0e-7, "s an image", "measured, once a process: scale.py, 2 s at 10 million"
    )
    order_s: float = _rate(
        1.4e-7, "s an image", "measured, each epoch: scale.py, 1.4 s at 10 million"
    )
    epochs: float = _rate(10, "", "of a fine-tuning")


@dataclass(frozen=True)
class Bounds:
    """What each part bears, in images/s of the whole job."""

    gpus: float
    decode: float
    nic: float
    s3_bytes: float
    s3_requests: float

    @property
    def least(self) -> tuple[str, float]:
        """The part that holds up the others, and what it bears."""
        return min(vars(self).items(), key=lambda item: item[1])


def bounds(assumed: Assumptions, gpus: int, gpu_rate: float) -> Bounds:
    """Return what the parts bear with so many GPUs, where every image comes from S3 once an epoch.

    Args:
        assumed: the rates.
        gpus: how many there are in all.
        gpu_rate: images/s that one computes.
    """
    nodes = gpus / assumed.gpus_per_node
    return Bounds(
        gpus=gpus * gpu_rate,
        decode=nodes * assumed.cores_per_node * assumed.decode_rate,
        nic=nodes * assumed.nic / assumed.image_bytes,
        s3_bytes=assumed.s3_bytes / assumed.image_bytes,
        s3_requests=assumed.s3_requests * assumed.block_bytes / assumed.image_bytes,
    )


def serial_seconds(assumed: Assumptions, images: int) -> dict[str, float]:
    """Return what no number of GPUs makes shorter, in seconds of each process, or node."""
    return {
        "index downloaded, once a node": images * assumed.index_bytes / assumed.nic,
        "index opened, once a process": images * assumed.open_s,
        "an epoch's order, each epoch": images * assumed.order_s,
    }


def assumption_table(assumed: Assumptions) -> Iterator[str]:
    """Yield the lines of the table of assumptions."""
    yield "| assumption | value | unit | where it comes from |"
    yield "|---|---|---|---|"
    for each in fields(assumed):
        value = f"{getattr(assumed, each.name):,.12g}"
        yield f"| `{each.name}` | {value} | {each.metadata['unit']} | {each.metadata['source']} |"


def bound_table(assumed: Assumptions) -> Iterator[str]:
    """Yield the lines of the table of what the parts bear; the least is in bold."""
    yield "| job | GPUs | GPUs bear | decode | NICs | S3, bytes | S3, requests | held up by |"
    yield "|---|---|---|---|---|---|---|---|"
    for job, rate in JOBS.items():
        for gpus in GPUS:
            parts = bounds(assumed, gpus, getattr(assumed, rate))
            name, _ = parts.least
            cells = [
                f"**{value:,.0f}**" if part == name else f"{value:,.0f}"
                for part, value in vars(parts).items()
            ]
            yield f"| {job} | {gpus} | {' | '.join(cells)} | {name.replace('_', ', ')} |"


def time_table(assumed: Assumptions) -> Iterator[str]:
    """Yield the lines of the table of how long an epoch takes, and what of it is serial."""
    yield "| images | GPUs | an epoch | of it serial | share |"
    yield "|---|---|---|---|---|"
    for images in IMAGES:
        serial = serial_seconds(assumed, images)
        once = sum(serial.values()) - serial["an epoch's order, each epoch"]
        for gpus in GPUS:
            _, rate = bounds(assumed, gpus, assumed.gpu_finetune).least
            each = serial["an epoch's order, each epoch"] + once / assumed.epochs
            whole = images / rate + each
            yield (
                f"| {images:,} | {gpus} | {whole / 60:,.1f} min | {each:.1f} s "
                f"| {each / whole:.1%} |"
            )


def tables(assumed: Assumptions) -> str:
    """Return all tables, as docs/scale.md has them."""
    made = (assumption_table(assumed), bound_table(assumed), time_table(assumed))
    return "\n\n".join("\n".join(lines) for lines in made)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], metavar="ASSUMPTION=VALUE")
    changes = dict(each.split("=", 1) for each in parser.parse_args().set)
    names = [each.name for each in fields(Assumptions)]
    if unknown := changes.keys() - set(names):
        parser.error(f"no assumption {min(unknown)}; there are {', '.join(names)}")
    changed = {name: float(value) for name, value in changes.items()}
    print(tables(replace(Assumptions(), **changed)))


if __name__ == "__main__":
    main()
