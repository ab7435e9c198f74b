// link.h - when to open a socket, say hello, beat, give up on a link, and tell the callers that this broker refuses us.
//
// Pure: time and randomness arrive as arguments, actions leave as data; the engine performs them.
//
//   idle ─start─► connecting ─connected─► greeting ─welcomed─► up
//                    ▲                        │                │ silent for `silence`, link lost, term of another life
//                    └──── pausing ◄──────────┴────────────────┘ jittered back-off, then always a NEW socket
//
// A refusal is judged: from a broker that never welcomed us it is final at once; from one that did, a dying or restarting
// broker can look the same for a moment, so it must be said again over `refusal_patience` before the callers hear of it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"
#include "common/vocabulary/units.h"

namespace gq::client {

struct LinkTiming {
  Duration beat = 1s;                  // replaced by what the broker's welcome says
  Duration silence = 5s;               // nothing heard this long = open a new socket
  Duration connect_patience = 10s;     // a socket that cannot connect is replaced: resets libzmq's own back-off
  Duration greet_patience = 5s;        // connected, but no welcome
  Duration backoff_min = 50ms;
  Duration backoff_max = 3s;
  Duration refusal_patience = 3s;
};

struct LinkAction {
  enum Kind : std::uint8_t { open, close, hello, beat, resume, rewatch, fail_all };
  Kind kind{};
  Error error;                         ///< fail_all
  bool operator==(const LinkAction&) const = default;
};
using LinkActions = std::vector<LinkAction>;

class Link {
 public:
  enum class State : std::uint8_t { idle, connecting, greeting, up, pausing };

  Link(LinkTiming timing, std::uint64_t seed) : timing_(timing), random_(seed | 1U) {}

  LinkActions start(Instant now);
  LinkActions connected(Instant now);
  LinkActions welcomed(Instant now, Term term, Duration beat);
  LinkActions term_seen(Term term);
  LinkActions disconnected(Instant now);
  LinkActions refused(Instant now, const Error& error);
  LinkActions tick(Instant now);
  void heard(Instant now) { heard_ = now; }
  void sent(Instant now) { sent_ = now; }

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool up() const { return state_ == State::up; }
  [[nodiscard]] bool ever_welcomed() const { return ever_welcomed_; }
  [[nodiscard]] const std::optional<Error>& last_refusal() const { return last_refusal_; }

 private:
  LinkActions pause(Instant now);

  LinkTiming timing_;
  std::uint64_t random_;
  State state_{State::idle};
  Instant since_{};                    // of this state
  Instant due_{};                      // pausing: when to open
  Instant heard_{}, sent_{};
  std::uint32_t tries_{};
  bool ever_welcomed_{};
  Term term_{};
  std::optional<Error> last_refusal_;
  std::optional<Instant> refused_since_;
};

}  // namespace gq::client
