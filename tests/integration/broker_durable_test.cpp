// What was answered is on disk: with a real Redis that is stopped, killed and filled with other brokers.
#include <csignal>

#include "tests/integration/broker_harness.h"

namespace gq::test {
namespace {

constexpr auto number = [](auto value) { return static_cast<std::uint8_t>(value); };

struct BrokerWithItsOwnRedis : BrokerStory {};   // the managed child

struct BrokerOnARedis : BrokerStory {
  Redis redis{dir};
  void SetUp() override {
    redis.start();
    loop.until([this] { return std::filesystem::exists(redis.socket()); }, "redis");
  }
};

TEST_F(BrokerOnARedis, a_submit_is_answered_only_after_its_commit) {
  start({"--redis", redis.socket()});
  client->submit({echo_job(new_job_id())});
  redis.process.signal(SIGSTOP);
  const auto asked = client->say_submit({echo_job(new_job_id())});
  const auto beat = client->say(wire::Beat{1});
  client->answer<wire::BeatReply>(beat);   // the broker has read both, and still answers beats
  loop.run_for(300ms);
  EXPECT_FALSE(client->has_answer(asked)) << "Redis stands still: nothing may be promised";
  redis.process.signal(SIGCONT);
  EXPECT_TRUE(client->answer<wire::Submitted>(asked).items.at(0).ok);
}

TEST_F(BrokerOnARedis, a_job_with_durability_none_waits_for_no_disk) {
  start({"--redis", redis.socket()});
  worker->hello();
  auto item = echo_job(new_job_id());
  item.durability = 1;
  const auto commits = client->ask<wire::TopReply>(wire::TopQuery{}).commits;
  redis.process.signal(SIGSTOP);
  EXPECT_TRUE(client->submit({item}, {"body"}).items.at(0).ok);
  const auto assigned = worker->next_assignment();
  EXPECT_EQ(worker->last_body, "body");
  worker->started(assigned.grant);
  EXPECT_EQ(worker->end(assigned.grant, "result"), 0);
  EXPECT_EQ(client->final_of(item.id).state, number(JobState::succeeded));
  EXPECT_EQ(client->last_body, "result");
  EXPECT_EQ(client->ask<wire::ResultReply>(wire::ResultQuery{item.id}).item.state, number(JobState::succeeded));
  EXPECT_EQ(client->last_body, "result") << "asked for again";
  EXPECT_TRUE(client->ask<wire::Watched>(wire::Watch{{item.id}}).unknown.empty());
  EXPECT_EQ(client->final_of(item.id).state, number(JobState::succeeded)) << "told again";
  EXPECT_EQ(client->last_body, "result");
  redis.process.signal(SIGCONT);
  EXPECT_EQ(client->ask<wire::TopReply>(wire::TopQuery{}).commits, commits);
  client->say(wire::Fetched{{item.id}});
  loop.until([&] { return !client->status(item.id).found; }, "what was fetched to be forgotten");
}

TEST_F(BrokerOnARedis, a_retry_of_a_job_with_durability_none_has_its_body) {
  start({"--redis", redis.socket()});
  worker->hello();
  auto item = echo_job(new_job_id());
  item.durability = 1;
  client->submit({item}, {"body"});
  EXPECT_EQ(worker->end(worker->next_assignment().grant, {}, Outcome::failed_final), 0);
  const JobId again = new_job_id();
  client->ask<wire::RetryReply>(wire::Retry{.job = item.id, .new_id = again, .watch = true});
  EXPECT_EQ(worker->next_assignment().grant.job, again);
  EXPECT_EQ(worker->last_body, "body");
}

TEST_F(BrokerOnARedis, while_the_store_is_away_submits_are_refused_and_workers_heard) {
  start({"--redis", redis.socket()});
  worker->hello();
  redis.process.signal(SIGSTOP);
  const auto waiting = client->say_submit({echo_job(new_job_id())});
  std::string code;   // a retry without a new id: BAD_MESSAGE while the store is there, UNAVAILABLE while it is not
  while (code != "UNAVAILABLE" && !HasFailure()) {
    code = client->ask<wire::Failure>(wire::Retry{}).code;
    EXPECT_TRUE(code == "UNAVAILABLE" || code == "BAD_MESSAGE") << code;
    client->ask<wire::BeatReply>(wire::Beat{1});
  }
  EXPECT_EQ(client->answer<wire::Failure>(client->say_submit({echo_job(new_job_id())})).code, "UNAVAILABLE");
  EXPECT_EQ(client->ask<wire::WorkersReply>(wire::WorkersQuery{}).workers.at(0).state, "live") << "its beats are heard";
  EXPECT_NE(client->ask<wire::TopReply>(wire::TopQuery{}).store.find("down"), std::string::npos);
  EXPECT_NE(http_get(broker.http, "/healthz").find("503"), std::string::npos);
  redis.process.signal(SIGCONT);
  EXPECT_TRUE(client->answer<wire::Submitted>(waiting).items.at(0).ok) << "what was taken before is kept";
  worker->next_assignment();
}

TEST_F(BrokerOnARedis, the_second_broker_of_a_namespace_leads_and_the_first_ends_with_fenced) {
  start({"--redis", redis.socket()});
  const JobId job = new_job_id();
  client->submit({echo_job(job)});
  Broker second(dir, "second");
  second.start({"--redis", redis.socket()});
  EXPECT_EQ(broker.process.wait(), 5);
  EXPECT_NE(broker.log().find("error[FENCED]"), std::string::npos) << broker.log();
  auto keys = net::keys_issue(second.keys_dir(), "ada", net::Role::client, second.clients, {});
  ASSERT_TRUE(keys);
  Client there(loop, second.clients, *keys);
  there.connect();
  EXPECT_TRUE(there.status(job).found) << "what the first promised, the second keeps";
}

TEST_F(BrokerOnARedis, another_namespace_is_another_world) {
  start({"--redis", redis.socket()});
  Broker second(dir, "second");
  second.start({"--redis", redis.socket(), "--namespace", "night"});
  client->submit({echo_job(new_job_id())});
  EXPECT_TRUE(broker.process.running());
}

TEST_F(BrokerOnARedis, a_redis_that_may_evict_jobs_is_refused_with_the_line_to_change) {
  Process cli;
  cli.start({"redis-cli", "-s", redis.socket(), "config", "set", "maxmemory-policy", "allkeys-lru"}, dir.path("cli.log"));
  ASSERT_EQ(cli.wait(), 0);
  broker.start_unready({"--redis", redis.socket()});
  EXPECT_EQ(broker.process.wait(), 5);
  EXPECT_NE(broker.log().find("error[REDIS_POLICY]"), std::string::npos) << broker.log();
  EXPECT_NE(broker.log().find("maxmemory-policy noeviction"), std::string::npos) << broker.log();
}

TEST_F(BrokerWithItsOwnRedis, a_running_job_is_not_run_again_after_a_restart) {
  start();
  worker->hello();
  const JobId job = new_job_id();
  client->submit({echo_job(job)}, {"body"});
  const auto assigned = worker->next_assignment();
  worker->started(assigned.grant);
  loop.until([&] { return client->status(job).state == number(JobState::running); }, "running");
  broker.kill();
  broker.restart();
  worker->connect();
  EXPECT_TRUE(worker->hello({assigned.grant}).revoke.empty()) << "it keeps what it holds";
  client->connect();
  EXPECT_TRUE(client->ask<wire::Watched>(wire::Watch{{job}}).unknown.empty());
  EXPECT_EQ(worker->end(assigned.grant, "the only result"), 0);
  EXPECT_EQ(client->final_of(job).attempt, 1U);
  EXPECT_EQ(client->last_body, "the only result");
  EXPECT_EQ(worker->starts[job], 1);
}

TEST_F(BrokerWithItsOwnRedis, a_job_with_durability_none_goes_with_its_broker) {
  start();
  worker->hello();
  auto brief = echo_job(new_job_id());
  brief.durability = 1;
  const JobId kept = new_job_id();
  client->submit({echo_job(kept), brief});
  const auto one = worker->next_assignment(), two = worker->next_assignment();
  worker->started(one.grant), worker->started(two.grant);
  loop.until([&] { return client->status(kept).started_ms != 0; }, "running");
  broker.kill();
  broker.restart();
  worker->connect();
  const auto gone = one.grant.job == kept ? two.grant : one.grant;
  EXPECT_EQ(worker->hello({one.grant, two.grant}).revoke, std::vector{gone}) << "its worker stops it";
  client->connect();
  EXPECT_EQ(client->ask<wire::Watched>(wire::Watch{{kept, brief.id}}).unknown, std::vector{brief.id}) << "its caller hears that it is gone";
}

TEST_F(BrokerWithItsOwnRedis, a_result_read_after_a_restart_is_the_one_that_was_accepted) {
  start();
  worker->echo_everything();
  worker->hello();
  const JobId job = new_job_id();
  client->submit({echo_job(job)}, {"kept"});
  client->final_of(job);
  broker.kill();
  broker.restart();
  client->connect();
  EXPECT_EQ(client->ask<wire::ResultReply>(wire::ResultQuery{job}).item.state, number(JobState::succeeded));
  EXPECT_EQ(client->last_body, "kept");
}

TEST_F(BrokerWithItsOwnRedis, redis_killed_with_batches_in_flight_loses_nothing_acknowledged) {
  start();
  worker->echo_everything();
  worker->hello();
  client->remember_finals();
  std::map<std::uint64_t, std::vector<wire::SubmitItem>> asked;
  std::set<JobId> acknowledged;
  int killed = 0, rounds = 0;
  const auto submit = [&](std::vector<wire::SubmitItem> items) {
    const auto id = client->say_submit(items, std::vector<std::string>(items.size(), "payload"));
    asked[id] = std::move(items);
  };
  const auto hear = [&] {
    for (auto it = client->heard.begin(); it != client->heard.end(); it = client->heard.erase(it)) {
      const auto question = asked.find(it->header.id);
      if (question == asked.end()) continue;
      if (const auto* submitted = std::get_if<wire::Submitted>(&it->message)) {
        for (const auto& item : submitted->items)
          if (item.ok) acknowledged.insert(item.id);
      } else {
        submit(std::move(question->second));   // UNAVAILABLE: the same ids again
      }
      asked.erase(question);
    }
  };
  loop.until(
      [&] {
        if (asked.size() < 4 && rounds < 120) {
          std::vector<wire::SubmitItem> items;
          for (int i = 0; i < 8; ++i) items.push_back(echo_job(new_job_id()));
          submit(std::move(items));
          if (++rounds % 40 == 20 && killed < 2) {
            const auto children = children_of(broker.process.pid());
            EXPECT_EQ(children.size(), 1U);
            if (!children.empty()) ::kill(children[0], SIGKILL);
            ++killed;
          }
        }
        hear();
        return rounds == 120 && asked.empty() && client->finals.size() >= acknowledged.size();
      },
      "all jobs to end", 60s);
  EXPECT_EQ(killed, 2);
  EXPECT_EQ(acknowledged.size(), 120U * 8U);
  for (const JobId job : acknowledged) EXPECT_EQ(client->finals[job].first.state, number(JobState::succeeded)) << to_string(job);
  for (const auto& [job, grants] : worker->accepted) EXPECT_EQ(grants.size(), 1U) << to_string(job) << " was accepted twice";
}

TEST_F(BrokerWithItsOwnRedis, ctrl_c_in_the_middle_of_work_leaves_no_process_and_loses_nothing) {
  start();
  worker->echo_everything();
  worker->hello();
  std::vector<JobId> jobs;
  for (int i = 0; i < 20; ++i) {
    jobs.push_back(new_job_id());
    client->say_submit({echo_job(jobs.back())}, {"x"});
  }
  client->next<wire::Submitted>();
  const auto children = children_of(broker.process.pid());
  ASSERT_FALSE(children.empty());
  broker.process.signal(SIGINT);
  EXPECT_EQ(broker.process.wait(5s), 0) << broker.log();
  for (const pid_t child : children) EXPECT_FALSE(process_exists(child));
  std::set<JobId> acknowledged;
  client->heard.push_back({});
  for (const Heard& h : client->heard)
    if (const auto* submitted = std::get_if<wire::Submitted>(&h.message))
      for (const auto& item : submitted->items) acknowledged.insert(item.id);
  broker.restart();
  client->connect();
  for (const JobId job : acknowledged) EXPECT_TRUE(client->status(job).found);
}

TEST_F(BrokerWithItsOwnRedis, start_up_failures_are_one_line_a_next_step_and_a_code) {
  start();
  struct Case {
    std::vector<std::string> options;
    const char* line;
    int code;
    bool same_data;
  };
  const std::vector<Case> cases{
      {{"--listen-clients", broker.clients, "--memory-store"}, "error[PORT_IN_USE]", 5, false},
      {{"--listen-http", broker.http, "--memory-store"}, "error[PORT_IN_USE]", 5, false},
      {{}, "error[DATA_DIR_IN_USE]", 5, true},
      {{"--redis", dir.path("nobody.sock")}, "error[UN", 5, false},
      {{"--insecure", "--memory-store", "--listen-clients", "tcp://0.0.0.0:*"}, "error[REFUSED]", 4, false},
      {{"--no-such-flag"}, "error[USAGE]", 2, false},
      {{"--timing", "lease=soon"}, "error[USAGE]", 2, false},
  };
  for (const Case& c : cases) {
    Broker other(dir, c.same_data ? "broker" : "other");
    other.start_unready(c.options);
    EXPECT_EQ(other.process.wait(25s), c.code) << c.line;
    EXPECT_NE(other.log().find(c.line), std::string::npos) << other.log();
    EXPECT_NE(other.log().find("next: "), std::string::npos) << other.log();
  }
  EXPECT_TRUE(broker.process.running()) << "the first one is not disturbed";
}

}  // namespace
}  // namespace gq::test
