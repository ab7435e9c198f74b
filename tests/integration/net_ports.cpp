// net_ports.cpp - what may happen between two ports, over real loopback sockets with CURVE on.
#include <memory>
#include <zmq.hpp>

#include "tests/integration/net_fixture.h"

namespace gq::net {
namespace {

/// A dealer without our port's manners: any number of frames, and a routing id of its own choice.
struct RawPeer {
  zmq::socket_t socket;
  RawPeer(Context& context, const std::string& endpoint, const AccessFile& access, const std::string& routing_id = {})
      : socket(context.native(), zmq::socket_type::dealer) {
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::sndhwm, 0);
    if (!routing_id.empty()) socket.set(zmq::sockopt::routing_id, routing_id);
    socket.set(zmq::sockopt::curve_serverkey, access.server_key);
    socket.set(zmq::sockopt::curve_publickey, access.public_key);
    socket.set(zmq::sockopt::curve_secretkey, access.secret_key.reveal());
    socket.connect(endpoint);
  }
  void send(const std::vector<std::string>& frames) {
    for (std::size_t i = 0; i < frames.size(); ++i)
      socket.send(zmq::buffer(frames[i]), i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
};

class Ports : public GuardedTest {};

TEST_F(Ports, a_message_of_one_or_two_frames_comes_with_the_name_and_role_of_its_key) {
  RouterPort router(context, io, recording());
  const std::string endpoint = good(router.bind(options()));
  const AccessFile anna = issue("anna", Role::worker);
  Peer peer(context, io);
  good(peer.connect(endpoint, &anna));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  EXPECT_EQ(peer.port.send("head"), SendOutcome::sent);
  EXPECT_EQ(peer.port.send("head", "body"), SendOutcome::sent);
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 2; }));
  EXPECT_EQ(heard[0].first.name, "anna");
  EXPECT_EQ(heard[0].first.role, Role::worker);
  EXPECT_EQ(heard[0].first.address, "127.0.0.1");
  EXPECT_EQ(heard[0].first.peer, heard[1].first.peer);
  EXPECT_EQ(heard[0].second.head, "head");
  EXPECT_EQ(heard[0].second.body, "");
  EXPECT_EQ(heard[1].second.body, "body");
  EXPECT_GE(drained, 1);
  EXPECT_EQ(router.send(heard[0].first.peer, "answer", "with body"), SendOutcome::sent);
  ASSERT_TRUE(run_until(io, [&] { return peer.heard.size() == 1; }));
  EXPECT_EQ(peer.heard[0].head, "answer");
  EXPECT_EQ(peer.heard[0].body, "with body");
}

TEST_F(Ports, forty_thousand_echoes_between_eight_peers_never_stall) {
  RouterPort* door = nullptr;
  RouterPort router(context, io, {.received = [&](const Speaker& who, Packet&& packet) { door->send(who.peer, packet.head, packet.body); },
                                  .malformed = {}, .drained = {}, .link_lost = {}});
  door = &router;
  const std::string endpoint = good(router.bind(options()));
  const AccessFile access = issue("load");
  constexpr int kPeers = 8, kWindow = 16, kEach = 5'000;
  int echoes = 0, wrong = 0;
  std::vector<std::unique_ptr<DealerPort>> peers;
  std::vector<int> sent(kPeers), got(kPeers);
  for (int p = 0; p < kPeers; ++p) {
    peers.push_back(std::make_unique<DealerPort>(
        context, io,
        DealerPort::Handlers{.received =
                                 [&, p](Packet&& packet) {
                                   ++echoes;
                                   wrong += packet.head != std::to_string(got[static_cast<std::size_t>(p)]++) ? 1 : 0;
                                   auto& n = sent[static_cast<std::size_t>(p)];
                                   if (n < kEach) peers[static_cast<std::size_t>(p)]->send(std::to_string(n++));
                                 },
                             .drained = {},
                             .connected =
                                 [&, p] {
                                   auto& n = sent[static_cast<std::size_t>(p)];
                                   for (int i = 0; i < kWindow; ++i) peers[static_cast<std::size_t>(p)]->send(std::to_string(n++));
                                 },
                             .disconnected = {}, .refused = {}}));
    DealerPort::Options o;
    o.endpoint = endpoint;
    o.access = &access;
    good(peers.back()->connect(o));
  }
  EXPECT_TRUE(run_until(io, [&] { return echoes == kPeers * kEach; }, std::chrono::seconds(60))) << echoes;
  EXPECT_EQ(wrong, 0);  // in order, each exactly once
}

