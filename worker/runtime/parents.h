// parents.h - the results of the jobs that a running job came after, asked of the broker over the worker's own connection.
//
// A question lives until it is answered: asked again after a lost link, after silence, and while the broker says UNAVAILABLE (it reads
// its image). Any other failure is the answer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "common/vocabulary/errors.h"
#include "common/wire/messages.h"

namespace gq::worker {

class ParentResults {
 public:
  using SendFn = std::function<bool(wire::Message message, std::uint64_t id, std::string_view body)>;   ///< false: no link now
  using Answered = std::function<void(Result<std::string> result_body)>;   ///< an encoded ResultBody; empty when that job has no result
  explicit ParentResults(SendFn send) : send_(std::move(send)) {}

  /// `child` runs here and came after `parent`. `done` comes from received(), never from inside this call.
  void ask(const JobId& parent, const JobId& child, Answered done);

  void link_up();
  void link_down() { up_ = false; }
  /// Answers whose request id has this bit, and not that of Blobs, are ours.
  static constexpr std::uint64_t kIdBit = std::uint64_t{1} << 62U;
  void received(std::uint64_t id, const wire::Message& message, std::string_view body);
  void tick();   ///< about once per second

 private:
  struct Question {
    wire::ResultQuery query;
    Answered done;
    int silent{};
    bool asked{};   ///< over this link
  };
  void say(std::uint64_t id, Question& question);

  SendFn send_;
  bool up_{};
  std::uint64_t next_id_{kIdBit | 1U};
  std::map<std::uint64_t, Question> open_;
};

}  // namespace gq::worker
