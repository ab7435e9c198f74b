// process.h - start a program, learn when it is ready, stop it, and leave nothing behind.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace gpuq::demo {

/// A child in its own process group that dies with us. `{ready}` in an argument becomes the number of a pipe's write end; the
/// first line written there is ready_line().
class Process {
 public:
  Process() = default;
  ~Process();
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;

  /// Throws std::runtime_error when the program cannot be started. stdout and stderr go to `log_path`.
  static Process start(const std::vector<std::string>& argv, const std::string& log_path);
  /// The JSON line the program writes when it serves; throws with the end of its log when it dies or is not ready in time.
  std::string wait_ready(std::chrono::seconds timeout);
  /// SIGTERM, then SIGKILL after the grace. Returns its exit status, or 128 + signal.
  int stop(std::chrono::seconds grace = std::chrono::seconds(10));
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// CPU seconds and resident bytes so far, from /proc, its children not counted.
  [[nodiscard]] double cpu_seconds() const;
  [[nodiscard]] std::uint64_t resident_bytes() const;

 private:
  pid_t pid_ = -1;
  int ready_fd_ = -1;
  std::string name_, log_path_;
};

/// The value of "key": "text" or "key": number in one flat JSON line of ours; empty when absent.
std::string json_field(const std::string& line, const std::string& key);
/// The folder of the running program.
std::string own_folder();

}  // namespace gpuq::demo
