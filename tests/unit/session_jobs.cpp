// session_jobs.cpp - grants, credit, reports and verdicts; and messages that come twice, late or never.
#include "tests/unit/session_story.h"

namespace gq::session {
namespace {

TEST_F(SessionStory, a_job_that_starts_and_ends_in_one_turn_says_so_once) {
  connect();
  assign(1, grant(1));
  start(grant(1));
  finish(grant(1));
  EXPECT_EQ(acts(), (Lines{"start 1.1 echo", "send ENDED [1.1=succeeded]", "send PULL opened=[] closed=[] credit=[1:5]"}));
  const auto& ended = std::get<wire::Ended>(std::get<Send>(last[1]).message);
  EXPECT_TRUE(ended.items[0].started);
  EXPECT_EQ(ended.items[0].payload_bytes, 6U);
  EXPECT_EQ(std::get<Send>(last[1]).body, "result");
  verdict(grant(1));
  EXPECT_EQ(session->journal(), 0U);
}

TEST_F(SessionStory, a_job_that_takes_longer_is_started_then_ended) {
  connect();
  assign(1, grant(1), "sleep");
  start(grant(1));
  EXPECT_EQ(acts(), (Lines{"start 1.1 sleep", "send STARTED [1.1]"}));
  finish(grant(1));
  EXPECT_EQ(acts(), (Lines{"send ENDED [1.1=succeeded]", "send PULL opened=[] closed=[] credit=[1:5]"}));
}

TEST_F(SessionStory, each_job_of_one_assign_gets_its_own_payload) {
  connect();
  auto a = item(1, grant(1));
  a.payload_bytes = 3;
  auto b = item(2, grant(2));
  b.payload_bytes = 2;
  assign({a, b}, 1, "abcde");
  quietly();
  EXPECT_EQ(std::get<StartJob>(last[0]).body, "abc");
  EXPECT_EQ(std::get<StartJob>(last[1]).body, "de");
}

TEST_F(SessionStory, an_assign_whose_payloads_do_not_add_up_starts_nothing_beyond_them) {
  connect();
  auto a = item(1, grant(1));
  a.payload_bytes = 30;
  assign({a}, 1, "abcde");
  EXPECT_EQ(acts(), Lines{"note bad_message"});
}

TEST_F(SessionStory, three_hundred_ends_of_one_turn_leave_in_two_messages) {
  Options options;
  begin(std::move(options));
  session->open_lane({1, 0, "", ""}, 400);
  connect();
  for (std::uint64_t n = 1; n <= 300; ++n) {
    assign(n, grant(n));
    start(grant(n));
    finish(grant(n));
  }
  quietly();
  std::vector<std::size_t> sizes;
  for (const Action& action : last)
    if (const auto* send = std::get_if<Send>(&action))
      if (const auto* ended = std::get_if<wire::Ended>(&send->message)) sizes.push_back(ended->items.size());
  EXPECT_EQ(sizes, (std::vector<std::size_t>{256, 44}));
}

// ---- verdicts

TEST_F(SessionStory, an_end_is_kept_until_its_verdict_whichever_it_is) {
  for (std::uint8_t v = 0; v < 3; ++v) {
    begin({});
    connect();
    assign(1, grant(1));
    finish(grant(1));
    quietly();
    EXPECT_EQ(session->journal(), 1U);
    verdict(grant(1), v);
    EXPECT_FALSE(session->holds(grant(1))) << int(v);
    verdict(grant(1), v);                         // doubled
    EXPECT_EQ(acts(), Lines{});
  }
}

TEST_F(SessionStory, an_end_without_a_verdict_is_said_again_after_five_seconds) {
  connect();
  assign(1, grant(1));
  finish(grant(1));
  quietly();
  live(4s);
  for (const std::string& line : acts()) EXPECT_EQ(line.find("ENDED"), std::string::npos);
  live(2s);
  const Lines lines = acts();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), "send ENDED [1.1=succeeded/never-started]"), 1);
}

