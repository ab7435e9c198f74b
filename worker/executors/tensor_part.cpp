#include "worker/executors/tensor_part.h"

#include <array>
#include <cstring>

namespace gq::exec {
namespace {

constexpr std::array<std::string_view, 10> kDtypes{"U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64", "BOOL"};
constexpr std::size_t kFixed = 8;

Failure broken(std::string_view name, const std::string& why) {
  return bad_input("part '" + std::string(name) + "' is no tensor: " + why,
                   "send application/x-gpuq-tensor: \"GQT1\", dtype, rank, two zero bytes, the shape as u64, the data");
}

}  // namespace

std::string encode_tensor_part(const NamedTensor& tensor) {
  std::string out = "GQT1";
  std::size_t dtype = 0;
  while (dtype < kDtypes.size() && kDtypes[dtype] != tensor.dtype) ++dtype;
  out += static_cast<char>(dtype);
  out += static_cast<char>(tensor.shape.size());
  out.append(2, '\0');
  for (const std::int64_t d : tensor.shape) {
    char raw[8];
    std::memcpy(raw, &d, 8);
    out.append(raw, 8);
  }
  return out + tensor.bytes;
}

Expected<NamedTensor> decode_tensor_part(std::string_view name, std::string_view bytes) {
  if (bytes.size() < kFixed || bytes.substr(0, 4) != "GQT1") return broken(name, "it does not begin with GQT1");
  const auto dtype = static_cast<unsigned char>(bytes[4]);
  const auto rank = static_cast<unsigned char>(bytes[5]);
  if (dtype >= kDtypes.size()) return broken(name, "unknown dtype " + std::to_string(dtype));
  if (rank > 8) return broken(name, "rank " + std::to_string(rank) + " is over 8");
  if (bytes[6] != 0 || bytes[7] != 0) return broken(name, "its reserved bytes are not zero");
  if (bytes.size() < kFixed + std::size_t{8} * rank) return broken(name, "its shape is cut off");
  NamedTensor out{.name = std::string(name), .dtype = std::string(kDtypes[dtype]), .shape = {}, .bytes = {}};
  std::uint64_t want = dtype_bytes(out.dtype);
  for (std::size_t i = 0; i < rank; ++i) {
    std::uint64_t d{};
    std::memcpy(&d, bytes.data() + kFixed + 8 * i, 8);
    if (d > (std::uint64_t{1} << 40U) || (d != 0 && want > bytes.size() / d)) return broken(name, "its shape is larger than its data");
    want *= d;
    out.shape.push_back(static_cast<std::int64_t>(d));
  }
  const std::string_view data = bytes.substr(kFixed + std::size_t{8} * rank);
  if (data.size() != want) return broken(name, "it holds " + std::to_string(data.size()) + " bytes, its shape says " + std::to_string(want));
  out.bytes = std::string(data);
  return out;
}

}  // namespace gq::exec
