#!/bin/sh
# Build the C core with AddressSanitizer and UndefinedBehaviorSanitizer in a temporary directory, and
# run its tests there.  Usage: tests/sanitize.sh [PYTHON]
#
# PYTHONMALLOC=malloc is needed: CPython's own allocator hides reads past the end.  Leaks are not
# detected here, because the interpreter frees little at exit;
# test_no_call_keeps_memory_even_when_it_fails looks for them.  -O1 keeps stacks readable.
set -eu

python=${1:-python}
# Those that call the C core.
tests='test_column_fold test_columns test_folds test_keys test_reading test_speedups test_words'
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
asan=$("${CC:-gcc}" -print-file-name=libasan.so)
ubsan=$("${CC:-gcc}" -print-file-name=libubsan.so)

mkdir -p "$work/mmgevent/_speedups" "$work/tests" "$work/docs"
cp "$root"/mmgevent/_speedups/*.py "$root"/mmgevent/_speedups/*.[ch] "$work/mmgevent/_speedups/"
cp "$root/pyproject.toml" "$work/"
cp "$root/docs/keys.md" "$work/docs/"
for file in __init__ conftest effort kinds $tests; do
    cp "$root/tests/$file.py" "$work/tests/"
done
touch "$work/mmgevent/__init__.py"
"${CC:-gcc}" -std=c11 -O1 -g -Wall -Wextra -Werror -fPIC -shared -fno-omit-frame-pointer \
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -I"$include" \
    "$work/mmgevent/_speedups/_core.c" -o "$work/mmgevent/_speedups/_core$suffix"

cd "$work"
MMGEVENT_REQUIRE_NATIVE=1 PYTHONMALLOC=malloc PYTHONPATH=$work \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
    LD_PRELOAD="$asan $ubsan" \
    "$python" -m pytest -p no:mmgevent $(printf 'tests/%s.py ' $tests) \
    -s  # or pytest keeps the report to itself
