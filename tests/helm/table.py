"""Writes the table of values in the chart's README, from the comments of values.yaml.

python tests/helm/table.py
"""

import re
from collections.abc import Iterator
from pathlib import Path

CHART = Path(__file__).parents[2] / "helm" / "graft"
README = CHART / "README.md"
BEGIN, END = "<!-- values: python tests/helm/table.py -->\n", "<!-- end of values -->\n"


def rows(values: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield key, default and comment of what has a comment or a default."""
    path: list[str] = []
    comment: list[str] = []
    for line in values.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
            continue
        if found := re.fullmatch(r"( *)([\w-]+):(?: (.+))?", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            if comment or found[3]:
                yield ".".join(path), found[3], " ".join(comment)
        elif line:
            raise ValueError(f"values.yaml: a value takes one line, found: {line}")
        comment = []


def readme_with_table(readme: str, values: str) -> str:
    """Return the README with the table as it has to be."""
    lines = ["| value | default | what it is |", "|---|---|---|"]
    for key, default, comment in rows(values):
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{key}` | {shown} | {comment} |")
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + "\n".join(lines) + "\n" + END + after


if __name__ == "__main__":
    table = readme_with_table(README.read_text(), (CHART / "values.yaml").read_text())
    README.write_text(table)
