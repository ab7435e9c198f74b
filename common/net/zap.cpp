// zap.cpp - one hash look-up per handshake, in the loop of the broker; everything else here watches that this look-up is asked.
//
// Never answered: 300 ("temporary"): a client that gets it says nothing and never tries again. Denied is 400.
#include "common/net/zap.h"

#include <sys/stat.h>

#include <map>
#include <unordered_map>
#include <vector>

#include "common/config/clock.h"
#include "common/log.h"
#include "common/net/key_files.h"
#include "common/net/pump.h"
#include "common/net/refusal_probe.h"
#include "common/net/socket.h"
#include "common/net/user_id.h"

namespace gq::net {

namespace {
constexpr int kRequestsPerTurn = 256;
constexpr auto kWatchEvery = std::chrono::seconds(1);
constexpr auto kSelfTestPatience = std::chrono::seconds(5);
constexpr auto kSelfTestPoll = std::chrono::milliseconds(50);
constexpr std::string_view kSelfTestName = "self-test";

struct Stamp {
  std::int64_t s{}, ns{};
  std::uint64_t inode{}, size{};
  auto operator<=>(const Stamp&) const = default;
};
Stamp stamp_of(const std::string& path) {
  struct stat about {};
  if (::stat(path.c_str(), &about) != 0) return {};
  return {about.st_mtim.tv_sec, about.st_mtim.tv_nsec, about.st_ino, static_cast<std::uint64_t>(about.st_size)};
}

std::string z85(std::string_view raw32) {
  char text[41] = {};
  return zmq_z85_encode(text, reinterpret_cast<const std::uint8_t*>(raw32.data()), raw32.size()) != nullptr ? std::string(text) : std::string();
}
}  // namespace

struct Authority::State {
  struct Known {
    AllowedKey key;
    std::string user_id;
    Stamp stamp;
  };
  Authority& owner;
  Context& context;
  asio::io_context& io;
  std::string key_dir;
  zmq::socket_t socket;
  std::shared_ptr<Pump> pump;
  std::unordered_map<std::string, Known> by_key;        ///< public key (Z85) -> who
  std::unordered_map<std::string, std::string> by_name; ///< name -> public key
  std::map<std::string, Stamp> unreadable;              ///< told once per version of the file
  std::string passing_key;                              ///< the self-test's known key, while it runs
  asio::steady_timer watch_timer, test_timer;
  Instant last_log{};
  WallTime last_look_wall{};
  Stamp folder_stamp{};
  std::chrono::milliseconds test_every = std::chrono::minutes(1);
  std::uint64_t refusals{}, generation{1}, unlogged{}, repeats{};
  std::unique_ptr<RefusalProbe> probe;
  ServerKeys keys;

  State(Authority& o, Context& c, asio::io_context& i, std::string dir)
      : owner(o), context(c), io(i), key_dir(std::move(dir)), watch_timer(i), test_timer(i) {}

  static bool expired(const AllowedKey& key, WallTime wall) { return key.expires.ms != 0 && key.expires <= wall; }

  /// Read what has changed in the folder; a key that went, changed or has expired is `revoked`.
  void look() {
    const Moment at = now();
    last_look_wall = at.wall;
    folder_stamp = stamp_of(key_dir + "/allowed");
    const auto names = allowed_names(key_dir);
    if (!names) {  // deny nobody who was let in because a disk hiccups; new names cannot enter meanwhile
      log::warn("key_folder_unreadable", {{"what", names.error().what}});
      return;
    }
    std::vector<std::string> gone;
    std::unordered_map<std::string, Stamp> present;
    for (const std::string& name : *names) present.emplace(name, stamp_of(path_of(name)));
    for (const auto& [name, key] : by_name) {
      const auto now_there = present.find(name);
      const Known& known = by_key.at(key);
      if (now_there == present.end() || now_there->second != known.stamp || expired(known.key, at.wall)) gone.push_back(name);
    }
    std::vector<std::pair<std::string, std::string>> dropped;  // name, public key
    for (const std::string& name : gone) {
      dropped.emplace_back(name, by_name.at(name));
      by_key.erase(by_name.at(name));
      by_name.erase(name);
    }
    bool changed = !gone.empty();
    for (const auto& [name, stamp] : present) {
      if (by_name.contains(name)) continue;
      changed = add(name, stamp, at.wall) || changed;
    }
    if (changed) ++generation;
    for (const auto& [name, key] : dropped) {
      const auto again = by_name.find(name);
      if (again != by_name.end() && again->second == key) continue;  // the file was touched, the key is the same
      log::info("key_revoked", {{"name", name}});
      if (owner.revoked) owner.revoked(name);
    }
  }
  std::string path_of(const std::string& name) const { return key_dir + "/allowed/" + name + ".json"; }
  bool add(const std::string& name, const Stamp& stamp, WallTime wall) {
    auto key = read_allowed_key(path_of(name), name);
    if (!key) {
      if (std::exchange(unreadable[name], stamp) != stamp) log::warn("key_file_ignored", {{"what", key.error().what}, {"try", key.error().next}});
      return false;
    }
    unreadable.erase(name);
    if (expired(*key, wall)) return false;
    if (by_key.contains(key->public_key)) {
      log::warn("key_file_ignored", {{"what", "key " + name + " is the same as " + by_key.at(key->public_key).key.name}});
      return false;
    }
    std::string id = make_user_id(key->role, key->name, key->public_key);
    by_name[name] = key->public_key;
    const std::string public_key = key->public_key;
    by_key.emplace(public_key, Known{std::move(*key), std::move(id), stamp});
    return true;
  }