TEST_F(SessionStory, a_verdict_for_a_job_that_still_runs_changes_nothing) {
  connect();
  assign(1, grant(1));
  quietly();
  verdict(grant(1));
  EXPECT_TRUE(session->holds(grant(1)));
}

TEST_F(SessionStory, a_result_whose_blob_the_broker_lost_is_uploaded_and_said_again) {
  connect();
  assign({item(1, grant(1)), item(2, grant(2))});
  Ending ending;
  ending.grant = grant(1);
  ending.outcome = Outcome::succeeded;
  ending.blobs = {BlobDigest{{1}}};
  session->job_ended(now, ending, out);
  finish(grant(2));
  quietly();
  const std::uint64_t id = std::get<Send>(last[2]).id;
  hear(wire::Failure{"UNKNOWN_BLOB", "blob 0100… is not stored", ""}, id);
  EXPECT_EQ(acts(), (Lines{"upload again 1.1", "send ENDED [2.1=succeeded/never-started]"}));
  live(10s);
  for (const std::string& line : acts()) EXPECT_EQ(line.find("ENDED [1.1"), std::string::npos) << "before the blob is there";
  session->result_stored(grant(1));
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=succeeded/never-started]"});
}

TEST_F(SessionStory, a_result_whose_blob_nobody_has_any_more_is_a_loss_and_runs_again) {
  connect();
  assign(1, grant(1));
  Ending ending;
  ending.grant = grant(1);
  ending.outcome = Outcome::succeeded;
  ending.blobs = {BlobDigest{{1}}};
  session->job_ended(now, ending, out);
  quietly();
  hear(wire::Failure{"UNKNOWN_BLOB", "gone", ""}, std::get<Send>(last[1]).id);
  quietly();
  session->result_missing(grant(1));
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=lost/never-started]"});
}

TEST_F(SessionStory, a_store_that_is_down_makes_the_worker_say_it_again_a_little_later) {
  connect();
  assign(1, grant(1));
  finish(grant(1));
  quietly();
  hear(wire::Failure{"UNAVAILABLE", "the store cannot be reached", ""}, std::get<Send>(last[1]).id);
  EXPECT_EQ(acts(), Lines{});
  live(2s);
  const Lines lines = acts();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), "send ENDED [1.1=succeeded/never-started]"), 1);
}

// ---- doubled, reordered, lost

TEST_F(SessionStory, a_doubled_assign_starts_one_job_and_takes_one_credit) {
  connect();
  assign(1, grant(1));
  assign(1, grant(1));
  EXPECT_EQ(acts(), Lines{"start 1.1 echo"});
  finish(grant(1));
  EXPECT_EQ(acts(), (Lines{"send ENDED [1.1=succeeded/never-started]", "send PULL opened=[] closed=[] credit=[1:5]"}));
  verdict(grant(1));
  assign(1, grant(1));                            // again, after it is over and forgotten
  EXPECT_EQ(acts(), Lines{});
}

TEST_F(SessionStory, reordered_assigns_both_start_and_a_beat_names_only_what_is_certain) {
  connect();
  assign(2, grant(2));
  live(1s);
  EXPECT_EQ(acts(), (Lines{"start 2.1 echo", "send BEAT last=0 running=[2.1]"}));
  assign(1, grant(1));
  live(1s);
  EXPECT_EQ(acts(), (Lines{"start 1.1 echo", "send BEAT last=2 running=[1.1 2.1]"}));
}

TEST_F(SessionStory, a_number_that_never_comes_is_repaired_by_hello) {
  connect();
  assign(2, grant(2));
  quietly();
  live(6s);
  const Lines lines = acts();
  EXPECT_NE(std::find(lines.begin(), lines.end(), "note message_lost"), lines.end());
  EXPECT_NE(std::find(lines.begin(), lines.end(), "send HELLO anna credit=[1:3 2:2] running=[2.1]"), lines.end());
}

