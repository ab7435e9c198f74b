// Wire to core and back: what a peer may say, and that one wrong item says so in the right words.
#include <gtest/gtest.h>

#include "broker/shell/translate.h"

namespace gq::broker {
namespace {

wire::SubmitItem good_item() {
  wire::SubmitItem item;
  item.id = {1, 2};
  item.digest = {3, 4};
  item.kind = "detect";
  item.model = "boards@ab12";
  item.priority = 7;
  item.budget_min_mib = 512;
  item.budget_max_mib = 1024;
  item.where = {"zone=b", "gpu=rtx"};
  item.retries = 2;
  item.timeout_us = 5'000'000;
  item.unique = "nightly";
  item.after = {{9, 9}};
  item.label = "panel 7";
  return item;
}

TEST(TranslateSubmit, everything_arrives_in_the_cores_words) {
  TokenPool pool;
  const auto item = to_core(good_item(), "body bytes", pool);
  ASSERT_TRUE(item) << item.error().what;
  core::JobFixed expected;
  expected.id = {1, 2};
  expected.digest = {3, 4};
  expected.needs = {.kind = *kind_index("detect"), .job_class = JobClass::inference, .model = "boards@ab12", .budget_min = {512}, .budget_max = {1024},
                    .devices = 1, .on_preempt = OnPreempt::checkpoint, .exclusive = false, .where = {"gpu=rtx", "zone=b"}};
  expected.priority = 7;
  expected.timeout = 5s;
  expected.retries = 2;
  expected.unique = "nightly";
  expected.after = {{9, 9}};
  expected.label = "panel 7";
  expected.body_bytes = 10;
  EXPECT_EQ(item->fixed, expected);
  ASSERT_NE(pool.find(item->body), nullptr);
  EXPECT_EQ(*pool.find(item->body), "body bytes");
  EXPECT_TRUE(item->watch);
}

TEST(TranslateSubmit, a_token_ends_with_its_step_and_is_never_another_ones) {
  TokenPool pool;
  const core::Token first = pool.add("a");
  pool.clear();
  const core::Token second = pool.add("b");
  EXPECT_EQ(pool.find(first), nullptr);
  EXPECT_NE(first, second);
  EXPECT_EQ(pool.add(""), 0U);
  EXPECT_EQ(pool.find(0), nullptr);
}

TEST(TranslateOrders, an_update_says_only_what_it_changes) {
  wire::UpdateJob update;
  update.job = {1, 2};
  update.priority = 0;
  update.deadline_ms = 0;
  update.budget_min_mib = 512, update.budget_max_mib = INT64_MAX;
  update.where = {"zone=a"};
  const auto event = to_core(std::move(update), PeerId{7}, 9, "ada");
  ASSERT_TRUE(event) << event.error().what;
  EXPECT_EQ(event->peer, PeerId{7});
  EXPECT_EQ(event->request, 9U);
  EXPECT_EQ(event->by, "ada");
  EXPECT_EQ(event->job, (JobId{1, 2}));
  EXPECT_EQ(event->update.priority.value_or(9), 0);
  EXPECT_EQ(event->update.deadline.value_or(WallTime{5}), WallTime{});
  EXPECT_EQ(event->update.budget.value_or(std::pair{Mib{}, Mib{}}), (std::pair{Mib{512}, kRestOfDevice}));
  EXPECT_EQ(event->update.where.value_or(std::vector<std::string>{}), std::vector<std::string>{"zone=a"});
  EXPECT_FALSE(event->update.not_before || event->update.timeout || event->update.retries || event->update.job_class || event->update.on_preempt);
}

TEST(TranslateOrders, every_verb_becomes_its_event) {
  const auto event = [](const char* verb, std::vector<JobId> jobs, const char* target) {
    auto order = to_core(wire::Command{verb, std::move(jobs), target, "why", 5000}, PeerId{1}, 2, "ada");
    EXPECT_TRUE(order) << verb;
    return order.value();
  };
  const auto preempt = std::get<core::JobCommand>(event("preempt", {{1, 1}, {2, 2}}, ""));
  EXPECT_EQ(preempt.verb, core::JobVerb::preempt);
  EXPECT_EQ(preempt.jobs, (std::vector<JobId>{{1, 1}, {2, 2}}));
  EXPECT_EQ(preempt.deadline, Duration(5s));
  EXPECT_EQ(preempt.reason, "why");
  EXPECT_EQ(std::get<core::JobCommand>(event("hold", {{1, 1}}, "")).verb, core::JobVerb::hold);
  EXPECT_EQ(std::get<core::JobCommand>(event("release", {{1, 1}}, "")).verb, core::JobVerb::release);
  const auto drain = std::get<core::FleetCommand>(event("drain", {}, "w1/0"));
  EXPECT_EQ(drain.verb, core::FleetVerb::drain);
  EXPECT_EQ(drain.target, "w1/0");
  EXPECT_EQ(drain.by, "ada");
  EXPECT_EQ(std::get<core::FleetCommand>(event("undrain", {}, "w1")).verb, core::FleetVerb::undrain);
  EXPECT_EQ(std::get<core::FleetCommand>(event("pause", {}, "training")).verb, core::FleetVerb::pause_class);
  EXPECT_EQ(std::get<core::FleetCommand>(event("resume", {}, "training")).verb, core::FleetVerb::resume_class);
}

TEST(TranslateOrders, an_explanation_arrives_whole) {
  core::Explanation e;
  e.job = {1, 2};
  e.state = JobState::ready;
  e.summary = "needs more";
  e.ahead = UINT64_MAX;
  e.never = true;
  e.places.push_back({"w1", "box", "GPU-1", 1, true, "fits_the_ledger", "4 GiB short", {4096}, {77}});
  e.places_looked_at = 9;
  e.refusals = {{"fits_the_ledger", 8}, {"not_draining", 1}};
  e.remedies.push_back({core::Remedy::Kind::change_policy, "change it", {88}, {{3, 4}}, {512}});
  e.remedies.push_back({core::Remedy::Kind::none_needed, "", {}, {}, {}});
  wire::Explanation wanted;
  wanted.job = {1, 2};
  wanted.state = 2;
  wanted.summary = "needs more";
  wanted.ahead = UINT64_MAX;
  wanted.never = true;
  wanted.places.push_back({"w1", "box", "GPU-1", 1, true, "fits_the_ledger", "4 GiB short", 4096, 77});
  wanted.places_looked_at = 9;
  wanted.refusals = {{"fits_the_ledger", 8}, {"not_draining", 1}};
  wanted.remedies.push_back({"change_policy", "change it", 88, {{3, 4}}, 512});
  wanted.remedies.push_back({"none_needed", "", 0, {}, 0});
  EXPECT_EQ(to_wire(e), wanted);
}

TEST(TranslateOrders, what_a_worker_is_to_evict_and_why_a_job_left_are_told) {
  core::BeatAnswer answer{PeerId{1}, {}, {}, {}, {{PeerId{1}, "GPU-1", "yolo@1"}}};
  EXPECT_EQ(to_wire(answer, 5, 3).evictions, (std::vector<wire::Eviction>{{"GPU-1", "yolo@1"}}));
  EXPECT_EQ(to_wire(answer.evictions[0], 3), (wire::EvictModel{3, "GPU-1", "yolo@1"}));
  core::JobRecord record;
  record.fixed.id = {1, 2};
  record.dynamic.held = true;
  record.dynamic.evictions = 2;
  record.dynamic.leave_reason = "for a higher class";
  record.dynamic.leave_for = {3, 4};
  const auto status = to_wire(record);
  EXPECT_TRUE(status.held);
  EXPECT_EQ(status.evictions, 2U);
  EXPECT_EQ(status.leave_reason, "for a higher class");
  EXPECT_EQ(status.leave_for, (JobId{3, 4}));
}

struct Wrong {
  const char* name;
  void (*spoil)(wire::SubmitItem&);
  Errc code;
};
struct TranslateWrongSubmit : testing::TestWithParam<Wrong> {};

TEST_P(TranslateWrongSubmit, is_refused_with_its_code_and_a_sentence) {
  TokenPool pool;
  wire::SubmitItem item = good_item();
  GetParam().spoil(item);
  const auto refused = to_core(std::move(item), "body", pool);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, GetParam().code);
  EXPECT_FALSE(refused.error().what.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Each, TranslateWrongSubmit,
    testing::Values(Wrong{"no_id", [](wire::SubmitItem& i) { i.id = {}; }, Errc::bad_message},
                    Wrong{"unknown_kind", [](wire::SubmitItem& i) { i.kind = "detcet"; }, Errc::unknown_kind},
                    Wrong{"no_model", [](wire::SubmitItem& i) { i.model.clear(); }, Errc::unknown_model},
                    Wrong{"model_with_a_path", [](wire::SubmitItem& i) { i.model = "../etc/passwd"; }, Errc::bad_message},
                    Wrong{"class", [](wire::SubmitItem& i) { i.job_class = 3; }, Errc::bad_message},
                    Wrong{"priority", [](wire::SubmitItem& i) { i.priority = 10; }, Errc::bad_message},
                    Wrong{"on_preempt", [](wire::SubmitItem& i) { i.on_preempt = 4; }, Errc::bad_message},
                    Wrong{"budget_negative", [](wire::SubmitItem& i) { i.budget_min_mib = -1; }, Errc::bad_message},
                    Wrong{"budget_upside_down", [](wire::SubmitItem& i) { i.budget_max_mib = 100; }, Errc::bad_message},
                    Wrong{"no_devices", [](wire::SubmitItem& i) { i.devices = 0; }, Errc::bad_message},
                    Wrong{"where_without_value", [](wire::SubmitItem& i) { i.where = {"fast"}; }, Errc::bad_message},
                    Wrong{"too_many_where", [](wire::SubmitItem& i) { i.where.assign(17, "a=b"); }, Errc::over_limit},
                    Wrong{"too_many_after", [](wire::SubmitItem& i) { i.after.assign(257, {1, 1}); }, Errc::over_limit},
                    Wrong{"retries", [](wire::SubmitItem& i) { i.retries = 101; }, Errc::over_limit},
                    Wrong{"negative_timeout", [](wire::SubmitItem& i) { i.timeout_us = -1; }, Errc::bad_message},
                    Wrong{"control_character_in_label", [](wire::SubmitItem& i) { i.label = "a\x1b[2J"; }, Errc::bad_message}),
    [](const testing::TestParamInfo<Wrong>& tried) { return std::string(tried.param.name); });

TEST(TranslateSubmit, a_body_above_the_inline_bound_is_too_large) {
  TokenPool pool;
  EXPECT_TRUE(to_core(good_item(), std::string(kLimits.inline_bytes_max, 'x'), pool));
  const auto refused = to_core(good_item(), std::string(kLimits.inline_bytes_max + 1, 'x'), pool);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::too_large);
}

TEST(TranslateEnd, a_result_above_the_inline_bound_ends_the_attempt_for_good) {
  TokenPool pool;
  wire::EndedItem item;
  item.grant = {{1, 1}, 3, 99};
  item.outcome = static_cast<std::uint8_t>(Outcome::succeeded);
  const auto end = to_core(std::move(item), std::string(kLimits.inline_bytes_max + 1, 'x'), pool);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->outcome, Outcome::failed_final);
  EXPECT_EQ(end->error, Errc::too_large);
  EXPECT_EQ(end->grant, (core::Grant{{1, 1}, 3, 99}));
}