  /// One stat per refused handshake. A folder that changed just before we looked may have changed again within the same tick of
  /// its clock: look again.
  bool folder_moved() const {
    const Stamp stamp = stamp_of(key_dir + "/allowed");
    return stamp != folder_stamp || last_look_wall.ms - stamp.s * 1000 - stamp.ns / 1'000'000 < 50;
  }

  /// The user id of a key; empty = denied.
  std::string decide(const std::string& public_key) {
    if (!passing_key.empty() && public_key == passing_key) return make_user_id(Role::client, kSelfTestName, public_key);
    auto at = by_key.find(public_key);
    const Moment moment = now();
    if (at == by_key.end() && folder_moved()) {  // issued a moment ago?
      look();
      at = by_key.find(public_key);
    }
    if (at == by_key.end() || expired(at->second.key, moment.wall)) return {};
    return at->second.user_id;
  }

  /// Answer one handshake. False: none is waiting.
  bool serve_one() {
    std::vector<std::string> frames;
    zmq::message_t frame;
    if (!receive(socket, frame)) return false;
    frames.push_back(frame.to_string());
    while (frame.more() && receive(socket, frame))
      if (frames.size() < 16) frames.push_back(frame.to_string());
    // version, request id, domain, address, identity, mechanism, key
    const bool curve = frames.size() >= 7 && frames[0] == "1.0" && frames[2] == kZapDomain && frames[5] == "CURVE" && frames[6].size() == 32;
    const std::string key = curve ? z85(frames[6]) : std::string();
    const std::string user_id = curve ? decide(key) : std::string();
    if (user_id.empty()) note_refusal(frames.size() > 3 ? frames[3] : std::string("?"), key);
    const std::string_view request = frames.size() > 1 ? std::string_view(frames[1]) : std::string_view();
    const std::string_view reply[] = {"1.0", request, user_id.empty() ? "400" : "200", user_id.empty() ? "unknown key" : "OK", user_id, ""};
    send_frames(socket, reply);
    return true;
  }
  void note_refusal(const std::string& address, const std::string& key) {
    if (probe && probe->is_mine(key)) return;
    ++refusals;
    const Instant at = now().steady;
    if (at - last_log < 1s) {
      ++unlogged;
      return;
    }
    last_log = at;
    log::warn("key_refused", {{"peer", address}, {"key", key.empty() ? "none" : key.substr(0, kKeyMark)}, {"more_since", std::to_string(std::exchange(unlogged, 0))},
                              {"try", "gpuq keys issue --role ROLE --name NAME"}});
  }
  Pump::Turn turn() {
    for (int i = 0; i < kRequestsPerTurn; ++i)
      if (!serve_one()) return Pump::Turn::empty;
    return Pump::Turn::more;
  }

