// ranks.cpp - see ranks.h. One thread, no allocation between fork and exec.
#include "worker/runtime/ranks.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace gq::worker {
namespace {

constexpr int kYielded = 75;
constexpr auto kPatience = std::chrono::seconds(5);   // of the others, after one has failed
constexpr std::size_t kRanksMax = 64;

/// A port that was free a moment ago, as torchrun chooses one.
std::string free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool bound = fd >= 0 && ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (fd >= 0) ::close(fd);
  return bound ? std::to_string(ntohs(address.sin_port)) : "29500";
}

struct Rank {
  pid_t pid{-1};
  int status{};
  bool running{};
};

bool failed(int status) { return !WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != kYielded); }

/// Ends as the rank did, so that whoever waits for this process sees what happened to that one.
int end_like(std::size_t rank, int status) {
  if (WIFEXITED(status)) {
    std::fprintf(stderr, "[gpuq] rank %zu ended with code %d\n", rank, WEXITSTATUS(status));
    return WEXITSTATUS(status);
  }
  const int signal = WTERMSIG(status);
  std::fprintf(stderr, "[gpuq] rank %zu was killed by signal %d\n", rank, signal);
  ::signal(signal, SIG_DFL);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  sigprocmask(SIG_UNBLOCK, &one, nullptr);
  ::raise(signal);
  return 128 + signal;
}

void tell(const std::vector<Rank>& ranks, int signal) {
  for (const Rank& rank : ranks)
    if (rank.running) ::kill(rank.pid, signal);
}

bool start(std::vector<Rank>& ranks, char** argv, const sigset_t& mask) {
  const std::string world = std::to_string(ranks.size()), port = free_port();
  ::setenv("WORLD_SIZE", world.c_str(), 1);
  ::setenv("LOCAL_WORLD_SIZE", world.c_str(), 1);
  ::setenv("GROUP_RANK", "0", 1);
  ::setenv("MASTER_ADDR", "127.0.0.1", 1);
  ::setenv("MASTER_PORT", port.c_str(), 1);
  const char* progress = std::getenv("GPUQ_PROGRESS_FD");
  const int progress_fd = progress == nullptr ? -1 : std::atoi(progress);
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const std::string text = std::to_string(rank);
    ::setenv("RANK", text.c_str(), 1);
    ::setenv("LOCAL_RANK", text.c_str(), 1);
    if (rank == 1) ::unsetenv("GPUQ_PROGRESS_FD");
    const pid_t pid = ::fork();
    if (pid == 0) {
      sigprocmask(SIG_SETMASK, &mask, nullptr);
      if (rank > 0 && progress_fd >= 0) ::close(progress_fd);
      ::execvp(argv[0], argv);
      std::fprintf(stderr, "[gpuq] cannot run %s: %s\n", argv[0], std::strerror(errno));
      ::_exit(errno == ENOENT ? 127 : 126);
    }
    if (pid < 0) {
      std::fprintf(stderr, "[gpuq] cannot start rank %zu: %s\n", rank, std::strerror(errno));
      tell(ranks, SIGKILL);
      return false;
    }
    ranks[rank] = {pid, 0, true};
  }
  return true;
}

/// Until all have ended; which one failed first, or their number. The others would wait for it for ever: they are told.
std::size_t wait_for(std::vector<Rank>& ranks, const sigset_t& watched) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point deadline{};
  std::size_t running = ranks.size(), first_failed = ranks.size();
  while (running > 0) {
    const timespec tick{0, 200'000'000};
    sigtimedwait(&watched, nullptr, &tick);
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      const auto ended = std::find_if(ranks.begin(), ranks.end(), [&](const Rank& rank) { return rank.running && rank.pid == pid; });
      if (ended == ranks.end()) continue;
      *ended = {pid, status, false};
      --running;
      if (!failed(status) || first_failed != ranks.size()) continue;
      first_failed = static_cast<std::size_t>(ended - ranks.begin());
      deadline = Clock::now() + kPatience;
      tell(ranks, SIGTERM);
    }
    if (first_failed != ranks.size() && Clock::now() >= deadline) tell(ranks, SIGKILL);
  }
  return first_failed;
}

}  // namespace

std::vector<std::string> ranked(const std::vector<std::string>& argv, std::size_t ranks) {
  std::vector<std::string> out{"/proc/self/exe", "--ranks", std::to_string(ranks), "--"};
  out.insert(out.end(), argv.begin(), argv.end());
  return out;
}

int ranks_main(int argc, char** argv) {
  const auto asked = argc > 4 ? std::strtoul(argv[2], nullptr, 10) : 0UL;
  if (asked == 0 || asked > kRanksMax || std::strcmp(argv[3], "--") != 0) {
    std::fprintf(stderr, "error[USAGE]: gpuq-worker --ranks N -- PROGRAM ARGS, N at most %zu\n", kRanksMax);
    return 2;
  }
  // SIGTERM is the ranks' business, they have it too; here it only wakes the wait. Both stay blocked, so none is missed.
  sigset_t watched, before;
  sigemptyset(&watched);
  sigaddset(&watched, SIGCHLD);
  sigaddset(&watched, SIGTERM);
  sigprocmask(SIG_BLOCK, &watched, &before);

  std::vector<Rank> ranks(asked);
  if (!start(ranks, argv + 4, before)) return 126;
  const std::size_t first_failed = wait_for(ranks, watched);
  if (first_failed != ranks.size()) return end_like(first_failed, ranks[first_failed].status);
  const bool yielded = std::any_of(ranks.begin(), ranks.end(), [](const Rank& rank) { return WEXITSTATUS(rank.status) == kYielded; });
  return yielded ? kYielded : 0;
}

}  // namespace gq::worker
