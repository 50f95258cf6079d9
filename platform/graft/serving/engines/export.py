"""A model version as a file for others, with its description, or no file.

The file is proved before it gets its name: read back as its user reads it, with the preprocessing
that its description states, it must give what training recorded, from the golden images' bytes on.
"""

import tempfile
from pathlib import Path

from graft.backbones.trunk import load_model
from graft.decisions.records import decision_in_force
from graft.errors import InputError, ServingError
from graft.registry import ModelVersion
from graft.serving.engines.description import Description, FormName, Network, Proof
from graft.serving.engines.forms import FORMS
from graft.serving.engines.golden import GOLDEN_TOLERANCE, GoldenImages
from graft.store import Store
from graft.store.objects import sha256_file


def export_version(store: Store, version: ModelVersion, form: FormName, out: Path) -> Description:
    """Write a version to `out`, and what it is to ``OUT.json``, once that is proved.

    Raises:
        InputError: one of the files exists, or their folder does not.
        ResourceError: what the form needs is not installed.
        ServingError: the architecture cannot be written so, or does not give what was recorded.
        StoreError: a payload is missing or damaged.
    """
    beside = out.with_name(f"{out.name}.json")
    for path in (out, beside):
        if path.exists():
            raise InputError(f"{path} exists; remove it, or choose another --out")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is no folder; make it, or choose another --out")
    network = Network.of(version)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        draft = Path(folder, out.name)
        FORMS[form].write(load_model(store, version), network, draft)
        proof = prove(draft, network, form, GoldenImages.read(store, version))
        description = Description(
            **dict(network),
            file=out.name,
            sha256=sha256_file(draft),
            form=form,
            input=FORMS[form].takes.format(crop=version.contract.crop),
            proof=proof,
            decision=decision_in_force(store, version),
        )
        described = Path(folder, beside.name)
        described.write_text(description.model_dump_json(indent=2) + "\n")
        described.rename(beside)
        draft.rename(out)
    return description


def prove(path: Path, network: Network, form: FormName, golden: GoldenImages) -> Proof:
    """Read an exported file as its user does, and compute the golden images' logits from bytes.

    Raises:
        ServingError: they are not those that training recorded.
    """
    replay = golden.replay(network.preprocessing, FORMS[form].read(path, network))
    if not replay.holds:
        raise ServingError(
            f"{network.model} as {form} does not give its recorded outputs, so nothing is written: "
            f"{replay}"
        )
    return Proof(
        golden_images=replay.images,
        largest_difference=replay.difference,
        tolerance=GOLDEN_TOLERANCE,
        engine=FORMS[form].runs_on,
    )
