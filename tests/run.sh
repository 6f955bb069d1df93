#!/bin/bash
# Builds TitanInfer and runs every test that this machine can run.
#
#   tests/run.sh [--quick]        --quick: fuzz targets run 5 seconds each, not 20
#
# release: unit, conformance, golden, mpi, plain, lint, e2e. asan: unit, conformance, plain. tsan: plain. fuzz: the parsers. What cannot run here is
# counted as skipped, with its reason above. The last line is the sum: "N passed, N failed, N skipped"; the exit code is 0 when none failed.
set -u

cd "$(dirname "$0")/.." || exit 1
fuzz_seconds=20
case "${1-}" in
  '') ;;
  --quick) fuzz_seconds=5 ;;
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "run.sh: unknown argument '$1'; there is only --quick" >&2; exit 2 ;;
esac
passed=0 failed=0 skipped=0
launch/install-deps.sh --tests || { echo "run.sh: packages are missing (above)" >&2; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache)
if [ "$(id -u)" = 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

# configure PRESET [flags...]
configure() {
  local preset=$1
  shift
  cmake --preset "$preset" "${launcher[@]}" "$@" >"$log" 2>&1 && return
  tail -30 "$log"
  echo "FAILED: configuring $preset"
  failed=$((failed + 1))
  return 1
}

# build PRESET [targets...]
build() {
  local preset=$1
  shift
  echo "== $preset: building"
  if ! cmake --build --preset "$preset" -j2 ${1:+--target "$@"} >"$log" 2>&1; then
    grep -E -A6 'error|FAILED|undefined' "$log" | head -60
    echo "FAILED: building $preset"
    failed=$((failed + 1))
    return 1
  fi
}

# suite PRESET JOBS [ctest flags...]: runs and adds up
suite() {
  local preset=$1 jobs=$2 all bad skip
  shift 2
  echo "== $preset: $*"
  ctest --test-dir "build/$preset" -j"$jobs" --output-on-failure "$@" 2>&1 | tee "$log"
  all=$(sed -n 's/.*tests passed, .* tests failed out of \([0-9]*\).*/\1/p; s/^100% tests passed.* out of \([0-9]*\).*/\1/p' "$log" | head -1)
  bad=$(sed -n 's/.*tests passed, \([0-9]*\) tests failed out of.*/\1/p' "$log" | head -1)
  skip=$(grep -c '\*\*\*Skipped' "$log")
  if [ -z "$all" ]; then
    grep -q 'No tests were found' "$log" && return
    echo "FAILED: ctest gave no summary for $preset"
    failed=$((failed + 1))
    return
  fi
  failed=$((failed + ${bad:-0}))
  skipped=$((skipped + skip))
  passed=$((passed + all - ${bad:-0} - skip))
}

# targets PRESET NAMES: the programs that tests of these names run; a sanitizer build needs no more.
targets() {
  find "build/$1/tests" -name CTestTestfile.cmake -exec grep -hE "^add_test\(\[?=?\[?($2)\." {} + | grep -oE "/build/$1/bin/[^\" ]+" | sed 's|.*/bin/||' | sort -u
}

if configure release && build release; then
  suite release 2 -L 'unit|conformance|golden|plain|lint'
  suite release 1 -L mpi
  suite release 1 -L e2e
fi
if configure asan; then
  mapfile -t names < <(targets asan 'unit|conformance|plain')
  build asan "${names[@]}" && suite asan 2 -L 'unit|conformance|plain'
fi
if configure tsan; then
  mapfile -t names < <(targets tsan 'plain')
  build tsan "${names[@]}" && suite tsan 1 -L plain
fi
if command -v clang >/dev/null; then
  if configure fuzz -DTI_FUZZ_SECONDS=$fuzz_seconds; then
    mapfile -t names < <(targets fuzz 'fuzz')
    build fuzz "${names[@]}" && suite fuzz 2 -L fuzz
  fi
else
  echo "skipped: fuzz: no clang"
  skipped=$((skipped + 1))
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
