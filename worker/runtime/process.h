// process.h - starting programs, hearing of their end, and making sure that none outlives the worker.
//
// Not posix_spawn: it cannot set the parent-death signal, the umask or no-new-privileges. This is what posix_spawn does inside
// (clone with CLONE_VM|CLONE_VFORK, all signals blocked, system calls only) plus those. Never fork(): a copy would share ZeroMQ's state.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/net/asio.h"
#include "common/vocabulary/errors.h"

namespace gq::worker {

struct SpawnSpec {
  std::vector<std::string> argv;                  ///< argv[0] is looked up in the PATH of `env`
  std::vector<std::string> env;                   ///< "KEY=value"
  std::string cwd;                                ///< empty = stay
  std::vector<std::pair<int, int>> descriptors;   ///< ours -> the child's; everything else is closed, 0 is /dev/null unless named
  bool die_with_parent = true;
};
/// The child leads a session and process group of its own. NOT_FOUND, REFUSED (not executable), INTERNAL.
Result<pid_t> spawn(const SpawnSpec& spec);
/// The file that argv[0] means; empty when there is none.
std::string find_program(const std::string& name, const std::string& path_variable, const std::string& cwd);

/// Children's exits by SIGCHLD, and the guardian: a tiny process that kills the listed groups when the worker's end of its pipe
/// closes, however the worker died.
class Processes {
 public:
  using Exited = std::function<void(int status)>;
  explicit Processes(asio::io_context& io);
  ~Processes();
  Result<void> start_guardian();
  Result<pid_t> start(const SpawnSpec& spec, Exited exited);
  static void signal_group(pid_t group, int signal);
  /// SIGKILL to every live group.
  void kill_all();
  [[nodiscard]] std::size_t live() const { return exited_.size(); }

 private:
  void listen();
  void reap();
  void tell_guardian(char verb, pid_t group);
  asio::io_context& io_;
  asio::signal_set child_signals_;
  std::map<pid_t, Exited> exited_;
  int guardian_pipe_{-1};
  std::shared_ptr<bool> alive_;
};

/// The guardian's main: reads "+PGID" and "-PGID" lines from fd 0; at its end kills what is left. argv of the worker: "--guardian".
int guardian_main();

std::string describe_status(int status);   ///< "exit code 3", "signal 9 (Killed)"

}  // namespace gq::worker
