// routes.h - what a request means, said with libgpuq; what comes of it as a reply. Knows no socket.
//
// Each token is a client of its own (its own key), so ownership, roles and limits are the broker's, as for every other client.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/http/query.h"
#include "client/include/gpuq/client.h"
#include "common/vocabulary/errors.h"

namespace gq::http {

struct Settings {
  std::string tokens;                               ///< the folder of them
  bool insecure = false;                            ///< no token is asked for; the broker must be insecure too
  std::string broker;                               ///< insecure: its address; else empty = what the token's file names
  std::chrono::milliseconds patience{30'000};       ///< of /detect and /infer without ?timeout=
  std::chrono::milliseconds patience_max{600'000};  ///< of ?timeout= and ?wait=
  std::size_t tokens_max = 256;                     ///< in use at once: each has a connection to the broker
  std::uint64_t part_bytes_max = std::uint64_t{256} << 20U;   ///< of one part of a result: it is held in memory
};

class Member;

struct Request : Target {
  std::string method;
  std::shared_ptr<Member> member;                   ///< by admit(); empty where nobody is asked who he is
  std::string content_type, authorization, idempotency_key;
  std::string body;
};

struct Reply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
  bool hung_up = false;                             ///< nobody reads it any more
};

/// Waits until `ready()` (asked again after each `wake`), the deadline (false), or until the asker has hung up (nullopt).
class Link {
 public:
  virtual ~Link() = default;
  virtual std::optional<bool> wait(const std::function<bool()>& ready, std::chrono::steady_clock::time_point until) = 0;
  virtual std::function<void()> wake() = 0;         ///< may be called from any thread, also after the link has gone
};

class Routes {
 public:
  explicit Routes(Settings settings);
  ~Routes();
  /// Before the body is read: who is it? An error is the reply.
  std::optional<Reply> admit(Request& head);
  Reply answer(const Request& request, Link& link);
  static Reply failure(const gpuq::Error& error);
  static Reply failure(const Error& error);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

int status_of(std::string_view code);

}  // namespace gq::http
