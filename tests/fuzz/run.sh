#!/usr/bin/env bash
# run.sh SECONDS - the decoders under libFuzzer with ASan and UBSan (clang). New inputs stay in build/fuzz/corpus; a crash is printed
# with the file to replay it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
seconds=${1:-60}
build=$root/build/fuzz
mkdir -p "$build/corpus"
cd "$root"
echo "building wire_fuzz with clang" >&2
clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -DMSGPACK_NO_BOOST -I. \
  tests/fuzz/wire_fuzz.cpp common/wire/*.cpp common/vocabulary/*.cpp -o "$build/wire_fuzz"
exec "$build/wire_fuzz" -max_total_time="$seconds" -rss_limit_mb=1024 -max_len=65536 -artifact_prefix="$build/" "$build/corpus" tests/fuzz/corpus