TEST_F(SessionStory, hello_said_again_on_one_connection_counts_on_from_the_welcomes_number) {
  connect();
  assign(2, grant(2));
  live(6s);   // number 1 never came: HELLO again
  wire::WorkerWelcome message;
  message.term = 1;
  message.beat_ms = 1000;
  message.lease_ms = 10'000;
  message.numbered = 2;
  hear(message);
  assign(3, grant(3));
  quietly();
  live(7s);
  const Lines lines = acts();
  EXPECT_NE(std::find(lines.begin(), lines.end(), "send BEAT last=3 running=[2.1 3.1]"), lines.end());
  EXPECT_EQ(std::find(lines.begin(), lines.end(), "note message_lost"), lines.end()) << "it would say HELLO every five seconds for ever";
}

TEST_F(SessionStory, a_new_attempt_of_a_job_that_still_runs_here_is_refused_and_the_old_one_stopped) {
  connect();
  assign(1, grant(1, 1));
  start(grant(1, 1));
  quietly();
  assign(2, grant(1, 2));
  EXPECT_EQ(acts(), (Lines{"stop 1.1 revoked", "send REFUSED 1.2 UNAVAILABLE", "send PULL opened=[] closed=[] credit=[1:5]"}));
  finish(grant(1, 1), Outcome::cancelled);
  EXPECT_EQ(session->journal(), 0U) << "a revoked attempt is not reported";
}

// ---- refusals

TEST_F(SessionStory, what_it_cannot_take_it_refuses_with_the_reason) {
  connect();
  assign({item(1, grant(1), "echo", 77), item(2, grant(2), "synthesize")});
  EXPECT_EQ(acts(), (Lines{"send REFUSED 1.1 NOT_HERE", "send REFUSED 2.1 UNKNOWN_KIND", "send PULL opened=[] closed=[] credit=[1:5]"}));
}

TEST_F(SessionStory, more_than_its_credit_is_refused) {
  connect();
  for (std::uint64_t n = 1; n <= 5; ++n) assign(n, grant(n));
  EXPECT_EQ(acts(), (Lines{"start 1.1 echo", "start 2.1 echo", "start 3.1 echo", "start 4.1 echo", "send REFUSED 5.1 UNAVAILABLE", "send PULL opened=[] closed=[] credit=[1:5]"}));
}

TEST_F(SessionStory, an_executor_may_refuse_and_the_place_is_free_again) {
  connect();
  assign(1, grant(1));
  quietly();
  session->job_refused(grant(1), Errc::not_here, "no such device");
  EXPECT_EQ(acts(), (Lines{"send REFUSED 1.1 NOT_HERE", "send PULL opened=[] closed=[] credit=[1:5]"}));
  EXPECT_FALSE(session->holds(grant(1)));
}

// ---- credit

TEST_F(SessionStory, little_freed_while_plenty_is_open_waits_so_that_a_pull_serves_many) {
  begin({});
  session->open_lane({1, 0, "", ""}, 100);
  connect();
  for (std::uint64_t n = 1; n <= 24; ++n) {
    assign(n, grant(n));
    finish(grant(n));
  }
  for (const std::string& line : acts()) EXPECT_EQ(line.find("PULL"), std::string::npos);
  assign(25, grant(25));
  finish(grant(25));
  const Lines lines = acts();
  EXPECT_EQ(lines.back(), "send PULL opened=[] closed=[] credit=[1:125]");
}

TEST_F(SessionStory, a_start_lane_is_free_again_as_soon_as_the_start_is_over) {
  connect();
  assign(1, grant(1), "command", 2);
  EXPECT_EQ(acts(), Lines{"start 1.1 command"});
  start(grant(1));
  EXPECT_EQ(acts(), (Lines{"send STARTED [1.1]", "send PULL opened=[] closed=[] credit=[2:3]"}));
  finish(grant(1));
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=succeeded]"}) << "and not counted twice";
}

TEST_F(SessionStory, a_warm_lane_opens_with_its_credit_and_closes) {
  connect();
  session->open_lane({1000, 2, "GPU-0", "yolo@ab"}, 8);
  EXPECT_EQ(acts(), Lines{"send PULL opened=[1000] closed=[] credit=[1000:8]"});
  session->close_lane(1000);
  EXPECT_EQ(acts(), Lines{"send PULL opened=[] closed=[1000] credit=[]"});
}

