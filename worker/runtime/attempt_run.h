// attempt_run.h - one attempt with a folder and a log of its own: what commands and trainers have in common.
//
// begin(): inputs are fetched, the folder is made, launch() is the kind's own. Checkpoints go into the worker's cache (durable here),
// then to the broker, and only then are they told; an end takes along the newest one that was not told yet. end() is said once.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "worker/runtime/allotments.h"
#include "worker/runtime/attempt.h"
#include "worker/runtime/child_paths.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/job_log.h"
#include "worker/runtime/pauses.h"

namespace gq::worker {

class AttemptRun : public std::enable_shared_from_this<AttemptRun> {
 public:
  AttemptRun(ChildContext& context, Job job, Allotment memory, std::function<void(const Grant&)> forget);
  virtual ~AttemptRun() = default;
  AttemptRun(const AttemptRun&) = delete;
  AttemptRun& operator=(const AttemptRun&) = delete;
  void begin();
  void abandon() { over = true; }                    ///< the worker leaves now; nothing more is said of it
  [[nodiscard]] const Grant& grant() const { return job.item.grant; }

 protected:
  virtual void launch() = 0;

  template <class Kind>
  std::shared_ptr<Kind> self_as() { return std::static_pointer_cast<Kind>(shared_from_this()); }

  void print(std::string_view text);                 ///< to the log, and soon to the broker
  void send_log();
  void keep_checkpoint(const std::string& file, std::uint64_t step, std::function<void()> then);
  [[nodiscard]] bool keeping() const { return keeping_ > 0; }
  void let_go();                                     ///< its device memory is really free
  void report_progress(wire::Progress progress);     ///< with how long it was paused, if it was
  /// From now on `hold` is called with true when it shall stand still for work of these classes, and with false when it may go on.
  void allow_pauses(std::uint8_t classes, std::function<void(bool held)> hold);
  void end_pauses();                                 ///< it goes on first, if it is held
  void forget_pauses() { pause_.reset(); }           ///< it is gone: nothing more is said to it
  [[nodiscard]] Duration paused() const { return paused_before_ + (pause_ ? pause_->paused() : Duration{}); }
  void end(session::Ending ending);
  void end_as(Outcome outcome);

  ChildContext& c;
  Job job;
  std::shared_ptr<Gathered> gathered;
  std::unique_ptr<AttemptFolder> folder;
  std::unique_ptr<JobLog> log;
  bool over{};

 private:
  void make_folder();
  void tell_checkpoint();
  void tell_pause();
  Allotment memory_;
  std::function<void(const Grant&)> forget_;
  asio::steady_timer log_timer_;
  bool log_armed_{};
  std::unique_ptr<Pauses::Place> pause_;
  Duration paused_before_{};
  asio::steady_timer pause_timer_;                   ///< pauses are told once a second, however short they are
  bool pause_armed_{};
  wire::Progress told_progress_;
  unsigned keeping_{};
  Pinned newest_;                                    ///< kept here
  std::uint64_t newest_step_{};
  BlobDigest told_;                                  ///< stored at the broker
  std::uint64_t told_step_{};
};

}  // namespace gq::worker
