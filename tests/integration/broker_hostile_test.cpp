// Peers that may not, must not, or mean no good: each gets its answer, and the healthy client beside them notices nothing.
#include <zmq.h>

#include <cstdio>
#include <fstream>
#include <random>

#include "tests/integration/broker_harness.h"

namespace gq::test {
namespace {

struct BrokerDoor : BrokerStory {
  void SetUp() override { start({"--memory-store"}); }
};

TEST_F(BrokerDoor, roles_are_checked_by_port_and_key) {
  Client worker_at_the_wrong_door(loop, broker.clients, access("willi", net::Role::worker, broker.workers));
  worker_at_the_wrong_door.connect();
  EXPECT_EQ(worker_at_the_wrong_door.ask<wire::Failure>(wire::TopQuery{}).code, "REFUSED");
  Worker client_at_the_wrong_door(loop, broker.workers, access("carl", net::Role::client, broker.clients), "carl");
  client_at_the_wrong_door.connect();
  EXPECT_EQ(client_at_the_wrong_door.answer<wire::Failure>(client_at_the_wrong_door.say_hello()).code, "REFUSED");
}

TEST_F(BrokerDoor, words_of_the_other_side_are_refused) {
  EXPECT_EQ(client->ask<wire::Failure>(wire::Ended{}).code, "PROTOCOL");
  EXPECT_EQ(client->ask<wire::Failure>(wire::WorkerHello{}).code, "PROTOCOL");
  worker->hello();
  EXPECT_EQ(worker->ask<wire::Failure>(wire::Submit{}).code, "PROTOCOL");
  EXPECT_EQ(worker->ask<wire::Failure>(wire::TopQuery{}).code, "PROTOCOL");
}

TEST_F(BrokerDoor, a_worker_is_who_its_key_says) {
  worker->name = "bea";
  const auto refused = worker->answer<wire::Failure>(worker->say_hello());
  EXPECT_EQ(refused.code, "REFUSED");
  EXPECT_NE(refused.what.find("anna"), std::string::npos);
  EXPECT_NE(refused.next.find("gpuq keys issue bea"), std::string::npos);
  worker->name = "anna";
  worker->hello();
}

TEST_F(BrokerDoor, a_worker_that_has_not_said_hello_is_asked_to) {
  const auto refused = worker->ask<wire::Failure>(wire::Started{});
  EXPECT_EQ(refused.code, "UNAVAILABLE");
  EXPECT_EQ(refused.what, "say hello");
}

TEST_F(BrokerDoor, an_unknown_key_is_refused_and_told_so) {
  net::AccessFile stranger = access("stranger", net::Role::client, broker.clients);
  ASSERT_TRUE(net::keys_revoke(broker.keys_dir(), "stranger"));
  Client refused(loop, broker.clients, stranger);
  refused.connect();
  ASSERT_TRUE(refused.refused);
  EXPECT_EQ(refused.refused->code, Errc::key_refused);
}

TEST_F(BrokerDoor, a_revoked_key_loses_its_open_link) {
  client->ask<wire::TopReply>(wire::TopQuery{});
  ASSERT_TRUE(net::keys_revoke(broker.keys_dir(), "ada"));
  const auto told = client->next<wire::Failure>();
  EXPECT_EQ(told.code, "KEY_REFUSED");
}

TEST_F(BrokerDoor, other_versions_are_told_which_one_is_spoken) {
  std::string head = wire::encode(wire::TopQuery{}, 5);
  ASSERT_EQ(head[2], 1) << "the header is an array: v, min, type, id";
  head[2] = 2;   // "readable from version 2 on"
  client->say_raw(head);
  EXPECT_EQ(client->next<wire::Failure>().code, "PROTOCOL");
  EXPECT_EQ(client->ask<wire::Failure>(wire::ClientHello{.name = "old", .version = "0", .protocol = 0}).code, "PROTOCOL");
  EXPECT_EQ(client->hello().protocol, wire::kProtocolVersion);
}

struct BrokerUnderAttack : testing::Test {
  TempDir dir;
  Loop loop;
  Broker broker{dir};
  std::unique_ptr<Client> client;
  std::unique_ptr<Worker> worker;
  void* context{};
  void* attacker{};

