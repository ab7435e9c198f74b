// session_link.cpp - dialling, greeting, losing the broker, freezing, leaving.
#include "tests/unit/session_story.h"

namespace gq::session {
namespace {

TEST_F(SessionStory, it_dials_greets_and_is_welcomed_with_all_its_credit) {
  session->start(now, out);
  EXPECT_EQ(acts(), Lines{"connect"});
  session->link_up(now, out);
  EXPECT_EQ(acts(), Lines{"send HELLO anna credit=[1:4 2:2] running=[]"});
  EXPECT_FALSE(session->up());
  welcome();
  EXPECT_EQ(acts(), Lines{"welcomed term 1"});
  EXPECT_TRUE(session->up());
}

TEST_F(SessionStory, it_beats_every_second_with_what_it_holds) {
  connect();
  assign(1, grant(5));
  quietly();
  live(1s);
  EXPECT_EQ(acts(), Lines{"send BEAT last=1 running=[5.1]"});
  live(1s);
  EXPECT_EQ(acts(), Lines{"send BEAT last=1 running=[5.1]"});
}

TEST_F(SessionStory, a_broker_that_does_not_answer_is_dialled_again_on_a_new_socket_later_each_time) {
  session->start(now, out);
  quietly();
  std::vector<Duration> waits;
  for (int i = 0; i < 4; ++i) {
    after(5s);
    EXPECT_EQ(acts(), (Lines{"note broker_unreachable", "hang up"}));
    const Instant began = now;
    while (acts() != Lines{"connect"}) {
      ASSERT_LT(now - began, Duration(10s));
      now += 10ms;
      session->tick(now, out);
    }
    waits.push_back(now - began);
  }
  EXPECT_GE(waits[0], Duration(50ms));
  EXPECT_LE(waits[3], Duration(5s));
  EXPECT_GT(waits[3], waits[0]);
}

TEST_F(SessionStory, two_workers_do_not_dial_at_the_same_moment) {
  const auto wait_of = [](std::uint64_t instance) {
    Options options;
    options.instance = instance;
    Session s(options);
    Actions ignored;
    s.start(Instant{} + 1h, ignored);
    s.link_down(Instant{} + 1h, ignored);
    return s.next_wakeup();
  };
  EXPECT_NE(wait_of(1), wait_of(2));
}

TEST_F(SessionStory, a_lost_link_keeps_jobs_and_results_and_hello_names_both) {
  connect();
  assign({item(1, grant(1)), item(2, grant(2))});
  start(grant(1));
  quietly();
  session->link_down(now, out);
  EXPECT_EQ(acts(), (Lines{"note broker_lost", "hang up"}));
  finish(grant(1));
  EXPECT_EQ(acts(), Lines{});                    // journalled, not said
  after(1s);
  EXPECT_EQ(acts(), Lines{"connect"});
  session->link_up(now, out);
  EXPECT_EQ(acts(), Lines{"send HELLO anna credit=[1:3 2:2] running=[1.1 2.1]"});
  welcome();
  EXPECT_EQ(acts(), (Lines{"welcomed term 1", "send ENDED [1.1=succeeded]"}));
}

TEST_F(SessionStory, five_silent_seconds_make_a_new_link_and_lose_no_job) {
  connect();
  assign(1, grant(1));
  quietly();
  after(4500ms);
  quietly();
  EXPECT_TRUE(session->up());
  after(1s);
  const Lines lines = acts();
  EXPECT_NE(std::find(lines.begin(), lines.end(), "note broker_silent"), lines.end());
  EXPECT_FALSE(session->up());
  EXPECT_TRUE(session->holds(grant(1)));
}

TEST_F(SessionStory, a_frozen_worker_says_hello_before_it_reports_anything) {
  connect();
  assign(1, grant(1));
  quietly();
  finish(grant(1));
  now += 20s;                                    // SIGSTOP, SIGCONT: no tick in between
  assign(2, grant(2));                           // what lay in the old socket
  EXPECT_EQ(acts(), (Lines{"note thawed", "hang up", "connect"}));
  EXPECT_FALSE(session->holds(grant(2)));
  session->link_up(now, out);
  EXPECT_EQ(acts(), Lines{"send HELLO anna credit=[1:4 2:2] running=[1.1]"});
  welcome(1, {});
  EXPECT_EQ(acts(), (Lines{"welcomed term 1", "send ENDED [1.1=succeeded/never-started]"}));
}

TEST_F(SessionStory, a_broker_of_a_lower_term_is_refused) {
  connect();
  reconnect();
  welcome(3);
  quietly();
  reconnect();
  quietly();
  welcome(2);
  EXPECT_EQ(acts(), (Lines{"note old_term", "hang up"}));
  EXPECT_FALSE(session->up());
}

TEST_F(SessionStory, an_assign_of_a_lower_term_starts_nothing) {
  connect();
  reconnect();
  welcome(5);
  quietly();
  assign({item(1, grant(1))}, 4);
  EXPECT_EQ(acts(), Lines{"note old_term"});
  EXPECT_FALSE(session->holds(grant(1)));
}

TEST_F(SessionStory, a_reloaded_broker_that_asks_for_hello_gets_one_and_everything_again) {
  connect();
  assign({item(1, grant(1)), item(2, grant(2))});
  start(grant(1));
  start(grant(2));
  quietly();
  finish(grant(2));
  EXPECT_EQ(acts().front(), "send ENDED [2.1=succeeded]");
  hear(wire::Failure{"UNAVAILABLE", "say hello", "this broker has loaded its image anew"});
  EXPECT_EQ(acts(), Lines{"send HELLO anna credit=[1:3 2:2] running=[1.1 2.1]"});
  assign(9, grant(9));                           // sent before the broker read that
  EXPECT_EQ(acts(), Lines{});
  welcome();
  EXPECT_EQ(acts(), (Lines{"welcomed term 1", "send STARTED [1.1]", "send ENDED [2.1=succeeded]"}));
}

TEST_F(SessionStory, a_refused_key_is_said_and_tried_again_slowly) {
  session->start(now, out);
  quietly();
  session->refused(now, {Errc::key_refused, "the broker does not know this key", "gpuq keys issue"}, out);
  EXPECT_EQ(acts(), (Lines{"note broker_refused", "hang up"}));
  after(2s);
  EXPECT_EQ(acts(), Lines{"connect"});
}

TEST_F(SessionStory, with_once_a_refused_key_ends_the_worker_with_code_4) {
  Options options;
  options.once = true;
  begin(std::move(options));
  session->start(now, out);
  quietly();
  session->refused(now, {Errc::key_refused, "unknown key", ""}, out);
  EXPECT_EQ(acts(), (Lines{"note broker_refused", "exit 4"}));
}

TEST_F(SessionStory, a_refused_hello_says_why_and_backs_off) {
  session->start(now, out);
  session->link_up(now, out);
  quietly();
  hear(wire::Failure{"PROTOCOL", "this broker reads version 2 and newer", "upgrade gpuq-worker"});
  EXPECT_EQ(acts(), (Lines{"note hello_refused", "hang up"}));
}

TEST_F(SessionStory, an_exclusive_job_stops_itself_at_eight_tenths_of_its_lease_others_go_on) {
  connect();
  wire::AssignItem alone = item(1, grant(1));
  alone.exclusive = true;
  assign({alone, item(2, grant(2))});
  quietly();
  session->link_down(now, out);
  quietly();
  after(7900ms, 100ms);
  EXPECT_TRUE(std::none_of(out.begin(), out.end(), [](const Action& a) { return std::holds_alternative<StopJob>(a); }));
  quietly();
  after(200ms, 100ms);
  const Lines lines = acts();
  EXPECT_NE(std::find(lines.begin(), lines.end(), "stop 1.1 fenced"), lines.end());
  EXPECT_EQ(std::find(lines.begin(), lines.end(), "stop 2.1 fenced"), lines.end());
}

TEST_F(SessionStory, an_exclusive_job_of_a_frozen_worker_is_stopped_on_thaw_before_hello) {
  connect();
  wire::AssignItem alone = item(1, grant(1));
  alone.exclusive = true;
  assign({alone});
  quietly();
  now += 20s;
  session->tick(now, out);
  EXPECT_EQ(acts(), (Lines{"note thawed", "stop 1.1 fenced", "hang up", "connect"}));
}

TEST_F(SessionStory, an_answered_beat_renews_from_when_it_was_sent_not_from_when_it_was_answered) {
  connect();
  wire::AssignItem alone = item(1, grant(1));
  alone.exclusive = true;
  assign({alone});
  quietly();
  live(2s);
  quietly();
  const auto sent = static_cast<std::uint64_t>(now.time_since_epoch().count());
  after(4s, 100ms);
  wire::WorkerBeatReply late;
  late.sent_us = sent;
  late.term = 1;
  hear(late);
  quietly();
  session->link_down(now, out);
  after(3900ms, 100ms);
  Lines lines = acts();
  EXPECT_EQ(std::find(lines.begin(), lines.end(), "stop 1.1 fenced"), lines.end());
  after(200ms, 100ms);                            // 8 s after it was sent
  lines = acts();
  EXPECT_NE(std::find(lines.begin(), lines.end(), "stop 1.1 fenced"), lines.end());
}

TEST_F(SessionStory, after_the_orphan_timeout_jobs_are_stopped_and_kept_results_dropped) {
  Options options;
  options.timing.orphan_timeout = 30s;
  begin(std::move(options));
  connect();
  assign({item(1, grant(1)), item(2, grant(2))});
  quietly();
  session->link_down(now, out);
  finish(grant(2));
  after(29s);
  quietly();
  EXPECT_EQ(session->journal(), 1U);
  after(2s);
  const Lines lines = acts();
  EXPECT_NE(std::find(lines.begin(), lines.end(), "note orphaned"), lines.end());
  EXPECT_NE(std::find(lines.begin(), lines.end(), "stop 1.1 orphaned"), lines.end());
  EXPECT_EQ(session->journal(), 0U);
  finish(grant(1), Outcome::cancelled);
  EXPECT_FALSE(session->holds(grant(1)));
}

TEST_F(SessionStory, draining_closes_lanes_refuses_what_was_under_way_and_says_goodbye_when_empty) {
  connect();
  assign(1, grant(1));
  start(grant(1));
  quietly();
  session->drain(now, out);
  EXPECT_EQ(acts(), (Lines{"note draining", "send PULL opened=[] closed=[1 2] credit=[]"}));
  assign(2, grant(2));
  EXPECT_EQ(acts(), Lines{"send REFUSED 2.1 UNAVAILABLE"});
  finish(grant(1));
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=succeeded]"});
  verdict(grant(1));
  EXPECT_EQ(acts(), (Lines{"send GOODBYE", "exit 0"}));
}

TEST_F(SessionStory, draining_asks_long_jobs_to_leave_and_stops_them_at_the_deadline) {
  Options options;
  options.drain_grace = 10s;
  begin(std::move(options));
  connect();
  assign({item(1, grant(1), "command", 2), item(2, grant(2), "train.detector", 2)});
  start(grant(1));
  start(grant(2));
  quietly();
  session->drain(now, out);
  EXPECT_EQ(acts(), (Lines{"note draining", "preempt 1.1 10000ms", "preempt 2.1 10000ms", "send PULL opened=[] closed=[1 2] credit=[]"}));
  finish(grant(2), Outcome::yielded);
  EXPECT_EQ(acts(), Lines{"send ENDED [2.1=yielded]"});
  verdict(grant(2));
  live(10s);
  Lines lines = acts();
  EXPECT_NE(std::find(lines.begin(), lines.end(), "stop 1.1 shutdown"), lines.end());
  finish(grant(1), Outcome::cancelled);
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=lost]"});
  verdict(grant(1));
  EXPECT_EQ(acts(), (Lines{"send GOODBYE", "exit 0"}));
}

