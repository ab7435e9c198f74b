// child_process.h - one child that speaks the child protocol: started, greeted, listened to, pinged, and buried.
//
// Nothing it does can hurt the supervisor: frames are decoded with limits, garbage and silence end in a kill of its group, and its end
// is told once, with the reason.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/vocabulary/errors.h"
#include "worker/child/frame.h"
#include "worker/runtime/child_paths.h"

namespace gq::worker {

class ChildProcess : public std::enable_shared_from_this<ChildProcess> {
 public:
  struct Spec {
    std::string program;
    std::vector<std::string> arguments;
    std::map<std::string, std::string> environment;   ///< beside what every child gets
    std::string role;                      ///< "modelhost", "trainer", "model"
    std::vector<std::string> devices;      ///< UUIDs; the first is said in hello
    std::int64_t vram_mib{};
    std::string scratch;                   ///< folder of its own, made here
  };
  struct Handlers {
    std::function<void(const child::Frame&)> ready;
    std::function<void(child::Frame&&)> frame;
    std::function<void(std::string_view)> printed;       ///< stderr and stdout, as it comes
    std::function<void(const std::string& why)> gone;    ///< once; empty = exit 0
  };
  static Result<std::shared_ptr<ChildProcess>> start(ChildContext context, Spec spec, Handlers handlers);
  ChildProcess(ChildContext context, Spec spec, Handlers handlers);
  ~ChildProcess();
  void send(child::Frame frame);
  void stop(Duration grace);               ///< asks; kills after the grace
  void kill(std::string why);
  void forget();                           ///< no more calls of handlers
  [[nodiscard]] bool is_ready() const { return ready_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  Result<void> launch();
  void listen();
  void drain(int frames_max);
  void flush();
  void read_stderr();
  void watch();
  void on_exit(int status);
  void say_gone();

  ChildContext context_;
  Spec spec_;
  Handlers handlers_;
  std::optional<child::Channel> channel_;
  asio::posix::stream_descriptor socket_, printed_;
  asio::steady_timer watchdog_, kill_timer_;
  std::deque<child::Frame> outgoing_;
  std::array<char, 4096> print_buffer_{};
  pid_t pid_{-1};
  bool ready_{};
  bool closed_{};
  bool exited_{};
  bool told_{};
  bool writing_{};
  bool pinged_{};
  std::uint64_t pings_{};
  int status_{};
  int quiet_{};                            ///< seconds since it was last heard
  int hang_limit_s_{60};
  std::string killed_because_;
};

/// Handlers that call on_ready, on_frame, on_printed and on_gone of an owner as long as it lives.
template <class Owner>
ChildProcess::Handlers handlers_of(std::weak_ptr<Owner> weak) {
  ChildProcess::Handlers handlers;
  handlers.ready = [weak](const child::Frame& frame) {
    if (const auto owner = weak.lock()) owner->on_ready(frame);
  };
  handlers.frame = [weak](child::Frame&& frame) {
    if (const auto owner = weak.lock()) owner->on_frame(frame);
  };
  handlers.printed = [weak](std::string_view text) {
    if (const auto owner = weak.lock()) owner->on_printed(text);
  };
  handlers.gone = [weak](const std::string& why) {
    if (const auto owner = weak.lock()) owner->on_gone(why);
  };
  return handlers;
}

/// 0, 1, 2, 5, 10, 30 s, 30 s…: how long to wait before a child that failed `failures` times is started again.
Duration respawn_backoff(unsigned failures);

}  // namespace gq::worker
