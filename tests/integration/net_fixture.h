// net_fixture.h - one loop, one context, a key folder in a temporary directory, ports on ephemeral loopback endpoints.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "common/config/clock.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "common/net/zap.h"

namespace gq::net {

inline std::string temporary_folder() {
  std::string pattern = std::filesystem::temp_directory_path() / "gpuq-net-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  return pattern;
}

/// Run the loop until `done` or the deadline; true when done.
template <class Done>
bool run_until(asio::io_context& io, Done done, std::chrono::milliseconds deadline = std::chrono::seconds(20)) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (!done() && std::chrono::steady_clock::now() < end) {
    if (io.stopped()) io.restart();
    io.run_one_for(std::chrono::milliseconds(10));
  }
  return done();
}

class NetTest : public ::testing::Test {
 protected:
  NetTest() : folder(temporary_folder()), keys_folder(folder + "/keys") {}
  ~NetTest() override { std::filesystem::remove_all(folder); }

  template <class T>
  static T good(Result<T> result) {
    if (!result) {
      ADD_FAILURE() << to_string(result.error().code) << ": " << result.error().what;
      std::abort();
    }
    return std::move(*result);
  }
  static void good(const Result<void>& result) {
    if (!result) ADD_FAILURE() << to_string(result.error().code) << ": " << result.error().what;
  }
  AccessFile issue(const std::string& name, Role role = Role::client, WallTime expires = {}) {
    return good(keys_issue(keys_folder, name, role, "tcp://127.0.0.1:1", now().wall, expires));
  }

  const std::string folder, keys_folder;
  asio::io_context io;
  Context context;
};

/// A broker with keys: authority, self-test, and a router that records and can echo.
class GuardedTest : public NetTest {
 protected:
  GuardedTest() : keys(good(keys_init(keys_folder))), authority(context, io, keys_folder) {
    good(authority.start());
    good(authority.self_test(keys));
  }
  RouterPort::Handlers recording() {
    return {.received = [this](const Speaker& speaker, Packet&& packet) { heard.emplace_back(speaker, std::move(packet)); },
            .malformed = [this](const Speaker& speaker, Error error) { malformed.emplace_back(speaker, std::move(error)); },
            .drained = [this] { ++drained; },
            .link_lost = [this] { ++links_lost; }};
  }
  RouterPort::Options options(const std::string& endpoint = "tcp://127.0.0.1:*") {
    RouterPort::Options o;
    o.endpoint = endpoint;
    o.keys = &keys;
    o.authority = &authority;
    return o;
  }
  std::vector<std::pair<Speaker, Packet>> heard;
  std::vector<std::pair<Speaker, Error>> malformed;
  int drained{}, links_lost{};
  ServerKeys keys;
  Authority authority;
};

/// A peer's end that records what happens to it.
struct Peer {
  std::vector<Packet> heard;
  std::vector<Error> refused;
  int connected{}, disconnected{};
  DealerPort port;
  Peer(Context& context, asio::io_context& io)
      : port(context, io,
             {.received = [this](Packet&& packet) { heard.push_back(std::move(packet)); },
              .drained = {},
              .connected = [this] { ++connected; },
              .disconnected = [this] { ++disconnected; },
              .refused = [this](Error error) { refused.push_back(std::move(error)); }}) {}
  Result<void> connect(const std::string& endpoint, const AccessFile* access) {
    DealerPort::Options o;
    o.endpoint = endpoint;
    o.access = access;
    return port.connect(o);
  }
};

}  // namespace gq::net
