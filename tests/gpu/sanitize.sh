#!/bin/bash
# The conformance suite of the CUDA kernels under compute-sanitizer: one table, a row a suite.
#
#   tests/gpu/sanitize.sh CONFORMANCE_GPU [-jN] [-tSECONDS] [SUITE ..]      default: -j8 -t600, every suite
#
# memcheck and synccheck run every suite; racecheck only those whose kernels move no memory by TMA and fold through no cluster's shared memory, which
# it cannot follow. A cell is "ok, seconds", "N errors", "failed" (the suite itself), or "timeout". Exit status: 0 when every cell is ok, 77 without
# compute-sanitizer or a GPU.
set -uo pipefail

[ $# -ge 1 ] && [ -x "$1" ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
program=$1
shift
jobs=8 limit=600 suites=()
for a in "$@"; do
  case $a in
    -j*) jobs=${a#-j} ;;
    -t*) limit=${a#-t} ;;
    *) suites+=("$a") ;;
  esac
done
command -v compute-sanitizer >/dev/null || { echo "sanitize.sh: no compute-sanitizer here, skipped"; exit 77; }
"$program" --backend cuda feed.none >/dev/null || { echo "sanitize.sh: no GPU here, skipped"; exit 77; }
[ ${#suites[@]} -gt 0 ] || suites=(gemm gate_up attention sample logprobs quant_fp8 rmsnorm kv_append rope_append copy_pages embed rope silu_mul add permute penalties tokens feed to_fp8 device)
race="kv_append rope_append copy_pages embed rope silu_mul add permute penalties tokens feed to_fp8"

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

cell() {  # tool suite: runs it, leaves the cell's text
  local log=$out/$1.$2.log start=$SECONDS text errors
  timeout "$limit" compute-sanitizer --tool "$1" --target-processes all --error-exitcode 86 "$program" -j4 --backend cuda "$2." >"$log" 2>&1
  local rc=$?
  errors=$(sed -n 's/.*ERROR SUMMARY: \([0-9]*\) error.*/\1/p; s/.*RACECHECK SUMMARY: \([0-9]*\) hazard.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  if [ "$rc" = 124 ]; then
    text=timeout
  elif [ "$errors" != 0 ]; then
    text="$errors errors"
  elif [ "$rc" != 0 ] || ! grep -qE '[1-9][0-9]* tests, 0 failed' "$log"; then
    text=failed
  else
    text="ok, $((SECONDS - start)) s"
  fi
  echo "$text" >"$out/$1.$2.cell"
}

for tool in memcheck synccheck racecheck; do
  for s in "${suites[@]}"; do
    [ $tool != racecheck ] || [[ " $race " == *" $s "* ]] || continue
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    cell $tool "$s" &
  done
done
wait

bad=0
printf '| suite | tests | memcheck | synccheck | racecheck |\n|---|---|---|---|---|\n'
for s in "${suites[@]}"; do
  printf '| %s | %s |' "$s" "$(sed -n 's/^\([0-9]*\) tests, .*/\1/p' "$out/memcheck.$s.log" | tail -1)"
  for tool in memcheck synccheck racecheck; do
    text=$(cat "$out/$tool.$s.cell" 2>/dev/null || echo -)
    [[ $text == ok,* || $text == - ]] || bad=1
    printf ' %s |' "$text"
  done
  printf '\n'
done
for log in "$out"/*.log; do  # what was found
  grep -E '^=+ (Error|Invalid|Barrier|Program hit|Warning: Race|Uninit)|^FAIL' "$log" | sort | uniq -c | sort -rn | head -5 | sed "s|^|${log##*/}: |"
done
exit $bad
