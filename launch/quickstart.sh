#!/bin/bash
# From a fresh checkout to an answer: installs what is missing, builds, starts a cluster on this machine, streams the answer to a prompt, keeps serving.
#
#   launch/quickstart.sh [--once] [--workers N] [--model NAME|PATH] [--prompt TEXT] [--port P]
#
#   --once          stop after the answer
#   --workers N     worker ranks (2; smollm2: 1, with all CPUs, the fastest for one chat)
#   --model         a bundled model's name (titan-tiny-moe), smollm2 (fetched once, 98 MB: a model to chat with) or a path
#   --prompt TEXT   what to continue, or to answer in a chat
#   --port P        of HTTP (8000; with --once a free one)
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
once= workers= model=titan-tiny-moe prompt= port=
while [ $# -gt 0 ]; do
  case $1 in
    --once) once=1 ;;
    --workers | --model | --prompt | --port)
      [ $# -gt 1 ] || { echo "quickstart.sh: $1: expected a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift
      ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart.sh: unknown argument '$1'; --help lists them" >&2; exit 2 ;;
  esac
  shift
done
chat=
[ "$model" != smollm2 ] || [ -e "$model" ] || chat=1
[ -n "$workers" ] || workers=$([ -n "$chat" ] && echo 1 || echo 2)
case $workers in
  *[!0-9]* | 0) echo "quickstart.sh: --workers '$workers': expected a number from 1" >&2; exit 2 ;;
esac
[ -n "$port" ] || port=$([ -n "$once" ] && echo 0 || echo 8000)
[ -n "$prompt" ] || prompt=$([ -n "$chat" ] && echo 'Why is the sky blue?' || echo 'Once upon a time, there was a little girl named Lily.')
[ -d "$model" ] || [ ! -d "$root/models/$model" ] || model=$root/models/$model

tmp=$(mktemp -d) || exit 5
up=
finish() {
  trap - EXIT
  if [ -n "$up" ] && kill -0 "$up" 2>/dev/null; then
    kill -TERM "$up" 2>/dev/null
    wait "$up"
  fi
  rm -rf "$tmp"
  exit "$1"
}
trap 'finish 5' EXIT
trap 'finish 0' TERM INT

"$here/install-deps.sh" || finish 5
echo "quickstart: building" >&2
if ! (cd "$root" && cmake --preset release && cmake --build --preset release --target titan-serve) >"$tmp/build.log" 2>&1; then
  tail -40 "$tmp/build.log" >&2
  echo "quickstart: the build failed" >&2
  finish 5
fi
# the command line client comes with the same build where it is there
(cd "$root" && cmake --build --preset release --target titan) >>"$tmp/build.log" 2>&1

# A dense model is cut in two where the workers come in pairs; experts are spread over all of them as they are. SmolLM2's 9 and 3 heads are not halved.
tp=1
[ $((workers % 2)) -ne 0 ] || [ -n "$chat" ] || grep -q 'n_routed_experts\|num_local_experts\|num_experts"' "$model/config.json" 2>/dev/null || tp=2
echo "quickstart: starting $workers worker$([ "$workers" -eq 1 ] || echo s)" >&2
TITAN_LOG_LEVEL=${TITAN_LOG_LEVEL:-warn} "$here/up.sh" --workers "$workers" --model "$model" --tensor-parallel-size $tp --port "$port" --ready-file "$tmp/ready" --shutdown-timeout 5 &
up=$!
for _ in $(seq $([ -n "$chat" ] && echo 6600 || echo 1200)); do  # two minutes, and what fetch-model.sh may take
  [ -s "$tmp/ready" ] && break
  if ! kill -0 "$up" 2>/dev/null; then
    wait "$up"
    code=$?
    up=
    finish "$code"
  fi
  sleep 0.1
done
[ -s "$tmp/ready" ] || { echo "quickstart: the cluster was not ready in time" >&2; finish 4; }
url=$(cat "$tmp/ready")
echo "quickstart: serving at $url" >&2

if [ -n "$chat" ]; then
  echo "> $prompt"
  "$root/build/release/bin/titan" chat --url "$url" --max-tokens 128 --temperature 0 "$prompt"
elif printf '%s' "$prompt" && [ -x "$root/build/release/bin/titan" ]; then
  "$root/build/release/bin/titan" complete --url "$url" --max-tokens 64 --temperature 0 "$prompt"
else
  python3 - "$url" "$prompt" <<'P'
import json, sys, urllib.request
body = json.dumps({"prompt": sys.argv[2], "max_tokens": 64, "temperature": 0, "stream": True}).encode()
with urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/v1/completions", body, {"Content-Type": "application/json"}), timeout=60) as r:
    for line in r:
        if line.startswith(b"data: {"):
            for c in json.loads(line[6:]).get("choices", []):
                print(c["text"], end="", flush=True)
P
fi
answered=$?
echo
if [ -n "$once" ] || [ $answered -ne 0 ]; then
  kill -TERM "$up" 2>/dev/null
  wait "$up"
  code=$?
  up=
  [ $answered -eq 0 ] || code=5
  finish "$code"
fi
if [ -n "$chat" ] && [ -t 0 ]; then
  "$root/build/release/bin/titan" chat --url "$url"
  finish 0
fi
echo "quickstart: still serving; for example
  curl $url/v1/completions -H 'Content-Type: application/json' -d '{\"prompt\": \"The sun\", \"max_tokens\": 32}'
Ctrl-C ends it." >&2
wait "$up"
code=$?
up=
finish "$code"
