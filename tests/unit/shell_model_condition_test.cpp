// shell_model_condition_test.cpp - conditions of a promotion: what holds, what does not, and what is no condition.
#include <gtest/gtest.h>

#include "broker/shell/model_condition.h"

namespace gq::broker {
namespace {

const ModelMetrics kNew{{"map50", 0.71}, {"recall", 0.9}, {"latency.ms", 12}};
const ModelMetrics kOld{{"map50", 0.68}, {"recall", 0.95}};

TEST(ModelCondition, comparisons_are_made_with_numbers_and_with_the_promoted_version) {
  for (const char* text : {"map50 > current", "map50>=0.71", "recall > current - 0.1", "map50 > current + 0.02 and recall >= .9", "latency.ms < 20", "recall <= 1e0", "  map50 >  0.5  "})
    EXPECT_TRUE(judge_promotion(text, kNew, kOld).has_value()) << text;
  for (const char* text : {"recall > current", "map50 > current + 0.03", "map50 > current and recall > current", "map50 < 0.71", "latency.ms <= 11.9"})
    EXPECT_EQ(judge_promotion(text, kNew, kOld).error().code, Errc::condition_false) << text;
}

TEST(ModelCondition, metrics_are_named_as_trainers_name_them) {
  const ModelMetrics ultralytics{{"metrics/mAP50-95(B)", 0.5}};
  EXPECT_EQ(judge_promotion("metrics/mAP50-95(B)>=0.5", ultralytics, std::nullopt).value(), "metrics/mAP50-95(B) 0.5 >= 0.5");
  EXPECT_EQ(judge_promotion("metrics/mAP50-95(B) > current", ultralytics, ultralytics).error().code, Errc::condition_false);
}

TEST(ModelCondition, the_answer_says_what_was_compared) {
  EXPECT_EQ(judge_promotion("map50 > current and recall >= 0.9", kNew, kOld).value(), "map50 0.71 > 0.68, recall 0.9 >= 0.9");
  EXPECT_EQ(judge_promotion("recall > current and map50 > 0.5", kNew, kOld).error().what, "it does not hold that recall 0.9 > 0.95");
}

TEST(ModelCondition, without_a_promoted_version_there_is_nothing_to_be_better_than) {
  EXPECT_TRUE(judge_promotion("map50 > current", kNew, std::nullopt).has_value());
  EXPECT_FALSE(judge_promotion("map50 > current and map50 > 0.9", kNew, std::nullopt).has_value());
}

TEST(ModelCondition, a_missing_metric_names_those_that_are_there) {
  const auto none = judge_promotion("map75 > 0.5", kNew, kOld);
  EXPECT_EQ(none.error().code, Errc::bad_input);
  EXPECT_NE(none.error().next.find("latency.ms, map50, recall"), std::string::npos) << none.error().next;
  EXPECT_NE(judge_promotion("latency.ms > current", kNew, kOld).error().what.find("the promoted version has no metric"), std::string::npos);
}

TEST(ModelCondition, what_is_no_condition_is_told_by_column) {
  for (const auto& [text, column] : {std::pair("", 1), std::pair("map50", 6), std::pair("map50 >", 8), std::pair("map50 > best", 9), std::pair("map50 > 0.5 or recall > 1", 13), std::pair("> 3", 1),
                                     std::pair("map50 > current +", 18), std::pair("map50 > 0.5 and", 16), std::pair("map50 == 1", 7), std::pair("map50 > 0.5; rm", 12)}) {
    const auto judged = judge_promotion(text, kNew, kOld);
    ASSERT_FALSE(judged.has_value()) << text;
    EXPECT_EQ(judged.error().code, Errc::usage) << text;
    EXPECT_NE(judged.error().what.find("column " + std::to_string(column) + " "), std::string::npos) << text << ": " << judged.error().what;
  }
  EXPECT_EQ(judge_promotion(std::string(600, 'x'), kNew, kOld).error().code, Errc::over_limit);
}

TEST(ModelCondition, metrics_are_the_numbers_of_the_metadata) {
  EXPECT_EQ(metrics_of(R"({"metrics": {"map50": 0.5, "name": "x", "n": 3}, "other": 1})"), (ModelMetrics{{"map50", 0.5}, {"n", 3}}));
  for (const char* text : {"", "{}", "[1]", "{\"metrics\": 3}", "not json"}) EXPECT_TRUE(metrics_of(text).empty()) << text;
}

}  // namespace
}  // namespace gq::broker
