#!/bin/sh
# What `make coverage` does: test-all under coverage.py, subprocesses included, with contexts.
set -eu
folder=${COVERAGE_FOLDER:-.coverage.d}
rm -rf "$folder"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export COVERAGE_FILE="$folder/data"
export COVERAGE_PROCESS_START="$PWD/tests/quality/coverage.ini"
rc=--rcfile=tests/quality/coverage.ini
# A fault in a test is told, and does not keep the rest from being counted.
"$BIN/python" -m coverage run $rc -m ${PYTEST#"$BIN/"} -p quality.contexts \
  -m 'not nightly and not e2e' --junitxml="$folder/junit.xml" "$@" || failed=1
"$BIN/python" -m coverage combine $rc --quiet
"$BIN/python" tests/quality/coverage_table.py "$COVERAGE_FILE"
exit "${failed:-0}"
