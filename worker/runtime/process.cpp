#include "worker/runtime/process.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "common/log.h"

namespace gq::worker {
namespace {

struct Launch {
  const char* path{};
  char* const* argv{};
  char* const* env{};
  const char* cwd{};
  std::vector<std::pair<int, int>>* descriptors{};
  int null_fd{-1};
  int first_spare{};          ///< descriptors from here on may be used for shuffling
  bool die_with_parent{};
  pid_t parent{};
  int error{};                ///< shared memory: the child writes, the parent reads after exec or exit
  const char* failed_step{};
};

/// Runs in the parent's memory while the parent is suspended: system calls only, no allocation, no locks.
int launch(void* argument) {
  auto& l = *static_cast<Launch*>(argument);
  const auto give_up = [&](const char* step) {
    l.error = errno;
    l.failed_step = step;
    ::_exit(127);
    return 0;
  };
  for (int s = 1; s < NSIG; ++s) {
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    ::sigaction(s, &action, nullptr);   // SIGKILL, SIGSTOP and the reserved ones refuse: fine
  }
  if (::setsid() < 0) return give_up("setsid");
  if (l.die_with_parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != l.parent) ::_exit(127);   // it died before we asked
  }
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::umask(077);
  // First out of the way of all targets, then into place: a source may lie where another one has to go.
  int spare = l.first_spare;
  for (auto& [source, target] : *l.descriptors) {
    source = ::fcntl(source, F_DUPFD_CLOEXEC, spare);
    if (source < 0) return give_up("dup");
  }
  if (::dup2(l.null_fd, 0) < 0) return give_up("dup2");
  for (const auto& [source, target] : *l.descriptors)
    if (::dup2(source, target) < 0) return give_up("dup2");
  const int last = l.first_spare - 1;
  // Everything that is not named goes at exec; the named ones lost CLOEXEC by dup2.
  for (int fd = 3; fd <= last; ++fd) {
    bool named = false;
    for (const auto& [source, target] : *l.descriptors) named |= target == fd;
    if (!named) ::close(fd);
  }
  ::syscall(SYS_close_range, static_cast<unsigned>(last + 1), ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
  if (l.cwd != nullptr && ::chdir(l.cwd) != 0) return give_up("chdir");
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(l.path, l.argv, l.env);
  return give_up("execve");
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));  // execve does not write
  out.push_back(nullptr);
  return out;
}

bool is_program(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

std::string find_program(const std::string& name, const std::string& path_variable, const std::string& cwd) {
  if (name.empty()) return {};
  if (name.find('/') != std::string::npos) {
    const std::string path = name.front() == '/' || cwd.empty() ? name : cwd + "/" + name;
    return is_program(path) ? path : std::string();
  }
  std::size_t at = 0;
  while (at <= path_variable.size()) {
    const std::size_t end = std::min(path_variable.find(':', at), path_variable.size());
    const std::string folder = path_variable.substr(at, end - at);
    if (!folder.empty() && is_program(folder + "/" + name)) return folder + "/" + name;
    at = end + 1;
  }
  return {};
}

Result<pid_t> spawn(const SpawnSpec& spec) {
  if (spec.argv.empty()) return fail(Errc::bad_input, "nothing to run: argv is empty", "gpuq submit command -- PROGRAM ARGUMENTS");
  std::string path_variable;
  for (const std::string& entry : spec.env)
    if (entry.rfind("PATH=", 0) == 0) path_variable = entry.substr(5);
  const std::string path = find_program(spec.argv[0], path_variable, spec.cwd);
  if (path.empty())
    return fail(Errc::not_found, "no such program: " + spec.argv[0].substr(0, 100), "looked in PATH=" + path_variable.substr(0, 200));

  std::vector<std::pair<int, int>> descriptors = spec.descriptors;
  const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null_fd < 0) return fail(Errc::internal, std::string("/dev/null: ") + std::strerror(errno));
#if defined(__SANITIZE_THREAD__)
  // TSan takes a child that shares our memory for a fork of all our threads, and then sees races everywhere. There it gets a copy, and says
  // what failed through a page that is shared (and stays mapped).
  constexpr int kChildOf = CLONE_VFORK | SIGCHLD;
  void* page = ::mmap(nullptr, sizeof(Launch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check(page != MAP_FAILED, "no memory for a child's page");
  Launch& l = *new (page) Launch;
#else
  constexpr int kChildOf = CLONE_VM | CLONE_VFORK | SIGCHLD;
  Launch l;
#endif
  const std::vector<char*> argv = pointers(spec.argv);
  const std::vector<char*> env = pointers(spec.env);
  l.path = path.c_str();
  l.argv = argv.data();
  l.env = env.data();
  l.cwd = spec.cwd.empty() ? nullptr : spec.cwd.c_str();
  l.descriptors = &descriptors;
  l.null_fd = null_fd;
  l.die_with_parent = spec.die_with_parent;
  l.parent = ::getpid();
  l.first_spare = 3;
  for (const auto& [source, target] : descriptors) l.first_spare = std::max(l.first_spare, target + 1);

  constexpr std::size_t kStack = 256U << 10U;
  void* stack = ::mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) {
    ::close(null_fd);
    return fail(Errc::internal, "no memory for a child's stack");
  }
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = ::clone(&launch, static_cast<char*>(stack) + kStack, kChildOf, &l);
  const int clone_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::munmap(stack, kStack);
  ::close(null_fd);
  if (pid < 0) return fail(Errc::internal, std::string("cannot start a process: ") + std::strerror(clone_error), "raise the limit on processes (ulimit -u)");
  if (l.error != 0) {
    ::waitpid(pid, nullptr, 0);
    const std::string step = l.failed_step;
    if (step == "chdir") return fail(Errc::not_here, "no such folder on this worker: " + spec.cwd + " (" + std::strerror(l.error) + ")");
    return fail(step == "execve" ? Errc::bad_input : Errc::internal, path + ": " + step + ": " + std::strerror(l.error));
  }
  return pid;
}

std::string describe_status(int status) {
  if (WIFEXITED(status)) return "exit code " + std::to_string(WEXITSTATUS(status));
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status)) + " (" + ::strsignal(WTERMSIG(status)) + ")";
  return "status " + std::to_string(status);
}

