// wire_samples.h - one fixed value of every wire struct, made from its table of fields, so that a new field is sampled by itself.
// Every field gets a value that is not its default; numbers depend on the field's place, so that swapped fields show.
#pragma once

#include <type_traits>

#include "common/wire/codec.h"
#include "common/wire/fields.h"

namespace gq::wire {

class Sampler {
 public:
  template <class T>
  T make() {
    T value{};
    fill(value, 0);
    return value;
  }

 private:
  std::uint64_t next() { return ++count_; }
  template <class T>
  void fill(T& value, std::uint64_t max) {
    if constexpr (std::is_same_v<T, bool>) value = !value;
    else if constexpr (std::is_floating_point_v<T>) value = static_cast<T>(next()) + 0.25;
    else if constexpr (std::is_integral_v<T>) value = max != 0 ? static_cast<T>(max) : static_cast<T>(next() % 100 + (sizeof(T) > 1 ? 1000 : 11));
    else if constexpr (std::is_same_v<T, std::string>) value = "text-" + std::to_string(next());
    else if constexpr (std::is_same_v<T, JobId> || std::is_same_v<T, Digest128>) {
      value.hi = 0x0123456789ABCD00ULL + next();
      value.lo = 0xFEDCBA9876543200ULL + next();
    } else if constexpr (std::is_same_v<T, BlobDigest>) {
      for (std::size_t i = 0; i < value.bytes.size(); ++i) value.bytes[i] = static_cast<std::uint8_t>(i + count_);
      next();
    } else if constexpr (std::is_array_v<T>) {
      for (auto& element : value) fill(element, 0);
    } else if constexpr (kIsOptional<T>) {
      fill(value.emplace(), max);
    } else if constexpr (kIsVector<T>) {
      value.resize(2);
      if constexpr (std::is_integral_v<typename T::value_type>) value = {1, 2};
      else for (auto& element : value) fill(element, 0);
    } else if constexpr (kIsMap<T>) {
      fill(value["key-a"], 0);
      fill(value["key-b"], 0);
    } else {
      std::apply([&](const auto&... f) { (fill(value.*f.member, f.max), ...); }, Shape<T>::fields);
    }
  }
  std::uint64_t count_{};
};

inline std::string to_hex(std::string_view bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string hex;
  for (const char c : bytes) {
    hex += digits[static_cast<unsigned char>(c) >> 4U];
    hex += digits[static_cast<unsigned char>(c) & 15U];
  }
  return hex;
}
inline std::string from_hex(std::string_view hex) {
  std::string bytes;
  int high = -1;
  for (const char c : hex) {
    const int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (v < 0) continue;
    if (high < 0) high = v;
    else {
      bytes += static_cast<char>(high * 16 + v);
      high = -1;
    }
  }
  return bytes;
}

}  // namespace gq::wire
