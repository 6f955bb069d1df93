#!/bin/bash
# The conformance suite of the CUDA kernels under compute-sanitizer: one table, a row a suite.
#
#   tests/gpu/sanitize.sh CONFORMANCE_GPU [-jN] [-tSECONDS] [SUITE ..]      default: -j8 -t600, every suite that launches kernels
#
# memcheck and synccheck run every test; racecheck only suites whose kernels move no memory by TMA and fold through no cluster's shared memory, which
# it cannot follow. -t bounds a job, which is a few tests of one suite in one process. A cell is "ok, seconds of all its jobs", "N errors", "failed"
# (a test itself) or "timeout". Exit status: 0 when every cell is ok, 77 without compute-sanitizer or a GPU.
set -uo pipefail

[ $# -ge 1 ] && [ -x "$1" ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
program=$1
shift
jobs=8 limit=600 a_job=3 suites=()
for a in "$@"; do
  case $a in
    -j*) jobs=${a#-j} ;;
    -t*) limit=${a#-t} ;;
    *) suites+=("$a") ;;
  esac
done
command -v compute-sanitizer >/dev/null || { echo "sanitize.sh: no compute-sanitizer here, skipped"; exit 77; }
"$program" --backend cuda feed.none >/dev/null || { echo "sanitize.sh: no GPU here, skipped"; exit 77; }
# not `device`: it makes launches fail on purpose
[ ${#suites[@]} -gt 0 ] || suites=(gemm gate_up attention sample logprobs shapes quant_fp8 rmsnorm kv_append rope_append copy_pages embed rope silu_mul add permute penalties tokens feed to_fp8)
race=" kv_append rope_append copy_pages embed rope silu_mul add permute penalties tokens feed to_fp8 "

export TI_CONFORMANCE_GUARD=0  # allocations end where they end
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

job() {  # tool log test..: leaves the verdict and the seconds in log.end
  local tool=$1 log=$2 start=$SECONDS errors rc verdict=ok
  shift 2
  timeout -k 2 "$limit" compute-sanitizer --tool "$tool" --error-exitcode 86 "$program" --in-process --backend cuda "$@" >"$log" 2>&1
  rc=$?
  errors=$(sed -n 's/.*ERROR SUMMARY: \([0-9]*\) error.*/\1/p; s/.*RACECHECK SUMMARY: \([0-9]*\) hazard.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  if [ $rc = 124 ] || [ $rc = 137 ]; then
    verdict=timeout
  elif [ "$errors" != 0 ]; then
    verdict=$errors
  elif [ $rc != 0 ] || ! grep -qE '[1-9][0-9]* tests, 0 failed' "$log"; then
    verdict=failed
  fi
  echo "$verdict $((SECONDS - start))" >"$log.end"
}

for s in "${suites[@]}"; do
  mapfile -t tests < <("$program" --list "$s." | grep "^$s\.")
  for tool in memcheck synccheck racecheck; do
    [ $tool != racecheck ] || [[ $race == *" $s "* ]] || continue
    for ((i = 0; i < ${#tests[@]}; i += a_job)); do
      while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
      job $tool "$out/$tool.$s.$i" "${tests[@]:i:a_job}" &
    done
  done
done
wait

bad=0
printf '| suite | tests | memcheck | synccheck | racecheck |\n|---|---|---|---|---|\n'
for s in "${suites[@]}"; do
  printf '| %s | %s |' "$s" "$("$program" --list "$s." | grep -c "^$s\.")"
  for tool in memcheck synccheck racecheck; do
    text=$(cat "$out/$tool.$s".*.end 2>/dev/null | awk '
      $1 == "timeout" || $1 == "failed" {word = $1} $1 ~ /^[0-9]/ {errors += $1} {seconds += $2}
      END {print NR == 0 ? "-" : errors ? errors " errors" : word ? word : "ok, " seconds " s"}')
    [[ $text == ok,* || $text == - ]] || bad=1
    printf ' %s |' "$text"
  done
  printf '\n'
done
for log in "$out"/*[0-9]; do  # what was found
  grep -E '^=+ (Error|Invalid|Barrier|Program hit|Warning|Uninit)|^FAIL' "$log" | sort | uniq -c | sort -rn | head -5 | sed "s|^|${log##*/}: |"
done
exit $bad
