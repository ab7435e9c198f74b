// managed_redis.cpp - lock, fork, watch, start again.
//
// fork + exec by hand because posix_spawn knows no PR_SET_PDEATHSIG; between fork and exec only async-signal-safe calls
// are made and every string was built before. The kernel sends the death signal when the *thread* that forked ends,
// hence the rule in the header.
#include "broker/store/managed_redis.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "broker/store/redis_connection.h"
#include "common/net/asio.h"

namespace gq::store {

std::uint64_t default_maxmemory_bytes() {
  struct sysinfo machine {};
  const std::uint64_t ram = ::sysinfo(&machine) == 0 ? machine.totalram * machine.mem_unit : 8ULL << 30U;
  return std::min<std::uint64_t>(ram / 4, 4ULL << 30U);
}

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

std::string find_in_path(const std::string& binary) {
  if (binary.find('/') != std::string::npos) return ::access(binary.c_str(), X_OK) == 0 ? binary : "";
  const char* path = std::getenv("PATH");
  std::string rest = path != nullptr ? path : "/usr/bin:/bin";
  rest += ":/usr/local/bin:/usr/bin";
  for (std::size_t at = 0; at < rest.size();) {
    const auto end = std::min(rest.find(':', at), rest.size());
    std::string candidate = rest.substr(at, end - at) + "/" + binary;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return "";
}

std::string last_lines(const std::filesystem::path& file, std::size_t bytes) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<std::size_t>(in.tellg());
  in.seekg(static_cast<std::streamoff>(size > bytes ? size - bytes : 0));
  std::string text((std::istreambuf_iterator<char>(in)), {});
  for (char& c : text)
    if (c == '\n') c = ';';
  return text;
}

class Managed final : public ManagedRedis {
 public:
  Managed(asio::io_context& io, ManagedRedisOptions options, Handlers handlers)
      : options_(std::move(options)), handlers_(std::move(handlers)), folder_(options_.data_dir / "redis"), timer_(io) {
    if (options_.maxmemory_bytes == 0) options_.maxmemory_bytes = default_maxmemory_bytes();
  }
  ~Managed() override { stop(); }

  void start(std::function<void(Result<RedisAddress>)> done) override {
    done_ = std::move(done);
    started_ = Clock::now();
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    if (error)
      return soon([this, error] {
        answer(fail(Errc::unavailable, "cannot make " + folder_.string() + ": " + error.message(),
                    "choose another --data-dir"));
      });
    std::filesystem::permissions(folder_, std::filesystem::perms::owner_all, error);
    folder_ = std::filesystem::canonical(folder_, error);
    binary_ = find_in_path(options_.binary);
    if (binary_.empty())
      return soon([this] {
        answer(fail(Errc::not_found, "the program " + options_.binary + " is not installed",
                    "apt install redis-server, or give your own Redis with --redis URL"));
      });
    const auto lock_file = (options_.data_dir / "lock").string();
    lock_ = ::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_ < 0)
      return soon([this, lock_file] {
        answer(fail(Errc::unavailable, "cannot open " + lock_file + ": " + std::strerror(errno),
                    "choose another --data-dir"));
      });
    soon([this] { try_lock(); });
  }

