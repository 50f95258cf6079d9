"""What a release is made of, in one folder: the wheel, its constraints, the chart, the sums.

    python deploy/dist.py FOLDER

The wheel and the chart are the same bytes wherever they are made of the same sources: no file in
them has a time, an owner or an order of its own. `make dist` puts the image there before.
"""

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "graft"
CHARTS_OWN = ("README.md", "Chart.yaml", "values.yaml", "values.schema.json")
FOLDERS = ("templates", "dashboards", "examples")
EPOCH = "1577836800"
"""2020: the oldest year that a wheel, which is a zip file, is sure to hold."""


def version() -> str:
    """Return the release that pyproject.toml names."""
    project: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["version"]


def make_wheel(folder: Path) -> None:
    """Build the wheel, with what is installed: nothing is fetched."""
    words = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", *words, "--wheel-dir", folder, ROOT],
        env={"SOURCE_DATE_EPOCH": EPOCH, "PATH": "/usr/bin:/bin"},
        check=True,
    )


def make_chart(path: Path) -> None:
    """Write the chart as `helm package` does, which puts the time into it.

    `helm install` takes the file, and `helm push` puts it into a registry of containers.
    """
    files = [CHART / name for name in CHARTS_OWN]
    files += [file for name in FOLDERS for file in (CHART / name).rglob("*") if file.is_file()]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in sorted(files):
            member = tarfile.TarInfo(f"{CHART.name}/{file.relative_to(CHART)}")
            member.size, member.mode = file.stat().st_size, 0o644
            tar.addfile(member, io.BytesIO(file.read_bytes()))
    with path.open("wb") as out, gzip.GzipFile("", "wb", 9, out, mtime=0) as compressed:
        compressed.write(packed.getvalue())


def main(folder: Path) -> None:
    """Make it all, and sums also of what lies in the folder already."""
    folder.mkdir(parents=True, exist_ok=True)
    make_wheel(folder)
    shutil.copyfile(ROOT / "constraints.txt", folder / "constraints.txt")
    make_chart(folder / f"{CHART.name}-{version()}.tgz")
    sums = folder / "SHA256SUMS"
    made = sorted(file for file in folder.iterdir() if file != sums)
    lines = []
    for file in made:
        with file.open("rb") as opened:
            lines.append(f"{hashlib.file_digest(opened, 'sha256').hexdigest()}  {file.name}\n")
    sums.write_text("".join(lines))
    for file in (*made, sums):
        print(f"{file}  {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