  void SetUp() override {
    broker.start({"--memory-store", "--insecure"});
    client = std::make_unique<Client>(loop, broker.clients, std::nullopt);
    client->connect();
    worker = std::make_unique<Worker>(loop, broker.workers, std::nullopt, "anna");
    worker->connect();
    worker->echo_everything();
    worker->hello();
    context = zmq_ctx_new();
    attacker = zmq_socket(context, ZMQ_DEALER);
    const int linger = 0, patience = 10'000;
    zmq_setsockopt(attacker, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(attacker, ZMQ_RCVTIMEO, &patience, sizeof patience);
    zmq_setsockopt(attacker, ZMQ_SNDTIMEO, &patience, sizeof patience);
    ASSERT_EQ(zmq_connect(attacker, broker.clients.c_str()), 0);
  }
  void TearDown() override {
    zmq_close(attacker);
    zmq_ctx_term(context);
    if (HasFailure()) std::fprintf(stderr, "---- log of the broker\n%s\n", broker.log().c_str());
  }
  void attack(std::string_view frame, bool more = false) {
    ASSERT_EQ(zmq_send(attacker, frame.data(), frame.size(), more ? ZMQ_SNDMORE : 0), static_cast<int>(frame.size()));
  }
  std::string answer_code() {
    std::string frame(65536, '\0');
    const int n = zmq_recv(attacker, frame.data(), frame.size(), 0);
    if (n < 0) return "silence";
    frame.resize(static_cast<std::size_t>(n));
    auto decoded = wire::decode(frame);
    const auto* failure = decoded ? std::get_if<wire::Failure>(&decoded->message) : nullptr;
    return failure != nullptr ? failure->code : "no failure";
  }
  void the_healthy_client_is_served() {
    const JobId job = new_job_id();
    client->submit({echo_job(job)}, {"still here"});
    client->final_of(job);
    EXPECT_EQ(client->last_body, "still here");
    EXPECT_TRUE(broker.process.running());
  }
  std::size_t broker_mebibytes() {
    std::ifstream status("/proc/" + std::to_string(broker.process.pid()) + "/status");
    for (std::string line; std::getline(status, line);)
      if (line.rfind("VmRSS:", 0) == 0) return std::stoul(line.substr(6)) / 1024;
    return 0;
  }
};

TEST_F(BrokerUnderAttack, a_message_of_200000_frames_is_dropped_and_answered) {
  for (int i = 0; i < 200'000; ++i) attack("x", true);
  attack("x");
  EXPECT_EQ(answer_code(), "BAD_MESSAGE");
  the_healthy_client_is_served();
  EXPECT_LT(broker_mebibytes(), 400U);
}

TEST_F(BrokerUnderAttack, msgpack_bombs_are_refused_without_unpacking_them) {
  const std::string nested(200'000, '\x91');
  for (const std::string& bomb : {std::string("\xdd\xff\xff\xff\xff", 5), std::string("\xdf\xff\xff\xff\xff", 5), std::string("\xc6\xff\xff\xff\xff", 5), nested, std::string("\x00", 1)}) {
    attack(bomb);
    EXPECT_EQ(answer_code(), "BAD_MESSAGE");
  }
  the_healthy_client_is_served();
  EXPECT_LT(broker_mebibytes(), 200U);
}

TEST_F(BrokerUnderAttack, true_messages_with_bytes_flipped_never_end_it) {
  std::mt19937 random(7);
  const auto item = echo_job(new_job_id());
  const std::string good = wire::encode(wire::Submit{{item}}, 9);
  for (int i = 0; i < 3000; ++i) {
    std::string frame = good;
    for (int flips = 0; flips < 3; ++flips) frame[random() % frame.size()] = static_cast<char>(random());
    attack(frame);
    ASSERT_NE(answer_code(), "silence") << "every request is answered; message " << i;
  }
  the_healthy_client_is_served();
}

TEST_F(BrokerUnderAttack, payload_lengths_that_do_not_add_up_are_refused) {
  auto item = echo_job(new_job_id());
  item.payload_bytes = 4'000'000'000;
  attack(wire::encode(wire::Submit{{item}}, 1), true);
  attack("short");
  EXPECT_EQ(answer_code(), "BAD_MESSAGE");
  attack(wire::encode(wire::Submit{}, 2));
  EXPECT_EQ(answer_code(), "OVER_LIMIT");
  the_healthy_client_is_served();
}

}  // namespace
}  // namespace gq::test
