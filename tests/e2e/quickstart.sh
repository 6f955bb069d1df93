#!/bin/bash
# quickstart.sh --once: an answer on stdout, exit 0, no process left; a wrong model: its exit code.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$("$root/launch/quickstart.sh" --once --prompt 'Once upon a time, there was a little girl named Lily.' 2>/dev/null)
rc=$?
case $out in
  *'She loved to play outside'*) ;;
  *) echo "FAILED: the answer is: $out"; exit 1 ;;
esac
[ $rc -eq 0 ] || { echo "FAILED: exit $rc"; exit 1; }
"$root/launch/quickstart.sh" --once --model /no/such/model >/dev/null 2>&1
rc=$?
[ $rc -eq 3 ] || { echo "FAILED: a model that is not there: exit $rc, expected 3"; exit 1; }
echo "ok     $out"
