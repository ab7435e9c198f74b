// frame.cpp - the flat codec of the child protocol. Every length is checked before it is believed.
#include "worker/child/frame.h"

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>

namespace gq::child {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are little endian; add byte swaps for this machine");

constexpr std::uint8_t kVersion = 1;
constexpr std::size_t kHeaderBytes = 16;

template <class T>
void put(std::string& out, T v) {
  std::array<char, sizeof v> raw;
  std::memcpy(raw.data(), &v, sizeof v);
  out.append(raw.data(), raw.size());
}

template <class T>
bool take(std::string_view& in, T& v) {
  if (in.size() < sizeof v) return false;
  std::memcpy(&v, in.data(), sizeof v);
  in.remove_prefix(sizeof v);
  return true;
}

std::string_view take_bytes(std::string_view& in, std::size_t n) {
  const std::string_view bytes = in.substr(0, n);
  in.remove_prefix(n);
  return bytes;
}

const Field* find(const Frame& frame, std::string_view key) {
  for (const Field& field : frame.fields)
    if (field.key == key) return &field;
  return nullptr;
}

std::string as_text(const Field& field) {
  if (const auto* text = std::get_if<std::string>(&field.value)) return *text;
  if (const auto* number = std::get_if<std::int64_t>(&field.value)) return std::to_string(*number);
  std::array<char, 40> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.17g", std::get<double>(field.value));
  return buffer.data();
}

bool decode_field(std::string_view& in, Field& field, std::string& error) {
  std::uint8_t key_length{};
  if (!take(in, key_length) || in.size() < key_length) return error = "a field's key is cut off", false;
  field.key.assign(take_bytes(in, key_length));
  char kind{};
  std::uint32_t length{};
  if (!take(in, kind) || !take(in, length) || in.size() < length) return error = "field '" + field.key + "' is cut off", false;
  const std::string_view value = take_bytes(in, length);
  switch (kind) {
    case 'i':
    case 'f': {
      if (length != 8) return error = "number '" + field.key + "' is not 8 bytes long", false;
      if (kind == 'i') {
        std::int64_t v{};
        std::memcpy(&v, value.data(), sizeof v);
        field.value = v;
      } else {
        double v{};
        std::memcpy(&v, value.data(), sizeof v);
        field.value = v;
      }
      return true;
    }
    case 's':
    case 'b':
      field.value = std::string(value);
      field.is_bytes = kind == 'b';
      return true;
    default:
      return error = "field '" + field.key + "' is of an unknown kind", false;
  }
}

}  // namespace

Frame& Frame::add(std::string_view key, std::int64_t v) {
  fields.push_back({std::string(key), v, false});
  return *this;
}
Frame& Frame::add(std::string_view key, double v) {
  fields.push_back({std::string(key), v, false});
  return *this;
}
Frame& Frame::add(std::string_view key, std::string_view text) {
  fields.push_back({std::string(key), std::string(text), false});
  return *this;
}
Frame& Frame::add_bytes(std::string_view key, std::string bytes) {
  fields.push_back({std::string(key), std::move(bytes), true});
  return *this;
}

std::int64_t Frame::number(std::string_view key, std::int64_t fallback) const {
  const Field* field = find(*this, key);
  if (field == nullptr) return fallback;
  if (const auto* number = std::get_if<std::int64_t>(&field->value)) return *number;
  return fallback;
}

double Frame::real(std::string_view key, double fallback) const {
  const Field* field = find(*this, key);
  if (field == nullptr) return fallback;
  if (const auto* real = std::get_if<double>(&field->value)) return *real;
  if (const auto* number = std::get_if<std::int64_t>(&field->value)) return static_cast<double>(*number);
  return fallback;
}

std::string_view Frame::text(std::string_view key) const {
  const Field* field = find(*this, key);
  if (field == nullptr) return {};
  if (const auto* text = std::get_if<std::string>(&field->value)) return *text;
  return {};
}

bool Frame::has(std::string_view key) const { return find(*this, key) != nullptr; }

std::map<std::string, std::string> Frame::with_prefix(std::string_view prefix) const {
  std::map<std::string, std::string> found;
  for (const Field& field : fields)
    if (field.key.size() >= prefix.size() && std::string_view(field.key).substr(0, prefix.size()) == prefix)
      found.emplace(field.key.substr(prefix.size()), as_text(field));
  return found;
}

std::string encode(const Frame& frame) {
  if (frame.fields.size() > UINT16_MAX) return {};
  std::string out;
  out.reserve(256);
  put(out, kVersion);
  put(out, static_cast<std::uint8_t>(frame.type));
  put(out, static_cast<std::uint16_t>(frame.fields.size()));
  put(out, std::uint32_t{0});
  put(out, frame.id);
  for (const Field& field : frame.fields) {
    if (field.key.size() > UINT8_MAX) return {};
    put(out, static_cast<std::uint8_t>(field.key.size()));
    out += field.key;
    if (const auto* number = std::get_if<std::int64_t>(&field.value)) {
      out += 'i';
      put(out, std::uint32_t{8});
      put(out, *number);
    } else if (const auto* real = std::get_if<double>(&field.value)) {
      out += 'f';
      put(out, std::uint32_t{8});
      put(out, *real);
    } else {
      const std::string& bytes = std::get<std::string>(field.value);
      if (bytes.size() > kFrameBytesMax) return {};
      out += field.is_bytes ? 'b' : 's';
      put(out, static_cast<std::uint32_t>(bytes.size()));
      out += bytes;
    }
    if (out.size() > kFrameBytesMax) return {};
  }
  return out;
}

std::optional<Frame> decode(std::string_view packet, std::string& error) {
  if (packet.size() > kFrameBytesMax) return error = "longer than 64 KiB", std::nullopt;
  if (packet.size() < kHeaderBytes) return error = "shorter than a header", std::nullopt;
  std::uint8_t version{};
  std::uint8_t type{};
  std::uint16_t count{};
  std::uint32_t reserved{};
  Frame frame;
  take(packet, version);
  take(packet, type);
  take(packet, count);
  take(packet, reserved);
  take(packet, frame.id);
  if (version != kVersion) return error = "protocol version " + std::to_string(version) + " is not 1", std::nullopt;
  if (reserved != 0) return error = "the reserved word is not 0", std::nullopt;
  frame.type = static_cast<Type>(type);
  // A field takes at least 6 bytes, so the count cannot make us reserve more than the packet pays for.
  if (std::size_t{count} * 6 > packet.size()) return error = "more fields are announced than fit", std::nullopt;
  frame.fields.resize(count);
  for (Field& field : frame.fields)
    if (!decode_field(packet, field, error)) return std::nullopt;
  if (!packet.empty()) return error = "bytes follow the last field", std::nullopt;
  return frame;
}

}  // namespace gq::child
