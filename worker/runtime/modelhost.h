// modelhost.h - kinds that run in a warm model: one gpuq-modelhost per device, started with the first job that needs it.
//
// A job whose model is not loaded yet comes through the device's start lane: its file is fetched, the model loaded, and a warm lane
// opened with credit 2 x batch_max, so that one batch computes while the next one gathers. When the child dies, its lanes close; jobs
// whose computation had begun are reported crashed, the others lost (they run again at no cost).
//
// A model of runtime "python" has a process of its own per device: its folder is unpacked, and gpuq/serve started in the interpreter that
// its model.toml names. One that dies twice while it is set up is quarantined here for a while: its jobs fail at once and say why.
#pragma once

#include <memory>
#include <string>

#include "worker/runtime/child_paths.h"
#include "worker/runtime/executor.h"

namespace gq::worker {

class ModelHosts final : public Executor {
 public:
  /// `program`: gpuq-modelhost, `serve`: gpuq/serve/__main__.py; either may be empty = such models are refused (NOT_HERE).
  ModelHosts(ChildContext context, std::string program, std::string serve);
  ~ModelHosts() override;
  void start(Job job) override;
  void stop(const Grant& grant, session::StopCause cause) override;
  void preempt(const Grant& grant, const std::string& reason, Duration deadline) override;
  void evict(const std::string& device, const std::string& model) override;
  void kill_all() override;

  struct Host;                   ///< model_host.h

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace gq::worker