TEST_F(Ports, more_than_two_frames_are_malformed_and_the_next_message_is_whole_again) {
  RouterPort router(context, io, recording());
  const std::string endpoint = good(router.bind(options()));
  RawPeer raw(context, endpoint, issue("rude"));
  raw.send({"one", "two", "three"});
  raw.send({"good", "body"});
  ASSERT_TRUE(run_until(io, [&] { return !heard.empty(); }));
  ASSERT_EQ(malformed.size(), 1U);
  EXPECT_EQ(malformed[0].first.name, "rude");
  EXPECT_EQ(malformed[0].second.code, Errc::bad_message);
  EXPECT_EQ(heard[0].second.head, "good");
  EXPECT_EQ(heard[0].first.peer, malformed[0].first.peer);
}

TEST_F(Ports, a_message_of_two_hundred_thousand_frames_is_dropped_in_slices_while_others_are_served) {
  RouterPort router(context, io, recording());
  const std::string endpoint = good(router.bind(options()));
  RawPeer raw(context, endpoint, issue("rude"));
  const AccessFile polite = issue("polite");
  Peer peer(context, io);
  good(peer.connect(endpoint, &polite));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  raw.send(std::vector<std::string>(200'000, "x"));
  raw.send({"after"});
  peer.port.send("meanwhile");
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 2; }));
  EXPECT_EQ(malformed.size(), 1U);
}

TEST_F(Ports, an_oversized_frame_ends_the_link_and_the_peer_comes_back) {
  RouterPort router(context, io, recording());
  auto small = options();
  small.frame_bytes_max = 4096;
  const std::string endpoint = good(router.bind(small));
  const AccessFile access = issue("large");
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  peer.port.send("head", std::string(100'000, 'x'));
  ASSERT_TRUE(run_until(io, [&] { return peer.disconnected == 1 && peer.connected == 2; }));
  EXPECT_TRUE(heard.empty());
  peer.port.send("small");
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 1; }));
}

TEST_F(Ports, a_peer_that_does_not_read_is_stuck_and_nobody_else_waits) {
  RouterPort router(context, io, recording());
  auto shallow = options();
  shallow.high_water = 50;
  const std::string endpoint = good(router.bind(shallow));
  RawPeer lazy(context, endpoint, issue("lazy"));
  const AccessFile access = issue("brisk");
  Peer brisk(context, io);
  good(brisk.connect(endpoint, &access));
  ASSERT_TRUE(run_until(io, [&] { return brisk.connected == 1; }));
  lazy.send({"here"});
  brisk.port.send("here");
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 2; }));
  const auto peer_named = [&](const std::string& name) { return heard[heard[0].first.name == name ? 0 : 1].first.peer; };
  const std::string bulk(64 * 1024, 'x');
  SendOutcome outcome = SendOutcome::sent;
  for (int i = 0; i < 100'000 && outcome == SendOutcome::sent; ++i) outcome = router.send(peer_named("lazy"), bulk);
  EXPECT_EQ(outcome, SendOutcome::stuck);
  EXPECT_EQ(router.send(peer_named("brisk"), "quick"), SendOutcome::sent);
  ASSERT_TRUE(run_until(io, [&] { return brisk.heard.size() == 1; }));
}

TEST_F(Ports, a_peer_that_left_is_gone_and_the_lost_link_is_noticed) {
  RouterPort router(context, io, recording());
  const std::string endpoint = good(router.bind(options()));
  const AccessFile access = issue("brief");
  auto peer = std::make_unique<Peer>(context, io);
  good(peer->connect(endpoint, &access));
  ASSERT_TRUE(run_until(io, [&] { return peer->connected == 1; }));
  peer->port.send("hello");
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 1; }));
  EXPECT_TRUE(router.probe(heard[0].first.peer, "still there?"));
  peer.reset();
  ASSERT_TRUE(run_until(io, [&] { return links_lost > 0; }));
  ASSERT_TRUE(run_until(io, [&] { return !router.probe(heard[0].first.peer, "still there?"); }));
  EXPECT_EQ(router.send(heard[0].first.peer, "late"), SendOutcome::gone);
  EXPECT_EQ(router.peers(), 0U);
}

