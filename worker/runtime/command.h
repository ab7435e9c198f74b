// command.h - kind `command`: an argument vector in its own process group. Never a shell.
//
// The job sees: PATH, VIRTUAL_ENV, CONDA_PREFIX, LANG (the worker's, unless submitted), what was submitted, and
//   GPUQ_JOB_ID GPUQ_ATTEMPT GPUQ_CHECKPOINT_DIR GPUQ_OUTPUT_DIR GPUQ_INPUT_DIR GPUQ_VRAM_MIB GPUQ_RESUME_FROM (when there is a
//   checkpoint: the folder it left, also the content of GPUQ_CHECKPOINT_DIR) GPUQ_PROGRESS_FD CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER
// and nothing else but, on a card, what keeps frameworks that read it within the memory granted (framework_limits below).
// GPUQ_INPUT_DIR holds its parts by name, and PARENT_ID/… what each job it came after brought, logs left out.
// GPUQ_PROGRESS_FD takes lines: {"step":1,"total":10,"loss":0.5} or step=1 total=10 loss=0.5; numbers only. The
// key "checkpoint" with a value other than 0 stores GPUQ_CHECKPOINT_DIR as it is then, as the place to resume from.
//
// It runs in the folder it was submitted from where this worker sees that very folder, else in a copy that came along (--workdir), else
// not here. Without a submitted folder: in an empty one.
//
// Its memory on a card is looked at once a second (memory_guard.h): above what was granted at three looks in a row, it is ended as OOM.
//
// Exit 0 = succeeded; 75 after a request to leave = yielded, as is an end by the SIGTERM or SIGKILL of that request; all else failed.
// What GPUQ_CHECKPOINT_DIR holds after a 75 is its checkpoint; with --on-preempt checkpoint also after an end by SIGTERM. One that had
// to be killed goes on from what it reported before, or from the beginning. restart (the default) and pause are the same here, for a
// stopped process frees no memory: all get SIGTERM, the deadline, SIGKILL. "never" is the broker's business: it does not ask.
// pause: while a higher class has work on its device its group is stopped (SIGSTOP; a process that left the group runs on) and runs a slice
// every 2 s (pauses.h). Time it stands counts for its timeout, which is wall time, and is told as metric and value paused_s.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/runtime/child_paths.h"
#include "worker/runtime/executor.h"

namespace gq::worker {

class Command final : public Executor {
 public:
  explicit Command(ChildContext context);
  ~Command() override;
  void start(Job job) override;
  void stop(const Grant& grant, session::StopCause cause) override;
  void preempt(const Grant& grant, const std::string& reason, Duration deadline) override;
  void kill_all() override;

 private:
  struct Run;
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

/// One line of GPUQ_PROGRESS_FD; nullopt when it is neither form.
struct ProgressLine {
  std::optional<double> step, total;
  bool checkpoint{};
  std::map<std::string, double> metrics;
};
std::optional<ProgressLine> parse_progress(std::string_view line);

/// The environment described above, sorted as given; `submitted` never overrides what gpuq sets.
std::vector<std::string> command_environment(const std::map<std::string, std::string>& submitted, const std::map<std::string, std::string>& own);

/// The variables by which JAX, TensorFlow and CuPy stay within `granted_mib` of a card of `card_mib`, less the room of a CUDA context;
/// none when either is 0. PyTorch has one only from 2.10 on and older releases refuse to start with it: gpuq.job.limit_memory() tells it.
std::map<std::string, std::string> framework_limits(std::int64_t granted_mib, std::int64_t card_mib);

}  // namespace gq::worker