TEST(TranslateEnd, an_error_text_is_cut_and_an_unknown_code_is_a_failed_job) {
  TokenPool pool;
  wire::EndedItem item;
  item.outcome = static_cast<std::uint8_t>(Outcome::failed);
  item.code = "OOPS";
  item.what = std::string(1000, 'e');
  const auto end = to_core(std::move(item), {}, pool);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->error, Errc::job_failed);
  EXPECT_EQ(end->error_text.size(), 300U);
  wire::EndedItem unknown;
  unknown.outcome = 99;
  EXPECT_FALSE(to_core(std::move(unknown), {}, pool));
}

TEST(TranslateHello, unknown_kinds_of_a_newer_worker_are_left_out) {
  wire::WorkerHello hello;
  hello.name = "gpu-7";
  hello.kinds = {"echo", "teleport", "detect"};
  hello.labels = {"zone=b", "gpu=rtx"};
  const auto event = to_core(std::move(hello), PeerId{5});
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kinds, (std::vector<KindIndex>{*kind_index("detect"), *kind_index("echo")}));
  EXPECT_EQ(event->labels, (std::vector<std::string>{"gpu=rtx", "zone=b"}));
  EXPECT_EQ(event->peer, PeerId{5});
}

TEST(TranslateHello, a_name_that_is_no_name_is_refused) {
  for (const char* name : {"", "a b", "../x", "näme"}) {
    wire::WorkerHello hello;
    hello.name = name;
    EXPECT_FALSE(to_core(std::move(hello), PeerId{5})) << name;
  }
}

