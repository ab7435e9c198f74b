// shared.cpp - libgpuq.so is the static client, whole, behind libgpuq.map; this file only gives CMake something to compile.
namespace gpuq {
extern const char* const library_version;
const char* const library_version = "libgpuq";
}  // namespace gpuq
