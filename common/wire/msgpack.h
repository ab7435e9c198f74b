// msgpack.h - the part of msgpack the wire uses, written by hand: a writer into one growing buffer and a reader that is bounded
// by construction. Internal to common/wire.
//
// The reader never allocates from a number it has read: a count is believed only up to a limit, up to the bytes that are
// left (every element takes at least one), and up to a budget for the whole frame. It never throws; the first failure sticks.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>

namespace gq::wire::msgpack {

class Writer {
 public:
  explicit Writer(std::string& buffer) : buffer_(buffer) {
    if (buffer_.size() < 4096) buffer_.resize(4096);
    p_ = buffer_.data();
    end_ = p_ + buffer_.size();
  }
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(p_ - buffer_.data()); }
  [[nodiscard]] std::string_view view() const { return {buffer_.data(), size()}; }

  void nil() { byte(0xC0); }
  void boolean(bool v) { byte(v ? 0xC3 : 0xC2); }
  void number(std::uint64_t v) {
    if (v < 0x80) byte(static_cast<std::uint8_t>(v));
    else if (v <= 0xFF) tagged(0xCC, static_cast<std::uint8_t>(v));
    else if (v <= 0xFFFF) tagged(0xCD, static_cast<std::uint16_t>(v));
    else if (v <= 0xFFFFFFFF) tagged(0xCE, static_cast<std::uint32_t>(v));
    else tagged(0xCF, v);
  }
  void signed_number(std::int64_t v) {
    if (v >= 0) number(static_cast<std::uint64_t>(v));
    else if (v >= -32) byte(static_cast<std::uint8_t>(v));
    else if (v >= INT8_MIN) tagged(0xD0, static_cast<std::uint8_t>(v));
    else if (v >= INT16_MIN) tagged(0xD1, static_cast<std::uint16_t>(v));
    else if (v >= INT32_MIN) tagged(0xD2, static_cast<std::uint32_t>(v));
    else tagged(0xD3, static_cast<std::uint64_t>(v));
  }
  void real(double v) { tagged(0xCB, std::bit_cast<std::uint64_t>(v)); }
  void text(std::string_view v) {
    if (v.size() < 32) byte(static_cast<std::uint8_t>(0xA0 | v.size()));
    else if (v.size() <= 0xFF) tagged(0xD9, static_cast<std::uint8_t>(v.size()));
    else if (v.size() <= 0xFFFF) tagged(0xDA, static_cast<std::uint16_t>(v.size()));
    else tagged(0xDB, static_cast<std::uint32_t>(v.size()));
    raw(v.data(), v.size());
  }
  void bytes(const void* data, std::size_t size) {
    if (size <= 0xFF) tagged(0xC4, static_cast<std::uint8_t>(size));
    else if (size <= 0xFFFF) tagged(0xC5, static_cast<std::uint16_t>(size));
    else tagged(0xC6, static_cast<std::uint32_t>(size));
    raw(data, size);
  }
  void array(std::size_t n) { counted(n, 0x90, 0xDC); }
  void map(std::size_t n) { counted(n, 0x80, 0xDE); }

 private:
  void need(std::size_t n) {
    if (static_cast<std::size_t>(end_ - p_) < n) grow(n);
  }
  void grow(std::size_t n) {
    const std::size_t used = size();
    buffer_.resize((used + n) * 2);
    p_ = buffer_.data() + used;
    end_ = buffer_.data() + buffer_.size();
  }
  void byte(std::uint8_t v) {
    need(1);
    *p_++ = static_cast<char>(v);
  }
  template <class Unsigned>
  void tagged(std::uint8_t tag, Unsigned v) {
    need(1 + sizeof v);
    *p_++ = static_cast<char>(tag);
    for (std::size_t i = sizeof v; i-- > 0;) *p_++ = static_cast<char>(static_cast<std::uint8_t>(v >> (8 * i)));
  }
  void raw(const void* data, std::size_t n) {
    if (n == 0) return;
    need(n);
    std::memcpy(p_, data, n);
    p_ += n;
  }
  void counted(std::size_t n, std::uint8_t fix, std::uint8_t tag16) {
    if (n < 16) byte(static_cast<std::uint8_t>(fix | n));
    else if (n <= 0xFFFF) tagged(tag16, static_cast<std::uint16_t>(n));
    else tagged(static_cast<std::uint8_t>(tag16 + 1), static_cast<std::uint32_t>(n));
  }

