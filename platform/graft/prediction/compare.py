"""Two predictions of the same images: which decisions differ?"""

import io
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from graft.errors import InputError
from graft.prediction.records import ANSWERS, CHANGES, Compared, Finished, Part
from graft.store import ObjectRef, Store

COLUMNS = ("path", "sha256", "decision")
SCHEMA = pa.schema([(name, pa.string()) for name in ("path", "sha256", "before", "after")])
"""Of what changed."""
_ROWS = pa.schema([(name, pa.string()) for name in COLUMNS])
_READ_JSON = pyarrow.json.ParseOptions(
    explicit_schema=_ROWS, unexpected_field_behavior="ignore", newlines_in_values=False
)


def check_answers(other: Finished) -> None:
    """Find out whether a prediction's answers are where they were written.

    Raises:
        InputError: some are not.
    """
    there = {key for key, _ in Store.open(other.out).scan(f"{ANSWERS}/")}
    missing = [ref.name for ref in other.parts if f"{ANSWERS}/{ref.name}" not in there]
    if missing:
        raise InputError(
            f"prediction '{other.prediction}': {len(missing):,} of its {len(other.parts):,} files "
            f"of answers are no longer in {other.out}/{ANSWERS}, such as {missing[0]}; compare "
            "with another one"
        )


def compare_predictions(out: Store, parts: Iterable[Part], other: Finished) -> Compared:
    """Compare parts that are done with an earlier prediction, and write what changed.

    Images are the same where their files' SHA-256 is, wherever they lie.

    Raises:
        ObjectNotFound: the earlier one's answers are gone.
    """
    here = decisions(out, [part.answers for part in parts if part.answers])
    here = here.append_column("row", pa.array(range(here.num_rows), pa.int64()))
    earlier = decisions(Store.open(other.out), other.parts).group_by("sha256", use_threads=False)
    earlier = earlier.aggregate([("decision", "last")])
    earlier = earlier.rename_columns({"decision_last": "before"})
    both = here.join(earlier, "sha256", join_type="inner").sort_by("row")
    seen = pc.count_distinct(both["sha256"]).as_py()
    changed = both.filter(pc.not_equal(both["before"], both["decision"]))
    changes = pa.table(
        [changed[name] for name in ("path", "sha256", "before", "decision")], schema=SCHEMA
    )
    file = io.BytesIO()
    pq.write_table(changes, file)
    return Compared(
        against=other.prediction,
        model=other.model,
        images=both.num_rows,
        changed=changes.num_rows,
        only_here=here.num_rows - both.num_rows,
        only_there=earlier.num_rows - seen,
        changes=out.put(CHANGES, "all.parquet", file.getvalue()),
    )


def decisions(out: Store, refs: Sequence[ObjectRef]) -> pa.Table:
    """Return path and SHA-256 of each image, and what was decided of it, in order."""
    tables = [_read(out.get(ANSWERS, ref), ref.name) for ref in refs]
    return pa.concat_tables(tables) if tables else _ROWS.empty_table()


def _read(data: bytes, name: str) -> pa.Table:
    if name.endswith(".jsonl"):
        table = pyarrow.json.read_json(io.BytesIO(data), parse_options=_READ_JSON)
    else:
        table = pq.read_table(io.BytesIO(data), columns=list(COLUMNS))
    return table.select(list(COLUMNS)).cast(_ROWS)
