// executor.h - what turns an assignment into work, and the words it reports in.
//
// An executor lives on the supervisor's one loop and never blocks it. For each start() it says exactly one of ended() or refuse();
// after stop() too, soon, and then with Outcome::cancelled unless the job had finished by itself (the session knows why it was told to stop).
#pragma once

#include <cstdint>
#include <string>

#include "common/wire/messages.h"
#include "worker/session/session.h"

namespace gq::worker {

using wire::Grant;

struct Job {
  wire::AssignItem item;
  std::string body;          ///< encoded JobBody
};

class Reports {
 public:
  virtual ~Reports() = default;
  virtual void started(const Grant& grant) = 0;
  virtual void ended(session::Ending ending) = 0;
  virtual void refuse(const Grant& grant, Errc code, std::string what) = 0;
  virtual void progress(wire::Progress progress) = 0;
  virtual void log(const Grant& grant, std::uint64_t offset, std::string bytes) = 0;
  virtual void model_log(const std::string& model, std::string bytes) = 0;
  virtual void checkpoint(const Grant& grant, const BlobDigest& blob, std::uint64_t step) = 0;
  virtual void released(const Grant& grant) = 0;
  virtual std::uint16_t open_warm_lane(const std::string& device, const std::string& model, std::uint32_t capacity) = 0;
  virtual void close_lane(std::uint16_t lane) = 0;
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual void start(Job job) = 0;
  virtual void stop(const Grant& grant, session::StopCause cause) = 0;
  virtual void preempt(const Grant& grant, const std::string& reason, Duration deadline) = 0;
  /// Unload this model when nobody uses it; closing its lane says that its memory is free. Said again, or of one in use: nothing.
  virtual void evict(const std::string& device, const std::string& model) { (void)device, (void)model; }
  virtual void kill_all() {}   ///< the worker leaves now
};

inline session::Ending failed(const Grant& grant, const Error& error, bool final = true) {
  session::Ending ending;
  ending.grant = grant;
  ending.outcome = final ? Outcome::failed_final : Outcome::failed;
  ending.code = error.code;
  ending.what = error.next.empty() ? error.what : error.what + "; " + error.next;
  return ending;
}

}  // namespace gq::worker
