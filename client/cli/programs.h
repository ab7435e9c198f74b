// programs.h - our other programs: where they lie, and children that end with us.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

namespace gq::cli {

std::string own_folder();                                              ///< of the running gpuq
/// Beside our own binary, then in PATH; empty when nowhere.
std::string find_program(const std::string& name);

/// A child in its own process group that dies with us. Its standard output and error go to `log`.
class Child {
 public:
  Child() = default;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { stop(0); }
  /// With `ready`: the child gets "--ready-fd N", and wait_ready() reads the one line it writes there.
  bool start(const std::vector<std::string>& argv, const std::string& log, bool ready, std::string& error);
  /// The line, or nullopt when it ended, was interrupted or was too slow.
  std::optional<std::string> wait_ready(int timeout_ms);
  [[nodiscard]] bool running();
  /// It closed its pipe: is that because it is ending?
  bool ends_within(int timeout_ms);
  [[nodiscard]] int status() const { return status_; }                 ///< of waitpid, once it has ended
  [[nodiscard]] pid_t pid() const { return pid_; }
  void signal(int number) const;
  /// SIGTERM, up to `grace_ms`, then SIGKILL; waits for it.
  void stop(int grace_ms);
 private:
  pid_t pid_ = -1;
  int status_ = 0;
  int ready_ = -1;
};

/// The last lines, of what was written behind `from`.
std::string tail_of(const std::string& file, std::size_t lines, std::uintmax_t from = 0);

}  // namespace gq::cli
