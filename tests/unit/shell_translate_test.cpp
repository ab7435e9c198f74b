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
  EXPECT_TRUE(record->promoted);
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
