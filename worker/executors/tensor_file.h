// tensor_file.h - named tensors in one file: the safetensors layout (u64 header length, JSON header, raw little-endian data), so that
// Python reads our models with one import. No code lies in it: loading one can run nothing.
// In memory only; writing it durably is checkpoint.h's business.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "worker/executors/failure.h"

namespace gq::exec {

struct NamedTensor {
  std::string name;
  std::string dtype;                  ///< F32, BF16, F16, F64, I64, I32, U8, BOOL
  std::vector<std::int64_t> shape;
  std::string bytes;                  ///< little endian, row-major
  bool operator==(const NamedTensor&) const = default;
};
struct TensorFile {
  std::map<std::string, std::string> metadata;
  std::vector<NamedTensor> tensors;
  [[nodiscard]] const NamedTensor* find(std::string_view name) const;
  bool operator==(const TensorFile&) const = default;
};

std::size_t dtype_bytes(std::string_view dtype);   ///< 0: unknown
std::string encode_tensors(const TensorFile& file);
/// Judges every length and offset; a wrong one is BAD_MODEL with the place.
Expected<TensorFile> decode_tensors(std::string_view bytes);
std::uint64_t checksum(std::string_view bytes);     ///< FNV-1a, 64 bit: any single changed byte changes it

}  // namespace gq::exec
