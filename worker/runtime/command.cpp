#include "worker/runtime/command.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "common/log.h"
#include "worker/runtime/archive.h"
#include "worker/runtime/attempt_run.h"
#include "worker/runtime/command_inputs.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/memory_guard.h"
#include "worker/runtime/process.h"
#include "worker/runtime/ranks.h"

namespace gq::worker {
namespace {

namespace fs = std::filesystem;
constexpr int kYieldedExit = 75;           // EX_TEMPFAIL
constexpr int kProgressFd = 3;
constexpr Duration kPipeLinger = 500ms;    // something outside the group may still hold the pipe: not waited for longer
constexpr std::size_t kProgressLineMax = 16U << 10U;
constexpr Duration kOverBudgetGrace = 5s;  // from SIGTERM to SIGKILL: long enough for a checkpoint that is ready, and others need the memory

Duration grace_of(session::StopCause cause, Duration normal) {
  switch (cause) {
    case session::StopCause::cancel:
    case session::StopCause::timeout: return normal;
    case session::StopCause::shutdown: return 1s;
    default: return 2s;                    // it may run elsewhere already
  }
}

bool has_content(const std::string& folder) {
  std::error_code ec;
  return fs::directory_iterator(folder, ec) != fs::directory_iterator();
}

}  // namespace

struct Command::Shared {
  explicit Shared(ChildContext c) : context(std::move(c)) {}
  ChildContext context;
  std::map<Grant, std::shared_ptr<Run>> runs;
};

struct Command::Run : AttemptRun {
  Run(Shared& s, Job j, Allotment memory)
      : AttemptRun(s.context, std::move(j), std::move(memory), [&s](const Grant& g) { s.runs.erase(g); }),
        output(c.io), progress(c.io), kill_timer(c.io), linger_timer(c.io), memory_guard(c.io, c.devices) {}

  asio::posix::stream_descriptor output, progress;
  asio::steady_timer kill_timer, linger_timer;
  MemoryGuard memory_guard;
  std::string too_large;      ///< told to stop because it held more than it was granted: how much
  std::array<char, 16U << 10U> output_buffer{};
  std::array<char, 4U << 10U> progress_buffer{};
  std::string progress_line;
  pid_t pid{-1};
  bool stopped{};             ///< told to stop; whatever it ends in counts as that unless it succeeded
  bool preempted{};
  bool killed{};              ///< it ignored the deadline
  bool exited{};
  bool reporting{};
  bool saving{};
  bool saved_any{};
  int status{};
  std::uint64_t step{};
  Duration was_paused{};

  std::shared_ptr<Run> self() { return self_as<Run>(); }

  // ---- before it runs

  void launch() override {
    if (gathered->body.argv.empty())
      return end(failed(grant(), {Errc::bad_input, "nothing to run: argv is empty", "gpuq submit command -- PROGRAM ARGUMENTS"}));
    if (const wire::JobBody& body = gathered->body; !gathered->sees_cwd && gathered->snapshot.empty()) {
      const bool is_there = std::filesystem::exists(body.cwd);
      return end(failed(grant(), {Errc::not_here, body.cwd + (is_there ? " is another folder here than where it was submitted" : ", where it was submitted, is not on this worker"),
                                  "gpuq submit --workdir " + body.cwd + " sends a copy along; --where host=HOST keeps it where the folder is"}));
    }
    asio::post(c.disk, [self = self()] {
      Result<void> laid = lay_out(*self->gathered, *self->folder);
      asio::post(self->c.io, [self, laid = std::move(laid)] {
        if (self->over) return;
        if (!laid) return self->end(failed(self->grant(), laid.error(), laid.error().code != Errc::storage_full));
        for (const std::string& line : self->gathered->left_out) self->print("[gpuq] " + line + "\n");
        self->run();
      });
    });
  }

  [[nodiscard]] std::map<std::string, std::string> own_environment() const {
    std::map<std::string, std::string> env{
        {"GPUQ_JOB_ID", to_string(grant().job)},
        {"GPUQ_ATTEMPT", std::to_string(grant().attempt)},
        {"GPUQ_CHECKPOINT_DIR", folder->checkpoint()},
        {"GPUQ_OUTPUT_DIR", folder->out()},
        {"GPUQ_INPUT_DIR", folder->in()},
        {"GPUQ_PROGRESS_FD", std::to_string(kProgressFd)},
        {"GPUQ_VRAM_MIB", std::to_string(job.item.granted_mib)},
        {"CUDA_DEVICE_ORDER", "PCI_BUS_ID"},
        {"CUDA_VISIBLE_DEVICES", visible_devices(c.devices, job.item.devices)},
    };
    if (gathered->resume) env["GPUQ_RESUME_FROM"] = folder->checkpoint();
    return env;
  }

