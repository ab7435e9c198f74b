#!/bin/sh
# client_consumer.sh BUILD CXX - installs the client alone and builds a consumer against it, by find_package and by pkg-config.
set -eu
build=$1 cxx=$2
here=$(cd "$(dirname "$0")/client_consumer" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --build "$build" --target gpuq_shared gpuq >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
cmake --install "$build" --component client --prefix "$work/prefix" >"$work/install.log"

# Headers show no third-party type and nothing of our tree.
if grep -rnE '#include *[<"](zmq|boost|msgpack|nlohmann|openssl|common/|client/)' "$work/prefix/include"; then
  echo "an installed header includes what a consumer does not have"; exit 1
fi
# The library shows gpuq:: only.
library=$(find "$work/prefix" -name 'libgpuq.so' | head -n 1)
if nm -DC --defined-only "$library" | grep -v 'gpuq::'; then echo "libgpuq.so exports more than gpuq::"; exit 1; fi

echo "find_package"
cmake -S "$here" -B "$work/consumer" -G Ninja -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_PREFIX_PATH="$work/prefix" >"$work/configure.log" 2>&1 || { cat "$work/configure.log"; exit 1; }
cmake --build "$work/consumer"
"$work/consumer/consumer"

echo "pkg-config"
# A relocated prefix: the .pc file names the configured one, pkg-config is told the real one.
PKG_CONFIG_PATH=$(dirname "$(find "$work/prefix" -name gpuq.pc)")
export PKG_CONFIG_PATH
flags=$(pkg-config --define-variable=prefix="$work/prefix" --cflags --libs gpuq)
# shellcheck disable=SC2086
"$cxx" "$here/consumer.cpp" $flags -Wl,-rpath,"$(dirname "$library")" -o "$work/by-pkg-config"
"$work/by-pkg-config"

"$work/prefix/bin/gpuq" version