TEST(TranslateList, words_become_filters_and_wrong_words_are_named) {
  wire::ListQuery query;
  query.state = "running";
  query.job_class = "training";
  query.limit = 9999;
  const auto filter = to_core(std::move(query));
  ASSERT_TRUE(filter);
  EXPECT_EQ(filter->state, JobState::running);
  EXPECT_EQ(filter->job_class, JobClass::training);
  EXPECT_EQ(filter->limit, 500U);
  wire::ListQuery wrong;
  wrong.state = "runing";
  ASSERT_FALSE(to_core(std::move(wrong)));
}

TEST(TranslateModel, a_version_is_the_head_of_its_digest) {
  wire::ModelPush push;
  push.model.name = "boards";
  push.model.runtime = "torchscript";
  push.model.blob.bytes.fill(0xAB);
  const auto record = to_core(std::move(push), 1234, "ada", WallTime{77});
  ASSERT_TRUE(record);
  EXPECT_EQ(record->version, "abababababab");
  EXPECT_EQ(record->bytes, 1234U);
  EXPECT_EQ(record->owner, "ada");
  EXPECT_FALSE(record->promoted) << "what a name means is the core's to say";
  wire::ModelPush odd;
  odd.model.name = "boards";
  odd.model.runtime = "onnx2";
  ASSERT_FALSE(to_core(std::move(odd), 1, "ada", WallTime{}));
}

TEST(TranslateOut, a_succeeded_job_says_no_error_and_a_failed_one_does) {
  core::JobDynamic now;
  now.state = JobState::succeeded;
  now.attempt = 2;
  now.devices = {"GPU-1", "GPU-2"};
  auto item = to_wire(JobId{1, 1}, now, WallTime{5});
  EXPECT_EQ(item.code, "");
  EXPECT_EQ(item.device, "GPU-1,GPU-2");
  EXPECT_EQ(item.submitted_ms, 5);
  now.state = JobState::failed;
  now.error = Errc::bad_image;
  now.error_text = "truncated";
  item = to_wire(JobId{1, 1}, now, WallTime{5});
  EXPECT_EQ(item.code, "BAD_IMAGE");
  EXPECT_EQ(item.what, "truncated");
}

}  // namespace
}  // namespace gq::broker