  [[nodiscard]] std::map<std::string, std::string> framework_limits() const {
    std::int64_t smallest = 0;
    for (const std::string& uuid : job.item.devices)
      if (const wire::Device* d = c.devices.by_uuid(uuid); is_card(d))
        smallest = smallest == 0 ? d->total_mib : std::min(smallest, d->total_mib);
    return worker::framework_limits(job.item.granted_mib, smallest);
  }

  void run() {
    std::array<int, 2> out_pipe{-1, -1};
    std::array<int, 2> progress_pipe{-1, -1};
    if (::pipe2(out_pipe.data(), O_CLOEXEC) != 0 || ::pipe2(progress_pipe.data(), O_CLOEXEC) != 0) {
      const std::string why = std::strerror(errno);
      for (const int fd : {out_pipe[0], out_pipe[1]})
        if (fd >= 0) ::close(fd);
      return end(failed(grant(), {Errc::internal, "pipe: " + why, ""}, false));
    }
    SpawnSpec spec;
    spec.argv = gathered->body.per_device ? ranked(gathered->body.argv, std::max<std::size_t>(1, job.item.devices.size())) : gathered->body.argv;
    std::map<std::string, std::string> submitted = gathered->body.env;
    std::erase_if(submitted, [](const auto& entry) { return entry.first.rfind("GPUQ_", 0) == 0 && entry.first.rfind("GPUQ_ARRAY_", 0) != 0; });   // these are the submitter's
    for (const auto& [name, value] : framework_limits()) submitted.try_emplace(name, value);
    spec.env = command_environment(submitted, own_environment());
    spec.cwd = gathered->body.cwd.empty() || !gathered->snapshot.empty() ? folder->work() : gathered->body.cwd;
    spec.descriptors = {{out_pipe[1], 1}, {out_pipe[1], 2}, {progress_pipe[1], kProgressFd}};
    Result<pid_t> started = c.processes.start(spec, [self = self()](int end_status) { self->on_exit(end_status); });
    ::close(out_pipe[1]);
    ::close(progress_pipe[1]);
    output.assign(out_pipe[0]);
    progress.assign(progress_pipe[0]);
    if (!started) return end(failed(grant(), started.error()));
    pid = *started;
    for (const std::string& device : job.item.devices) c.devices.add_group(device, pid);
    // Stopping a program that does not expect it may break what it talks to: only those whose submitter asked for it.
    if (static_cast<OnPreempt>(job.item.on_preempt) == OnPreempt::pause)
      allow_pauses(job.item.pause_for, [this](bool held) { Processes::signal_group(pid, held ? SIGSTOP : SIGCONT); });
    read_output();
    read_progress();
    memory_guard.start(job.item.devices, pid, job.item.granted_mib, [this](BudgetWatch::Verdict verdict, const std::string& text) { on_over_budget(verdict, text); });
  }

  // ---- while it runs

  /// On a card whoever holds more than was granted takes it from others and has to go. A host's memory is flagged only: what is resident
  /// there is partly files that the kernel drops when it must.
  void on_over_budget(BudgetWatch::Verdict verdict, const std::string& text) {
    const bool on_card = is_card(c.devices.by_uuid(job.item.devices.front()));
    if (verdict == BudgetWatch::Verdict::flag)
      return print("[gpuq] " + text + (on_card ? ": it is ended if it stays so. " : ". ") + "More: --vram; less: gpuq.job.limit_memory()\n");
    if (!on_card || stopped || preempted) return;
    too_large = text;
    gq::log::warn("job_over_budget", {{"job", to_string(grant().job)}, {"what", text}});
    terminate(kOverBudgetGrace);
  }

  void read_output() {
    output.async_read_some(asio::buffer(output_buffer), [self = self()](const ErrorCode& ec, std::size_t n) {
      if (ec) {
        self->output.close();
        return self->maybe_finish();
      }
      if (!self->over) self->print(std::string_view(self->output_buffer.data(), n));
      self->read_output();
    });
  }

