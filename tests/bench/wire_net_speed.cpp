// wire_net_speed.cpp - by hand, not in ctest: what one hot item costs to encode and decode, and how many echoes one loop carries.
//   cmake --build build/release --target wire_net_speed && build/release/bin/wire_net_speed
// Codec: batches of 64 items, each with what a small echo job fills in. Echo: a router and eight dealers in one loop and one thread,
// window 16 or 256 each, 20-byte messages; with CURVE the I/O thread of one context does both ends' cryptography.
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "common/config/clock.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "common/net/zap.h"
#include "common/wire/codec.h"

using namespace gq;

namespace {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class T>
void codec(const char* name, const T& message, std::size_t items) {
  constexpr int kRounds = 5'000;
  std::string bytes;
  std::size_t sink = 0;
  const double out = seconds_of([&] {
    for (int i = 0; i < kRounds; ++i) sink += (bytes = wire::encode(message, 1)).size();
  });
  const double in = seconds_of([&] {
    for (int i = 0; i < kRounds; ++i) sink += wire::decode(std::string_view(bytes)).has_value() ? 1U : 0U;
  });
  const double each = 1e6 / (kRounds * static_cast<double>(items));
  std::printf("%-10s %4zu B/item  encode %.3f us/item  decode %.3f us/item%s\n", name, bytes.size() / items, out * each, in * each, sink == 0 ? "!" : "");
}

void echo(net::Context& context, asio::io_context& io, const net::RouterPort::Options& options, const net::AccessFile* access, int window, const char* name) {
  constexpr int kPeers = 8;
  constexpr int kEchoes = 400'000;
  net::RouterPort* door = nullptr;
  net::RouterPort router(context, io, {.received = [&](const net::Speaker& who, net::Packet&& p) { door->send(who.peer, p.head, p.body); }, .malformed = {}, .drained = {}, .link_lost = {}});
  door = &router;
  const auto endpoint = router.bind(options);
  if (!endpoint) {
    std::printf("%s: %s\n", name, endpoint.error().what.c_str());
    return;
  }
  int echoes = 0, up = 0;
  std::vector<std::unique_ptr<net::DealerPort>> peers;
  const std::string message(20, 'x');
  for (std::size_t p = 0; p < kPeers; ++p) {
    peers.push_back(std::make_unique<net::DealerPort>(context, io, net::DealerPort::Handlers{.received = [&, p](net::Packet&&) { ++echoes; peers[p]->send(message); }, .drained = {}, .connected = [&] { ++up; }, .disconnected = {}, .refused = {}}));
    net::DealerPort::Options o;
    o.endpoint = *endpoint;
    o.access = access;
    (void)peers.back()->connect(o);
  }
  while (up < kPeers) io.run_one();
  const double s = seconds_of([&] {
    for (auto& peer : peers)
      for (int i = 0; i < window; ++i) peer->send(message);
    while (echoes < kEchoes) io.run_one();
  });
  std::printf("%-18s window %3d  %.0f echoes/s\n", name, window, kEchoes / s);
}

}  // namespace

int main() {
  constexpr std::size_t kItems = 64;
  wire::Submit submit;
  wire::Submitted submitted;
  wire::Assign assign{7, {}};
  wire::Started started;
  wire::Ended ended;
  wire::Accepted accepted{7, {}, {}};
  wire::Notify notify;
  for (std::uint64_t i = 0; i < kItems; ++i) {
    const JobId id{0x0190000000000000 + i, ~i};
    const wire::Grant grant{id, 1, ~i * 77};
    wire::SubmitItem item;
    item.id = id;
    item.digest = {i, ~i};
    item.kind = "echo";
    item.payload_bytes = 200;
    submit.items.push_back(item);
    submitted.items.push_back({id, true, false, "", "", ""});
    wire::AssignItem give;
    give.number = i;
    give.grant = grant;
    give.kind = "echo";
    give.priority = 5;
    give.payload_bytes = 200;
    give.owner = "backend";
    assign.items.push_back(give);
    started.grants.push_back(grant);
    wire::EndedItem end;
    end.grant = grant;
    end.started = true;
    end.payload_bytes = 20;
    ended.items.push_back(end);
    accepted.grants.push_back(grant);
    accepted.verdicts.push_back(0);
    wire::NotifyItem note;
    note.id = id;
    note.state = 5;
    note.attempt = 1;
    note.payload_bytes = 20;
    note.worker = "gpu-7";
    note.submitted_ms = note.started_ms = note.ended_ms = 1'700'000'000'000;
    notify.items.push_back(note);
  }
  codec("Submit", submit, kItems);
  codec("Submitted", submitted, kItems);
  codec("Assign", assign, kItems);
  codec("Started", started, kItems);
  codec("Ended", ended, kItems);
  codec("Accepted", accepted, kItems);
  codec("Notify", notify, kItems);

  asio::io_context io;
  net::Context context;
  net::RouterPort::Options plain;
  plain.endpoint = "tcp://127.0.0.1:*";
  for (const int window : {16, 256}) echo(context, io, plain, nullptr, window, "echo, plain");

  std::string folder = std::filesystem::temp_directory_path() / "gpuq-speed-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return 1;
  const auto keys = net::keys_init(folder);
  const auto access = net::keys_issue(folder, "speed", net::Role::client, "tcp://127.0.0.1:1", now().wall);
  {
    net::Authority authority(context, io, folder);
    if (keys && access && authority.start() && authority.self_test(*keys)) {
      net::RouterPort::Options curve = plain;
      curve.keys = &*keys;
      curve.authority = &authority;
      for (const int window : {16, 256}) echo(context, io, curve, &*access, window, "echo, CURVE");
    }
  }
  std::filesystem::remove_all(folder);
}
