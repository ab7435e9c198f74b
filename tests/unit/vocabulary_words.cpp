// vocabulary_words.cpp - ids, sizes, durations, error codes and the job's life as a table.
#include <gtest/gtest.h>

#include <set>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/limits.h"
#include "common/vocabulary/units.h"

namespace gq {
namespace {

TEST(JobIds, are_26_characters_that_sort_as_the_time_they_were_made) {
  const JobId early = make_job_id(1'700'000'000'000, 0xFFFF, ~0ULL);
  const JobId late = make_job_id(1'700'000'000'001, 0, 0);
  EXPECT_EQ(to_string(early).size(), 26U);
  EXPECT_LT(early, late);
  EXPECT_LT(to_string(early), to_string(late));
}

TEST(JobIds, come_back_from_their_text_in_either_case_and_with_look_alikes) {
  for (const JobId id : {JobId{}, JobId{~0ULL, ~0ULL}, JobId{0x0123456789ABCDEF, 0xFEDCBA9876543210}, JobId{1, 0}, JobId{0, 1}}) {
    std::string text = to_string(id);
    EXPECT_EQ(parse_job_id(text), id) << text;
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    EXPECT_EQ(parse_job_id(text), id) << text;
  }
  EXPECT_EQ(parse_job_id("0000000000000000000000000I"), (JobId{0, 1}));
  EXPECT_EQ(parse_job_id("0000000000000000000000000O"), (JobId{0, 0}));
}

TEST(JobIds, that_are_none_are_refused) {
  for (const char* text : {"", "0", "00000000000000000000000000X", "80000000000000000000000000", "0000000000000000000000000U", "0000000000000000000000000-"})
    EXPECT_EQ(parse_job_id(text), std::nullopt) << text;
}

TEST(BlobDigests, are_64_hexadecimal_characters_and_come_back) {
  BlobDigest digest;
  for (std::size_t i = 0; i < 32; ++i) digest.bytes[i] = static_cast<std::uint8_t>(i * 8 + 7);
  EXPECT_EQ(to_string(digest).size(), 64U);
  EXPECT_EQ(parse_blob_digest(to_string(digest)), digest);
  EXPECT_EQ(parse_blob_digest(std::string(63, '0')), std::nullopt);
  EXPECT_EQ(parse_blob_digest(std::string(64, 'A')), std::nullopt);  // one text per digest
  EXPECT_EQ(parse_blob_digest(std::string(64, 'g')), std::nullopt);
}

TEST(Sizes, are_read_in_mib_and_gib_and_nothing_else) {
  EXPECT_EQ(parse_mib("8GiB"), Mib{8192});
  EXPECT_EQ(parse_mib("8G"), Mib{8192});
  EXPECT_EQ(parse_mib("300M"), Mib{300});
  for (const char* text : {"", "8", "8GB", "-1M", "GiB", "99999999999999M", "1.5G"}) EXPECT_EQ(parse_mib(text), std::nullopt) << text;
  EXPECT_EQ(parse_mib("1099511627776G"), std::nullopt);  // more than any number of ours holds
  EXPECT_EQ(to_string(Mib{512}), "512 MiB");
  EXPECT_EQ(to_string(Mib{12 * 1024}), "12.0 GiB");
}

TEST(Durations, are_read_with_units_and_add_up) {
  EXPECT_EQ(parse_duration("250ms"), std::chrono::milliseconds(250));
  EXPECT_EQ(parse_duration("1h30min"), std::chrono::minutes(90));
  EXPECT_EQ(parse_duration("1d"), std::chrono::hours(24));
  for (const char* text : {"", "s", "1", "1x", "1h30", "-1s", "1 s"}) EXPECT_EQ(parse_duration(text), std::nullopt) << text;
  EXPECT_EQ(parse_duration("999999999999d999999999999d"), std::nullopt);
}

TEST(ErrorCodes, have_each_their_own_text_and_come_back_from_it) {
  std::set<std::string_view> seen;
  for (unsigned i = 0; i <= static_cast<unsigned>(Errc::internal); ++i) {
    const auto code = static_cast<Errc>(i);
    EXPECT_TRUE(seen.insert(to_string(code)).second) << to_string(code);
    Errc back{};
    EXPECT_TRUE(parse_errc(to_string(code), back));
    EXPECT_EQ(back, code);
    EXPECT_GE(exit_code(code), 1);
    EXPECT_LE(exit_code(code), 6);
  }
  Errc untouched = Errc::no_fit;
  EXPECT_FALSE(parse_errc("NO_SUCH_CODE", untouched));
  EXPECT_EQ(untouched, Errc::no_fit);
}

TEST(Life, terminal_states_have_no_way_out) {
  for (const Transition& t : kTransitions) EXPECT_FALSE(is_terminal(t.from)) << to_string(t.from) << " " << to_string(t.verb);
}

TEST(Life, each_state_and_verb_lead_to_one_state_only) {
  std::set<std::pair<JobState, Verb>> seen;
  for (const Transition& t : kTransitions) EXPECT_TRUE(seen.emplace(t.from, t.verb).second) << to_string(t.from) << " " << to_string(t.verb);
}

TEST(Life, every_live_state_can_be_left_and_every_state_can_be_reached) {
  std::set<JobState> left, reached{JobState::blocked, JobState::waiting, JobState::ready};  // where a submit may put a job
  for (const Transition& t : kTransitions) {
    left.insert(t.from);
    reached.insert(t.to);
  }
  for (std::size_t s = 0; s < kJobStates; ++s) {
    const auto state = static_cast<JobState>(s);
    EXPECT_TRUE(reached.contains(state)) << to_string(state);
    EXPECT_EQ(left.contains(state), !is_terminal(state)) << to_string(state);
    if (!is_terminal(state)) {
      EXPECT_TRUE(next(state, Verb::cancel) == JobState::cancelled || is_granted(state)) << to_string(state);
    }
  }
}

TEST(Life, every_report_that_is_legal_in_running_is_legal_in_yielding) {
  for (const Transition& t : kTransitions)
    if (t.from == JobState::running && t.verb != Verb::preempt) {
      EXPECT_EQ(next(JobState::yielding, t.verb), t.to) << to_string(t.verb);
    }
}

TEST(Words, come_back_from_their_text) {
  for (std::size_t i = 0; i < kJobClasses; ++i) EXPECT_EQ(parse_job_class(to_string(static_cast<JobClass>(i))), static_cast<JobClass>(i));
  for (std::size_t i = 0; i < kJobStates; ++i) EXPECT_EQ(parse_job_state(to_string(static_cast<JobState>(i))), static_cast<JobState>(i));
  for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(parse_on_preempt(to_string(static_cast<OnPreempt>(i))), static_cast<OnPreempt>(i));
  for (unsigned i = 0; i < 8; ++i) EXPECT_NE(to_string(static_cast<Outcome>(i)), "?");
  EXPECT_EQ(parse_job_class("Inference"), std::nullopt);
  for (std::size_t i = 0; i < kKinds.size(); ++i) EXPECT_EQ(kind_index(kKinds[i].name), static_cast<KindIndex>(i));
  EXPECT_EQ(kind_index("detekt"), std::nullopt);
}

}  // namespace
}  // namespace gq