TEST_F(SessionStory, a_second_signal_stops_everything_now_and_does_not_wait_for_the_broker_for_ever) {
  connect();
  assign(1, grant(1), "sleep");
  start(grant(1));
  quietly();
  session->drain(now, out);
  session->stop(now, out);
  EXPECT_EQ(acts(), (Lines{"note draining", "stop 1.1 shutdown", "send PULL opened=[] closed=[1 2] credit=[]"}));
  finish(grant(1), Outcome::cancelled);
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=lost]"});
  live(4s);                                       // no verdict comes
  const Lines lines = acts();
  ASSERT_GE(lines.size(), 3U);
  EXPECT_EQ((Lines{lines.end() - 3, lines.end()}), (Lines{"send GOODBYE", "note left_behind", "exit 0"}));
}

TEST_F(SessionStory, an_idle_worker_without_a_broker_leaves_at_once) {
  session->start(now, out);
  quietly();
  session->drain(now, out);
  EXPECT_EQ(acts(), (Lines{"note draining", "exit 0"}));
}

TEST_F(SessionStory, new_kinds_are_announced_by_another_hello) {
  connect();
  session->set_kinds(now, {"echo"}, out);
  EXPECT_EQ(acts(), Lines{"send HELLO anna credit=[1:4 2:2] running=[]"});
  session->set_kinds(now, {"echo"}, out);
  EXPECT_EQ(acts(), Lines{});
}

}  // namespace
}  // namespace gq::session
