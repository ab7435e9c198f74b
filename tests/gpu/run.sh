#!/bin/sh
# run.sh - what ./dev gpu-test does: builds worker/executors from this repository alone, runs it on the card, compares with the CPU, prints
# a table. Needs cmake, a C++20 compiler, torch's wheel; nvcc for the card. Without a card it says so and runs the CPU half.
#   GPUQ_TORCH=/path/to/torch   instead of .deps/torch-* or what python3 imports
#   GPUQ_GPU_BUILD=/path        build folder (default build/gpu-test)
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
build=${GPUQ_GPU_BUILD:-$root/build/gpu-test}
torch=${GPUQ_TORCH:-}
if [ -z "$torch" ] || [ "$torch" = auto ]; then
  # A card wants the wheel with all its CUDA libraries: python's own before the CPU selection that ./dev fetches.
  torch=$(python3 -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")' 2>/dev/null || true)
  if [ -z "$torch" ]; then
    torch=$(ls -d "$root"/.deps/torch-*/torch 2>/dev/null | sort -V | tail -n 1)
  fi
fi
if [ -z "$torch" ] || [ "$torch" = none ]; then
  echo "gpu-test: no torch found; pip install torch==2.11.0, or GPUQ_TORCH=/path/to/site-packages/torch" >&2
  exit 5
fi
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || ls "$torch"/../nvidia/cu13/bin/nvcc 2>/dev/null || true)
[ -n "$nvcc" ] || echo "gpu-test: no nvcc: the CUDA plug-in is left out and only the CPU half runs"
generator=""
command -v ninja >/dev/null 2>&1 && generator="-G Ninja"
echo "gpu-test: torch in $torch, building in $build"
# shellcheck disable=SC2086
cmake -S "$root/tests/gpu" -B "$build" $generator -DCMAKE_BUILD_TYPE=Release -DGPUQ_TORCH="$torch" ${nvcc:+-DCMAKE_CUDA_COMPILER="$nvcc"} \
  ${GPUQ_CUDA_ARCHITECTURES:+-DCMAKE_CUDA_ARCHITECTURES="$GPUQ_CUDA_ARCHITECTURES"}
cmake --build "$build" --target gpu_test -j "$(nproc)"
exec "$build/bin/gpu_test" "$@"