TEST_F(Ports, a_link_comes_back_by_itself_when_the_broker_starts_again_on_the_same_port) {
  const AccessFile access = issue("loyal");
  auto router = std::make_unique<RouterPort>(context, io, recording());
  const std::string endpoint = good(router->bind(options()));
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  router.reset();
  ASSERT_TRUE(run_until(io, [&] { return peer.disconnected == 1; }));
  EXPECT_EQ(peer.port.send("into the void"), SendOutcome::gone);  // nothing queues for a link that is not up
  router = std::make_unique<RouterPort>(context, io, recording());
  bool bound = false;  // the old socket lets go of the port a moment after its close
  ASSERT_TRUE(run_until(io, [&] { return bound = bound || router->bind(options(endpoint)).has_value(); }));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 2; }));
  peer.port.send("back");
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 1; }));
  EXPECT_EQ(heard[0].second.head, "back");
}

TEST_F(Ports, paused_reading_leaves_messages_in_the_socket_and_sends_still_leave) {
  RouterPort router(context, io, recording());
  const std::string endpoint = good(router.bind(options()));
  const AccessFile access = issue("eager");
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  peer.port.send("first");
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 1; }));
  router.pause_reading(true);
  for (int i = 0; i < 10; ++i) peer.port.send("held");
  router.send(heard[0].first.peer, "meanwhile");
  ASSERT_TRUE(run_until(io, [&] { return peer.heard.size() == 1; }));
  EXPECT_EQ(heard.size(), 1U);
  router.pause_reading(false);
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 11; }));
}

TEST_F(Ports, a_port_may_be_paused_before_it_is_bound) {
  RouterPort router(context, io, recording());
  router.pause_reading(true);  // a broker that still loads its image
  const std::string endpoint = good(router.bind(options()));
  const AccessFile access = issue("early");
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  peer.port.send("one");
  peer.port.send("two");
  EXPECT_FALSE(run_until(io, [&] { return !heard.empty(); }, std::chrono::milliseconds(50)));
  router.pause_reading(false);
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 2; }));
}

TEST_F(Ports, a_taken_port_says_who_has_it) {
  RouterPort first(context, io, recording());
  const std::string endpoint = good(first.bind(options()));
  RouterPort second(context, io, recording());
  const auto bound = second.bind(options(endpoint));
  ASSERT_FALSE(bound.has_value());
  EXPECT_EQ(bound.error().code, Errc::port_in_use);
  EXPECT_NE(bound.error().what.find("pid " + std::to_string(getpid())), std::string::npos) << bound.error().what;
  EXPECT_FALSE(bound.error().next.empty());
}

TEST_F(Ports, a_port_may_be_destroyed_by_its_own_handler) {
  auto router = std::make_unique<RouterPort>(context, io, RouterPort::Handlers{});
  bool destroyed = false;
  router = std::make_unique<RouterPort>(context, io, RouterPort::Handlers{.received = [&](const Speaker&, Packet&&) { router.reset(); destroyed = true; },
                                                                         .malformed = {}, .drained = {}, .link_lost = {}});
  const std::string endpoint = good(router->bind(options()));
  const AccessFile access = issue("last");
  Peer peer(context, io);
  good(peer.connect(endpoint, &access));
  ASSERT_TRUE(run_until(io, [&] { return peer.connected == 1; }));
  for (int i = 0; i < 5; ++i) peer.port.send("x");
  ASSERT_TRUE(run_until(io, [&] { return destroyed && peer.disconnected == 1; }));
}

TEST_F(Ports, two_peers_that_claim_one_routing_id_are_never_taken_for_each_other) {
  RouterPort router(context, io, recording());
  const std::string endpoint = good(router.bind(options()));
  const AccessFile anna = issue("anna"), bert = issue("bert");
  auto first = std::make_unique<RawPeer>(context, endpoint, anna, "same");
  first->send({"I am anna"});
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 1; }));
  const PeerId anna_peer = heard[0].first.peer;
  first.reset();
  ASSERT_TRUE(run_until(io, [&] { return links_lost > 0; }));
  RawPeer second(context, endpoint, bert, "same");
  second.send({"I am bert"});
  ASSERT_TRUE(run_until(io, [&] { return heard.size() == 2; }));
  EXPECT_EQ(heard[1].first.name, "bert");
  EXPECT_NE(heard[1].first.peer, anna_peer);
  EXPECT_EQ(router.send(anna_peer, "a secret for anna"), SendOutcome::gone);
}

}  // namespace
}  // namespace gq::net