TEST_F(SessionStory, a_lane_closes_before_the_ends_of_its_jobs_are_told) {
  session->open_lane({1000, 2, "GPU-0", "yolo@ab"}, 2);
  connect();
  assign(1, grant(1), "detect", 1000);
  start(grant(1));
  quietly();
  session->close_lane(1000);
  finish(grant(1), Outcome::crashed);
  EXPECT_EQ(acts(), (Lines{"send PULL opened=[] closed=[1000] credit=[]", "send ENDED [1.1=crashed]"}));
}

// ---- cancel, preempt, timeout, revoke

TEST_F(SessionStory, a_cancel_is_done_once_however_often_it_is_said) {
  connect();
  assign(1, grant(1), "sleep");
  start(grant(1));
  quietly();
  hear(wire::CancelJob{1, 2, grant(1), "user"});
  hear(wire::CancelJob{1, 2, grant(1), "user"});
  answer_beat({}, {wire::CancelJob{1, 2, grant(1), "user"}});
  EXPECT_EQ(acts(), Lines{"stop 1.1 cancel"});
  finish(grant(1), Outcome::cancelled);
  EXPECT_EQ(acts().front(), "send ENDED [1.1=cancelled]");
  hear(wire::CancelJob{1, 3, grant(1), "user"});
  EXPECT_EQ(acts(), Lines{}) << "too late: it has ended";
}

TEST_F(SessionStory, a_job_that_succeeded_before_it_could_be_cancelled_has_succeeded) {
  connect();
  assign(1, grant(1), "sleep");
  start(grant(1));
  hear(wire::CancelJob{1, 2, grant(1), "user"});
  quietly();
  finish(grant(1), Outcome::succeeded);
  EXPECT_EQ(acts().front(), "send ENDED [1.1=succeeded]");
}

TEST_F(SessionStory, a_cancel_that_was_lost_comes_with_the_next_beat) {
  connect();
  assign(1, grant(1), "sleep");
  quietly();
  answer_beat({}, {wire::CancelJob{1, 2, grant(1), "user"}});
  EXPECT_EQ(acts(), Lines{"stop 1.1 cancel"});
}

