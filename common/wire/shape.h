// shape.h - how a struct lies in msgpack, from one table of its fields. Internal to common/wire; tables: fields.h.
//
// Form::array: values in the order of the table; trailing defaults are left out, a reader takes missing ones as defaults and
// steps over extra ones. Form::map: text keys = the field's name; defaults are left out, unknown keys stepped over.
// So in both forms a field may only ever be appended, and never change its meaning. nil means "the default" everywhere. A std::optional
// field that is there is written even when its value is 0; absent is its default.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/vocabulary/ids.h"
#include "common/wire/msgpack.h"

namespace gq::wire {

enum class Form { array, map };

template <class S, class M>
struct Field {
  std::string_view name;
  M S::*member;
  std::uint64_t max;  ///< of a number: largest value; of a vector: most elements; 0 = the type's own bound
  bool binary;        ///< a std::string that holds bytes, not text: written as bin
};
template <class S, class M>
constexpr Field<S, M> field(std::string_view name, M S::*member, std::uint64_t max = 0, bool binary = false) {
  return {name, member, max, binary};
}

template <class T>
struct Shape;  ///< { using S = T; static constexpr Form form; static constexpr auto fields = std::tuple{field(…), …}; }
template <class T>
concept Shaped = requires { Shape<T>::form; };

template <class T>
inline constexpr std::size_t kFields = std::tuple_size_v<decltype(Shape<T>::fields)>;

/// A reader plus where it stood when it failed: "items.priority".
struct Source {
  pack::Reader in;
  std::string where;
  bool at(std::string_view name) {  // always false: prepends a field's name to the place of the failure
    where = where.empty() ? std::string(name) : std::string(name) + "." + where;
    return false;
  }
};

// ---- writing

using pack::Writer;

template <class T> void write(Writer& out, const T& value);

inline void write_pair(Writer& out, std::uint64_t hi, std::uint64_t lo) {
  if (hi == 0 && lo == 0) return out.nil();
  std::uint8_t raw[16];
  for (unsigned i = 0; i < 8; ++i) {
    raw[i] = static_cast<std::uint8_t>(hi >> (56U - 8U * i));
    raw[8 + i] = static_cast<std::uint8_t>(lo >> (56U - 8U * i));
  }
  out.bytes(raw, sizeof raw);
}

template <class T, std::size_t I>
void write_field(Writer& out, const T& value) {
  constexpr const auto& f = std::get<I>(Shape<T>::fields);
  if constexpr (f.binary) out.bytes((value.*f.member).data(), (value.*f.member).size());
  else write(out, value.*f.member);
}

template <class M>
bool differs(const M& a, const M& b) {
  if constexpr (std::is_array_v<M>) return true;  // fixed arrays are always written
  else return !(a == b);
}

template <Shaped T>
void write_shaped(Writer& out, const T& value) {
  [[maybe_unused]] static const T defaults{};
  constexpr std::size_t n = kFields<T>;
  constexpr const auto& fields = Shape<T>::fields;
  std::array<bool, n == 0 ? 1 : n> worth{};
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    ((worth[I] = differs(value.*std::get<I>(fields).member, defaults.*std::get<I>(fields).member)), ...);
  }(std::make_index_sequence<n>{});
  if constexpr (Shape<T>::form == Form::array) {
    std::size_t used = n;
    while (used > 0 && !worth[used - 1]) --used;
    out.array(used);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((I < used ? write_field<T, I>(out, value) : void()), ...);
    }(std::make_index_sequence<n>{});
  } else {
    std::size_t used = 0;
    for (const bool w : worth) used += w ? 1U : 0U;
    out.map(used);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((worth[I] ? (out.text(std::get<I>(fields).name), write_field<T, I>(out, value)) : void()), ...);
    }(std::make_index_sequence<n>{});
  }
}

template <class T> inline constexpr bool kIsVector = false;
template <class T> inline constexpr bool kIsVector<std::vector<T>> = true;
template <class T> inline constexpr bool kIsOptional = false;
template <class T> inline constexpr bool kIsOptional<std::optional<T>> = true;
template <class T> inline constexpr bool kIsMap = false;
template <class V> inline constexpr bool kIsMap<std::map<std::string, V>> = true;

template <class T>
void write(Writer& out, const T& value) {
  if constexpr (std::is_same_v<T, bool>) out.boolean(value);
  else if constexpr (std::is_floating_point_v<T>) out.real(value);
  else if constexpr (std::is_integral_v<T> && std::is_unsigned_v<T>) out.number(value);
  else if constexpr (std::is_integral_v<T>) out.signed_number(value);
  else if constexpr (std::is_same_v<T, std::string>) out.text(value);
  else if constexpr (std::is_same_v<T, JobId> || std::is_same_v<T, Digest128>) write_pair(out, value.hi, value.lo);
  else if constexpr (std::is_same_v<T, BlobDigest>) value.empty() ? out.nil() : out.bytes(value.bytes.data(), value.bytes.size());
  else if constexpr (std::is_array_v<T>) {
    out.array(std::extent_v<T>);
    for (const auto& element : value) write(out, element);
  } else if constexpr (kIsOptional<T>) {
    value ? write(out, *value) : out.nil();
  } else if constexpr (kIsVector<T>) {
    out.array(value.size());
    for (const auto& element : value) write(out, element);
  } else if constexpr (kIsMap<T>) {
    out.map(value.size());
    for (const auto& [key, element] : value) {
      out.text(key);
      write(out, element);
    }
  } else {
    write_shaped(out, value);
  }
}

// ---- reading

template <class T> bool read(Source& source, T& value, std::uint64_t max);

