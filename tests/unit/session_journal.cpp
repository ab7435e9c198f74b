// session_journal.cpp - ends of long jobs are written down before they are said; models leave on request, but never in use.
#include "tests/unit/session_story.h"

namespace gq::session {
namespace {

struct JournalStory : SessionStory {
  JournalStory() {
    Options options;
    options.journals = true;
    begin(std::move(options));
  }
  void train(std::uint64_t number, Grant g) {
    assign(number, g, "train.detector", 2);
    start(g);
    quietly();
  }
  static Ending trained(Grant g, std::vector<BlobDigest> blobs = {}) {
    Ending ending;
    ending.grant = g;
    ending.outcome = Outcome::succeeded;
    ending.blobs = std::move(blobs);
    ending.stored_here = true;
    ending.body = "weights";
    return ending;
  }
  const BlobDigest weights{{7}};
};

TEST_F(JournalStory, the_end_of_a_training_is_written_down_then_uploaded_then_said_then_forgotten) {
  connect();
  train(1, grant(1));
  session->job_ended(now, trained(grant(1), {weights}), out);
  EXPECT_EQ(acts(), Lines{"journal 1.1"}) << "nothing leaves before it is on disk";
  const auto& written = std::get<JournalEnd>(last[0]);
  EXPECT_EQ(written.body, "weights");
  EXPECT_EQ(written.here, (std::vector<BlobDigest>{weights}));
  live(10s);
  for (const std::string& line : acts()) EXPECT_EQ(line.find("ENDED"), std::string::npos);
  session->journaled(grant(1), out);
  EXPECT_EQ(acts(), Lines{"upload again 1.1"});
  session->result_stored(grant(1));
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=succeeded]"});
  verdict(grant(1));
  EXPECT_EQ(acts(), Lines{"forget 1.1"});
  EXPECT_EQ(session->journal(), 0U);
}

TEST_F(JournalStory, short_jobs_and_those_that_were_cancelled_or_crashed_are_not_written_down) {
  connect();
  assign({item(1, grant(1), "echo"), item(2, grant(2), "command", 2), item(3, grant(3), "command", 2)});
  start(grant(2));
  start(grant(3));
  quietly();
  finish(grant(1));
  finish(grant(2), Outcome::crashed);
  hear(wire::CancelJob{1, 4, grant(3), "user"});
  finish(grant(3), Outcome::cancelled);
  const Lines lines = acts();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), "send ENDED [1.1=succeeded/never-started 2.1=crashed 3.1=cancelled]"), 1);
  for (const std::string& line : lines) EXPECT_EQ(line.find("journal"), std::string::npos);
}

TEST_F(JournalStory, what_an_earlier_process_wrote_down_is_named_in_hello_and_said_until_it_has_a_verdict) {
  for (std::uint8_t v = 0; v < 3; ++v) {       // accepted, stale, gone
    Options options;
    options.journals = true;
    begin(std::move(options));
    wire::EndedItem end;
    end.grant = grant(1);
    end.outcome = static_cast<std::uint8_t>(Outcome::succeeded);
    end.started = true;
    session->restore(end, "weights", {}, out);
    session->start(now, out);
    session->link_up(now, out);
    EXPECT_EQ(acts(), (Lines{"connect", "send HELLO anna credit=[1:4 2:2] running=[1.1]"})) << "it takes no credit";
    welcome(1, {grant(1)});                     // revoked meanwhile: the verdict decides, not the revoke
    EXPECT_EQ(acts(), (Lines{"welcomed term 1", "send ENDED [1.1=succeeded]"}));
    EXPECT_EQ(std::get<Send>(last[1]).body, "weights");
    verdict(grant(1), v);
    EXPECT_EQ(acts(), Lines{"forget 1.1"}) << int(v);
  }
}

