#include "worker/executors/tensor_file.h"

#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "worker/executors/json.h"

namespace gq::exec {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor files hold the host's bytes");
constexpr std::size_t kHeaderMax = std::size_t{16} << 20U;

Failure broken(const std::string& why) { return bad_model("not a whole tensor file: " + why, "fetch or train it again"); }

bool read_size(const Json* json, std::uint64_t& out) {
  if (json == nullptr) return false;
  const auto number = json->number();
  if (!number || *number < 0 || *number > 9e15) return false;
  out = static_cast<std::uint64_t>(*number);
  return static_cast<double>(out) == *number;
}

}  // namespace

std::size_t dtype_bytes(std::string_view dtype) {
  constexpr std::array<std::pair<std::string_view, std::size_t>, 10> kSizes{{{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8}, {"I64", 8},
                                                                             {"I32", 4}, {"I16", 2}, {"I8", 1}, {"U8", 1}, {"BOOL", 1}}};
  for (const auto& [name, size] : kSizes)
    if (name == dtype) return size;
  return 0;
}

std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

const NamedTensor* TensorFile::find(std::string_view name) const {
  for (const auto& t : tensors)
    if (t.name == name) return &t;
  return nullptr;
}

std::string encode_tensors(const TensorFile& file) {
  Json::Object header;
  Json::Object metadata;
  for (const auto& [key, value] : file.metadata) metadata.emplace_back(key, value);
  if (!metadata.empty()) header.emplace_back("__metadata__", std::move(metadata));
  std::int64_t offset = 0;
  for (const auto& t : file.tensors) {
    Json::Array shape;
    for (const auto d : t.shape) shape.emplace_back(d);
    const auto end = offset + static_cast<std::int64_t>(t.bytes.size());
    header.emplace_back(t.name, Json::Object{{"dtype", t.dtype}, {"shape", std::move(shape)},
                                             {"data_offsets", Json::Array{Json(offset), Json(end)}}});
    offset = end;
  }
  std::string text = Json(std::move(header)).dump();
  while (text.size() % 8 != 0) text += ' ';
  std::string out(8, '\0');
  const std::uint64_t length = text.size();
  std::memcpy(out.data(), &length, 8);
  out.reserve(8 + text.size() + static_cast<std::size_t>(offset));
  out += text;
  for (const auto& t : file.tensors) out += t.bytes;
  return out;
}

Expected<TensorFile> decode_tensors(std::string_view bytes) {
  std::uint64_t length{};
  if (bytes.size() < 8) return broken("shorter than its header");
  std::memcpy(&length, bytes.data(), 8);
  if (length > kHeaderMax || length > bytes.size() - 8) return broken("its header is longer than the file");
  const auto header = parse_json(bytes.substr(8, length));
  if (!header || header->object() == nullptr) return broken("its header is not JSON");
  const std::string_view data = bytes.substr(8 + length);

  TensorFile out;
  std::uint64_t used = 0;
  for (const auto& [name, entry] : *header->object()) {
    if (name == "__metadata__") {
      if (entry.object() == nullptr) return broken("its metadata is no object");
      for (const auto& [key, value] : *entry.object())
        if (value.text() != nullptr) out.metadata[key] = *value.text();
      continue;
    }
    NamedTensor t{.name = name, .dtype = {}, .shape = {}, .bytes = {}};
    const Json* dtype = entry.find("dtype");
    const Json* shape = entry.find("shape");
    const Json* offsets = entry.find("data_offsets");
    if (dtype == nullptr || dtype->text() == nullptr || dtype_bytes(*dtype->text()) == 0) return broken("tensor " + name + " has no known type");
    if (shape == nullptr || shape->array() == nullptr || offsets == nullptr || offsets->array() == nullptr || offsets->array()->size() != 2)
      return broken("tensor " + name + " has no shape or place");
    t.dtype = *dtype->text();
    std::uint64_t want = dtype_bytes(t.dtype);
    for (const auto& d : *shape->array()) {
      std::uint64_t size{};
      if (!read_size(&d, size) || (size != 0 && want > bytes.size() / size)) return broken("tensor " + name + " has a wrong shape");
      want *= size;
      t.shape.push_back(static_cast<std::int64_t>(size));
    }
    std::uint64_t begin{}, end{};
    if (!read_size(&(*offsets->array())[0], begin) || !read_size(&(*offsets->array())[1], end) || begin != used || end < begin ||
        end > data.size() || end - begin != want)
      return broken("tensor " + name + " lies outside the file");
    t.bytes = std::string(data.substr(begin, end - begin));
    used = end;
    out.tensors.push_back(std::move(t));
  }
  if (used != data.size()) return broken("bytes follow the last tensor");
  return out;
}

}  // namespace gq::exec
