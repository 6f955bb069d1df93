#!/bin/sh
# Installs what TitanInfer needs to build and run on Debian 12: says nothing and does nothing when all is there.
#
#   launch/install-deps.sh [--tests]     --tests: what the whole test suite and the linters need, too
#
# As root or through sudo it installs; otherwise it prints the command and exits with 1.
set -eu

packages="gcc libc6-dev cmake ninja-build pkg-config python3 python3-pip curl xz-utils
libnng-dev libmbedtls-dev libprotobuf-c-dev protobuf-c-compiler libhwloc-dev libmicrohttpd-dev libjansson-dev libpcre2-dev libutf8proc-dev
libopenmpi-dev openmpi-bin"
tests="libcriterion-dev clang libclang-rt-14-dev clang-format clang-tidy python3-venv"

case "${1-}" in
  '') ;;
  --tests) packages="$packages $tests" ;;
  -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "install-deps.sh: unknown argument '$1'; there is only --tests" >&2; exit 2 ;;
esac

missing=
for p in $packages; do
  # 'ii' alone is installed; a removed package leaves 'rc'
  case "$(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null || true)" in
    ii*) ;;
    *) missing="$missing $p" ;;
  esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
  as_root=
elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
  as_root=sudo
else
  echo "install-deps.sh: missing packages; as root, run:" >&2
  echo "  apt-get update && apt-get install -y --no-install-recommends$missing" >&2
  exit 1
fi

# Retries and timeouts are apt's own; the lock of another apt is waited for, not failed on.
apt() {
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 -o Acquire::http::Timeout=30 \
    -o Acquire::https::Timeout=30 -o DPkg::Lock::Timeout=120 "$@"
}
echo "install-deps.sh: installing$missing" >&2
# A bare image has no package lists, an old one has lists of files that are gone: then they are fetched first.
known=yes
for p in $missing; do apt-cache show "$p" >/dev/null 2>&1 || known=no; done
# shellcheck disable=SC2086  # word splitting is meant
if [ $known = no ] || ! apt install -y --no-install-recommends $missing >/dev/null 2>&1; then
  apt update
  apt install -y --no-install-recommends $missing >/dev/null
fi
