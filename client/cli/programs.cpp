// programs.cpp - see programs.h.
#include "client/cli/programs.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <poll.h>
#include <sstream>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "client/cli/cli.h"

namespace gq::cli {

std::string own_folder() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string() : self.parent_path().string();
}

std::string find_program(const std::string& name) {
  const std::string beside = own_folder() + "/" + name;
  if (::access(beside.c_str(), X_OK) == 0) return beside;
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = (folder.empty() ? "." : folder) + "/" + name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

bool Child::start(const std::vector<std::string>& argv, const std::string& log, bool ready, std::string& error) {
  std::array<int, 2> pipe_fds{-1, -1};
  std::vector<std::string> args = argv;
  if (ready) {
    if (::pipe2(pipe_fds.data(), O_CLOEXEC) != 0) {
      error = std::string("pipe: ") + std::strerror(errno);
      return false;
    }
    args.push_back("--ready-fd");
    args.push_back("3");
  }
  std::vector<char*> raw;   // made before fork: the child may only call what is async-signal-safe
  for (std::string& arg : args) raw.push_back(arg.data());
  raw.push_back(nullptr);
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setpgid(0, 0);   // ctrl-C reaches us alone; we end our children in the right order
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(127);
    ::signal(SIGINT, SIG_DFL);
    ::signal(SIGTERM, SIG_DFL);
    ::signal(SIGPIPE, SIG_DFL);
    ::dup2(null, STDIN_FILENO);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    if (ready) {
      if (pipe_fds[1] == 3) ::fcntl(3, F_SETFD, 0);
      else ::dup2(pipe_fds[1], 3);
    }
    ::execv(raw[0], raw.data());
    ::_exit(127);
  }
  if (out >= 0) ::close(out);
  if (null >= 0) ::close(null);
  if (ready) ::close(pipe_fds[1]);
  if (pid < 0) {
    if (ready) ::close(pipe_fds[0]);
    error = std::string("fork: ") + std::strerror(errno);
    return false;
  }
  pid_ = pid;
  ready_ = pipe_fds[0];
  return true;
}

std::optional<std::string> Child::wait_ready(int timeout_ms) {
  std::string line;
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (std::chrono::steady_clock::now() < until && !interrupted()) {
    pollfd fd{ready_, POLLIN, 0};
    if (::poll(&fd, 1, 100) <= 0) continue;
    std::array<char, 4096> buffer{};
    const ssize_t n = ::read(ready_, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    line.append(buffer.data(), static_cast<std::size_t>(n));
    if (line.find('\n') == std::string::npos) continue;
    ::close(ready_);
    ready_ = -1;
    return line.substr(0, line.find('\n'));
  }
  return std::nullopt;
}

bool Child::running() {
  if (pid_ < 0) return false;
  int status = 0;
  const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
  if (ended == 0) return true;
  status_ = status;
  pid_ = -1;
  return false;
}

void Child::signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

void Child::stop(int grace_ms) {
  if (ready_ >= 0) ::close(ready_), ready_ = -1;
  if (pid_ < 0) return;
  signal(grace_ms > 0 ? SIGTERM : SIGKILL);
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(grace_ms);
  while (running()) {
    if (grace_ms > 0 && std::chrono::steady_clock::now() > until) signal(SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

bool Child::ends_within(int timeout_ms) {
  for (int waited = 0; waited < timeout_ms && running(); waited += 10) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return !running();
}

std::string tail_of(const std::string& file, std::size_t lines, std::uintmax_t from) {
  std::ifstream in(file);
  in.seekg(static_cast<std::streamoff>(from));
  std::deque<std::string> last;
  for (std::string line; std::getline(in, line);) {
    last.push_back(line);
    if (last.size() > lines) last.pop_front();
  }
  std::string text;
  for (const std::string& line : last) text += "    " + line + "\n";
  return text;
}

}  // namespace gq::cli
