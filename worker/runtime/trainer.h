// trainer.h - kinds train.*: one gpuq-trainer process per job.
//
// Checkpoints it reports are linked at once (it may delete its own copy), stored as blobs and only then told to the broker, in order.
// A job that yields or fails ends after the last of them is stored.
#pragma once

#include <memory>
#include <string>

#include "worker/runtime/child_paths.h"
#include "worker/runtime/executor.h"

namespace gq::worker {

class Trainers final : public Executor {
 public:
  Trainers(ChildContext context, std::string program);
  ~Trainers() override;
  void start(Job job) override;
  void stop(const Grant& grant, session::StopCause cause) override;
  void preempt(const Grant& grant, const std::string& reason, Duration deadline) override;
  void kill_all() override;

 private:
  struct Run;
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace gq::worker
