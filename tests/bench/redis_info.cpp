#include "tests/bench/redis_info.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <thread>

namespace gq::bench {

namespace {

int connect_to(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error("socket path too long: " + path);
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  ::close(fd);
  return -1;
}

std::string find_redis_server() {
  for (const char* path : {"/usr/bin/redis-server", "/usr/local/bin/redis-server"})
    if (std::filesystem::exists(path)) return path;
  throw std::runtime_error("redis-server is not installed (apt-get install redis-server)");
}

}  // namespace

RedisForBench::RedisForBench() {
  char path[] = "/tmp/gpuq-raw-XXXXXX";
  if (::mkdtemp(path) == nullptr) throw std::runtime_error("cannot make a folder in /tmp");
  folder_ = path;
  server_ = gpuq::demo::Process::start({find_redis_server(), "--port", "0", "--unixsocket", socket(), "--dir", folder_, "--appendonly", "yes", "--appendfsync", "always",
                                        "--save", "", "--maxmemory-policy", "noeviction", "--auto-aof-rewrite-min-size", "1gb"},
                                       folder_ + "/redis.log");
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  for (;;) {
    if (const int fd = connect_to(socket()); fd >= 0) {
      ::close(fd);
      return;
    }
    if (std::chrono::steady_clock::now() > end) throw std::runtime_error("redis-server did not open " + socket());
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

RedisForBench::~RedisForBench() {
  server_.stop();
  std::error_code ec;
  std::filesystem::remove_all(folder_, ec);
}

double redis_used_memory(const std::string& socket) {
  const int fd = connect_to(socket);
  if (fd < 0) throw std::runtime_error("cannot connect to " + socket);
  constexpr char kAsk[] = "INFO memory\r\n";
  std::string answer;
  char chunk[4096];
  if (::write(fd, kAsk, sizeof kAsk - 1) > 0)
    while (answer.find("\r\nused_memory_human") == std::string::npos) {
      const ssize_t n = ::read(fd, chunk, sizeof chunk);
      if (n <= 0) break;
      answer.append(chunk, static_cast<std::size_t>(n));
    }
  ::close(fd);
  const auto at = answer.find("used_memory:");
  if (at == std::string::npos) throw std::runtime_error("INFO memory said nothing");
  return std::stod(answer.substr(at + 12));
}

}  // namespace gq::bench
