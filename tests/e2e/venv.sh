#!/bin/sh
# venv.sh DIR PACKAGE...: a Python virtual environment in DIR with the packages; kept between runs. Exits with 77 when it cannot be made (no index).
set -u
dir=$1
shift
if [ -x "$dir/bin/python" ] && "$dir/bin/python" -c "import sys
from importlib import import_module
[import_module(p.split('[')[0].replace('-', '_')) for p in sys.argv[1:]]" "$@" 2>/dev/null; then exit 0; fi
python3 -m venv "$dir" >/dev/null 2>&1 || { echo "skipped: python3 -m venv does not work here"; exit 77; }
timeout "${TITAN_PIP_SECONDS:-120}" "$dir/bin/pip" install -q --disable-pip-version-check --retries 1 "$@" >/dev/null 2>&1 || { echo "skipped: pip cannot install $*"; exit 77; }
