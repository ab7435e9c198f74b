// child.cpp - a pretend gpuq-modelhost or gpuq-trainer (by its file's name). Each job says by `param.do` how it should go wrong.
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

#include "worker/child/frame.h"

namespace {

std::int64_t loaded_budget_mib{};   // of the last load

using gq::child::Channel;
using gq::child::Frame;
using gq::child::Type;

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void save(Channel& link, const Frame& run, std::uint64_t step) {
  const std::string path = std::string(run.text("checkpoint_dir")) + "/step-" + std::to_string(step);
  std::ofstream(path, std::ios::binary) << "state at " << step;
  link.send(Frame{Type::checkpoint, run.id, {}}.add("step", static_cast<std::int64_t>(step)).add("path", std::string_view(path)));
}

/// Steps until it is told to leave or reaches param.steps.
void train(Channel& link, const Frame& run) {
  std::uint64_t step = 0;
  if (const std::string_view resume = run.text("resume"); !resume.empty()) step = std::strtoull(slurp(std::string(resume)).substr(9).c_str(), nullptr, 10);
  const std::uint64_t first = step;
  const std::uint64_t steps = std::strtoull(std::string(run.text("param.steps")).c_str(), nullptr, 10);
  link.send({Type::started, run.id, {}});
  std::fprintf(stderr, "training from step %llu\n", static_cast<unsigned long long>(step));
  for (bool held = false;;) {
    Frame frame;
    std::string error;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    while (link.receive(frame, error) == Channel::Got::frame) {
      if (frame.type == Type::preempt && run.text("param.do") == "stubborn") continue;
      if (frame.type == Type::preempt) {
        link.send({Type::released, run.id, {}});
        save(link, run, step);
        link.send(Frame{Type::yielded, run.id, {}}.add("step", static_cast<std::int64_t>(step)));
        return;
      }
      if (frame.type == Type::cancel) {
        link.send(Frame{Type::failed, run.id, {}}.add("code", "CANCELLED").add("what", "as asked"));
        return;
      }
      if (frame.type == Type::hold || frame.type == Type::go) {
        held = frame.type == Type::hold;
        std::fprintf(stderr, "%s at step %llu\n", held ? "held" : "goes on", static_cast<unsigned long long>(step));
      }
      if (frame.type == Type::ping) link.send({Type::pong, frame.id, {}});
    }
    if (held) continue;
    ++step;
    link.send(Frame{Type::progress, run.id, {}}.add("step", static_cast<std::int64_t>(step)).add("total", static_cast<std::int64_t>(steps)).add("metric.loss", 1.0 / static_cast<double>(step)));
    if (step == steps / 2) save(link, run, step);
    if (step < steps) continue;
    const std::string weights = std::string(run.text("output_dir")) + "/weights.bin";
    std::ofstream(weights, std::ios::binary) << std::string(200'000, 'w');
    link.send(Frame{Type::done, run.id, {}}.add("out_file.weights.bin", std::string_view(weights)).add("value.first_step", static_cast<std::int64_t>(first)));
    return;
  }
}

void answer(Channel& link, const Frame& run) {
  const std::string_view what = run.text("param.do");
  if (what == "die unstarted") std::raise(SIGSEGV);
  link.send({Type::started, run.id, {}});
  if (what == "crash") std::raise(SIGSEGV);
  if (what == "exit") ::_exit(70);
  if (what == "hang")
    for (;;) ::pause();
  if (what == "wait") std::ofstream(std::string(run.text("param.gate")) + ".waiting") << "here";
  if (what == "wait")
    while (!std::ifstream(std::string(run.text("param.gate"))).good()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  if (what == "garbage") {
    const std::string noise("not a frame at all");
    if (::send(3, noise.data(), noise.size(), 0) < 0) ::_exit(1);
    return;
  }
  if (what == "fail" || what == "oom") {
    link.send(Frame{Type::failed, run.id, {}}.add("code", what == "oom" ? "OOM" : "BAD_IMAGE").add("what", "the image is upside down"));
    return;
  }
  if (what == "escape") {
    link.send(Frame{Type::done, run.id, {}}.add("out_file.passwd", "/etc/passwd"));
    return;
  }
  Frame done{Type::done, run.id, {}};
  for (const auto& [name, bytes] : run.with_prefix("part.")) done.add_bytes("out." + name, bytes);
  for (const auto& [name, path] : run.with_prefix("file.")) done.add_bytes("out." + name, slurp(path));
  if (what == "big") done.add_bytes("out.big", std::string(300'000, 'B'));
  done.add("value.device", run.text("kind")).add("value.budget_mib", std::to_string(loaded_budget_mib));
  link.send(done);
}

}  // namespace

int main(int, char** argv) {
  std::signal(SIGSEGV, SIG_DFL);   // a crash is a crash, under a sanitizer too
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const bool trainer = std::string_view(argv[0]).find("trainer") != std::string_view::npos;
  Channel link(3);
  if (const char* note = std::getenv("GPUQ_TEST_PIDS")) std::ofstream(note, std::ios::app) << ::getpid() << "\n";
  Frame frame;
  std::string error;
  while (link.receive(frame, error) == Channel::Got::frame) {
    switch (frame.type) {
      case Type::hello:
        if (std::getenv("GPUQ_TEST_DIE_AT_START") != nullptr) return 9;
        link.send(Frame{Type::ready, 0, {}}.add("protocol", std::int64_t{1}).add("pid", std::int64_t{::getpid()}).add("device_name", "pretend").add("kind", "infer"));
        break;
      case Type::load:
        loaded_budget_mib = frame.number("budget_mib");
        if (slurp(std::string(frame.text("path"))).rfind("broken", 0) == 0)
          link.send(Frame{Type::failed, frame.id, {}}.add("code", "BAD_MODEL").add("what", "it is broken"));
        else
          link.send(Frame{Type::loaded, frame.id, {}}.add("used_mib", std::int64_t{1}).add("batch_max", std::int64_t{4}).add("metadata", "{}"));
        break;
      case Type::run:
        if (trainer) {
          timeval quick{0, 1000};
          ::setsockopt(link.fd(), SOL_SOCKET, SO_RCVTIMEO, &quick, sizeof quick);
          train(link, frame);
          ::shutdown(link.fd(), SHUT_WR);
          return 0;
        }
        answer(link, frame);
        break;
      case Type::unload: link.send({Type::unloaded, frame.id, {}}); break;
      case Type::ping: link.send({Type::pong, frame.id, {}}); break;
      case Type::stop: return 0;
      default: break;
    }
  }
  return 0;
}
