// msgpack.cpp - the one place that sees msgpack-c: its packer behind Writer, its parser behind Reader.
#include "common/wire/msgpack.h"

#include <bit>
#include <msgpack.hpp>

namespace gq::wire::pack {

namespace {

using Packer = ::msgpack::packer<Writer>;  // one pointer: made anew for each value

/// Takes the parser's events down as tokens, and stops it at a limit. Every method that returns bool: go on?
class Collector : public ::msgpack::null_visitor {
 public:
  Collector(Tokens& tokens, const Bounds& bounds, std::uint32_t& budget) : tokens_(tokens), bounds_(bounds), budget_(budget) {}
  [[nodiscard]] const char* why() const { return why_; }

  bool visit_nil() { return whole(Token::Kind::nil, 0); }
  bool visit_boolean(bool v) { return whole(Token::Kind::boolean, v ? 1 : 0); }
  bool visit_positive_integer(std::uint64_t v) { return whole(Token::Kind::number, v); }
  bool visit_negative_integer(std::int64_t v) {  // named for the tag: other encoders put positive numbers there too
    if (v >= 0) return whole(Token::Kind::number, static_cast<std::uint64_t>(v));
    tokens_.push_back({{.negative = v}, 0, Token::Kind::negative});
    return true;
  }
  bool visit_float32(float v) { return visit_float64(static_cast<double>(v)); }
  bool visit_float64(double v) {
    tokens_.push_back({{.real = v}, 0, Token::Kind::real});
    return true;
  }
  bool visit_str(const char* v, std::uint32_t size) { return blob(Token::Kind::text, v, size); }
  bool visit_bin(const char* v, std::uint32_t size) { return blob(Token::Kind::bytes, v, size); }
  bool visit_ext(const char* v, std::uint32_t size) { return blob(Token::Kind::ext, v + 1, size - 1); }
  bool start_array(std::uint32_t n) { return start(Token::Kind::array, n); }
  bool start_map(std::uint32_t n) { return start(Token::Kind::map, n); }
  bool end_array() { return end(); }
  bool end_map() { return end(); }
  void parse_error(std::size_t, std::size_t) { why_ = "not msgpack"; }

 private:
  bool whole(Token::Kind kind, std::uint64_t v) {
    tokens_.push_back({{.number = v}, 0, kind});
    return true;
  }
  bool blob(Token::Kind kind, const char* data, std::uint32_t size) {  // its length is the reader's matter: depends on the field
    tokens_.push_back({{.data = size != 0 ? data : ""}, size, kind});  // the parser gives a null pointer for an empty one
    return true;
  }
  bool start(Token::Kind kind, std::uint32_t n) {
    if (n > bounds_.elements_max) return stop("more elements than allowed");
    if (n > budget_) return stop("more elements in one frame than allowed");
    if (++depth_ > bounds_.depth_in_frame) return stop("nested too deep");
    budget_ -= n;
    return whole(kind, 0) && (tokens_.back().size = n, true);
  }
  bool end() {
    --depth_;
    return true;
  }
  bool stop(const char* why) {
    why_ = why;
    return false;
  }

  Tokens& tokens_;
  const Bounds& bounds_;
  std::uint32_t& budget_;
  std::uint32_t depth_{};
  const char* why_{"cut short"};
};

}  // namespace

void Writer::nil() { Packer(*this).pack_nil(); }
void Writer::boolean(bool v) { v ? Packer(*this).pack_true() : Packer(*this).pack_false(); }
void Writer::number(std::uint64_t v) { Packer(*this).pack_uint64(v); }
void Writer::signed_number(std::int64_t v) { Packer(*this).pack_int64(v); }
void Writer::real(double v) {
  // Not pack_double: that one makes an integer of every whole number, loses the sign of -0.0, and for 2^64 overflows in doing so.
  // A field has one kind on our wire: always a float64.
  const auto bits = std::bit_cast<std::uint64_t>(v);
  char raw[9] = {static_cast<char>(0xCBU)};
  for (unsigned i = 0; i < 8; ++i) raw[1 + i] = static_cast<char>(static_cast<std::uint8_t>(bits >> (56U - 8U * i)));
  write(raw, sizeof raw);
}
void Writer::text(std::string_view v) {
  const auto n = static_cast<std::uint32_t>(v.size());
  Packer(*this).pack_str(n).pack_str_body(v.data(), n);
}
void Writer::bytes(const void* data, std::size_t size) {
  const auto n = static_cast<std::uint32_t>(size);
  Packer(*this).pack_bin(n).pack_bin_body(static_cast<const char*>(data), n);
}
void Writer::array(std::size_t n) { Packer(*this).pack_array(static_cast<std::uint32_t>(n)); }
void Writer::map(std::size_t n) { Packer(*this).pack_map(static_cast<std::uint32_t>(n)); }

void Writer::grow(std::size_t n) {
  const std::size_t used = size();
  buffer_.resize((used + n) * 2);
  p_ = buffer_.data() + used;
  end_ = buffer_.data() + buffer_.size();
}

Reader::Reader(const void* data, std::size_t size, const Bounds& bounds, Tokens& scratch)
    : data_(static_cast<const char*>(data)), size_(size), bounds_(bounds), budget_(bounds.elements_in_frame), tokens_(scratch) {
  constexpr std::size_t kKept = (1U << 20U) / sizeof(Token);
  if (tokens_.capacity() > kKept) Tokens().swap(tokens_);  // one large frame must not stay for ever
}

bool Reader::parse_next() {
  if (stop_ != nullptr) return fail(stop_);
  tokens_.clear();
  Collector collector(tokens_, bounds_, budget_);
  if (!::msgpack::parse(data_, size_, parsed_, collector)) stop_ = collector.why();
  at_ = tokens_.data();
  end_ = at_ + tokens_.size();
  return at_ != end_ || fail(stop_);
}

bool Reader::skip(std::uint32_t depth) {
  if (!ready()) return false;
  if (depth >= bounds_.depth_max) return fail("nested too deep");
  std::uint32_t n = 0;
  std::string_view ignored;
  switch (at_->kind) {
    case Kind::text: return text(ignored);
    case Kind::bytes: return bytes(ignored);
    case Kind::ext:
      if (at_->size > bounds_.ext_max) return fail("longer than allowed");
      ++at_;
      return true;
    case Kind::array:
      if (!array(n)) return false;
      for (std::uint32_t i = 0; i < n; ++i) if (!skip(depth + 1)) return false;
      return true;
    case Kind::map:
      if (!map(n)) return false;
      for (std::uint32_t i = 0; i < 2 * n; ++i) if (!skip(depth + 1)) return false;
      return true;
    default: ++at_; return true;
  }
}

}  // namespace gq::wire::pack