  void read_progress() {
    progress.async_read_some(asio::buffer(progress_buffer), [self = self()](const ErrorCode& ec, std::size_t n) {
      if (ec) {
        self->progress.close();
        return self->maybe_finish();
      }
      self->progress_line.append(self->progress_buffer.data(), n);
      std::size_t begin = 0;
      for (std::size_t end = 0; (end = self->progress_line.find('\n', begin)) != std::string::npos; begin = end + 1)
        self->on_progress(std::string_view(self->progress_line).substr(begin, end - begin));
      self->progress_line.erase(0, begin);
      if (self->progress_line.size() > kProgressLineMax) self->progress_line.clear();
      self->read_progress();
    });
  }

  void on_progress(std::string_view text) {
    const auto line = parse_progress(text);
    if (!line || over) return;
    wire::Progress report;
    report.grant = grant();
    if (line->step) step = static_cast<std::uint64_t>(*line->step);
    report.step = step;
    if (line->total) report.total = static_cast<std::uint64_t>(*line->total);
    report.metrics = line->metrics;
    report_progress(std::move(report));
    if (line->checkpoint && !saving) save_checkpoint([self = self()] { self->maybe_finish(); });
  }

  /// Packs the checkpoint folder as it is now and keeps it. One at a time.
  void save_checkpoint(std::function<void()> then) {
    saving = true;
    const std::string archive = folder->path() + "/checkpoint.tar";
    asio::post(c.disk, [self = self(), archive, at = step, then = std::move(then)]() mutable {
      Result<void> packed = pack_folder(self->folder->checkpoint(), archive);
      asio::post(self->c.io, [self, archive, at, packed = std::move(packed), then = std::move(then)]() mutable {
        const auto saved = [self, then = std::move(then)] {
          self->saving = false;
          then();
        };
        self->saved_any |= packed.has_value();
        if (packed) return self->keep_checkpoint(archive, at, saved);
        gq::log::warn("checkpoint_not_saved", {{"job", to_string(self->grant().job)}, {"reason", packed.error().what}});
        saved();
      });
    });
  }

  void terminate(Duration grace) {
    if (pid < 0 || exited) return;
    end_pauses();
    Processes::signal_group(pid, SIGTERM);
    Processes::signal_group(pid, SIGCONT);   // a stopped group could not hear it
    kill_timer.expires_after(grace);
    kill_timer.async_wait([self = self()](const ErrorCode& ec) {
      if (ec || self->exited) return;
      self->killed = true;
      Processes::signal_group(self->pid, SIGKILL);
    });
  }

  void stop(session::StopCause cause) {
    if (over) return;
    stopped = true;
    if (pid >= 0) return terminate(grace_of(cause, c.term_grace));
    end_as(Outcome::cancelled);
  }

  void preempt(Duration deadline) {
    if (over || stopped || preempted) return;
    preempted = true;
    if (pid >= 0) return terminate(deadline > Duration::zero() ? deadline : c.term_grace);
    end_as(Outcome::yielded);
  }

  // ---- after it

  void on_exit(int end_status) {
    exited = true;
    status = end_status;
    was_paused = paused();
    forget_pauses();           // its number may be another's by now
    kill_timer.cancel();
    memory_guard.stop();
    for (const std::string& device : job.item.devices) c.devices.remove_group(device, pid);
    if (preempted) let_go();   // the leader is gone, and what was left of its group was killed with it
    linger_timer.expires_after(kPipeLinger);
    linger_timer.async_wait([self = self()](const ErrorCode& ec) {
      if (ec) return;
      ErrorCode ignored;
      self->output.close(ignored);
      self->progress.close(ignored);
      self->maybe_finish();
    });
    maybe_finish();
  }

  void maybe_finish() {
    if (!exited || reporting || over || saving || output.is_open() || progress.is_open()) return;
    reporting = true;
    linger_timer.cancel();
    const bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (preempted && !clean && !saved_any && static_cast<OnPreempt>(job.item.on_preempt) == OnPreempt::checkpoint && (!is_worth_keeping() || !has_content(folder->checkpoint())))
      print("[gpuq] it left without a checkpoint in GPUQ_CHECKPOINT_DIR: the next attempt starts where this one did\n");
    if (!clean && !stopped && is_worth_keeping() && has_content(folder->checkpoint())) return save_checkpoint([self = self()] { self->report(); });
    report();
  }

