#!/bin/bash
# quickstart.sh --once: two workers that share the experts answer on stdout, exit 0, no process left; a wrong model: its exit code; smollm2 chats where
# it has been fetched (not over the network from here).
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
if [ -e "${XDG_CACHE_HOME:-$HOME/.cache}/titaninfer/SmolLM2-135M-Instruct.Q4_1.gguf" ]; then
  said=$(mktemp)
  chat=$("$root/launch/quickstart.sh" --once --model smollm2 --prompt 'Why is the sky blue?' 2>"$said")
  grep -q 'starting 1 worker$' "$said" || { echo "FAILED: one chat is served by one worker with all CPUs:"; cat "$said"; rm "$said"; exit 1; }
  rm "$said"
  case $chat in
    '> Why is the sky blue?'*light*) echo "ok     ${chat:0:200}" ;;
    *) echo "FAILED: smollm2 says: $chat"; exit 1 ;;
  esac
fi
echo "ok     $out"