  void watch(const std::weak_ptr<State>& self) {
    watch_timer.expires_after(kWatchEvery);
    watch_timer.async_wait([self](ErrorCode failed) {
      const auto state = self.lock();
      if (failed || !state) return;
      state->look();
      state->watch(self);
    });
  }
  void repeat_test(const std::weak_ptr<State>& self) {
    test_timer.expires_after(test_every);
    test_timer.async_wait([self](ErrorCode failed) {
      const auto state = self.lock();
      if (failed || !state) return;
      state->begin_test(self);
    });
  }
  void begin_test(const std::weak_ptr<State>& self) {
    probe->knock(keys.public_key, RefusalProbe::Key::random);
    poll_test(self, static_cast<int>(kSelfTestPatience / kSelfTestPoll));
  }
  /// Patience is counted in turns of the loop, not by the clock: a machine that slept must not find itself guilty.
  void poll_test(const std::weak_ptr<State>& self, int turns_left) {
    test_timer.expires_after(kSelfTestPoll);
    test_timer.async_wait([self, turns_left](ErrorCode failed) {
      const auto state = self.lock();
      if (failed || !state) return;
      const auto seen = state->probe->look();
      if (seen == RefusalProbe::Seen::nothing && turns_left > 0) return state->poll_test(self, turns_left - 1);
      state->probe->end_knock();
      if (seen == RefusalProbe::Seen::refused) {
        ++state->repeats;
        return state->repeat_test(self);
      }
      state->context.set_guarded(false);
      Error error{Errc::zap_selftest, "the repeated key check failed: " + RefusalProbe::describe(seen), "stop this broker: unknown keys may be entering"};
      log::error("zap_selftest_failed", {{"what", error.what}});
      if (state->owner.failed) state->owner.failed(error);
    });
  }
};

Authority::Authority(Context& context, asio::io_context& io, std::string key_dir)
    : state_(std::make_shared<State>(*this, context, io, std::move(key_dir))) {}

Authority::~Authority() {
  state_->watch_timer.cancel();
  state_->test_timer.cancel();
  state_->probe.reset();
  stop();
  state_->context.set_guarded(false);
}

void Authority::stop() {
  if (state_->pump) state_->pump->stop();
  state_->socket.close();
}

void Authority::repeat_every(std::chrono::milliseconds interval) {
  state_->test_every = interval;
  if (state_->context.guarded()) state_->repeat_test(state_);
}
std::uint64_t Authority::repeats() const { return state_->repeats; }

Result<void> Authority::start() {
  State& s = *state_;
  check(!s.socket, "an authority starts once");
  zmq::socket_t socket;
  check(errno_of([&] { socket = zmq::socket_t(s.context.native(), zmq::socket_type::rep); }) == 0, "no ZeroMQ socket left");
  const int refused = errno_of([&] {
    socket.set(zmq::sockopt::linger, 0);
    socket.bind(kZapEndpoint);
  });
  if (refused != 0)
    return fail(Errc::zap_selftest, std::string("cannot bind the key check: ") + zmq::error_t(refused).what(), "one Authority per context");
  s.socket = std::move(socket);
  if (const auto names = allowed_names(s.key_dir); !names) {
    Error error = names.error();
    error.next = "make the keys first: gpuq keys init --keys " + s.key_dir;
    return tl::unexpected(error);
  }
  s.look();
  s.pump = std::make_shared<Pump>(s.io, s.socket, turn_of(state_, &State::turn));
  s.pump->schedule();
  s.watch(state_);
  return {};
}

Result<void> Authority::self_test(const ServerKeys& keys) {
  State& s = *state_;
  s.keys = keys;
  s.probe = std::make_unique<RefusalProbe>(s.context);
  if (auto opened = s.probe->open(keys); !opened) return opened;
  const auto wait = [&] {
    const Instant deadline = now().steady + std::chrono::duration_cast<Duration>(kSelfTestPatience) / 2;
    for (;;) {
      // The handler is served here by hand; without one (start() not called) the verdict below says what would enter.
      while (s.socket && s.serve_one()) {}
      const auto seen = s.probe->look();
      if (seen != RefusalProbe::Seen::nothing || now().steady >= deadline) return seen;
      s.probe->sleep(s.socket);
    }
  };
  const auto verdict = [&](RefusalProbe::Key key, RefusalProbe::Seen wanted, const char* whose) -> Result<void> {
    const std::string public_key = s.probe->knock(keys.public_key, key);
    if (key == RefusalProbe::Key::known) s.passing_key = public_key;
    const auto seen = wait();
    s.passing_key.clear();
    s.probe->end_knock();
    if (seen == wanted) return {};
    return fail(Errc::zap_selftest, std::string(whose) + ": " + RefusalProbe::describe(seen), "this broker would let strangers in or keep friends out, so it does not start; report it with the output of: gpuq doctor");
  };
  if (auto good = verdict(RefusalProbe::Key::random, RefusalProbe::Seen::refused, "a random key must be refused"); !good) return good;
  if (auto good = verdict(RefusalProbe::Key::known, RefusalProbe::Seen::entered, "a known key must pass"); !good) return good;
  s.context.set_guarded(true);
  s.repeat_test(state_);
  if (s.pump) s.pump->schedule();
  return {};
}

bool Authority::allowed(const std::string& name) const {
  const auto at = state_->by_name.find(name);
  return at != state_->by_name.end() && !State::expired(state_->by_key.at(at->second).key, now().wall);
}
bool Authority::allowed_user(std::string_view user_id) const {
  std::string name;
  Role role{};
  if (!parse_user_id(user_id, name, role)) return false;
  const auto at = state_->by_name.find(name);
  return at != state_->by_name.end() && state_->by_key.at(at->second).user_id == user_id;
}
std::uint64_t Authority::refusals() const { return state_->refusals; }
std::uint64_t Authority::generation() const { return state_->generation; }

}  // namespace gq::net
