// source.h - where a broker's policy comes from, and the one it follows now.
//
// The shell asks here at the start, at SIGHUP, at `gpuq config reload` and for `gpuq plan --config`. A file that is wrong changes
// nothing: the policy in force stays in force, and the error says what to mend. Whoever gets another policy from here sends it to
// the core as PolicyLoaded.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/policy/policy_file.h"

namespace gq::policy {

class PolicySource {
 public:
  using Clock = std::function<WallTime()>;
  struct Flag { std::string key, value, flag; };        ///< of the command line: beats the file at every reload

  /// The built-in policy, without a file: what reload() then returns as well.
  PolicySource();
  /// Reads `file` (empty = none). An error is USAGE with file:line:column.
  static Result<PolicySource> open(std::string file, std::vector<Flag> flags = {}, Config::Environment environment = {}, Clock clock = {});

  /// Reads the file again. On success it is current(); otherwise nothing has changed.
  Result<Loaded> reload();
  [[nodiscard]] const Loaded& current() const { return current_; }
  /// As it was read at the start: what [broker] says.
  [[nodiscard]] const Config& started_with() const { return started_with_; }
  /// What another text would say, as `gpuq plan --config new.toml` asks; changes nothing.
  [[nodiscard]] Result<Loaded> try_text(std::string_view text, const std::string& name) const;
  /// The windows' spans will run out, or the clock was set: the current policy's windows are computed anew. True: send
  /// current().policy to the core again. Cheap; to be asked every now and then (each turn of a timer will do).
  bool renew_windows();

 private:
  PolicySource(std::string file, std::vector<Flag> flags, Config::Environment environment, Clock clock);
  [[nodiscard]] Result<Config> with_flags(Result<Config> config) const;
  [[nodiscard]] Result<Loaded> policy_of(const Result<Config>& config, const std::string& name) const;
  std::string file_;
  std::vector<Flag> flags_;
  Config::Environment environment_;
  Clock clock_;
  Loaded current_;
  Config started_with_;
};

}  // namespace gq::policy
