// broker_policy_test.cpp - the real broker follows its file: at the start, at SIGHUP, and not when the file is wrong.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <csignal>
#include <fstream>

#include "tests/integration/broker_harness.h"

namespace gq::test {
namespace {

using testing::HasSubstr;

struct BrokerPolicy : BrokerStory {
  std::string file = dir.path("gpuq.toml");
  void write(const std::string& text) const { std::ofstream(file) << text; }
  /// Waits until the broker has said `words` after what it has said so far.
  void until_logged(const std::string& words, std::size_t from) {
    loop.until([&] { return broker.log().find(words, from) != std::string::npos; }, "the log line " + words);
  }
  wire::ConfigReply shown() { return admin->ask<wire::ConfigReply>(wire::ConfigQuery{}); }
  static std::string value(const wire::ConfigReply& reply, const std::string& key) {
    for (const wire::ConfigSetting& s : reply.settings)
      if (s.key == key) return s.value + " # " + (s.where.empty() ? s.origin : s.where);
    return "absent";
  }
};

TEST_F(BrokerPolicy, is_read_at_the_start_with_the_brokers_own_settings) {
  write("[broker]\nnamespace = \"lab\"\n[broker.timing]\nlease = \"12s\"\n[class.training]\nrunning_max = 3\n");
  start({"--config", file, "--namespace", "other"}, {"GPUQ_CLASS_TRAINING_MIN_RUN=7s"});
  admin = new_client("root", net::Role::admin);
  admin->hello();
  const wire::ConfigReply reply = shown();
  EXPECT_EQ(reply.file, file);
  EXPECT_EQ(value(reply, "class.training.running_max"), "3 # " + file + ":6:1");
  EXPECT_EQ(value(reply, "class.training.min_run"), "7s # GPUQ_CLASS_TRAINING_MIN_RUN");
  EXPECT_EQ(value(reply, "broker.namespace"), "other # --namespace");
  EXPECT_EQ(value(reply, "broker.timing.lease"), "12s # " + file + ":4:1");
  EXPECT_EQ(value(reply, "policy.ladder"), "inference,training,synthesis # default");
}

TEST_F(BrokerPolicy, that_is_wrong_at_the_start_ends_the_broker_with_place_and_remedy) {
  for (const auto& [text, words] : std::map<std::string, std::string>{{"[class.training]\nwindwo = \"sat\"\n", ":2:1: unknown key class.training.windwo"},
                                                                      {"[class.training]\nwindow = \"07:00-07:00\"\n", "'07:00-07:00' never opens"},
                                                                      {"[policy]\nladder = [\"training\"]\n", "policy.ladder: 'inference' is missing"},
                                                                      {"[broker]\ndurability = \"sometimes\"\n", "broker.durability = 'sometimes' is no durability"},
                                                                      {"[broker\n", ":1:"}}) {
    write(text);
    Broker other(dir, "other");
    other.start_unready({"--memory-store", "--config", file});
    EXPECT_EQ(other.process.wait(25s), 2) << text;
    EXPECT_THAT(other.log(), HasSubstr("error[USAGE]: "));
    EXPECT_THAT(other.log(), HasSubstr(words));
    EXPECT_THAT(other.log(), HasSubstr("next: "));
  }
  Broker other(dir, "other");
  other.start_unready({"--memory-store", "--config", dir.path("nowhere.toml")});
  EXPECT_EQ(other.process.wait(25s), 2);
  EXPECT_THAT(other.log(), HasSubstr("cannot read the configuration " + dir.path("nowhere.toml")));
}

TEST_F(BrokerPolicy, a_class_may_keep_in_memory_what_does_not_ask_for_the_disk) {
  write("[class.inference]\ndurability = \"none\"\n");
  start({"--config", file});
  client = new_client("ada");
  auto says_nothing = echo_job(new_job_id()), says_always = echo_job(new_job_id());
  says_always.durability = 2;
  const auto answers = client->submit({says_nothing, says_always}).items;
  EXPECT_EQ(answers.at(0).durability, 1);
  EXPECT_EQ(answers.at(1).durability, 0);
  EXPECT_EQ(client->status(says_nothing.id).durability, 1);
  EXPECT_EQ(client->status(says_always.id).durability, 0);
  broker.kill();
  broker.restart();
  client->connect();
  EXPECT_FALSE(client->status(says_nothing.id).found);
  EXPECT_TRUE(client->status(says_always.id).found);
}

TEST_F(BrokerPolicy, keys_are_tenants_with_caps_of_their_own_who_take_turns) {
  write("[policy]\nfair = true\n[tenant.ada]\nqueued_max = 6\nrunning_max = 2\n");
  start({"--config", file});
  client = new_client("ada");
  const auto ben = new_client("ben");
  worker = new_worker();
  std::uint64_t credit = 3;
  worker->hello({}, credit);
  const auto ends = [&](const wire::Grant& grant) {   // and its slot is free again
    EXPECT_EQ(worker->end(grant), 0);
    worker->say(wire::Pull{.opened = {}, .closed = {}, .credit = {{0, ++credit}}});
  };
  std::vector<wire::SubmitItem> six;
  for (int i = 0; i < 6; ++i) six.push_back(echo_job(new_job_id()));
  for (const auto& item : client->submit(six).items) EXPECT_TRUE(item.ok);
  const auto seventh = client->answer<wire::Submitted>(client->say_submit({echo_job(new_job_id())})).items.at(0);
  EXPECT_EQ(seventh.code, "QUEUE_FULL");
  EXPECT_THAT(seventh.what, HasSubstr("tenant.\"ada\".queued_max"));

  const auto one = worker->next_assignment(), two = worker->next_assignment();
  EXPECT_EQ(one.owner + " " + two.owner, "ada ada");
  EXPECT_THAT(client->status(six[2].id).reason, HasSubstr("running_max")) << "the third slot is free, and not for her";
  ben->submit({echo_job(new_job_id()), echo_job(new_job_id())});
  const auto three = worker->next_assignment();
  EXPECT_EQ(three.owner, "ben");
  for (const auto& assigned : {one, two, three}) worker->started(assigned.grant);
  ends(one.grant);
  const auto four = worker->next_assignment();
  EXPECT_EQ(four.owner, "ben") << "he came later and has used less";
  ends(two.grant);
  EXPECT_EQ(worker->next_assignment().owner, "ada");
  ends(three.grant);
  EXPECT_EQ(worker->next_assignment().owner, "ada") << "nobody else waits";
  ends(four.grant);
  EXPECT_THAT(client->status(six[5].id).reason, HasSubstr("running_max")) << "two slots are free again";

  broker.kill();   // caps and who runs are found again
  broker.restart();
  worker->connect();
  worker->hello(worker->running, 3);
  client->connect();
  EXPECT_THAT(client->status(six[5].id).reason, HasSubstr("running_max"));
}

TEST_F(BrokerPolicy, changes_at_sighup_and_stays_when_the_new_file_is_wrong) {
  write("[class.inference]\nrunning_max = 1\n");
  start({"--config", file});
  client = new_client();
  client->hello();
  worker = new_worker();
  worker->hello();
  const JobId first = new_job_id(), second = new_job_id();
  client->submit({echo_job(first), echo_job(second)}, {"a", "b"});
  EXPECT_EQ(worker->next_assignment().grant.job, first);
  EXPECT_EQ(client->status(second).state, static_cast<std::uint8_t>(JobState::ready)) << "one at a time, says the file";

  std::size_t so_far = broker.log().size();
  write("[class.inference]\nrunning_max = 0\nwindow = \"never\"\n");
  broker.process.signal(SIGHUP);
  until_logged("policy_refused", so_far);
  EXPECT_THAT(broker.log().substr(so_far), HasSubstr(":3:1: class.inference.window: 'never' never opens"));
  EXPECT_EQ(client->status(second).state, static_cast<std::uint8_t>(JobState::ready)) << "refused whole: running_max has not changed either";

  so_far = broker.log().size();
  write("[class.inference]\nrunning_max = 0\n");
  broker.process.signal(SIGHUP);
  EXPECT_EQ(worker->next_assignment().grant.job, second) << "the new policy is followed at once";
  until_logged("policy_loaded", so_far);
}

TEST_F(BrokerPolicy, reloaded_by_request_says_what_is_wrong_to_who_asked) {
  write("[class.inference]\nrunning_max = 1\n");
  start({"--config", file});
  admin = new_client("root", net::Role::admin);
  admin->hello();
  write("[class.inference]\nrunning_maxx = 2\n");
  const auto refused = admin->ask<wire::Failure>(wire::ConfigQuery{.reload = true});
  EXPECT_EQ(refused.code, "USAGE");
  EXPECT_EQ(refused.what, file + ":2:1: unknown key class.inference.running_maxx");
  EXPECT_EQ(refused.next, "did you mean class.inference.running_max?");
  EXPECT_EQ(value(shown(), "class.inference.running_max"), "1 # " + file + ":2:1") << "what was in force is in force";
  write("[class.inference]\nrunning_max = 2\n");
  EXPECT_EQ(value(admin->ask<wire::ConfigReply>(wire::ConfigQuery{.reload = true}), "class.inference.running_max"), "2 # " + file + ":2:1");
}

TEST_F(BrokerPolicy, tells_what_the_fleet_knows_of_it) {
  write("[class.inference]\nreserve = [{device = \"nohost/0\", vram = \"1GiB\"}, {device = \"*\", vram = \"900GiB\"}]\n");
  start({"--config", file});
  admin = new_client("root", net::Role::admin);
  admin->hello();
  EXPECT_THAT(shown().warnings, testing::ElementsAre("no worker is connected: devices and hosts could not be checked"));
  worker = new_worker();
  worker->hello();
  EXPECT_THAT(shown().warnings, testing::ElementsAre("[class.inference] reserve names device nohost/0, and no worker reports it now", HasSubstr("keeps 900.0 GiB on CPU-")));
}

TEST_F(BrokerPolicy, survives_a_core_that_is_made_anew) {
  write("[class.inference]\nrunning_max = 1\n");
  start({"--config", file});
  const std::size_t so_far = broker.log().size();
  write("[class.inference]\nrunning_max = 0\nqueued_max = 1\n");
  broker.process.signal(SIGHUP);
  until_logged("policy_loaded", so_far);
  broker.kill();
  broker.restart();
  admin = new_client("root", net::Role::admin);
  admin->hello();
  EXPECT_EQ(value(shown(), "class.inference.queued_max"), "1 # " + file + ":3:1");
}

TEST_F(BrokerPolicy, of_every_shipped_profile_serves) {
  for (const char* name : {"one-gpu", "two-gpu", "cpu"}) {
    Broker other(dir, name);
    other.start({"--memory-store", "--config", std::string(GPUQ_PROFILES) + "/" + name + ".toml"});
    EXPECT_THAT(other.log(), HasSubstr(std::string(name) + ".toml"));
    other.kill();
  }
}

}  // namespace
}  // namespace gq::test
