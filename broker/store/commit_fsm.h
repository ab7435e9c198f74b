// commit_fsm.h - the commit protocol with Redis as a state machine: replies and times in, actions out; no socket, no clock.
//
//   disconnected ─connected─► checking ─► moving ─► armed ◄──────────────┐
//        ▲                    (checks, WATCH, GET)  (CAS of the term)    │ EXEC array, GET = my term
//        └──────── link lost, from anywhere         in_flight ───────────┤
//                                                   replicating (applied; replicas are asked until enough of them have it)
//                                                   rereading (applied, but the reply with the bodies was lost)
//
// Invariants, each learnt from a lost job (design-correctness 1):
//  - Only `armed` sends a MULTI, and only behind a WATCH whose GET showed our term: a MULTI on an unarmed connection is unfenced.
//  - Every new connection first moves the term by CAS, a mere reconnect too, and reads `batch` only behind that: an EXEC still
//    travelling on the dead connection then finds its WATCH broken, whenever it arrives.
//  - What a lost link left unknown is decided by the batch number: n = applied, n-1 = not, anything else = the store is not what
//    we believe (reload).
//  - With replicas asked for, WAIT stands behind each EXEC, and a batch that too few have acknowledged is not yet applied for anyone:
//    its effects stay, WAIT is asked again, also on a new connection (whose own write of the term comes after all earlier ones).
//  - Redis out of memory refuses every MULTI, also one that only deletes. A take-over refused so unlinks, outside of MULTI and unfenced,
//    results of jobs that are final and whose client has said that it has them: no other broker may promise them again either, a final
//    job never gets another result, and its id is not used again while its record is there. So an UNLINK that travels late harms nobody.
//  - EXECABORT hides a lost fence: the GET behind it judges. An error element inside EXEC means half of a batch: stop.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "broker/store/batch_encoder.h"
#include "broker/store/redis_store.h"
#include "broker/store/reply.h"
#include "broker/store/server_checks.h"

namespace gq::store {

// ---- actions, to be done in order
struct SendCommands { std::string bytes; std::size_t replies{}; };    ///< hand the replies to CommitFsm::replied
struct ConnectAgain { Duration after{}; };                            ///< drop the connection, if any, and make a new one then
struct WakeAt { Instant at{}; };                                      ///< call timer() then; replaces the earlier one
struct TookOver { Term term{}; std::uint64_t batch{}; bool brand_new{}; ServerFacts facts; };
struct OpenFailed { Error why; };
struct BatchApplied { std::uint64_t number{}; std::vector<JobId> reads; Reply bodies; };  ///< bodies: MGET's array, in the order of reads
struct WentDown { Error why; };
struct CameUp {};
struct Deposed { Error why; };                                        ///< fenced or corrupt: stop
struct MustReload { Error why; };
using Action = std::variant<SendCommands, ConnectAgain, WakeAt, TookOver, OpenFailed, BatchApplied, WentDown, CameUp, Deposed, MustReload>;
using Actions = std::vector<Action>;

class CommitFsm {
 public:
  enum class State : std::uint8_t { closed, disconnected, checking, moving, armed, in_flight, replicating, beating, refused, rereading, listing, emptying, stopped };

  CommitFsm(RedisOptions options, const Keys& keys);

  /// Take over: answers TookOver or OpenFailed in the end. Forgets any batch under way.
  Actions open(Instant now);
  Actions close();
  /// `random` makes the term's value ours alone.
  Actions connected(Instant now, std::uint64_t random);
  Actions disconnected(Instant now, const Error& why);
  Actions replied(Instant now, std::vector<Reply> replies);
  Actions submit(Instant now, EncodedBatch batch);
  Actions timer(Instant now);

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool has_batch() const { return pending_.has_value(); }
  /// Plain reads may ride on the connection.
  [[nodiscard]] bool readable() const {
    return state_ == State::armed || state_ == State::in_flight || state_ == State::beating || state_ == State::refused;
  }
  [[nodiscard]] StoreStatistics& statistics() { return statistics_; }

 private:
  void check_and_watch(Actions& out);
  void on_checked(Instant now, const std::vector<Reply>& replies, Actions& out);
  void on_moved(Instant now, const std::vector<Reply>& replies, Actions& out);
  void on_executed(Instant now, std::vector<Reply>& replies, Actions& out);
  void on_reread(Instant now, std::vector<Reply>& replies, Actions& out);
  void move_term(const std::string& current, Actions& out);
  void armed(Instant now, Actions& out);
  void settle_after_reconnect(Instant now, std::uint64_t applied, Actions& out);
  void send_fenced(Instant now, bool with_batch, Actions& out);
  void refused(Instant now, const Error& why, Actions& out);
  void applied(Instant now, Reply bodies, Actions& out);
  void make_room(Actions& out);
  void on_listed(Instant now, std::vector<Reply>& replies, Actions& out);
  void on_room_looked_for(Instant now, const std::vector<Reply>& replies, Actions& out);
  void wait_for_replicas(Actions& out);
  void on_replicated(Instant now, const std::vector<Reply>& replies, Actions& out);
  /// The connection is no use now: say so, or give up opening.
  void trouble(Instant now, const Error& why, bool permanent, Actions& out);
  void depose(const Error& why, Actions& out);
  void reload(const Error& why, Actions& out);
  void down(const Error& why, Actions& out);
  void up(Actions& out);
  Error fenced_error(const std::string& found) const;
  Duration backoff();
  [[nodiscard]] bool mine(const std::string& value) const;

  RedisOptions options_;
  Keys keys_;
  State state_{State::closed};
  StoreStatistics statistics_;

  bool opening_{};
  Instant open_since_{};
  Term term_{};
  std::string value_;                    ///< of the term key as last moved by us
  std::vector<std::string> tried_;       ///< values we may have written without hearing back
  std::uint64_t random_{};
  std::uint64_t connections_{};
  bool was_new_{};
  ServerFacts facts_;

  std::uint64_t applied_{};              ///< number of the last applied batch
  std::optional<EncodedBatch> pending_;
  std::optional<Reply> unreplicated_;    ///< the bodies of pending_, which is applied here, while too few replicas have it
  std::size_t sent_commands_{};          ///< inside the EXEC awaited now
  std::uint64_t looked_at_{};            ///< of the final jobs, the oldest first, for results to give up
  std::vector<std::string> listed_;      ///< ids whose records are being read for that
  std::optional<Instant> refused_since_;        ///< anything fenced, a beat too
  std::optional<Instant> batch_refused_since_;  ///< this very batch
  std::optional<Errc> down_;
  Duration backoff_{};
  Instant last_fenced_{};                ///< when the last fenced write was answered
  Instant last_hint_{};                  ///< when the leader hint last went out
  bool hint_ever_{};
};

}  // namespace gq::store
