#!/bin/bash
# Starts titan-serve under mpirun on this machine (or on the hosts that TITAN_MPIRUN_FLAGS names) and ends with titan-serve's own exit code.
#
#   launch/up.sh [--workers N] [titan-serve flags]        titan-serve --help lists them
#
#   --workers N             worker ranks, besides the coordinator (1)
#   --model smollm2         fetched once and kept (launch/fetch-model.sh); served under that name
#   TITAN_SERVE             the binary (build/release/bin/titan-serve, else the one in PATH)
#   TITAN_MPIRUN_FLAGS      more flags for mpirun, such as --hostfile FILE
#
# SIGTERM and SIGINT drain the cluster. Exit codes: 0 fine, 2 usage, 3 model, 4 cluster, 5 internal; from the status file, for with recovery on
# mpirun's own is always 0. No process is left behind: what still lives 5 s after the end was told is killed.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
workers=1 status= args=()
while [ $# -gt 0 ]; do
  case $1 in
    --workers) workers=${2-}; shift $(($# > 1 ? 2 : 1)); continue ;;
    --workers=*) workers=${1#*=}; shift; continue ;;
    --model | --model=*)
      model=${1#--model=}
      [ "$1" != --model ] || model=${2-}
      if [ "$model" = smollm2 ] && [ ! -e "$model" ]; then
        path=$("$here/fetch-model.sh" "$model") || exit 3
        export TITAN_SERVED_MODEL_NAME=${TITAN_SERVED_MODEL_NAME:-$model}  # --served-model-name counts more
        args+=(--model "$path")
        [ "$1" != --model ] || shift
        shift
        continue
      fi
      ;;
    --status-file) status=${2-} ;;
    --status-file=*) status=${1#*=} ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
  esac
  args+=("$1")
  shift
done
case $workers in
  '' | *[!0-9]* | 0) echo "up.sh: --workers '$workers': expected a number from 1" >&2; exit 2 ;;
esac

serve=${TITAN_SERVE:-$here/../build/release/bin/titan-serve}
[ -x "$serve" ] || serve=$(command -v titan-serve) || { echo "up.sh: no titan-serve: build it (cmake --preset release && cmake --build --preset release --target titan-serve)" >&2; exit 2; }
command -v mpirun >/dev/null || { echo "up.sh: no mpirun: run launch/install-deps.sh" >&2; exit 4; }

tmp=$(mktemp -d) || exit 5
trap 'rm -rf "$tmp"' EXIT
if [ -z "$status" ]; then
  status=$tmp/status
  args+=(--status-file "$status")
fi
rm -f "$status"

flags=(-np $((workers + 1)) --oversubscribe --bind-to none --enable-recovery --mca pml ob1 --mca btl self,vader,tcp)
ls /sys/class/net 2>/dev/null | grep -qvx lo || flags+=(--mca btl_tcp_if_include lo)
# Where one process may not read another's memory (containers), shared memory is copied twice.
grep -q '^Seccomp:[[:space:]]*0' /proc/self/status && [ "$(cat /proc/sys/kernel/yama/ptrace_scope 2>/dev/null || echo 0)" = 0 ] || flags+=(--mca btl_vader_single_copy_mechanism none)
command -v ssh >/dev/null || flags+=(--mca plm isolated)
if [ "$(id -u)" = 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export PMIX_MCA_gds=${PMIX_MCA_gds:-hash}
export TMPDIR=$tmp  # control sockets and MPI's session go with it, however the ranks end
# shellcheck disable=SC2086  # word splitting is meant
setsid mpirun "${flags[@]}" ${TITAN_MPIRUN_FLAGS-} "$serve" "${args[@]}" </dev/null 2> >(grep --line-buffered -v -e '^mpirun: Forwarding signal' -e 'PMIX ERROR: BAD-PARAM' >&2) &
pid=$!

drain() { kill -USR1 "$pid" 2>/dev/null; }  # mpirun passes it on; SIGTERM would make it kill the ranks
trap drain TERM INT HUP

# Kills every process of mpirun's session (ranks have process groups of their own); true while there is one that has not ended.
kill_session() {
  local f s left=1
  for f in /proc/[0-9]*/stat; do
    { s=$(<"$f"); } 2>/dev/null || continue
    set -- ${s##*) }
    [ "${4-}" = "$pid" ] && [ "$1" != Z ] || continue
    f=${f#/proc/}
    kill -9 "${f%/stat}" 2>/dev/null && left=0
  done
  return $left
}

mkfifo "$tmp/bell" && exec 9<>"$tmp/bell"
grace=
while kill -0 "$pid" 2>/dev/null; do
  read -r -t 0.2 -u 9 _  # sleeps without a process of its own
  [ -s "$status" ] || continue
  grace=${grace:-$((SECONDS + 5))}
  [ $SECONDS -lt "$grace" ] || kill_session
done
wait "$pid" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
  kill_session || break
  read -r -t 0.1 -u 9 _
done

code=$(sed -n 's/^{"exit": \([0-9]*\),.*/\1/p' "$status" 2>/dev/null)
if [ -z "$code" ]; then
  echo "up.sh: titan-serve ended without a word (no status file): its coordinator was killed" >&2
  code=4
fi
exit "$code"
