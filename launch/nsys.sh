#!/bin/bash
# Nsight Systems around titan-serve: one report a rank, with CUDA calls, kernels, MPI and the NVTX ranges that --trace switches on.
#
#   launch/nsys.sh OUT [--workers N] [titan-serve flags]     writes OUT/rank-0.nsys-rep (the coordinator), OUT/rank-1.nsys-rep ..
#
#   TITAN_NSYS          nsys, where it is not in the PATH
#   TITAN_NSYS_FLAGS    instead of: --delay 5 --duration 20 (seconds after each rank's start; load the cluster meanwhile, with `titan bench`)
#
# Decode steps are CUDA graphs: --cuda-graph-trace=node shows their kernels one by one and costs a few percent; --enforce-eager launches them one by one.
set -euo pipefail

[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
nsys=${TITAN_NSYS:-$(command -v nsys || true)}
[ -x "$nsys" ] || { echo "nsys.sh: no nsys: install Nsight Systems (nsight-systems-cli), or name it in TITAN_NSYS" >&2; exit 2; }
serve=${TITAN_SERVE:-$here/../build/cuda/bin/titan-serve}
[ -x "$serve" ] || { echo "nsys.sh: no $serve: build it (cmake --preset cuda && cmake --build --preset cuda --target titan-serve)" >&2; exit 2; }

# up.sh starts one program in every rank: this one, which profiles the server under the rank's own name.
run=$(mktemp)
trap 'rm -f "$run"' EXIT
cat >"$run" <<R
#!/bin/bash
exec "$nsys" profile ${TITAN_NSYS_FLAGS---delay 5 --duration 20} --trace cuda,nvtx,mpi --mpi-impl openmpi --cuda-graph-trace=node --kill none --force-overwrite true \\
  --output "$out/rank-\$OMPI_COMM_WORLD_RANK" "$serve" "\$@"
R
chmod +x "$run"
TITAN_SERVE=$run "$here/up.sh" --trace "$out/trace.json" "$@" &
up=$!
trap 'kill -TERM $up 2>/dev/null || true' TERM INT HUP  # up.sh drains the cluster
code=0
while kill -0 $up 2>/dev/null; do
  code=0
  wait $up || code=$?
done
exit $code
