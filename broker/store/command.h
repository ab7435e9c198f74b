// command.h - commands as bytes (RESP2 arrays of bulk strings), appended to one buffer that leaves with one write.
#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace gq::store {

class CommandBuffer {
 public:
  /// begin(n), then exactly n arguments.
  void begin(std::size_t arguments) {
    number('*', arguments);
    ++commands_;
  }
  CommandBuffer& arg(std::string_view text) {
    number('$', text.size());
    bytes_.append(text);
    bytes_.append("\r\n", 2);
    return *this;
  }
  /// One argument from two pieces: a key's prefix and its id.
  CommandBuffer& arg(std::string_view front, std::string_view back) {
    number('$', front.size() + back.size());
    bytes_.append(front);
    bytes_.append(back);
    bytes_.append("\r\n", 2);
    return *this;
  }
  template <std::integral N>
  CommandBuffer& arg(N value) {
    char text[24];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    return arg(std::string_view(text, static_cast<std::size_t>(end - text)));
  }
  template <class... Args>
  CommandBuffer& add(const Args&... args) {
    begin(sizeof...(args));
    (arg(args), ...);
    return *this;
  }
  /// Whole commands made elsewhere.
  void append(const CommandBuffer& other) {
    bytes_.append(other.bytes_);
    commands_ += other.commands_;
  }
  void reserve(std::size_t bytes) { bytes_.reserve(bytes); }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  [[nodiscard]] std::string take() { return std::move(bytes_); }
  [[nodiscard]] std::size_t commands() const { return commands_; }

 private:
  void number(char mark, std::size_t value) {
    char text[28];
    text[0] = mark;
    char* end = std::to_chars(text + 1, text + 24, value).ptr;
    *end++ = '\r';
    *end++ = '\n';
    bytes_.append(text, static_cast<std::size_t>(end - text));
  }

  std::string bytes_;
  std::size_t commands_{};
};

/// Name and first key of the index-th command in encoded bytes ("ZADD gpuq:{x}:running"); for error messages only.
std::string describe_command(std::string_view bytes, std::size_t index);

}  // namespace gq::store
