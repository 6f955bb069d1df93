#!/bin/sh
# lm_eval.sh BUILD_DIR [STORIES]: lm-eval's local-completions against a cluster. Not among the tests: it installs some 700 MB. Exits with 77 where that is not possible.
set -eu
here=$(dirname "$0")
TITAN_PIP_SECONDS=900 "$here/venv.sh" "$1/venv-eval" "lm-eval[api]" transformers
export TITAN_SERVE="${TITAN_SERVE:-$1/bin/titan-serve}"
exec python3 "$here/lm_eval_task.py" "$1/venv-eval" "$1/lm-eval" ${2:+"$2"}
