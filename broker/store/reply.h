// reply.h - what Redis says, as values; and the sans-IO parser (hiredis' redisReader) that makes them from bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/vocabulary/errors.h"

namespace gq::store {

struct Reply {
  enum class Type : std::uint8_t { nil, status, error, integer, string, array };
  Type type{Type::nil};
  std::int64_t integer{};
  std::string text;            ///< status, error, string
  std::vector<Reply> items;    ///< array
  [[nodiscard]] bool is(Type t) const { return type == t; }
  [[nodiscard]] bool ok() const { return type == Type::status && text == "OK"; }
  [[nodiscard]] bool queued() const { return type == Type::status && text == "QUEUED"; }
  bool operator==(const Reply&) const = default;
};
// Short makers, for tests and for the state machine's own use.
inline Reply nil_reply() { return {}; }
inline Reply status(std::string text) { return {Reply::Type::status, 0, std::move(text), {}}; }
inline Reply error_reply(std::string text) { return {Reply::Type::error, 0, std::move(text), {}}; }
inline Reply string_reply(std::string text) { return {Reply::Type::string, 0, std::move(text), {}}; }
inline Reply integer_reply(std::int64_t value) { return {Reply::Type::integer, value, {}, {}}; }
inline Reply array_reply(std::vector<Reply> items) { return {Reply::Type::array, 0, {}, std::move(items)}; }

class ReplyReader {
 public:
  ReplyReader();
  ~ReplyReader();
  ReplyReader(const ReplyReader&) = delete;
  ReplyReader& operator=(const ReplyReader&) = delete;
  void feed(std::string_view bytes);
  /// The next whole reply; nullopt = more bytes are needed; an error (these are no RESP2 replies) ends the connection.
  Result<std::optional<Reply>> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// An error reply in our words: OOM, MISCONF, READONLY, NOREPLICAS, LOADING, BUSY, NOAUTH, NOPERM, WRONGTYPE, …
Error classify(const std::string& error_text);
bool is_out_of_memory(const std::string& error_text);   ///< maxmemory is reached; also as the cause that EXECABORT names

}  // namespace gq::store