inline bool read_pair(Source& source, std::uint64_t& hi, std::uint64_t& lo) {
  std::string_view raw;
  if (!source.in.bytes(raw)) return false;
  if (raw.size() != 16) return source.in.fail("not 16 bytes");
  hi = lo = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    hi = (hi << 8U) | static_cast<std::uint8_t>(raw[i]);
    lo = (lo << 8U) | static_cast<std::uint8_t>(raw[8 + i]);
  }
  return true;
}

template <class T, std::size_t I>
bool read_field(Source& source, T& value) {
  constexpr const auto& f = std::get<I>(Shape<T>::fields);
  if constexpr (f.binary) {
    std::string_view raw;
    if (source.in.take_nil()) return true;
    if (!source.in.bytes(raw)) return source.at(f.name);
    (value.*f.member).assign(raw);
    return true;
  } else {
    return read(source, value.*f.member, f.max) || source.at(f.name);
  }
}

template <Shaped T>
bool read_array_form(Source& source, T& value) {
  std::uint32_t n = 0;
  if (!source.in.array(n)) return false;
  const bool good = [&]<std::size_t... I>(std::index_sequence<I...>) {
    return ((I >= n || read_field<T, I>(source, value)) && ...);
  }(std::make_index_sequence<kFields<T>>{});
  if (!good) return false;
  for (std::size_t i = kFields<T>; i < n; ++i)
    if (!source.in.skip()) return source.at("(extra element)");
  return true;
}

template <Shaped T>
bool read_map_form(Source& source, T& value) {
  constexpr std::size_t n = kFields<T>;
  using ReadField = bool (*)(Source&, T&);
  static constexpr auto names = []<std::size_t... I>(std::index_sequence<I...>) {
    return std::array<std::string_view, n>{std::get<I>(Shape<T>::fields).name...};
  }(std::make_index_sequence<n>{});
  static constexpr auto readers = []<std::size_t... I>(std::index_sequence<I...>) {
    return std::array<ReadField, n>{&read_field<T, I>...};
  }(std::make_index_sequence<n>{});
  std::uint32_t pairs = 0;
  if (!source.in.map(pairs)) return false;
  std::size_t expected = 0;  // keys usually come in the table's order
  for (std::uint32_t p = 0; p < pairs; ++p) {
    std::string_view key;
    if (!source.in.text(key)) return source.at("(key)");
    std::size_t found = n;
    for (std::size_t tried = 0; tried < n; ++tried) {
      const std::size_t i = expected + tried < n ? expected + tried : expected + tried - n;
      if (names[i] == key) {
        found = i;
        break;
      }
    }
    if (found == n) {
      if (!source.in.skip()) return source.at("(unknown key)");
      continue;
    }
    if (!readers[found](source, value)) return false;
    expected = found + 1 < n ? found + 1 : 0;
  }
  return true;
}

template <class T>
bool read(Source& source, T& value, std::uint64_t max) {
  pack::Reader& in = source.in;
  if (in.take_nil()) return true;
  if constexpr (std::is_same_v<T, bool>) return in.boolean(value);
  else if constexpr (std::is_floating_point_v<T>) return in.real(value);
  else if constexpr (std::is_integral_v<T> && std::is_unsigned_v<T>) {
    std::uint64_t u = 0;
    if (!in.number(u)) return false;
    if (u > (max != 0 ? max : std::numeric_limits<T>::max())) return in.fail("out of range");
    value = static_cast<T>(u);
    return true;
  } else if constexpr (std::is_integral_v<T>) {
    std::int64_t s = 0;
    if (!in.signed_number(s)) return false;
    if (s < std::numeric_limits<T>::min() || s > std::numeric_limits<T>::max()) return in.fail("out of range");
    value = static_cast<T>(s);
    return true;
  } else if constexpr (std::is_same_v<T, std::string>) {
    std::string_view text;
    if (!in.text(text)) return false;
    value.assign(text);
    return true;
  } else if constexpr (std::is_same_v<T, JobId> || std::is_same_v<T, Digest128>) {
    return read_pair(source, value.hi, value.lo);
  } else if constexpr (std::is_same_v<T, BlobDigest>) {
    std::string_view raw;
    if (!in.bytes(raw)) return false;
    if (raw.size() != value.bytes.size()) return in.fail("not 32 bytes");
    std::memcpy(value.bytes.data(), raw.data(), raw.size());
    return true;
  } else if constexpr (std::is_array_v<T>) {
    std::uint32_t n = 0;
    if (!in.array(n)) return false;
    for (std::uint32_t i = 0; i < n; ++i)
      if (!(i < std::extent_v<T> ? read(source, value[i], 0) : in.skip())) return false;
    return true;
  } else if constexpr (kIsVector<T>) {
    std::uint32_t n = 0;
    if (!in.array(n)) return false;
    if (max != 0 && n > max) return in.fail("more elements than allowed");
    value.clear();
    value.reserve(in.there(n));
    for (std::uint32_t i = 0; i < n; ++i) {
      if constexpr (std::is_integral_v<typename T::value_type>) {
        typename T::value_type element{};
        if (!read(source, element, 0)) return false;
        value.push_back(element);
      } else if (!read(source, value.emplace_back(), 0)) {
        return false;
      }
    }
    return true;
  } else if constexpr (kIsOptional<T>) {
    return read(source, value.emplace(), max);
  } else if constexpr (kIsMap<T>) {
    std::uint32_t n = 0;
    if (!in.map(n)) return false;
    for (std::uint32_t i = 0; i < n; ++i) {
      std::string_view key;
      if (!in.text(key)) return source.at("(key)");
      if (!read(source, value[std::string(key)], 0)) return source.at(key);
    }
    return true;
  } else if constexpr (Shape<T>::form == Form::array) {
    return read_array_form(source, value);
  } else {
    return read_map_form(source, value);
  }
}

}  // namespace gq::wire