// ---- Processes

Processes::Processes(asio::io_context& io) : io_(io), child_signals_(io, SIGCHLD), alive_(std::make_shared<bool>(true)) { listen(); }

Processes::~Processes() {
  *alive_ = false;
  if (guardian_pipe_ >= 0) ::close(guardian_pipe_);
}

void Processes::listen() {
  child_signals_.async_wait([this](const ErrorCode& ec, int) {
    if (ec) return;
    reap();
    listen();
  });
}

void Processes::reap() {
  // Only our own pids: waitpid(-1) would take exits from whoever else waits in this process.
  std::vector<std::pair<Exited, int>> done;
  for (auto it = exited_.begin(); it != exited_.end();) {
    siginfo_t ended{};
    if (::waitid(P_PID, static_cast<id_t>(it->first), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0) {
      ++it;
      continue;
    }
    // What the leader left behind in its group; before the leader is reaped, for then its number may name something else.
    signal_group(it->first, SIGKILL);
    int status = 0;
    while (::waitpid(it->first, &status, 0) < 0 && errno == EINTR) {
    }
    tell_guardian('-', it->first);
    done.emplace_back(std::move(it->second), status);
    it = exited_.erase(it);
  }
  for (auto& [exited, status] : done) exited(status);
}

Result<pid_t> Processes::start(const SpawnSpec& spec, Exited exited) {
  Result<pid_t> pid = spawn(spec);
  if (!pid) return pid;
  tell_guardian('+', *pid);
  exited_.emplace(*pid, std::move(exited));
  asio::post(io_, [this, alive = std::weak_ptr<bool>(alive_)] {   // it may have ended before it was listed
    if (!alive.expired()) reap();
  });
  return pid;
}

void Processes::signal_group(pid_t group, int signal) {
  if (group > 1) ::kill(-group, signal);
}

void Processes::kill_all() {
  for (const auto& [pid, exited] : exited_) signal_group(pid, SIGKILL);
}

void Processes::tell_guardian(char verb, pid_t group) {
  if (guardian_pipe_ < 0) return;
  const std::string line = verb + std::to_string(group) + "\n";
  if (::write(guardian_pipe_, line.data(), line.size()) < 0) log::warn("guardian_gone", {{"reason", std::strerror(errno)}});
}

Result<void> Processes::start_guardian() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail(Errc::internal, std::string("pipe: ") + std::strerror(errno));
  SpawnSpec spec;
  spec.argv = {"/proc/self/exe", "--guardian"};
  spec.descriptors = {{ends[0], 0}, {2, 2}};
  spec.die_with_parent = false;
  Result<pid_t> pid = spawn(spec);
  ::close(ends[0]);
  if (!pid) {
    ::close(ends[1]);
    return tl::unexpected(pid.error());
  }
  guardian_pipe_ = ends[1];
  return {};
}

int guardian_main() {
  for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(s, SIG_IGN);
  ::prctl(PR_SET_NAME, "gpuq-guardian");
  std::set<pid_t> groups;
  std::array<char, 64> line{};
  while (std::fgets(line.data(), static_cast<int>(line.size()), stdin) != nullptr) {
    const auto group = static_cast<pid_t>(std::strtol(line.data() + 1, nullptr, 10));
    if (group <= 1) continue;
    if (line[0] == '+') groups.insert(group);
    if (line[0] == '-') groups.erase(group);
  }
  for (int round = 0; round < 3 && !groups.empty(); ++round) {   // a group may be forking while it is killed
    for (const pid_t group : groups) ::kill(-group, SIGKILL);
    ::usleep(20'000);
  }
  return 0;
}

}  // namespace gq::worker
