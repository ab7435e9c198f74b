#include "worker/runtime/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

#include "common/log.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/process.h"

extern char** environ;

namespace gq::worker {
namespace {

constexpr int kChannelFd = 3;
constexpr int kFramesPerTurn = 64;      // then others have their turn
constexpr int kReadyLimit_s = 60;
constexpr int kTrainerNice = 10;

std::vector<std::string> child_environment(const std::string& visible) {
  std::vector<std::string> env;
  for (const char* key : {"PATH", "LANG", "HOME", "LD_LIBRARY_PATH", "TMPDIR"})
    if (const char* value = std::getenv(key)) env.push_back(std::string(key) + "=" + value);
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (const std::string_view text(*entry); text.rfind("GPUQ_", 0) == 0 && text.rfind("GPUQ_ACCESS_FILE=", 0) != 0) env.emplace_back(text);
  if (std::getenv("GOMP_SPINCOUNT") == nullptr && std::getenv("OMP_WAIT_POLICY") == nullptr) env.push_back("GOMP_SPINCOUNT=10000");   // see CHILD_PROTOCOL.md
  env.push_back("CUDA_MODULE_LOADING=LAZY");
  env.push_back("CUDA_DEVICE_ORDER=PCI_BUS_ID");
  env.push_back("CUDA_VISIBLE_DEVICES=" + visible);
  return env;
}

}  // namespace

Duration respawn_backoff(unsigned failures) {
  constexpr std::array kSteps{0s, 1s, 2s, 5s, 10s, 30s};
  return kSteps[std::min<std::size_t>(failures, kSteps.size() - 1)];
}

ChildProcess::ChildProcess(ChildContext context, Spec spec, Handlers handlers)
    : context_(std::move(context)),
      spec_(std::move(spec)),
      handlers_(std::move(handlers)),
      socket_(context_.io),
      printed_(context_.io),
      watchdog_(context_.io),
      kill_timer_(context_.io) {
  if (const char* limit = std::getenv("GPUQ_CHILD_HANG_S")) hang_limit_s_ = std::max(1, std::atoi(limit));
}

ChildProcess::~ChildProcess() {
  if (socket_.is_open()) socket_.release();   // the channel owns the descriptor
}

Result<std::shared_ptr<ChildProcess>> ChildProcess::start(ChildContext context, Spec spec, Handlers handlers) {
  auto child = std::make_shared<ChildProcess>(std::move(context), std::move(spec), std::move(handlers));
  if (auto launched = child->launch(); !launched) return tl::unexpected(launched.error());
  return child;
}

Result<void> ChildProcess::launch() {
  ::mkdir(spec_.scratch.c_str(), 0700);
  const auto [ours, theirs] = child::Channel::make_pair();
  std::array<int, 2> printed{-1, -1};
  if (ours < 0 || ::pipe2(printed.data(), O_CLOEXEC) != 0) {
    if (ours >= 0) {
      ::close(ours);
      ::close(theirs);
    }
    return fail(Errc::internal, std::string("socketpair: ") + std::strerror(errno));
  }
  SpawnSpec spawn;
  spawn.argv = {spec_.program};
  spawn.argv.insert(spawn.argv.end(), spec_.arguments.begin(), spec_.arguments.end());
  spawn.env = child_environment(visible_devices(context_.devices, spec_.devices));
  for (const auto& [name, value] : spec_.environment) {
    std::erase_if(spawn.env, [&](const std::string& entry) { return entry.starts_with(name + "="); });
    spawn.env.push_back(name + "=" + value);
  }
  spawn.cwd = spec_.scratch;
  spawn.descriptors = {{printed[1], 1}, {printed[1], 2}, {theirs, kChannelFd}};
  Result<pid_t> pid = context_.processes.start(spawn, [self = shared_from_this()](int status) { self->on_exit(status); });
  ::close(printed[1]);
  ::close(theirs);
  if (!pid) {
    ::close(printed[0]);
    ::close(ours);
    return tl::unexpected(pid.error());
  }
  pid_ = *pid;
  // Shared cores hurt latency like shared memory does: a trainer leaves them to whoever infers. Set while the child has one
  // thread, the later ones inherit it. That it may fail (no such pid any more) is the exit handler's news.
  if (spec_.role == "trainer") (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(pid_), kTrainerNice);
  for (const std::string& device : spec_.devices) context_.devices.add_group(device, pid_);
  ::fcntl(ours, F_SETFL, ::fcntl(ours, F_GETFL) | O_NONBLOCK);
  channel_.emplace(ours);
  socket_.assign(ours);
  printed_.assign(printed[0]);

  child::Frame hello{child::Type::hello, 0, {}};
  const wire::Device* device = spec_.devices.empty() ? nullptr : context_.devices.by_uuid(spec_.devices[0]);
  hello.add("role", spec_.role)
      .add("device", device != nullptr ? std::string_view(device->uuid) : std::string_view())
      .add("device_kind", to_string(device != nullptr ? static_cast<DeviceKind>(device->kind) : DeviceKind::cpu))
      .add("vram_mib", spec_.vram_mib)
      .add("threads", static_cast<std::int64_t>(std::max(1U, std::thread::hardware_concurrency())))
      .add("scratch", spec_.scratch);
  send(std::move(hello));
  listen();
  read_stderr();
  watch();
  return {};
}

void ChildProcess::send(child::Frame frame) {
  if (closed_) return;
  outgoing_.push_back(std::move(frame));
  flush();
}

void ChildProcess::flush() {
  while (!outgoing_.empty() && !closed_) {
    if (channel_->send(outgoing_.front())) {
      outgoing_.pop_front();
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
      if (writing_) return;
      writing_ = true;
      socket_.async_wait(asio::posix::descriptor_base::wait_write, [self = shared_from_this()](const ErrorCode& ec) {
        self->writing_ = false;
        if (!ec) self->flush();
      });
      return;
    }
    if (errno == EMSGSIZE) {   // one frame that cannot be said must not cost the child its life
      log::warn("frame_too_large", {{"role", spec_.role}});
      outgoing_.pop_front();
      continue;
    }
    return kill("its socket is closed");
  }
}

void ChildProcess::listen() {
  if (closed_) return;
  socket_.async_wait(asio::posix::descriptor_base::wait_read, [self = shared_from_this()](const ErrorCode& ec) {
    if (!ec) self->drain(kFramesPerTurn);
  });
}

void ChildProcess::drain(int frames_max) {
  for (int i = 0; i < frames_max && !closed_; ++i) {
    child::Frame frame;
    std::string error;
    switch (channel_->receive(frame, error)) {
      case child::Channel::Got::nothing: return listen();
      case child::Channel::Got::closed:
        closed_ = true;
        socket_.release();
        kill_timer_.expires_after(2s);   // end of file is the end: it should exit by itself, now
        kill_timer_.async_wait([self = shared_from_this()](const ErrorCode& ec) {
          if (!ec) self->kill("it closed its socket and went on");
        });
        return say_gone();
      case child::Channel::Got::malformed: return kill("it sent a malformed frame: " + error);
      case child::Channel::Got::frame: break;
    }
    quiet_ = 0;
    pinged_ = false;
    if (told_) continue;
    if (frame.type == child::Type::ready) {
      if (frame.number("protocol") != 1) return kill("it speaks protocol " + std::to_string(frame.number("protocol")) + ", not 1");
      ready_ = true;
      if (handlers_.ready) handlers_.ready(frame);
    } else if (frame.type != child::Type::pong && handlers_.frame) {
      handlers_.frame(std::move(frame));
    }
  }
  if (!closed_) listen();   // still readable: fires at once, after the others
}

void ChildProcess::read_stderr() {
  printed_.async_read_some(asio::buffer(print_buffer_), [self = shared_from_this()](const ErrorCode& ec, std::size_t n) {
    if (ec) {
      ErrorCode ignored;
      self->printed_.close(ignored);
      return self->say_gone();
    }
    if (!self->told_ && self->handlers_.printed) self->handlers_.printed(std::string_view(self->print_buffer_.data(), n));
    self->read_stderr();
  });
}

void ChildProcess::watch() {
  watchdog_.expires_after(1s);
  watchdog_.async_wait([self = shared_from_this()](const ErrorCode& ec) {
    if (ec || self->exited_ || self->closed_) return;
    ++self->quiet_;
    const int limit = self->ready_ ? self->hang_limit_s_ : std::max(kReadyLimit_s, self->hang_limit_s_);
    if (self->quiet_ >= limit && (self->pinged_ || !self->ready_)) return self->kill(self->ready_ ? "it hangs: no answer to a ping in " + std::to_string(limit) + " s" : "it was not ready within " + std::to_string(limit) + " s");
    if (self->ready_ && !self->pinged_ && self->quiet_ >= std::min(5, std::max(1, limit / 2))) {
      self->pinged_ = true;
      self->send({child::Type::ping, ++self->pings_, {}});
    }
    self->watch();
  });
}

void ChildProcess::kill(std::string why) {
  if (killed_because_.empty()) killed_because_ = std::move(why);
  if (!closed_) {
    closed_ = true;
    socket_.cancel();
    socket_.release();
  }
  if (!exited_) Processes::signal_group(pid_, SIGKILL);
}

void ChildProcess::stop(Duration grace) {
  if (exited_) return;
  send({child::Type::stop, 0, {}});
  kill_timer_.expires_after(grace);
  kill_timer_.async_wait([self = shared_from_this()](const ErrorCode& ec) {
    if (!ec && !self->exited_) self->kill("it did not stop in time");
  });
}

void ChildProcess::forget() {
  told_ = true;
  handlers_ = {};
}

void ChildProcess::on_exit(int status) {
  exited_ = true;
  status_ = status;
  watchdog_.cancel();
  kill_timer_.cancel();
  for (const std::string& device : spec_.devices) context_.devices.remove_group(device, pid_);
  if (!closed_) drain(1 << 20);   // its last words
  if (!closed_) {
    closed_ = true;
    socket_.cancel();
    socket_.release();
  }
  // Its pipe may be held open by a grandchild outside the group: not waited for long.
  kill_timer_.expires_after(200ms);
  kill_timer_.async_wait([self = shared_from_this()](const ErrorCode&) {
    ErrorCode ignored;
    if (self->printed_.is_open()) self->printed_.close(ignored);
    self->say_gone();
  });
  say_gone();
}

void ChildProcess::say_gone() {
  if (told_ || !exited_ || printed_.is_open()) return;
  told_ = true;
  std::string why;
  if (!killed_because_.empty()) why = killed_because_;
  else if (!WIFEXITED(status_) || WEXITSTATUS(status_) != 0) why = describe_status(status_);
  const Handlers handlers = std::move(handlers_);   // they may hold the last reference to their owner
  handlers_ = {};
  if (handlers.gone) handlers.gone(why);
}

}  // namespace gq::worker