TEST_F(SessionStory, a_preempted_job_releases_its_memory_saves_and_yields) {
  connect();
  assign(1, grant(1), "train.detector", 2);
  start(grant(1));
  quietly();
  hear(wire::PreemptJob{1, 2, grant(1), "inference waits", 30'000});
  answer_beat({}, {}, {wire::PreemptJob{1, 2, grant(1), "inference waits", 30'000}});
  EXPECT_EQ(acts(), Lines{"preempt 1.1 30000ms"});
  session->job_released(grant(1));
  session->job_released(grant(1));
  EXPECT_EQ(acts(), Lines{"send RELEASED 1.1"});
  session->job_checkpoint(grant(1), BlobDigest{{3}}, 120);
  EXPECT_EQ(acts(), Lines{"send CHECKPOINT 1.1 step 120"});
  finish(grant(1), Outcome::yielded);
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=yielded@120]"});
}

TEST_F(SessionStory, a_checkpoint_and_a_release_said_on_a_lost_link_are_said_again) {
  connect();
  assign(1, grant(1), "train.detector", 2);
  start(grant(1));
  quietly();
  session->link_down(now, out);
  session->job_checkpoint(grant(1), BlobDigest{{3}}, 120);
  session->job_released(grant(1));
  quietly();
  after(6s);
  session->link_up(now, out);
  quietly();
  welcome();
  EXPECT_EQ(acts(), (Lines{"welcomed term 1", "send STARTED [1.1]", "send RELEASED 1.1", "send CHECKPOINT 1.1 step 120"}));
}

TEST_F(SessionStory, a_timeout_counts_from_started_and_ends_as_timed_out) {
  connect();
  wire::AssignItem i = item(1, grant(1), "sleep");
  i.timeout_us = 3'000'000;
  assign({i});
  live(5s);                                       // not started yet: no clock runs
  start(grant(1));
  quietly();
  live(2500ms);
  for (const std::string& line : acts()) EXPECT_EQ(line.find("stop"), std::string::npos);
  live(500ms);
  const Lines lines = acts();
  EXPECT_NE(std::find(lines.begin(), lines.end(), "stop 1.1 timeout"), lines.end());
  finish(grant(1), Outcome::cancelled);
  EXPECT_EQ(acts().front(), "send ENDED [1.1=timed_out]");
}

TEST_F(SessionStory, a_revoked_job_is_stopped_and_never_reported) {
  connect();
  assign(1, grant(1), "sleep");
  start(grant(1));
  quietly();
  answer_beat({grant(1)});
  answer_beat({grant(1)});
  EXPECT_EQ(acts(), Lines{"stop 1.1 revoked"});
  finish(grant(1), Outcome::succeeded);
  EXPECT_EQ(acts(), Lines{"send PULL opened=[] closed=[] credit=[1:5]"});
  EXPECT_FALSE(session->holds(grant(1)));
}

TEST_F(SessionStory, a_welcome_may_revoke_what_went_elsewhere_meanwhile) {
  connect();
  assign({item(1, grant(1), "sleep"), item(2, grant(2), "sleep")});
  quietly();
  reconnect();
  quietly();
  welcome(1, {grant(2)});
  EXPECT_EQ(acts(), (Lines{"welcomed term 1", "stop 2.1 revoked"}));
}

TEST_F(SessionStory, a_revoke_that_crossed_a_result_does_not_drop_it) {
  connect();
  assign(1, grant(1));
  finish(grant(1));
  quietly();
  answer_beat({grant(1)});
  EXPECT_EQ(acts(), Lines{});
  EXPECT_EQ(session->journal(), 1U) << "the verdict decides";
}

// ---- progress and logs

TEST_F(SessionStory, progress_is_said_at_most_four_times_a_second_and_the_newest_wins) {
  connect();
  assign(1, grant(1), "train.detector", 2);
  start(grant(1));
  session->job_progress({grant(1), 1, 10, {}});
  EXPECT_EQ(acts(), (Lines{"start 1.1 train.detector", "send STARTED [1.1]", "send PROGRESS 1.1 1/10", "send PULL opened=[] closed=[] credit=[2:3]"}));
  session->job_progress({grant(1), 2, 10, {}});
  session->job_progress({grant(1), 3, 10, {}});
  EXPECT_EQ(acts(), Lines{});
  EXPECT_LE(session->next_wakeup(), now + Duration(250ms));
  now += 300ms;
  EXPECT_EQ(acts(), Lines{"send PROGRESS 1.1 3/10"});
}

TEST_F(SessionStory, the_last_progress_goes_before_the_end_however_soon_that_comes) {
  connect();
  assign(1, grant(1), "train.detector", 2);
  start(grant(1));
  session->job_progress({grant(1), 9, 10, {}});
  quietly();
  session->job_progress({grant(1), 10, 10, {}});
  finish(grant(1));
  const Lines lines = acts();
  const auto progress = std::find(lines.begin(), lines.end(), "send PROGRESS 1.1 10/10");
  const auto ended = std::find(lines.begin(), lines.end(), "send ENDED [1.1=succeeded]");
  EXPECT_TRUE(progress < ended && ended != lines.end()) << testing::PrintToString(lines);
  quietly();
  live(1s);
  for (const std::string& line : acts()) EXPECT_EQ(line.find("PROGRESS"), std::string::npos) << "once";
}

TEST_F(SessionStory, a_log_is_passed_on_while_there_is_a_broker_and_a_job) {
  connect();
  assign(1, grant(1), "command", 2);
  quietly();
  session->job_log(grant(1), 0, "hello\n");
  session->job_log(grant(8), 0, "whose?\n");
  EXPECT_EQ(acts(), Lines{"send LOG 1.1 @0"});
}

}  // namespace
}  // namespace gq::session
