// store_redis_server.h - a real redis-server per test: own temp folder, own unix socket, no port unless asked, ended by its pid.
#pragma once

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "broker/store/command.h"
#include "broker/store/redis_store.h"
#include "broker/store/reply.h"

namespace gq::test {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

/// Removed with everything in it at the end.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "gpuq-store-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// A TCP port of loopback that was free a moment ago.
inline std::uint16_t free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0 || ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("no free port");
  ::close(fd);
  return ntohs(address.sin_port);
}

/// A plain blocking client, to look behind the store's back.
class RawClient {
 public:
  explicit RawClient(const std::string& socket_path) {
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket_path.c_str(), sizeof address.sun_path - 1);
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      ::close(fd_);
      throw std::runtime_error("cannot connect to " + socket_path);
    }
  }
  ~RawClient() { ::close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) throw std::runtime_error("redis link lost while writing");
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  store::Reply receive() {
    for (;;) {
      auto reply = reader_.next();
      if (!reply) throw std::runtime_error(reply.error().what);
      if (*reply) return std::move(**reply);
      char buffer[65536];
      const auto n = ::recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) throw std::runtime_error("redis link lost while reading");
      reader_.feed({buffer, static_cast<std::size_t>(n)});
    }
  }
  template <class... Args>
  store::Reply operator()(const Args&... args) {
    store::CommandBuffer command;
    command.add(args...);
    send(command.bytes());
    return receive();
  }

 private:
  int fd_{-1};
  store::ReplyReader reader_;
};

class RedisServer {
 public:
  explicit RedisServer(std::vector<std::string> extra = {}, fs::path dir = {}) : extra_(std::move(extra)) {
    dir_ = dir.empty() ? folder_.path() : std::move(dir);
    start();
  }
  ~RedisServer() { kill(SIGKILL); }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  void start(bool wait = true) {
    std::vector<std::string> words{"setpriv", "--pdeathsig", "KILL", "redis-server", "--port", "0", "--unixsocket", socket_path(),
                                   "--dir", dir_.string(), "--save", "", "--appendonly", "yes", "--appendfsync", "always",
                                   "--maxmemory", "1gb", "--logfile", (folder_.path() / "redis.log").string()};
    words.insert(words.end(), extra_.begin(), extra_.end());
    std::vector<char*> argv;
    for (auto& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    if (::posix_spawnp(&pid_, argv[0], nullptr, nullptr, argv.data(), environ) != 0) throw std::runtime_error("cannot start redis-server");
    if (wait) wait_ready();
  }
  void wait_ready() {
    const auto deadline = std::chrono::steady_clock::now() + 15s;
    for (;;) {
      try {
        RawClient client(socket_path());
        if (!client("GET", "x").text.starts_with("LOADING")) return;
      } catch (const std::runtime_error&) {
        if (std::chrono::steady_clock::now() > deadline) throw;
      }
      std::this_thread::sleep_for(2ms);
    }
  }
  void kill(int signal) {
    if (pid_ <= 0) return;
    ::kill(pid_, signal);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  void signal(int number) const { ::kill(pid_, number); }
  void restart() {
    kill(SIGKILL);
    start();
  }
  [[nodiscard]] std::string socket_path() const { return (folder_.path() / "redis.sock").string(); }
  [[nodiscard]] fs::path folder() const { return folder_.path(); }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] RawClient client() const { return RawClient(socket_path()); }
  [[nodiscard]] store::RedisOptions options() const {
    store::RedisOptions options;
    options.address.socket_path = socket_path();
    options.name_space = "test";
    options.leader_name = "test";
    return options;
  }

 private:
  TempFolder folder_;
  fs::path dir_;
  std::vector<std::string> extra_;
  pid_t pid_{};
};

}  // namespace gq::test
