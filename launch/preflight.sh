#!/bin/bash
# Looks at this host and prints what a TitanInfer rank would miss here. Changes nothing.
#
#   launch/preflight.sh [--model PATH] [--port P]
#
# A line a check: "ok", "note" (works, but) or "MISSING". Exit code 1 when something is missing.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) model= port=8000 missing=0
while [ $# -gt 0 ]; do
  case $1 in
    --model) model=${2-}; shift ;;
    --port) port=${2-}; shift ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "preflight.sh: unknown argument '$1'" >&2; exit 2 ;;
  esac
  shift
done
ok() { printf 'ok       %s\n' "$*"; }
note() { printf 'note     %s\n' "$*"; }
miss() { printf 'MISSING  %s\n' "$*"; missing=1; }

if command -v mpirun >/dev/null; then ok "$(mpirun --version 2>/dev/null | head -1)"; else miss "mpirun: run launch/install-deps.sh"; fi
command -v srun >/dev/null && { srun --mpi=list 2>&1 | grep -q pmix && ok "Slurm with PMIx" || note "Slurm without PMIx: use mpirun inside sbatch"; }
serve=${TITAN_SERVE:-$here/../build/release/bin/titan-serve}
if [ -x "$serve" ]; then
  if ldd "$serve" 2>/dev/null | grep -q 'not found'; then miss "libraries of $serve: $(ldd "$serve" | grep 'not found' | tr -s '\t\n ' ' ')"; else ok "$("$serve" --version), libraries found"; fi
else
  miss "titan-serve at $serve: build it, or name it in TITAN_SERVE"
fi

files=$(ulimit -n)
if [ "$files" = unlimited ] || [ "$files" -ge 4096 ]; then ok "open files: $files"; else note "open files: $files; 1,000 clients want 4096 (ulimit -n)"; fi
locked=$(ulimit -l)
if [ "$locked" = unlimited ]; then ok "locked memory: unlimited"; else note "locked memory: $locked KiB; RDMA wants it unlimited (ulimit -l)"; fi
ok "CPUs this process may use: $(nproc)"
shm=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print int($4 / 1024)}')
if [ "${shm:-0}" -ge 256 ]; then ok "/dev/shm: $shm MiB free"; else note "/dev/shm: ${shm:-0} MiB free; Open MPI wants some 16 MiB a rank"; fi
free=$(awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)
ok "memory available: $free MiB"
if [ -n "$model" ]; then
  size=$(du -sLm "$model" 2>/dev/null | cut -f1)
  if [ -z "$size" ]; then miss "model $model"; elif [ "$size" -gt "$free" ]; then note "model of $size MiB, more than the memory available: cut it over several hosts"; else ok "model of $size MiB"; fi
fi
grep -q '^Seccomp:[[:space:]]*0' /proc/self/status || note "seccomp: processes may not read each other's memory; up.sh turns Open MPI's single copy off"
ls /sys/class/net 2>/dev/null | grep -qvx lo && ok "network: $(ls /sys/class/net | grep -vx lo | tr '\n' ' ')" || note "network: only lo, so only ranks of this host"
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then miss "port $port: something listens there already"; else ok "port $port is free"; fi
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then ok "GPU driver: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sort | uniq -c | tr -s ' ' | tr '\n' ';')"; else note "no GPU driver: workers run on CPUs"; fi
exit $missing