  /// What a killed program left may be half written. One that was asked to leave says by 75 that it is whole; without that word it is
  /// only taken from those that promised to checkpoint.
  [[nodiscard]] bool is_worth_keeping() const {
    if (killed) return false;
    const bool by_itself = WIFEXITED(status) && WEXITSTATUS(status) == kYieldedExit;
    return !preempted || by_itself || static_cast<OnPreempt>(job.item.on_preempt) == OnPreempt::checkpoint;
  }

  [[nodiscard]] Outcome outcome() const {
    const bool by_exit = WIFEXITED(status);
    const int code = by_exit ? WEXITSTATUS(status) : 0;
    if (by_exit && code == 0) return Outcome::succeeded;
    if (stopped) return Outcome::cancelled;
    if (!too_large.empty()) return Outcome::failed;
    const int signal = by_exit ? code - 128 : WTERMSIG(status);   // shells and interpreters say 128 + signal
    if (preempted && ((by_exit && code == kYieldedExit) || signal == SIGTERM || signal == SIGKILL)) return Outcome::yielded;
    return Outcome::failed;
  }

  [[nodiscard]] std::string why_failed() const {
    if (!too_large.empty()) return too_large + " (a larger --vram, or gpuq.job.limit_memory() in the script)";
    if (WIFEXITED(status) && WEXITSTATUS(status) == kYieldedExit) return "exit code 75 (yielded) without a request to leave";
    return gathered->body.argv[0].substr(0, 60) + " ended with " + describe_status(status);
  }

  void report() {
    session::Ending ending;
    ending.grant = grant();
    ending.outcome = outcome();
    if (ending.outcome == Outcome::yielded && killed) {
      ending.code = Errc::timed_out;
      ending.what = "it did not leave by the deadline and was killed";
    }
    if (ending.outcome == Outcome::yielded || ending.outcome == Outcome::cancelled) return end(std::move(ending));
    Output result;
    if (WIFEXITED(status)) result.values["exit_code"] = std::to_string(WEXITSTATUS(status));
    if (was_paused > Duration::zero()) result.values["paused_s"] = std::to_string(static_cast<double>(was_paused / 1ms) / 1000).substr(0, 12);
    if (WIFSIGNALED(status)) result.values["signal"] = std::to_string(WTERMSIG(status));
    auto files = artefacts(folder->out());
    if (!files) {
      mark_unkept(ending, files.error());
    } else {
      result.items = std::move(*files);
      if (ending.outcome == Outcome::failed) {
        const std::string lines = log->last_lines();
        ending.what = why_failed() + (lines.empty() ? "" : ": " + lines);
        if (!too_large.empty()) ending.code = Errc::oom;
      }
    }
    for (Output::Item& item : log->as_items()) result.items.push_back(std::move(item));
    result.outputs = gathered->body.outputs;
    pack(std::move(result), c, BlobsGo::here, [self = self(), ending = std::move(ending)](Result<Packed> packed) mutable {
      if (packed) {
        ending.stored_here = true;
        ending.body = std::move(packed->body);
        ending.blobs = std::move(packed->blobs);
      } else {
        mark_unkept(ending, packed.error());
      }
      self->end(std::move(ending));
    });
  }

  static void mark_unkept(session::Ending& ending, const Error& error) {
    if (ending.outcome == Outcome::succeeded) {
      ending.outcome = Outcome::failed;
      ending.code = error.code;
      ending.what = "it ran, but its results cannot be kept: " + error.what;
    }
  }
};

Command::Command(ChildContext context) : shared_(std::make_shared<Shared>(std::move(context))) {}
Command::~Command() = default;

void Command::start(Job job) {
  auto memory = shared_->context.allotments.book(job.item.devices, job.item.granted_mib);
  if (!memory) return shared_->context.reports.refuse(job.item.grant, memory.error().code, memory.error().what);
  auto run = std::make_shared<Run>(*shared_, std::move(job), std::move(*memory));
  shared_->runs[run->grant()] = run;
  run->begin();
}
void Command::stop(const Grant& grant, session::StopCause cause) {
  if (const auto it = shared_->runs.find(grant); it != shared_->runs.end()) {
    const auto run = it->second;
    run->stop(cause);
  }
}
void Command::preempt(const Grant& grant, const std::string&, Duration deadline) {
  if (const auto it = shared_->runs.find(grant); it != shared_->runs.end()) {
    const auto run = it->second;
    run->preempt(deadline);
  }
}
void Command::kill_all() {
  for (const auto& [grant, run] : shared_->runs) {
    run->abandon();
    if (run->pid >= 0) Processes::signal_group(run->pid, SIGKILL);
  }
}

}  // namespace gq::worker
