// scripted_broker.h - a broker that says exactly what a test tells it to, for a real gpuq-worker: no ledger, no journal, no keys.
//
// It welcomes, answers beats, keeps blobs in memory, and accepts ends unless told not to. All else the test says and sees itself.
#pragma once

#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <algorithm>
#include <csignal>
#include <deque>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/wire/job_body.h"
#include "tests/integration/broker_harness.h"

namespace gq::test {

class ScriptedBroker {
 public:
  explicit ScriptedBroker(Loop& l)
      : loop(l),
        port_(l.context, l.io, {.received = [this](const net::Speaker& who, net::Packet&& packet) { on_packet(who, std::move(packet)); },
                                .malformed = {}, .drained = {}, .link_lost = {}}) {
    net::RouterPort::Options options;
    options.endpoint = "tcp://127.0.0.1:*";
    options.insecure_role = net::Role::worker;
    auto bound = port_.bind(options);
    EXPECT_TRUE(bound.has_value()) << (bound ? "" : bound.error().what);
    if (bound) endpoint = *bound;
  }

  template <class T>
  void say(const T& message, std::string_view body = {}) { port_.send(worker_, wire::encode(message, 0), body); }

  static wire::Grant grant(std::uint64_t n, Attempt attempt = 1) { return {JobId{7, n}, attempt, 0xABC0 + n}; }
  /// On the start lane of the worker's first device.
  wire::AssignItem item(std::uint64_t n, const std::string& kind, std::int64_t mib) {
    wire::AssignItem i;
    i.number = ++number_;
    i.grant = grant(n);
    i.kind = kind;
    i.lane = 2;
    i.devices = {hello.devices.at(0).uuid};
    i.granted_mib = mib;
    return i;
  }
  void assign(wire::AssignItem i, const wire::JobBody& body = {}) {
    const std::string bytes = wire::encode(body);
    i.payload_bytes = static_cast<std::uint32_t>(bytes.size());
    say(wire::Assign{1, {std::move(i)}}, bytes);
  }
  void preempt(std::uint64_t n, std::uint32_t deadline_ms) { say(wire::PreemptJob{1, ++number_, grant(n), "inference waits", deadline_ms}); }
  BlobDigest keep(const std::string& bytes) {
    BlobDigest digest;
    SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.bytes.data());
    blobs[digest] = bytes;
    return digest;
  }

  // ---- what was heard, in order, one word each: "started 1", "released 1", "checkpoint 1@20", "yielded 1", "refused 1 NO_FIT", "closed 1000"
  [[nodiscard]] bool heard(const std::string& word) const { return std::find(words.begin(), words.end(), word) != words.end(); }
  bool until(const std::string& word, std::chrono::milliseconds patience = 15s) {
    const bool came = loop.until([&] { return heard(word); }, word, patience);
    if (!came) ADD_FAILURE() << "heard: " << ::testing::PrintToString(words);
    return came;
  }

  Loop& loop;
  std::string endpoint;
  wire::WorkerHello hello;
  int hellos{};
  std::vector<wire::Grant> revoke;                     ///< said in the next WELCOME
  std::vector<wire::Eviction> evictions;               ///< repeated in beats
  std::vector<wire::Device> devices;                   ///< of the last beat
  int beats{};
  std::vector<std::string> words;
  std::map<std::uint64_t, wire::EndedItem> ends;       ///< by the number of the job
  std::map<std::uint64_t, std::string> bodies;
  std::map<std::uint64_t, std::uint64_t> progress;     ///< the last step told
  std::map<std::string, std::uint16_t> warm;           ///< model -> its open lane
  std::map<BlobDigest, std::string> blobs;
  bool accepts{true};

 private:
  void on_packet(const net::Speaker& who, net::Packet&& packet) {
    auto decoded = wire::decode(packet.head);
    ASSERT_TRUE(decoded.has_value()) << decoded.error().what;
    worker_ = who.peer;
    const std::uint64_t id = decoded->header.id;
    const auto answer = [&](const auto& message, std::string_view body = {}) { port_.send(who.peer, wire::encode(message, id), body); };
    const auto word = [&](const std::string& what, const wire::Grant& g, const std::string& more = {}) { words.push_back(what + " " + std::to_string(g.job.lo) + more); };
    std::visit(overloaded{
                   [&](wire::WorkerHello& m) {
                     hello = std::move(m);
                     ++hellos;
                     number_ = 0;
                     wire::WorkerWelcome welcome;
                     welcome.term = 1;
                     welcome.beat_ms = 200;
                     welcome.lease_ms = 10'000;
                     welcome.inline_bytes_max = 64U << 10U;
                     welcome.blob_chunk_bytes = 256U << 10U;
                     welcome.revoke = revoke;
                     answer(welcome);
                     if (on_hello) on_hello();
                   },
                   [&](wire::WorkerBeat& m) {
                     devices = m.devices;
                     ++beats;
                     wire::WorkerBeatReply reply;
                     reply.sent_us = m.sent_us;
                     reply.term = 1;
                     reply.evictions = evictions;
                     answer(reply);
                   },
                   [&](wire::Pull& m) {
                     for (const std::uint16_t lane : m.closed) {
                       words.push_back("closed " + std::to_string(lane));
                       std::erase_if(warm, [&](const auto& w) { return w.second == lane; });
                     }
                     for (const wire::Lane& lane : m.opened) {
                       words.push_back("opened " + lane.model);
                       warm[lane.model] = lane.lane;
                     }
                   },
                   [&](wire::Started& m) {
                     for (const wire::Grant& g : m.grants) word("started", g);
                   },
                   [&](wire::Refused& m) { word("refused", m.grant, " " + m.code); },
                   [&](wire::Progress& m) { progress[m.grant.job.lo] = m.step; },
                   [&](wire::MemoryReleased& m) { word("released", m.grant); },
                   [&](wire::CheckpointSaved& m) { word("checkpoint", m.grant, "@" + std::to_string(m.step)); },
                   [&](wire::Ended& m) {
                     wire::Accepted accepted{1, {}, {}};
                     std::string_view rest = packet.body;
                     for (const wire::EndedItem& end : m.items) {
                       word(std::string(to_string(static_cast<Outcome>(end.outcome))), end.grant);
                       ends[end.grant.job.lo] = end;
                       bodies[end.grant.job.lo] = rest.substr(0, end.payload_bytes);
                       rest.remove_prefix(end.payload_bytes);
                       accepted.grants.push_back(end.grant);
                       accepted.verdicts.push_back(0);
                     }
                     if (accepts) answer(accepted);
                   },
                   [&](wire::BlobGet& m) {
                     const std::string& whole = blobs.at(m.blob);
                     const std::string part = whole.substr(std::min<std::size_t>(m.offset, whole.size()), m.bytes_max);
                     answer(wire::BlobGetReply{m.blob, whole.size(), m.offset}, part);
                   },
                   [&](wire::BlobPut& m) {
                     std::string& whole = blobs[m.blob];
                     if (m.offset == whole.size()) whole += packet.body;
                     answer(wire::BlobPutReply{m.blob, whole.size(), whole.size() == m.total});
                   },
                   [](auto&) {},
               },
               decoded->message);
  }

 public:
  std::function<void()> on_hello;

 private:
  net::RouterPort port_;
  PeerId worker_{};
  std::uint64_t number_{};
};

}  // namespace gq::test