TEST_F(JournalStory, a_restored_result_waits_for_its_blobs_and_is_a_loss_when_they_are_gone) {
  wire::EndedItem end;
  end.grant = grant(1);
  end.blobs = {weights};
  end.checkpoint = BlobDigest{{9}};
  session->restore(end, "weights", {weights}, out);
  connect();
  EXPECT_EQ(acts(), Lines{});
  session->result_missing(grant(1));
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=lost/never-started]"});
}

TEST_F(JournalStory, a_restored_end_is_given_up_after_the_orphan_timeout) {
  Options options;
  options.journals = true;
  options.timing.orphan_timeout = 30s;
  begin(std::move(options));
  wire::EndedItem end;
  end.grant = grant(1);
  session->restore(end, "", {}, out);
  session->start(now, out);
  after(31s);
  const Lines lines = acts();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), "forget 1.1"), 1);
  EXPECT_EQ(session->journal(), 0U);
}

TEST_F(JournalStory, a_yield_takes_along_the_checkpoint_that_was_not_told_yet) {
  connect();
  train(1, grant(1));
  hear(wire::PreemptJob{1, 2, grant(1), "inference waits", 30'000});
  session->job_released(grant(1));
  Ending ending;
  ending.grant = grant(1);
  ending.outcome = Outcome::yielded;
  ending.checkpoint = BlobDigest{{3}};
  ending.checkpoint_step = 120;
  ending.stored_here = true;
  session->job_ended(now, ending, out);
  EXPECT_EQ(acts(), (Lines{"preempt 1.1 30000ms", "journal 1.1", "send RELEASED 1.1"})) << "who waits for the memory does not wait for the disk";
  session->journaled(grant(1), out);
  EXPECT_EQ(acts(), Lines{"upload again 1.1"});
  session->result_stored(grant(1));
  EXPECT_EQ(acts(), Lines{"send ENDED [1.1=yielded@120]"});
}

// ---- models that are to leave

struct EvictionStory : SessionStory {
  EvictionStory() {
    session->open_lane({1000, 2, "GPU-0", "yolo@ab"}, 4);
    connect();
  }
};

TEST_F(EvictionStory, an_idle_model_is_evicted_and_the_closed_lane_says_that_it_is_gone) {
  hear(wire::EvictModel{1, "GPU-0", "yolo@ab"});
  EXPECT_EQ(acts(), Lines{"evict yolo@ab from GPU-0"});
  session->close_lane(1000);
  EXPECT_EQ(acts(), Lines{"send PULL opened=[] closed=[1000] credit=[]"});
  hear(wire::EvictModel{1, "GPU-0", "yolo@ab"});
  EXPECT_EQ(acts(), Lines{}) << "said again after it is gone";
}

TEST_F(EvictionStory, a_lost_wish_comes_again_with_the_beat) {
  wire::WorkerBeatReply reply;
  reply.term = 1;
  reply.evictions = {{"GPU-0", "yolo@ab"}};
  hear(reply);
  EXPECT_EQ(acts(), Lines{"evict yolo@ab from GPU-0"});
}

TEST_F(EvictionStory, a_model_in_use_unknown_elsewhere_or_named_by_a_deposed_broker_stays) {
  assign(1, grant(1), "detect", 1000);
  quietly();
  hear(wire::EvictModel{1, "GPU-0", "yolo@ab"});
  hear(wire::EvictModel{1, "GPU-1", "yolo@ab"});
  hear(wire::EvictModel{1, "GPU-0", "yolo"});
  EXPECT_EQ(acts(), Lines{});
  finish(grant(1));
  quietly();
  hear(wire::EvictModel{0, "GPU-0", "yolo@ab"});
  EXPECT_EQ(acts(), Lines{"note old_term"});
  hear(wire::EvictModel{1, "GPU-0", "yolo@ab"});
  EXPECT_EQ(acts(), Lines{"evict yolo@ab from GPU-0"}) << "idle again";
}

}  // namespace
}  // namespace gq::session
