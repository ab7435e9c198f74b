// session_story.h - a worker's session on a stage: facts go in by name, the whole list of actions comes out as lines.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "worker/session/session.h"

namespace gq::session {

using Lines = std::vector<std::string>;

/// Grants print as "<n>.<attempt>".
inline Grant grant(std::uint64_t n, Attempt attempt = 1) { return {JobId{7, n}, attempt, 0xABC0 + n}; }

class SessionStory : public ::testing::Test {
 protected:
  SessionStory() { begin({}); }

  void begin(Options options) {
    options.name = "anna";
    options.instance = 42;
    if (options.kinds.empty()) options.kinds = {"echo", "sleep", "command", "train.detector", "detect"};
    session.emplace(std::move(options));
    session->open_lane({1, 0, "", ""}, 4);
    session->open_lane({2, 1, "GPU-0", ""}, 2);
    out.clear();
    now = Instant{} + 1h;
  }

  /// Everything that has to be done since last asked, in order.
  Lines acts() {
    session->flush(now, out);
    Lines lines;
    for (const Action& action : out) lines.push_back(to_string(action));
    last = std::move(out);
    out.clear();
    return lines;
  }
  void quietly() { acts(); }

  void connect() {
    session->start(now, out);
    session->link_up(now, out);
    welcome();
    quietly();
  }
  void reconnect() {
    session->link_down(now, out);
    after(10s);
    session->link_up(now, out);
  }
  void welcome(Term term = 1, std::vector<Grant> revoke = {}) {
    wire::WorkerWelcome message;
    message.term = term;
    message.beat_ms = 1000;
    message.lease_ms = 10'000;
    message.revoke = std::move(revoke);
    hear(message);
  }
  /// Lets time pass in steps small enough not to look like a thaw; the broker stays silent.
  void after(Duration span, Duration step = 500ms) {
    for (const Instant end = now + span; now < end;) {
      now = std::min(end, now + step);
      session->tick(now, out);
    }
  }
  /// As after(), but the broker answers each beat.
  void live(Duration span) {
    for (const Instant end = now + span; now < end;) {
      now = std::min(end, now + Duration(500ms));
      session->tick(now, out);
      answer_beat();
    }
  }
  void answer_beat(std::vector<Grant> revoke = {}, std::vector<wire::CancelJob> cancels = {}, std::vector<wire::PreemptJob> preempts = {}) {
    wire::WorkerBeatReply reply;
    reply.sent_us = static_cast<std::uint64_t>(now.time_since_epoch().count());
    reply.term = 1;
    reply.revoke = std::move(revoke);
    reply.cancels = std::move(cancels);
    reply.preempts = std::move(preempts);
    hear(reply);
  }
  void hear(wire::Message message, std::uint64_t id = 0, std::string_view body = {}) {
    wire::Header header;
    header.id = id;
    session->received(now, header, std::move(message), body, out);
  }
  static wire::AssignItem item(std::uint64_t number, Grant g, std::string kind = "echo", std::uint16_t lane = 1) {
    wire::AssignItem i;
    i.number = number;
    i.grant = g;
    i.kind = std::move(kind);
    i.lane = lane;
    return i;
  }
  void assign(std::vector<wire::AssignItem> items, Term term = 1, std::string_view body = {}) { hear(wire::Assign{term, std::move(items)}, 0, body); }
  void assign(std::uint64_t number, Grant g, std::string kind = "echo", std::uint16_t lane = 1) { assign({item(number, g, std::move(kind), lane)}); }
  void start(Grant g) { session->job_started(now, g); }
  void finish(Grant g, Outcome outcome = Outcome::succeeded) {
    Ending ending;
    ending.grant = g;
    ending.outcome = outcome;
    ending.body = "result";
    session->job_ended(now, std::move(ending), out);
  }
  void verdict(Grant g, std::uint8_t v = 0) { hear(wire::Accepted{1, {g}, {v}}); }

  std::optional<Session> session;
  Actions out;
  Actions last;
  Instant now{};
};

}  // namespace gq::session
