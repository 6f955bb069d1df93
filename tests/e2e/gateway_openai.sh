#!/bin/sh
# gateway_openai.sh GATEWAY_FAKE MODEL_DIR VENV: the suite with OpenAI's own client, against the gateway over the fake backend.
set -u
here=$(dirname "$0")
"$here/venv.sh" "$3" openai || exit $?
log=$(mktemp)
"$1" --model "$2" --api-key suite-key --tps 300 >"$log" &
pid=$!
trap 'kill $pid 2>/dev/null; rm -f "$log"' EXIT
i=0
while ! grep -q '^port' "$log"; do
  i=$((i + 1))
  [ $i -gt 100 ] && { echo "gateway_fake does not start"; exit 1; }
  sleep 0.05
done
"$3/bin/python" "$here/openai_suite.py" --base-url "http://127.0.0.1:$(sed -n 's/^port //p' "$log")" --api-key suite-key
