#!/bin/sh
# Runs one Criterion program; a leak reported by a child process alone does not fail Criterion, so look for it.
out=$(mktemp) || exit 1
"$@" -j2 >"$out" 2>&1
rc=$?
cat "$out"
if grep -q 'LeakSanitizer\|AddressSanitizer\|runtime error:' "$out"; then rc=1; fi
rm -f "$out"
exit $rc
