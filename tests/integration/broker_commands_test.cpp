// Orders over real sockets and a real Redis: answered when durable, kept through kill -9, and only for whom they are meant.
#include <fstream>

#include "tests/integration/broker_harness.h"

namespace gq::test {
namespace {

constexpr auto number = [](auto value) { return static_cast<std::uint8_t>(value); };

struct Orders : BrokerStory {
  void SetUp() override {
    start();
    admin = new_client("root", net::Role::admin);
  }
  void kill_and_restart() {
    broker.kill();
    broker.restart();
    client->connect();
    admin->connect();
    worker->connect();
  }
  static wire::CommandReply order(Client& from, const std::string& verb, std::vector<JobId> jobs, const std::string& reason = {}) {
    return from.ask<wire::CommandReply>(wire::Command{verb, std::move(jobs), {}, reason, 0});
  }
  wire::CommandItem fleet(const std::string& verb, const std::string& target, std::int64_t deadline_ms = 0) {
    const auto reply = admin->ask<wire::CommandReply>(wire::Command{verb, {}, target, "a test", deadline_ms});
    EXPECT_EQ(reply.items.size(), 1U);
    return reply.items.empty() ? wire::CommandItem{} : reply.items.front();
  }
  wire::AssignItem running_job(JobId job) {
    client->submit({echo_job(job)}, {"body"});
    auto assigned = worker->next_assignment();
    worker->started(assigned.grant);
    loop.until([&] { return client->status(job).state == number(JobState::running); }, "the job to run");
    return assigned;
  }
  void expect_waiting(JobId job) {
    client->ask<wire::BeatReply>(wire::Beat{1});
    EXPECT_EQ(client->status(job).state, number(JobState::ready));
    EXPECT_TRUE(worker->assignments.empty());
  }
};

TEST_F(Orders, a_hold_that_was_answered_holds_after_the_broker_was_killed) {
  const JobId job = new_job_id();
  client->submit({echo_job(job)}, {"body"});
  EXPECT_EQ(order(*client, "hold", {job}).items, (std::vector<wire::CommandItem>{{true, "is on hold", "", "", ""}}));
  kill_and_restart();
  EXPECT_TRUE(client->status(job).held);
  worker->hello();
  expect_waiting(job);
  EXPECT_NE(client->status(job).reason.find("gpuq release"), std::string::npos);
  EXPECT_EQ(order(*client, "hold", {job}).items.at(0).text, "is on hold already");
  EXPECT_EQ(order(*client, "release", {job}).items.at(0).text, "is released");
  EXPECT_EQ(worker->next_assignment().grant.job, job);
}

TEST_F(Orders, a_drain_and_a_pause_that_were_answered_hold_after_the_broker_was_killed) {
  worker->hello();
  client->ask<wire::WorkersReply>(wire::WorkersQuery{});
  EXPECT_EQ(fleet("drain", "anna").text, "worker anna takes no new work; 0 jobs may finish");
  EXPECT_EQ(fleet("pause", "synthesis").text, "class synthesis starts no more jobs; 0 jobs may finish");
  kill_and_restart();
  worker->hello();
  const JobId job = new_job_id();
  client->submit({echo_job(job)}, {"body"});
  expect_waiting(job);
  EXPECT_EQ(client->ask<wire::WorkersReply>(wire::WorkersQuery{}).workers.at(0).state, "draining");
  EXPECT_EQ(client->ask<wire::TopReply>(wire::TopQuery{}).switches,
            (std::vector<std::string>{"worker anna is drained by root: a test", "class synthesis is paused by root: a test"}));
  EXPECT_EQ(fleet("undrain", "anna").text, "worker anna takes work again");
  EXPECT_EQ(worker->next_assignment().grant.job, job);
  auto item = echo_job(new_job_id());
  item.job_class = number(JobClass::synthesis);
  client->submit({item}, {"body"});
  expect_waiting(item.id);
  EXPECT_EQ(fleet("resume", "synthesis").text, "class synthesis starts again; 1 job ready");
  EXPECT_EQ(worker->next_assignment().grant.job, item.id);
}

TEST_F(Orders, a_preemption_that_was_answered_reaches_the_worker_even_when_the_broker_was_killed_first) {
  worker->hello();
  const JobId job = new_job_id();
  const auto assigned = running_job(job);
  const auto reply = order(*client, "preempt", {job}, "my turn");
  EXPECT_EQ(reply.items, (std::vector<wire::CommandItem>{{true, "asked to leave anna within 30 s", "", "", ""}}));
  EXPECT_NE(http_get(broker.http, "/metrics").find("\ngpuq_preemptions_total 1\n"), std::string::npos);
  broker.kill();                    // whatever the worker has heard by now, it acts on nothing
  worker->heard.clear();
  broker.restart();
  client->connect();
  worker->connect();
  EXPECT_TRUE(worker->hello({assigned.grant}).revoke.empty()) << "it keeps what it holds";
  std::optional<wire::PreemptJob> asked;
  loop.until(
      [&] {
        for (const Heard& h : worker->heard) {
          if (const auto* direct = std::get_if<wire::PreemptJob>(&h.message)) asked = *direct;
          if (const auto* beat = std::get_if<wire::WorkerBeatReply>(&h.message); beat != nullptr && !beat->preempts.empty()) asked = beat->preempts.front();
        }
        return asked.has_value();
      },
      "the job to be asked again");
  ASSERT_TRUE(asked);
  EXPECT_EQ(asked->grant, assigned.grant);
  const auto leaving = client->status(job);
  EXPECT_EQ(leaving.state, number(JobState::yielding));
  EXPECT_EQ(leaving.leave_reason, "preempted by ada: my turn");
  EXPECT_EQ(worker->end(assigned.grant, {}, Outcome::yielded), 0);
  const auto again = worker->next_assignment();
  EXPECT_EQ(again.grant.job, job);
  EXPECT_EQ(again.grant.attempt, 2U);
  EXPECT_EQ(client->status(job).preemptions, 1U);
}

TEST_F(Orders, a_drains_deadline_is_kept_by_the_broker_that_comes_after) {
  worker->hello();
  const JobId job = new_job_id();
  const auto assigned = running_job(job);
  EXPECT_TRUE(fleet("drain", "anna", 33'000).ok);   // asks 30 s before
  EXPECT_EQ(client->status(job).state, number(JobState::running));
  kill_and_restart();
  EXPECT_TRUE(worker->hello({assigned.grant}).revoke.empty());
  loop.until([&] { return client->status(job).state == number(JobState::yielding); }, "the job to be asked");
  EXPECT_EQ(client->status(job).leave_reason, "anna is drained by root: a test");
}

TEST_F(Orders, what_changes_a_job_is_answered_when_it_is_stored_and_is_so_after_a_restart) {
  auto item = echo_job(new_job_id());
  item.job_class = number(JobClass::inference);
  const JobId other = new_job_id();
  client->submit({echo_job(other), item}, {"a", "b"});
  wire::UpdateJob update;
  update.job = item.id;
  update.priority = 9;
  update.retries = 4;
  update.deadline_ms = 4'000'000'000'000;
  update.budget_min_mib = 100, update.budget_max_mib = 200;
  EXPECT_EQ(client->ask<wire::CommandReply>(update).items, (std::vector<wire::CommandItem>{{true, "is updated", "", "", ""}}));
  kill_and_restart();
  const auto status = client->status(item.id);
  EXPECT_EQ(status.priority, 9);
  EXPECT_EQ(status.retries, 4U);
  EXPECT_EQ(status.deadline_ms, 4'000'000'000'000);
  EXPECT_EQ(status.budget_max_mib, 200);
  worker->hello({}, 1);
  EXPECT_EQ(worker->next_assignment().grant.job, item.id);
  update.priority = 3, update.deadline_ms = std::nullopt, update.retries = std::nullopt;
  EXPECT_EQ(client->ask<wire::CommandReply>(update).items.at(0).code, "REFUSED") << "it runs, and the range was named with it";
}

TEST_F(Orders, orders_that_make_no_sense_say_so_and_change_nothing) {
  const JobId job = new_job_id();
  client->submit({echo_job(job)}, {"body"});
  const auto refusal = [&](const auto& message) {
    const auto failure = admin->ask<wire::Failure>(message);
    EXPECT_FALSE(failure.what.empty());
    return failure.code + ": " + failure.what;
  };
  EXPECT_EQ(refusal(wire::Command{"explode", {job}, {}, {}, 0}), "BAD_MESSAGE: no order is called 'explode'");
  EXPECT_EQ(refusal(wire::Command{"hold", {}, {}, {}, 0}), "BAD_MESSAGE: hold names no job");
  EXPECT_EQ(refusal(wire::Command{"hold", {job}, "anna", {}, 0}), "BAD_MESSAGE: hold is about jobs, not about 'anna'");
  EXPECT_EQ(refusal(wire::Command{"drain", {}, {}, {}, 0}), "BAD_MESSAGE: drain names no worker or device");
  EXPECT_EQ(refusal(wire::Command{"pause", {job}, "training", {}, 0}), "BAD_MESSAGE: pause is about a class, not about jobs");
  EXPECT_EQ(refusal(wire::Command{"drain", {}, "anna", {}, -1}), "BAD_MESSAGE: a deadline is a span from now of at most 366 days");
  EXPECT_EQ(refusal(wire::Command{"hold", {job}, {}, std::string(201, 'x'), 0}), "OVER_LIMIT: a reason has at most 200 bytes");
  EXPECT_EQ(refusal(wire::Command{"hold", {job}, {}, "two\nlines", 0}), "BAD_MESSAGE: a reason is one line of printable text");
  EXPECT_EQ(refusal(wire::UpdateJob{}), "BAD_MESSAGE: an update that names no job");
  wire::UpdateJob half;
  half.job = job;
  half.budget_min_mib = 5;
  EXPECT_EQ(refusal(half), "BAD_MESSAGE: device memory is changed as a range or not at all");
  EXPECT_EQ(fleet("drain", "nobody").code, "NOT_FOUND");
  EXPECT_EQ(fleet("pause", "express").code, "NOT_FOUND");
  const auto mixed = order(*client, "release", {new_job_id(), job});
  EXPECT_EQ(mixed.items.at(0).code, "NOT_FOUND");
  EXPECT_TRUE(mixed.items.at(1).ok);
  EXPECT_EQ(client->status(job).state, number(JobState::ready));
}

TEST_F(Orders, workers_classes_and_the_policy_file_are_an_admins_business) {
  worker->hello();
  for (const auto& [verb, target] : {std::pair{"drain", "anna"}, {"undrain", "anna"}, {"pause", "training"}, {"resume", "training"}}) {
    const auto failure = client->ask<wire::Failure>(wire::Command{verb, {}, target, {}, 0});
    EXPECT_EQ(failure.code, "REFUSED") << verb;
    EXPECT_NE(failure.what.find("needs an admin key"), std::string::npos) << failure.what;
  }
  EXPECT_EQ(client->ask<wire::Failure>(wire::ConfigQuery{true}).code, "REFUSED");
  EXPECT_TRUE(admin->ask<wire::ConfigReply>(wire::ConfigQuery{true}).file.empty());
  EXPECT_FALSE(client->ask<wire::ConfigReply>(wire::ConfigQuery{}).settings.empty()) << "looking is everybody's";
}

TEST_F(Orders, a_job_is_touched_by_the_key_that_submitted_it_and_by_admins) {
  const auto stranger = new_client("bob");
  const JobId job = new_job_id();
  client->submit({echo_job(job)}, {"body"});
  for (const char* verb : {"hold", "release", "preempt"}) {
    const auto answer = order(*stranger, verb, {job}).items.at(0);
    EXPECT_EQ(answer.code, "REFUSED") << verb;
    EXPECT_NE(answer.what.find("belongs to ada"), std::string::npos) << answer.what;
  }
  wire::UpdateJob update;
  update.job = job;
  update.priority = 9;
  EXPECT_EQ(stranger->ask<wire::CommandReply>(update).items.at(0).code, "REFUSED");
  EXPECT_EQ(stranger->ask<wire::CancelReply>(wire::CancelJobs{{job}}).items, std::vector<std::uint8_t>{4}) << "refused";
  EXPECT_EQ(client->status(job).state, number(JobState::ready));
  EXPECT_EQ(order(*admin, "hold", {job}).items.at(0).text, "is on hold") << "an admin may";
  EXPECT_EQ(client->ask<wire::CancelReply>(wire::CancelJobs{{job}}).items, std::vector<std::uint8_t>{0}) << "cancelled";
  EXPECT_EQ(stranger->ask<wire::RetryReply>(wire::Retry{job, new_job_id(), false}).item.code, "REFUSED");
  EXPECT_TRUE(admin->ask<wire::RetryReply>(wire::Retry{job, new_job_id(), false}).item.ok);
}

TEST_F(Orders, a_plan_and_an_explanation_answer_without_effects) {
  const JobId job = new_job_id();
  client->submit({echo_job(job)}, {"body"});
  const auto alone = client->ask<wire::ExplainReply>(wire::ExplainQuery{job}).explanation;
  EXPECT_EQ(alone.job, job);
  EXPECT_FALSE(alone.would_start);
  EXPECT_EQ(alone.summary, "no worker is connected");
  EXPECT_EQ(client->ask<wire::Failure>(wire::ExplainQuery{new_job_id()}).code, "NOT_FOUND");
  worker->hello();
  const auto planned = client->ask<wire::ExplainReply>(wire::PlanSubmit{echo_job(new_job_id())}).explanation;
  EXPECT_TRUE(planned.would_start) << planned.summary;
  EXPECT_EQ(planned.job, JobId{});
  auto wrong = echo_job(new_job_id());
  wrong.kind = "dance";
  EXPECT_EQ(client->ask<wire::Failure>(wire::PlanSubmit{wrong}).code, "UNKNOWN_KIND");
  EXPECT_EQ(client->ask<wire::TopReply>(wire::TopQuery{}).submitted, 1U) << "a plan submits nothing";
}

TEST_F(Orders, a_policy_that_is_wrong_is_told_with_its_place_and_the_one_in_force_stays) {
  const auto wrong = client->ask<wire::PlanPolicyReply>(wire::PlanPolicy{"[class.training]\nbudgett = \"4GiB\"\n", "new.toml"});
  EXPECT_FALSE(wrong.ok);
  EXPECT_EQ(wrong.code, "USAGE");
  EXPECT_NE(wrong.what.find("new.toml:2"), std::string::npos) << wrong.what;
  const auto right = client->ask<wire::PlanPolicyReply>(wire::PlanPolicy{"[class.training]\nbudget = \"4GiB\"\n", "new.toml"});
  EXPECT_TRUE(right.ok) << right.what;
  for (const auto& setting : client->ask<wire::ConfigReply>(wire::ConfigQuery{}).settings) {
    if (setting.key == "class.training.budget") { EXPECT_EQ(setting.origin, "default"); }
  }
}

struct OrdersWithAPolicyFile : BrokerStory {
  void write_policy(const std::string& text) { std::ofstream(dir.path("gpuq.toml")) << text; }
};

TEST_F(OrdersWithAPolicyFile, a_reload_follows_the_file_and_refuses_a_wrong_one_whole) {
  write_policy("[class.synthesis]\nqueued_max = 1\n");
  start({"--config", dir.path("gpuq.toml")});
  admin = new_client("root", net::Role::admin);
  auto item = [] {
    auto one = echo_job(new_job_id());
    one.job_class = number(JobClass::synthesis);
    return one;
  };
  client->submit({item()}, {"a"});
  const auto full = client->answer<wire::Submitted>(client->say_submit({item()}, {"b"})).items.at(0);
  EXPECT_EQ(full.code, "QUEUE_FULL");
  EXPECT_NE(full.what.find("class.synthesis.queued_max"), std::string::npos) << full.what;
  write_policy("[class.synthesis]\nqueued_max = 2\nwindow = \"soon\"\n");
  EXPECT_EQ(admin->ask<wire::Failure>(wire::ConfigQuery{true}).code, "USAGE");
  EXPECT_EQ(client->answer<wire::Submitted>(client->say_submit({item()}, {"b"})).items.at(0).code, "QUEUE_FULL") << "nothing of it was taken";
  write_policy("[class.synthesis]\nqueued_max = 2\n");
  const auto reply = admin->ask<wire::ConfigReply>(wire::ConfigQuery{true});
  EXPECT_EQ(reply.file, dir.path("gpuq.toml"));
  client->submit({item()}, {"b"});
}

}  // namespace
}  // namespace gq::test
