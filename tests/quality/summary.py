"""The end of CI's log: `summary.py FOLDER [STEP ...]`, of steps' logs and the steps that failed.

Names what passed only on its second try, what was skipped, with its reason, and what did not run,
then the steps that failed, and ends with all runs of pytest added up, on a line. Its exit code is
the run's.
"""

import re
import sys
from collections import Counter
from pathlib import Path

_END = re.compile(r"^=+ (.*) in [\d.]+s(?: \([\d:]+\))? =+$", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (passed|failed|error|skipped|flaky)")
_NAMED = re.compile(
    r"^(?:FLAKY|SKIPPED|NOT RUN|FAILED twice|FAILED, with no whole second try)\b.*", re.MULTILINE
)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def summarise(logs: list[str], failed: list[str]) -> tuple[str, int]:
    """Return what is to be said, and the exit code."""
    counts: Counter[str] = Counter()
    named: list[str] = []
    for log in logs:
        plain = _COLOURS.sub("", log)
        for end in _END.findall(plain)[-1:]:
            counts.update({what: int(number) for number, what in _COUNT.findall(end)})
        named += _NAMED.findall(plain)
    lost = counts["failed"] + counts["error"]
    lines = [*dict.fromkeys(named), *(f"FAILED step: {step}" for step in failed)]
    # A step that fails and no test: what is read of this line must not be green.
    lines.append(
        f"{counts['passed'] + counts['flaky']} passed, "
        f"{max(lost, len(failed))} failed, {counts['skipped']} skipped"
    )
    return "\n".join(lines), int(bool(failed or lost))


if __name__ == "__main__":
    folder, *steps = sys.argv[1:]
    said, code = summarise([log.read_text() for log in sorted(Path(folder).glob("*.log"))], steps)
    print(said)
    sys.exit(code)
