// link.cpp - the table of link.h, one function per thing that can happen.
#include "client/lib/link.h"

#include <algorithm>

namespace gq::client {

LinkActions Link::start(Instant now) {
  if (state_ != State::idle) return {};
  state_ = State::connecting;
  since_ = now;
  return {{LinkAction::open, {}}};
}

LinkActions Link::connected(Instant now) {
  if (state_ != State::connecting) return {};
  state_ = State::greeting;
  since_ = heard_ = sent_ = now;
  return {{LinkAction::hello, {}}};
}

LinkActions Link::welcomed(Instant now, Term term, Duration beat) {
  if (state_ != State::greeting) return {};
  state_ = State::up;
  since_ = heard_ = now;
  tries_ = 0;
  term_ = term;
  if (beat > Duration::zero()) timing_.beat = beat;
  timing_.silence = std::max(timing_.silence, 5 * timing_.beat);
  ever_welcomed_ = true;
  last_refusal_.reset();
  refused_since_.reset();
  return {{LinkAction::resume, {}}};
}

LinkActions Link::term_seen(Term term) {
  if (state_ != State::up || term == 0 || term == term_) return {};
  term_ = term;
  return {{LinkAction::rewatch, {}}};
}

LinkActions Link::disconnected(Instant now) {
  // While connecting, libzmq itself retries on the same socket; nothing to add.
  if (state_ != State::greeting && state_ != State::up) return {};
  return pause(now);
}

LinkActions Link::refused(Instant now, const Error& error) {
  if (state_ == State::idle || state_ == State::pausing) return {};
  last_refusal_ = error;
  LinkActions actions = pause(now);
  if (!refused_since_) refused_since_ = now;
  if (!ever_welcomed_ || now - *refused_since_ >= timing_.refusal_patience)
    actions.push_back({LinkAction::fail_all, error});
  return actions;
}

LinkActions Link::tick(Instant now) {
  switch (state_) {
    case State::idle: return {};
    case State::pausing:
      if (now < due_) return {};
      state_ = State::connecting;
      since_ = now;
      return {{LinkAction::open, {}}};
    case State::connecting:
      if (now - since_ < timing_.connect_patience) return {};
      return pause(now);
    case State::greeting:
      if (now - since_ < timing_.greet_patience) return {};
      return pause(now);
    case State::up:
      if (now - heard_ >= timing_.silence) return pause(now);
      if (now - sent_ >= timing_.beat) {
        sent_ = now;
        return {{LinkAction::beat, {}}};
      }
      return {};
  }
  return {};
}

LinkActions Link::pause(Instant now) {
  state_ = State::pausing;
  since_ = now;
  const Duration ceiling = std::min(timing_.backoff_max, timing_.backoff_min * (1U << std::min(tries_, 10U)));
  ++tries_;
  random_ ^= random_ << 13U, random_ ^= random_ >> 7U, random_ ^= random_ << 17U;   // xorshift64: jitter, not secrecy
  const auto half = ceiling.count() / 2;
  due_ = now + Duration{half + static_cast<std::int64_t>(random_ % static_cast<std::uint64_t>(half + 1))};
  return {{LinkAction::close, {}}};
}

}  // namespace gq::client
