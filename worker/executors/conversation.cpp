#include "worker/executors/conversation.h"

#include <unistd.h>

#include <vector>

namespace gq::exec {

using child::Frame;
using child::Type;

std::unique_ptr<Backend> greet(child::Channel& channel, std::initializer_list<const char*> kinds, std::string& scratch) {
  Frame hello;
  std::string error;
  if (channel.receive(hello, error) != child::Channel::Got::frame || hello.type != Type::hello) return nullptr;
  scratch = hello.text("scratch");
  DeviceRequest request{.kind = std::string(hello.text("device_kind")), .vram_mib = hello.number("vram_mib"),
                        .threads = static_cast<int>(hello.number("threads")), .plugin = {}};
  if (request.kind.empty()) request.kind = "auto";
  if (request.kind == "simulated") request.kind = "cpu";
  std::vector<std::string> notes;
  auto backend = Backend::open(request, notes);
  for (const auto& n : notes) say_log(channel, 0, n);
  if (!backend) {
    say_log(channel, 0, backend.failure().code + ": " + backend.failure().what + "; " + backend.failure().next);
    return nullptr;
  }
  Frame ready{.type = Type::ready, .id = 0, .fields = {}};
  ready.add("protocol", std::int64_t{1}).add("pid", std::int64_t{::getpid()}).add("device_name", (*backend)->name());
  ready.add("device_kind", to_string((*backend)->kind())).add("context_mib", (*backend)->context_mib());
  for (const char* kind : kinds) ready.add("kind", std::string_view(kind));
  if (!channel.send(ready)) return nullptr;
  return std::move(*backend);
}

void say_log(child::Channel& channel, std::uint64_t id, const std::string& text) {
  Frame f{.type = Type::log, .id = id, .fields = {}};
  f.add("text", text);
  channel.send(f);
}

void say_failed(child::Channel& channel, std::uint64_t id, const Failure& failure) {
  Frame f{.type = Type::failed, .id = id, .fields = {}};
  f.add("code", failure.code).add("what", failure.next.empty() ? failure.what : failure.what + "; " + failure.next);
  channel.send(f);
}

}  // namespace gq::exec