  std::string& buffer_;
  char* p_{};
  char* end_{};
};

struct Bounds {
  std::uint32_t elements_max = 16'384;       // of one array or map
  std::uint32_t elements_in_frame = 1U << 17U;  // of all arrays and maps together: bounds memory per byte received
  std::uint32_t text_max = 64U << 10U;       // of one string
  std::uint32_t bytes_max = 64U << 10U;      // of one bin
  std::uint32_t ext_max = 1U << 10U;         // of one ext, which is only ever skipped
  std::uint32_t depth_max = 16;              // of what is skipped; what is read is as deep as the schema
};

class Reader {
 public:
  Reader(const void* data, std::size_t size, const Bounds& bounds)
      : p_(static_cast<const std::uint8_t*>(data)), end_(p_ + size), bounds_(bounds), budget_(bounds.elements_in_frame) {}

  [[nodiscard]] bool at_end() const { return p_ == end_; }
  [[nodiscard]] const char* error() const { return error_; }
  bool fail(const char* why) {
    if (error_ == nullptr) error_ = why;
    return false;
  }
  /// nil stands for "the default" wherever a value is expected.
  bool take_nil() {
    if (p_ == end_ || *p_ != 0xC0) return false;
    ++p_;
    return true;
  }
  bool boolean(bool& v) {
    if (p_ == end_) return fail("cut short");
    if (*p_ != 0xC2 && *p_ != 0xC3) return fail("not a boolean");
    v = *p_++ == 0xC3;
    return true;
  }
  bool number(std::uint64_t& v) {
    if (p_ == end_) return fail("cut short");
    const std::uint8_t tag = *p_;
    if (tag < 0x80) {
      v = tag;
      ++p_;
      return true;
    }
    if (tag >= 0xCC && tag <= 0xCF) return big_endian(1U << (tag - 0xCCU), v);
    if (tag >= 0xD0 && tag <= 0xD3) {  // a signed form that holds a positive number: other encoders do that
      std::int64_t s = 0;
      if (!signed_number(s)) return false;
      if (s < 0) return fail("negative");
      v = static_cast<std::uint64_t>(s);
      return true;
    }
    return fail(tag >= 0xE0 ? "negative" : "not a whole number");
  }
  bool signed_number(std::int64_t& v) {
    if (p_ == end_) return fail("cut short");
    const std::uint8_t tag = *p_;
    std::uint64_t u = 0;
    if (tag >= 0xE0) {
      v = static_cast<std::int8_t>(tag);
      ++p_;
      return true;
    }
    if (tag >= 0xD0 && tag <= 0xD3) {
      const unsigned width = 1U << (tag - 0xD0U);
      if (!big_endian(width, u)) return false;
      const unsigned shift = 64U - 8U * width;
      v = static_cast<std::int64_t>(u << shift) >> shift;
      return true;
    }
    if (!number(u)) return false;
    if (u > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return fail("out of range");
    v = static_cast<std::int64_t>(u);
    return true;
  }
  bool real(double& v) {
    if (p_ == end_) return fail("cut short");
    std::uint64_t u = 0;
    if (*p_ == 0xCB) {
      if (!big_endian(8, u)) return false;
      v = std::bit_cast<double>(u);
      return true;
    }
    if (*p_ == 0xCA) {
      if (!big_endian(4, u)) return false;
      v = static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(u)));
      return true;
    }
    std::int64_t s = 0;
    if (!signed_number(s)) return false;
    v = static_cast<double>(s);
    return true;
  }
  /// A str, or a bin where another language has only bytes.
  bool text(std::string_view& v) { return blob(v, true); }
  /// A bin; a str is accepted too, for encoders of the old msgpack.
  bool bytes(std::string_view& v) { return blob(v, false); }
  bool array(std::uint32_t& n) { return count(n, 0x90, 0xDC, 1, "not an array"); }
  bool map(std::uint32_t& n) { return count(n, 0x80, 0xDE, 2, "not a map"); }

  /// Step over one value of any kind.
  bool skip() { return skip(0); }

 private:
  [[nodiscard]] std::size_t left() const { return static_cast<std::size_t>(end_ - p_); }
  bool big_endian(unsigned width, std::uint64_t& v) {  // after a tag
    if (left() < 1 + width) return fail("cut short");
    ++p_;
    std::uint64_t u = 0;
    for (unsigned i = 0; i < width; ++i) u = (u << 8U) | *p_++;
    v = u;
    return true;
  }
  bool blob(std::string_view& v, bool is_text) {
    if (p_ == end_) return fail("cut short");
    const std::uint8_t tag = *p_;
    std::uint64_t n = 0;
    if (tag >= 0xA0 && tag <= 0xBF) {
      n = tag & 0x1FU;
      ++p_;
    } else if (tag >= 0xD9 && tag <= 0xDB) {
      if (!big_endian(1U << (tag - 0xD9U), n)) return false;
    } else if (tag >= 0xC4 && tag <= 0xC6) {
      if (!big_endian(1U << (tag - 0xC4U), n)) return false;
    } else {
      return fail(is_text ? "not a string" : "not bytes");
    }
    if (n > (is_text ? bounds_.text_max : bounds_.bytes_max)) return fail("longer than allowed");
    if (n > left()) return fail("cut short");
    v = {reinterpret_cast<const char*>(p_), static_cast<std::size_t>(n)};
    p_ += n;
    return true;
  }
  bool count(std::uint32_t& n, std::uint8_t fix, std::uint8_t tag16, unsigned values_each, const char* what) {
    if (p_ == end_) return fail("cut short");
    std::uint64_t u = 0;
    if ((*p_ & 0xF0U) == fix) u = *p_++ & 0x0FU;
    else if (*p_ == tag16) { if (!big_endian(2, u)) return false; }
    else if (*p_ == tag16 + 1) { if (!big_endian(4, u)) return false; }
    else return fail(what);
    if (u > bounds_.elements_max) return fail("more elements than allowed");
    if (u * values_each > left()) return fail("cut short");
    if (u > budget_) return fail("more elements in one frame than allowed");
    budget_ -= static_cast<std::uint32_t>(u);
    n = static_cast<std::uint32_t>(u);
    return true;
  }
  bool skip_bytes(std::uint64_t n, std::uint64_t most) {
    if (n > most) return fail("longer than allowed");
    if (n > left()) return fail("cut short");
    p_ += n;
    return true;
  }
  bool skip(unsigned depth) {
    if (p_ == end_) return fail("cut short");
    if (depth >= bounds_.depth_max) return fail("nested too deep");
    const std::uint8_t tag = *p_;
    std::uint64_t u = 0;
    std::uint32_t n = 0;
    std::string_view ignored;
    if (tag < 0x80 || tag >= 0xE0 || tag == 0xC0 || tag == 0xC2 || tag == 0xC3) {
      ++p_;
      return true;
    }
    if ((tag & 0xF0U) == 0x80 || tag == 0xDE || tag == 0xDF) {
      if (!map(n)) return false;
      for (std::uint32_t i = 0; i < 2 * n; ++i) if (!skip(depth + 1)) return false;
      return true;
    }
    if ((tag & 0xF0U) == 0x90 || tag == 0xDC || tag == 0xDD) {
      if (!array(n)) return false;
      for (std::uint32_t i = 0; i < n; ++i) if (!skip(depth + 1)) return false;
      return true;
    }
    if ((tag >= 0xA0 && tag <= 0xBF) || (tag >= 0xD9 && tag <= 0xDB)) return text(ignored);
    if (tag >= 0xC4 && tag <= 0xC6) return bytes(ignored);
    if (tag == 0xCA) return big_endian(4, u);
    if (tag == 0xCB) return big_endian(8, u);
    if (tag >= 0xCC && tag <= 0xCF) return big_endian(1U << (tag - 0xCCU), u);
    if (tag >= 0xD0 && tag <= 0xD3) return big_endian(1U << (tag - 0xD0U), u);
    if (tag >= 0xD4 && tag <= 0xD8) {  // fixext: one byte of kind, then 1 << k bytes
      ++p_;
      return skip_bytes(1U + (1U << (tag - 0xD4U)), bounds_.ext_max + 1U);
    }
    if (tag >= 0xC7 && tag <= 0xC9) {
      if (!big_endian(1U << (tag - 0xC7U), u)) return false;
      return skip_bytes(u + 1U, bounds_.ext_max + 1U);
    }
    return fail("not msgpack");  // 0xC1
  }

  const std::uint8_t* p_;
  const std::uint8_t* end_;
  const Bounds& bounds_;
  std::uint32_t budget_;
  const char* error_{};
};

}  // namespace gq::wire::msgpack