  void stop() override {
    *alive_ = false;
    alive_ = std::make_shared<bool>(true);
    timer_.cancel();
    done_ = nullptr;
    if (pid_ > 0) {
      ::kill(pid_, SIGTERM);
      const auto deadline = Clock::now() + std::chrono::seconds(5);
      while (!reaped() && Clock::now() < deadline) std::this_thread::sleep_for(milliseconds(2));
      if (pid_ > 0) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
      }
    }
    drop_probe();
    if (lock_ >= 0) ::close(lock_);
    lock_ = -1;
  }

  [[nodiscard]] int pid() const override { return pid_; }
  [[nodiscard]] std::uint64_t maxmemory_bytes() const override { return options_.maxmemory_bytes; }

 private:
  template <class F>
  void after(milliseconds delay, F f) {
    const auto alive = alive_;
    timer_.expires_after(delay);
    timer_.async_wait([alive, f = std::move(f)](ErrorCode error) {
      if (!error && *alive) f();
    });
  }
  template <class F>
  void soon(F f) { after(milliseconds(0), std::move(f)); }

  void answer(Result<RedisAddress> result) {
    if (!result && lock_ >= 0) {
      ::close(lock_);
      lock_ = -1;
    }
    if (auto done = std::exchange(done_, nullptr)) done(std::move(result));
  }

  void try_lock() {
    if (::flock(lock_, LOCK_EX | LOCK_NB) == 0) {
      const std::string pid = std::to_string(::getpid()) + "\n";   // for people who ask who holds it
      if (::ftruncate(lock_, 0) != 0 || ::pwrite(lock_, pid.data(), pid.size(), 0) < 0) {}
      return launch();
    }
    if (Clock::now() - started_ < options_.lock_patience) return after(milliseconds(50), [this] { try_lock(); });
    char holder[32] = {};
    const auto n = ::pread(lock_, holder, sizeof holder - 1, 0);
    const std::string who = n > 0 ? " (process " + std::string(holder, std::strcspn(holder, "\n")) + ")" : "";
    answer(fail(Errc::data_dir_in_use,
                "data directory " + options_.data_dir.string() + " is in use by another broker" + who,
                "stop that broker, or choose another --data-dir"));
  }

  void launch() {
    launched_ = Clock::now();
    if (auto error = spawn()) return ended(*error);
    wait_ready();
  }

  std::optional<Error> spawn() {
    const std::string maxmemory = std::to_string(options_.maxmemory_bytes);
    const std::string words[] = {
        binary_, "--port", "0", "--unixsocket", "redis.sock", "--unixsocketperm", "600", "--dir", ".", "--daemonize",
        "no", "--logfile", "redis.log", "--databases", "1", "--save", "", "--appendonly", "yes", "--appendfsync",
        options_.durability == Durability::always ? "always" : "everysec", "--no-appendfsync-on-rewrite", "no",
        // the default of 64 mb forks every second or two at full rate
        "--auto-aof-rewrite-min-size", "1gb", "--auto-aof-rewrite-percentage", "100", "--maxmemory", maxmemory,
        "--maxmemory-policy", "noeviction"};
    std::vector<char*> argv;
    for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    const std::string folder = folder_.string();
    const pid_t parent = ::getpid();
    int report[2];
    if (::pipe2(report, O_CLOEXEC) != 0) return Error{Errc::internal, std::string("pipe: ") + std::strerror(errno), ""};

    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(127);          // the parent died in between
      ::setpgid(0, 0);                                  // ctrl-C is for the broker; it stops us when it is done
      sigset_t none;
      sigemptyset(&none);
      ::sigprocmask(SIG_SETMASK, &none, nullptr);
      ::signal(SIGPIPE, SIG_DFL);
      const int null = ::open("/dev/null", O_RDWR);
      for (int fd = 0; fd < 2 && null >= 0; ++fd) ::dup2(null, fd);
      ::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);   // whatever else is open stays the broker's
      ::fcntl(lock_, F_SETFD, 0);                                 // the lock goes along
      if (::chdir(folder.c_str()) == 0) ::execv(argv[0], argv.data());
      const int why = errno;
      if (::write(report[1], &why, sizeof why) < 0) {}
      ::_exit(127);
    }
    ::close(report[1]);
    if (child < 0) {
      ::close(report[0]);
      return Error{Errc::unavailable, std::string("cannot fork redis-server: ") + std::strerror(errno),
                   "free some memory"};
    }
    int why = 0;
    const bool failed = ::read(report[0], &why, sizeof why) == static_cast<ssize_t>(sizeof why);
    ::close(report[0]);
    if (failed) {
      ::waitpid(child, nullptr, 0);
      return Error{Errc::not_found, "cannot run " + binary_ + ": " + std::strerror(why), "apt install redis-server"};
    }
    pid_ = child;
    return std::nullopt;
  }

  bool reaped() {
    if (pid_ <= 0) return true;
    if (::waitpid(pid_, &status_, WNOHANG) != pid_) return false;
    pid_ = 0;
    return true;
  }

  /// It has answered a PING, be it with -LOADING: it listens before it looks at its files, and ends when it cannot read
  /// them.
  bool answers() {
    if (probe_ < 0) {
      const ReachablePath path((folder_ / "redis.sock").string());
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      if (path.path().size() >= sizeof address.sun_path) return false;
      std::memcpy(address.sun_path, path.path().c_str(), path.path().size());
      probe_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      if (::connect(probe_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
          ::send(probe_, "PING\r\n", 6, MSG_NOSIGNAL) != 6)
        drop_probe();
      return false;
    }
    char reply[64];
    const auto n = ::recv(probe_, reply, sizeof reply, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return false;
    drop_probe();
    return n > 0;
  }
  void drop_probe() {
    if (probe_ >= 0) ::close(probe_);
    probe_ = -1;
  }

  void wait_ready() {
    if (reaped()) return ended(end_error());
    if (answers()) {
      RedisAddress address;
      address.socket_path = (folder_ / "redis.sock").string();
      if (done_) answer(address);
      else if (handlers_.restarted) handlers_.restarted();
      return watch();
    }
    if (Clock::now() - launched_ > options_.start_patience && done_) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      pid_ = 0;
      return answer(fail(Errc::unavailable,
                         "redis-server did not begin to listen: " + last_lines(folder_ / "redis.log", 400),
                         "see " + (folder_ / "redis.log").string()));
    }
    after(milliseconds(5), [this] { wait_ready(); });
  }

  void watch() {
    if (reaped()) return ended(end_error());
    if (Clock::now() - launched_ > std::chrono::seconds(10)) backoff_ = {};
    after(milliseconds(50), [this] { watch(); });
  }

  [[nodiscard]] Error end_error() const {
    const std::string how = WIFSIGNALED(status_) ? "was killed by signal " + std::to_string(WTERMSIG(status_))
                                                 : "ended with status " + std::to_string(WEXITSTATUS(status_));
    return {Errc::unavailable, "redis-server " + how + ": " + last_lines(folder_ / "redis.log", 300),
            "see " + (folder_ / "redis.log").string()};
  }

  void ended(const Error& why) {
    drop_probe();
    if (done_) return answer(tl::unexpected<Error>(why));   // at the first start a person is waiting for the reason
    if (handlers_.died) handlers_.died(why);
    backoff_ = std::clamp(backoff_ * 2, options_.restart_backoff_min, options_.restart_backoff_max);
    after(backoff_, [this] { launch(); });
  }

  ManagedRedisOptions options_;
  Handlers handlers_;
  std::filesystem::path folder_;
  std::string binary_;
  asio::steady_timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::function<void(Result<RedisAddress>)> done_;
  Clock::time_point started_, launched_;
  milliseconds backoff_{};
  int lock_{-1};
  int probe_{-1};
  int status_{};
  pid_t pid_{};
};

}  // namespace

std::unique_ptr<ManagedRedis> make_managed_redis(asio::io_context& io, ManagedRedisOptions options,
                                                 ManagedRedis::Handlers handlers) {
  return std::make_unique<Managed>(io, std::move(options), std::move(handlers));
}

}  // namespace gq::store
