// msgpack.h - what the wire asks of msgpack: a writer into one growing buffer and a reader that is bounded by construction.
// The format itself is msgpack-c's: its packer writes, its parser reads; it is seen in msgpack.cpp only. Internal to common/wire.
//
// The parser never builds objects: it reports each value once, as one 16-byte Token that points into the received bytes, and
// the Reader walks over these. So nothing is ever allocated from a number that was received: a token stands for at least one
// byte that is there, and a count is believed only up to a limit and to a budget for the whole frame. Values at the top level
// are parsed when they are asked for: of a message that is refused by its header, the body is never looked at.
// Nothing throws; the first failure sticks, and a parser's failure shows when the walk arrives at it, so that it has a field.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace gq::wire::pack {

class Writer {
 public:
  explicit Writer(std::string& buffer) : buffer_(buffer) {
    if (buffer_.size() < 4096) buffer_.resize(4096);
    p_ = buffer_.data();
    end_ = p_ + buffer_.size();
  }
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(p_ - buffer_.data()); }
  [[nodiscard]] std::string_view view() const { return {buffer_.data(), size()}; }

  void nil();
  void boolean(bool v);
  void number(std::uint64_t v);
  void signed_number(std::int64_t v);
  void real(double v);
  void text(std::string_view v);
  void bytes(const void* data, std::size_t size);
  void array(std::size_t n);
  void map(std::size_t n);

  /// The packer's stream.
  void write(const char* data, std::size_t n) {
    if (n == 0) return;  // data may be null
    if (static_cast<std::size_t>(end_ - p_) < n) grow(n);
    std::memcpy(p_, data, n);
    p_ += n;
  }

 private:
  void grow(std::size_t n);

  std::string& buffer_;
  char* p_{};
  char* end_{};
};

struct Bounds {
  std::uint32_t elements_max = 16'384;          // of one array or map
  std::uint32_t elements_in_frame = 1U << 17U;  // of all arrays and maps together: bounds memory per byte received
  std::uint32_t text_max = 64U << 10U;          // of one string
  std::uint32_t bytes_max = 64U << 10U;         // of one bin
  std::uint32_t ext_max = 1U << 10U;            // of one ext, which is only ever skipped
  std::uint32_t depth_max = 16;                 // of what is skipped; what is read is as deep as the schema
  std::uint32_t depth_in_frame = 64;            // of all that is parsed: the schema's depth and depth_max, with room to spare
};

/// One value as it was parsed; the elements of an array and the keys and values of a map are the tokens that follow it.
struct Token {
  enum class Kind : std::uint8_t { nil, boolean, number, negative, real, text, bytes, ext, array, map };
  union {
    std::uint64_t number;   // also a boolean
    std::int64_t negative;  // less than 0
    double real;
    const char* data;       // of a text, bytes or ext; into what was received
  };
  std::uint32_t size;       // of a text or bytes; of an ext without its type; elements of an array; pairs of a map
  Kind kind;
};
using Tokens = std::vector<Token>;

class Reader {
 public:
  /// `scratch` is kept by the caller between messages, as a Writer's buffer is; one reader at a time uses it.
  Reader(const void* data, std::size_t size, const Bounds& bounds, Tokens& scratch);

  [[nodiscard]] bool at_end() const { return at_ == end_ && stop_ == nullptr && parsed_ == size_; }
  [[nodiscard]] const char* error() const { return error_; }
  bool fail(const char* why) {
    if (error_ == nullptr) error_ = why;
    return false;
  }
  /// nil stands for "the default" wherever a value is expected.
  bool take_nil() {
    if (!ready() || at_->kind != Kind::nil) return false;
    ++at_;
    return true;
  }
  bool boolean(bool& v) {
    if (!ready()) return false;
    if (at_->kind != Kind::boolean) return fail("not a boolean");
    v = at_++->number != 0;
    return true;
  }
  bool number(std::uint64_t& v) {
    if (!ready()) return false;
    if (at_->kind != Kind::number) return fail(at_->kind == Kind::negative ? "negative" : "not a whole number");
    v = at_++->number;
    return true;
  }
  bool signed_number(std::int64_t& v) {
    if (!ready()) return false;
    if (at_->kind == Kind::negative) {
      v = at_++->negative;
      return true;
    }
    if (at_->kind != Kind::number) return fail("not a whole number");
    if (at_->number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return fail("out of range");
    v = static_cast<std::int64_t>(at_++->number);
    return true;
  }
  /// A float, or a whole number: other encoders shorten 1.0 to 1.
  bool real(double& v) {
    if (!ready()) return false;
    if (at_->kind == Kind::real) v = at_->real;
    else if (at_->kind == Kind::number) v = static_cast<double>(at_->number);
    else if (at_->kind == Kind::negative) v = static_cast<double>(at_->negative);
    else return fail("not a number");
    ++at_;
    return true;
  }
  /// A str, or a bin where another language has only bytes.
  bool text(std::string_view& v) { return blob(v, bounds_.text_max, "not a string"); }
  /// A bin; a str is accepted too, for encoders of the old msgpack.
  bool bytes(std::string_view& v) { return blob(v, bounds_.bytes_max, "not bytes"); }
  /// The count as it was received: ask for the elements one by one, make room for no more than are there.
  bool array(std::uint32_t& n) { return count(n, Kind::array, "not an array"); }
  bool map(std::uint32_t& n) { return count(n, Kind::map, "not a map"); }
  [[nodiscard]] std::size_t there(std::uint32_t n) const { return std::min<std::size_t>(n, static_cast<std::size_t>(end_ - at_)); }

  /// Step over one value of any kind.
  bool skip() { return skip(0); }

 private:
  using Kind = Token::Kind;
  /// A token stands at at_; false: there is none, and the failure says why.
  bool ready() { return at_ != end_ || parse_next(); }
  bool parse_next();
  bool skip(std::uint32_t depth);
  bool blob(std::string_view& v, std::uint32_t most, const char* what) {
    if (!ready()) return false;
    if (at_->kind != Kind::text && at_->kind != Kind::bytes) return fail(what);
    if (at_->size > most) return fail("longer than allowed");
    v = {at_->data, at_->size};
    ++at_;
    return true;
  }
  bool count(std::uint32_t& n, Kind kind, const char* what) {
    if (!ready()) return false;
    if (at_->kind != kind) return fail(what);
    n = at_++->size;
    return true;
  }

  const char* data_;
  std::size_t size_;
  std::size_t parsed_{};  // bytes
  const Bounds& bounds_;
  std::uint32_t budget_;  // elements that may still come
  Tokens& tokens_;        // of the value at the top level that is being read
  const Token* at_{};
  const Token* end_{};
  const char* stop_{};    // why the parser stopped; found out by the reader who gets that far
  const char* error_{};
};

}  // namespace gq::wire::pack
