#!/bin/sh
# python.sh - the interpreter that the Python tests run in: prints its path, or with arguments becomes it.
# $GPUQ_TEST_PYTHON names another one; else it is the environment that ./dev made for the present requirements.txt.
root=$(cd "$(dirname "$0")/../.." && pwd)
hash=$(sha256sum "$root/tests/python/requirements.txt" | cut -c1-12)
python=${GPUQ_TEST_PYTHON:-$root/.deps/python-$hash/bin/python}
[ $# -gt 0 ] || { echo "$python"; exit 0; }
[ -x "$python" ] || { echo "error[NOT_FOUND]: no Python for the tests at $python" >&2; echo "  try: ./dev python" >&2; exit 2; }
exec "$python" "$@"
