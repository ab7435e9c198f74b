// client_orders.cpp - what libgpuq says when people order the scheduler around or ask it why, and what it makes of the answers.
#include "tests/integration/client_broker.h"

namespace gq {
namespace {

struct Orders : ::testing::Test {
  FakeBroker broker;
  gpuq::Client client{options_for(broker.endpoint())};
  const std::string a = gpuq::make_job_id(), b = gpuq::make_job_id();
  JobId id(const std::string& text) { return *parse_job_id(text); }

  void answers_commands(std::vector<wire::CommandItem> items) {
    broker.script([items](FakeBroker& self, const Heard& heard) {
      if (!std::holds_alternative<wire::Command>(heard.message) && !std::holds_alternative<wire::UpdateJob>(heard.message)) return false;
      self.say(heard.peer, wire::CommandReply{items}, heard.header.id);
      return true;
    });
  }
  template <class M>
  void answers(const M& message) {
    broker.script([message](FakeBroker& self, const Heard& heard) {
      if (std::holds_alternative<wire::ClientHello>(heard.message) || std::holds_alternative<wire::Beat>(heard.message)) return false;
      self.say(heard.peer, message, heard.header.id);
      return true;
    });
  }
};

const wire::CommandItem kDone{true, "done", {}, {}, {}};
const wire::CommandItem kUnknown{false, {}, "NOT_FOUND", "there is no such job", "gpuq list"};

TEST_F(Orders, a_command_to_many_jobs_is_one_message_and_each_job_gets_its_own_answer) {
  answers_commands({kDone, kUnknown});
  const auto results = client.preempt({a, b}, "a demo", 90s);
  ASSERT_EQ(results.size(), 2U);
  EXPECT_TRUE(results[0].ok);
  EXPECT_EQ(results[0].text, "done");
  EXPECT_FALSE(results[1].ok);
  EXPECT_EQ(results[1].code, "NOT_FOUND");
  EXPECT_EQ(results[1].next, "gpuq list");
  EXPECT_EQ(broker.all<wire::Command>(), (std::vector<wire::Command>{{"preempt", {id(a), id(b)}, "", "a demo", 90'000}}));
}

TEST_F(Orders, every_verb_says_its_own_word) {
  answers_commands({kDone});
  client.hold({a}, "later");
  client.release({a});
  EXPECT_EQ(client.drain("gpu-7", "new driver", 10min), "done");
  EXPECT_EQ(client.undrain("gpu-7"), "done");
  EXPECT_EQ(client.pause_class("synthesis", "disk"), "done");
  EXPECT_EQ(client.resume_class("synthesis"), "done");
  EXPECT_EQ(broker.all<wire::Command>(), (std::vector<wire::Command>{{"hold", {id(a)}, "", "later", 0},
                                                                     {"release", {id(a)}, "", "", 0},
                                                                     {"drain", {}, "gpu-7", "new driver", 600'000},
                                                                     {"undrain", {}, "gpu-7", "", 0},
                                                                     {"pause", {}, "synthesis", "disk", 0},
                                                                     {"resume", {}, "synthesis", "", 0}}));
}

TEST_F(Orders, an_order_about_one_thing_that_is_refused_is_an_error_with_the_brokers_words) {
  answers_commands({{false, "", "REFUSED", "the key 'web' may not drain", "use an admin key"}});
  try {
    client.drain("gpu-7");
    FAIL() << "it was refused";
  } catch (const gpuq::Error& error) {
    EXPECT_EQ(error.code(), "REFUSED");
    EXPECT_STREQ(error.what(), "the key 'web' may not drain");
    EXPECT_EQ(error.next(), "use an admin key");
    EXPECT_EQ(error.exit_code(), 4);
  }
}

TEST_F(Orders, an_update_says_only_what_changes) {
  answers_commands({kDone});
  gpuq::JobUpdate change;
  change.priority = 9;
  change.deadline_ms = 0;
  change.vram_mib = {2048, INT64_MAX};
  change.where = std::vector<std::string>{"zone=b", "gpu=4090"};
  EXPECT_EQ(client.update(a, change), "done");
  wire::UpdateJob said;
  said.job = id(a);
  said.priority = 9, said.deadline_ms = 0, said.budget_min_mib = 2048, said.budget_max_mib = kRestOfDevice.value;
  said.where = std::vector<std::string>{"gpu=4090", "zone=b"};
  EXPECT_EQ(broker.all<wire::UpdateJob>(), std::vector<wire::UpdateJob>{said});
}

TEST_F(Orders, mistakes_that_can_be_seen_here_never_travel) {
  gpuq::JobUpdate none, priority, upside_down, how;
  priority.priority = 10;
  upside_down.vram_mib = {8192, 2048};
  how.on_preempt = "cry";
  for (const gpuq::JobUpdate& change : {none, upside_down, how}) EXPECT_EQ(code_of([&] { client.update(a, change); }), "USAGE");
  EXPECT_EQ(code_of([&] { client.update(a, priority); }), "OVER_LIMIT");
  EXPECT_EQ(code_of([&] { client.pause_class("trainig"); }), "USAGE");
  EXPECT_EQ(code_of([&] { client.hold({"nonsense"}); }), "USAGE");
  EXPECT_EQ(code_of([&] { client.preempt({a}, "", -1s); }), "USAGE");
  EXPECT_EQ(code_of([&] { client.drain("gpu-7", std::string(201, 'x')); }), "OVER_LIMIT");
  EXPECT_TRUE(broker.all<wire::Command>().empty());
  EXPECT_TRUE(broker.all<wire::UpdateJob>().empty());
}

TEST_F(Orders, an_answer_about_too_few_jobs_is_no_answer) {
  answers_commands({kDone});
  EXPECT_EQ(code_of([&] { client.release({a, b}); }), "PROTOCOL");
}

TEST_F(Orders, an_explanation_arrives_whole) {
  wire::Explanation e;
  e.job = id(a), e.state = static_cast<std::uint8_t>(JobState::ready), e.summary = "4.6 GiB short", e.ahead = 2, e.never = true, e.places_looked_at = 9;
  e.places = {{"w1", "box", "GPU-7", 1, true, "fits_the_ledger", "needs 12.0 GiB, 7.4 GiB is free", 4710, 1'795'262'400'000}};
  e.refusals = {{"fits_the_ledger", 8}, {"draining", 1}};
  e.remedies = {{"victims", "b would have to leave", 0, {id(b)}, 0}, {"smaller_budget", "ask for less", 0, {}, 7577}};
  answers(wire::ExplainReply{e});
  const gpuq::Explanation got = client.explain(a);
  EXPECT_EQ(std::tie(got.job, got.state, got.summary), std::make_tuple(a, std::string("ready"), std::string("4.6 GiB short")));
  EXPECT_EQ(std::make_tuple(got.ahead, got.never, got.would_start, got.places_looked_at), std::make_tuple(2U, true, false, 9U));
  ASSERT_EQ(got.places.size(), 1U);
  const gpuq::PlaceVerdict& place = got.places[0];
  EXPECT_EQ(std::tie(place.worker, place.host, place.device, place.index, place.warm), std::make_tuple(std::string("w1"), std::string("box"), std::string("GPU-7"), 1, true));
  EXPECT_EQ(std::tie(place.constraint, place.sentence, place.lacking_mib, place.until_ms),
            std::make_tuple(std::string("fits_the_ledger"), std::string("needs 12.0 GiB, 7.4 GiB is free"), std::int64_t{4710}, std::int64_t{1'795'262'400'000}));
  ASSERT_EQ(got.refusals.size(), 2U);
  EXPECT_EQ(got.refusals[0].count, 8U);
  ASSERT_EQ(got.remedies.size(), 2U);
  EXPECT_EQ(got.remedies[0].jobs, std::vector<std::string>{b});
  EXPECT_EQ(got.remedies[1].budget_mib, 7577);
}

TEST_F(Orders, a_plan_travels_without_its_payload_and_uploads_nothing) {
  wire::Explanation e;
  e.summary = "would start now", e.would_start = true;
  answers(wire::ExplainReply{e});
  gpuq::JobSpec spec;
  spec.kind = "command", spec.argv = {"python", "train.py"}, spec.vram_min_mib = 12'288;
  gpuq::Part large;
  large.name = "data", large.bytes = std::string(1U << 20U, 'x');
  spec.parts.push_back(large);
  const gpuq::Explanation got = client.plan(spec);
  EXPECT_TRUE(got.would_start);
  EXPECT_EQ(got.job, "") << "nothing was made";
  const auto asked = broker.all<wire::PlanSubmit>();
  ASSERT_EQ(asked.size(), 1U);
  EXPECT_EQ(asked[0].item.kind, "command");
  EXPECT_EQ(asked[0].item.budget_min_mib, 12'288);
  EXPECT_EQ(asked[0].item.payload_bytes, 0U);
  EXPECT_TRUE(broker.all<wire::BlobPut>().empty());
  EXPECT_TRUE(broker.all<wire::Submit>().empty());
}

TEST_F(Orders, a_policy_that_is_none_is_an_error_with_its_line_and_column) {
  wire::PlanPolicyReply reply;
  reply.code = "BAD_INPUT", reply.what = "new.toml:3:1: unknown key 'class.traning'", reply.next = "did you mean 'class.training'?";
  answers(reply);
  try {
    client.plan_policy("x", "new.toml");
    FAIL();
  } catch (const gpuq::Error& error) {
    EXPECT_STREQ(error.what(), "new.toml:3:1: unknown key 'class.traning'");
  }
  EXPECT_EQ(broker.all<wire::PlanPolicy>(), (std::vector<wire::PlanPolicy>{{"x", "new.toml"}}));
  reply = {};
  reply.ok = true, reply.warnings = {"w"}, reply.stranded = {{id(a), "runs where training is not allowed"}};
  answers(reply);
  const gpuq::PolicyPlan plan = client.plan_policy("y");
  ASSERT_EQ(plan.stranded.size(), 1U);
  EXPECT_EQ(plan.stranded[0].job, a);
}

TEST_F(Orders, the_configuration_comes_with_the_origin_of_every_value_and_a_refused_reload_is_an_error) {
  answers(wire::ConfigReply{"/etc/gpuq/gpuq.toml", 5, {{"class.training.window", "22:00-07:00", "file", "/etc/gpuq/gpuq.toml:3:10"}}, {"w"}});
  const gpuq::Configuration config = client.config();
  EXPECT_EQ(config.file, "/etc/gpuq/gpuq.toml");
  ASSERT_EQ(config.settings.size(), 1U);
  EXPECT_EQ(config.settings[0].where, "/etc/gpuq/gpuq.toml:3:10");
  answers(wire::Failure{"BAD_INPUT", "/etc/gpuq/gpuq.toml:4:1: unknown key", "mend it"});
  EXPECT_EQ(code_of([&] { client.reload_config(); }), "BAD_INPUT");
  EXPECT_EQ(broker.all<wire::ConfigQuery>(), (std::vector<wire::ConfigQuery>{{false}, {true}}));
}

TEST_F(Orders, a_strict_submit_says_so_and_is_the_same_job_otherwise) {
  gpuq::JobSpec spec = echo();
  spec.id = a;
  client.submit(spec);
  spec.strict = true;
  client.submit(spec);
  const auto said = broker.all<wire::Submit>();
  ASSERT_EQ(said.size(), 2U);
  EXPECT_FALSE(said[0].items[0].strict);
  EXPECT_TRUE(said[1].items[0].strict);
  EXPECT_EQ(said[0].items[0].digest, said[1].items[0].digest);
}

TEST_F(Orders, a_status_says_who_took_the_device_and_the_screen_what_is_switched) {
  wire::JobStatus s;
  s.id = id(a), s.found = true, s.held = true, s.evictions = 2, s.preemptions = 3, s.leave_reason = "detect board needs 6.0 GiB", s.leave_for = id(b);
  answers(wire::StatusReply{{s}});
  const gpuq::JobStatus job = client.status({a})[0];
  EXPECT_EQ(std::tie(job.held, job.evictions, job.leave_reason, job.leave_for), std::make_tuple(true, 2, std::string("detect board needs 6.0 GiB"), b));
  wire::TopReply t;
  t.preempted = 7, t.switches = {"synthesis is paused"};
  answers(t);
  EXPECT_EQ(client.top().preempted, 7U);
  EXPECT_EQ(client.top().switches, std::vector<std::string>{"synthesis is paused"});
}

}  // namespace
}  // namespace gq
