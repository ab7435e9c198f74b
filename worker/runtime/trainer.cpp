#include "worker/runtime/trainer.h"

#include <unistd.h>

#include <filesystem>
#include <map>
#include <optional>

#include "common/log.h"
#include "worker/runtime/child_process.h"
#include "worker/runtime/child_words.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/job_log.h"

namespace gq::worker {
namespace {

constexpr std::uint64_t kRunId = 1;
constexpr Duration kLogInterval = 200ms;
constexpr Duration kDeadlineMargin = 500ms;

}  // namespace

struct Trainers::Shared {
  Shared(ChildContext c, std::string p) : context(std::move(c)), program(std::move(p)) {}
  ChildContext context;
  std::string program;
  std::map<Grant, std::shared_ptr<Run>> runs;
};

struct Trainers::Run : std::enable_shared_from_this<Run> {
  Run(Shared& s, Job j) : shared(s), c(s.context), job(std::move(j)), deadline_timer(c.io), log_timer(c.io) {}

  Shared& shared;
  ChildContext& c;
  Job job;
  std::shared_ptr<Gathered> gathered;
  std::unique_ptr<AttemptFolder> folder;
  std::unique_ptr<JobLog> log;
  std::shared_ptr<ChildProcess> child;
  asio::steady_timer deadline_timer, log_timer;
  bool log_armed{};
  bool computing{};            ///< the child said started
  bool stopped{};
  bool preempted{};
  bool said_end{};             ///< done, failed or yielded came
  bool over{};
  unsigned uploads{};
  unsigned checkpoints{};
  std::uint64_t newest_step{};
  std::optional<session::Ending> ending;   ///< waits for uploads

  [[nodiscard]] const Grant& grant() const { return job.item.grant; }

  void begin() {
    c.reports.started(grant());   // fetching inputs is part of the attempt: it holds its device already
    gather(job, c.blobs, [self = shared_from_this()](Result<std::shared_ptr<Gathered>> got) {
      if (self->over) return;
      if (!got) return self->end_now(failed(self->grant(), got.error(), got.error().code != Errc::internal));
      self->gathered = std::move(*got);
      self->launch();
    });
  }

  void launch() {
    auto made = AttemptFolder::make(c.scratch, grant(), c.disk);
    if (!made) return end_now(failed(grant(), made.error(), false));
    folder = std::move(*made);
    log = std::make_unique<JobLog>(folder->path() + "/log");
    ChildProcess::Spec spec;
    spec.program = shared.program;
    spec.role = "trainer";
    spec.devices = job.item.devices;
    spec.vram_mib = job.item.granted_mib;
    spec.scratch = folder->work();
    const std::weak_ptr<Run> weak = shared_from_this();
    ChildProcess::Handlers handlers;
    handlers.ready = [weak](const child::Frame&) {
      if (const auto self = weak.lock()) self->send_run();
    };
    handlers.frame = [weak](child::Frame&& frame) {
      if (const auto self = weak.lock()) self->on_frame(frame);
    };
    handlers.printed = [weak](std::string_view text) {
      if (const auto self = weak.lock()) self->print(text);
    };
    handlers.gone = [weak](const std::string& why) {
      if (const auto self = weak.lock()) self->on_gone(why);
    };
    auto started = ChildProcess::start(c, std::move(spec), std::move(handlers));
    if (!started) return end_now(failed(grant(), started.error(), false));
    child = std::move(*started);
  }

  void send_run() {
    child::Frame frame = run_frame(kRunId, job, *gathered, folder->out());
    frame.add("checkpoint_dir", std::string_view(folder->checkpoint()));
    if (gathered->resume) frame.add("resume", std::string_view(gathered->resume->path)).add("resume_step", static_cast<std::int64_t>(job.item.resume_step));
    child->send(std::move(frame));
  }

  void print(std::string_view text) {
    log->add(text);
    if (log_armed) return;
    log_armed = true;
    log_timer.expires_after(kLogInterval);
    log_timer.async_wait([self = shared_from_this()](const ErrorCode& ec) {
      self->log_armed = false;
      if (!ec && !self->over) self->send_log();
    });
  }

  void send_log() {
    while (log->pending()) {
      std::uint64_t offset = 0;
      std::string bytes = log->take(offset);
      c.reports.log(grant(), offset, std::move(bytes));
    }
  }

  void on_frame(const child::Frame& frame) {
    if (over || said_end) return;
    switch (frame.type) {
      case child::Type::started: computing = true; break;
      case child::Type::progress: {
        wire::Progress progress{grant(), static_cast<std::uint64_t>(frame.number("step")), static_cast<std::uint64_t>(frame.number("total")), {}};
        for (const child::Field& field : frame.fields)
          if (field.key.rfind("metric.", 0) == 0) progress.metrics[field.key.substr(7)] = frame.real(field.key);
        c.reports.progress(std::move(progress));
        break;
      }
      case child::Type::released: c.reports.released(grant()); break;
      case child::Type::checkpoint: on_checkpoint(frame); break;
      case child::Type::log: print(std::string(frame.text("text")) + "\n"); break;
      case child::Type::yielded: {
        session::Ending e;
        e.grant = grant();
        e.outcome = Outcome::yielded;
        finish(std::move(e));
        break;
      }
      case child::Type::failed: {
        session::Ending e = ending_of_failure(grant(), frame);
        if (stopped) e.outcome = Outcome::cancelled;
        finish(std::move(e));
        break;
      }
      case child::Type::done: on_done(frame); break;
      default: break;
    }
  }

  void on_checkpoint(const child::Frame& frame) {
    const std::string path(frame.text("path"));
    const auto step = static_cast<std::uint64_t>(frame.number("step"));
    std::error_code ec;
    const std::string kept = folder->path() + "/kept-" + std::to_string(++checkpoints);
    const std::string relative = std::filesystem::path(path).lexically_relative(folder->checkpoint()).string();
    if (!is_safe_path(relative) || std::filesystem::is_symlink(path, ec)) {
      gq::log::warn("checkpoint_refused", {{"job", to_string(grant().job)}, {"reason", "not a file in its checkpoint folder"}});
      return;
    }
    if (::link(path.c_str(), kept.c_str()) != 0 && !std::filesystem::copy_file(path, kept, ec)) {
      gq::log::warn("checkpoint_not_saved", {{"job", to_string(grant().job)}, {"path", path}});
      return;
    }
    ++uploads;
    c.blobs.store_file(kept, [self = shared_from_this(), step, kept](Result<Pinned> stored) {
      ::unlink(kept.c_str());
      --self->uploads;
      if (!stored) {
        gq::log::warn("checkpoint_not_saved", {{"job", to_string(self->grant().job)}, {"reason", stored.error().what}});
      } else if (step >= self->newest_step) {   // transfers may overtake each other
        self->newest_step = step;
        self->c.reports.checkpoint(self->grant(), (*stored)->digest, step);
      }
      self->maybe_end();
    });
  }

  void on_done(const child::Frame& frame) {
    said_end = true;
    auto output = output_of(frame, folder->out());
    if (!output) return finish(failed(grant(), output.error()));
    send_log();
    for (Output::Item& item : log->as_items()) output->items.push_back(std::move(item));
    pack(std::move(*output), c.blobs, [self = shared_from_this()](Result<Packed> packed) {
      if (!packed) return self->finish(failed(self->grant(), packed.error(), packed.error().code == Errc::too_large));
      session::Ending e;
      e.grant = self->grant();
      e.outcome = Outcome::succeeded;
      e.body = std::move(packed->body);
      e.blobs = std::move(packed->blobs);
      self->finish(std::move(e));
    });
  }

  void on_gone(const std::string& why) {
    child.reset();
    if (over || said_end) return;
    session::Ending e;
    e.grant = grant();
    if (stopped) {
      e.outcome = Outcome::cancelled;
    } else if (preempted) {
      e.outcome = Outcome::yielded;   // killed at the deadline: goes on from its last stored checkpoint
    } else {
      const std::string lines = log->last_lines();
      e.outcome = computing ? Outcome::crashed : Outcome::failed;   // one that never starts must not be tried for ever
      e.code = Errc::child_crashed;
      e.what = "the trainer died" + std::string(computing ? "" : " before it began") + ": " + (why.empty() ? "it ended without a result" : why) + (lines.empty() ? "" : ": " + lines);
      e.started = computing;
    }
    finish(std::move(e));
  }

  void finish(session::Ending e) {
    said_end = true;
    if (ending || over) return;
    ending = std::move(e);
    maybe_end();
  }

  void maybe_end() {
    if (!ending || uploads > 0 || over) return;
    end_now(std::move(*ending));
  }

  void end_now(session::Ending e) {
    if (std::exchange(over, true)) return;
    const auto self = shared_from_this();
    deadline_timer.cancel();
    log_timer.cancel();
    if (log) send_log();
    if (child) {
      child->forget();
      child->stop(5s);
    }
    shared.runs.erase(grant());
    c.reports.ended(std::move(e));
  }

  void kill_after(Duration grace, const char* why) {
    deadline_timer.expires_after(grace);
    deadline_timer.async_wait([self = shared_from_this(), why](const ErrorCode& ec) {
      if (!ec && self->child && !self->said_end) self->child->kill(why);
    });
  }

  void stop(session::StopCause cause) {
    stopped = true;
    if (!child) {
      session::Ending e;
      e.grant = grant();
      e.outcome = Outcome::cancelled;
      return end_now(std::move(e));
    }
    child->send({child::Type::cancel, kRunId, {}});
    kill_after(cause == session::StopCause::cancel || cause == session::StopCause::timeout ? 5s : 1s, "told to stop");
  }

  void preempt(const std::string& reason, Duration deadline) {
    if (preempted || stopped) return;
    preempted = true;
    if (!child || !child->is_ready()) {
      session::Ending e;
      e.grant = grant();
      e.outcome = Outcome::yielded;
      return end_now(std::move(e));
    }
    if (deadline <= Duration::zero()) deadline = c.term_grace;
    child::Frame frame{child::Type::preempt, kRunId, {}};
    frame.add("deadline_ms", static_cast<std::int64_t>(deadline / 1ms)).add("reason", std::string_view(reason));
    child->send(std::move(frame));
    kill_after(deadline + kDeadlineMargin, "it did not leave by the deadline");
  }
};

Trainers::Trainers(ChildContext context, std::string program) : shared_(std::make_shared<Shared>(std::move(context), std::move(program))) {}
Trainers::~Trainers() = default;

void Trainers::start(Job job) {
  auto run = std::make_shared<Run>(*shared_, std::move(job));
  shared_->runs[run->grant()] = run;
  run->begin();
}
void Trainers::stop(const Grant& grant, session::StopCause cause) {
  if (const auto it = shared_->runs.find(grant); it != shared_->runs.end()) {
    const auto run = it->second;
    run->stop(cause);
  }
}
void Trainers::preempt(const Grant& grant, const std::string& reason, Duration deadline) {
  if (const auto it = shared_->runs.find(grant); it != shared_->runs.end()) {
    const auto run = it->second;
    run->preempt(reason, deadline);
  }
}
void Trainers::kill_all() {
  for (auto& [grant, run] : shared_->runs) {
    run->over = true;
    if (run->child) {
      run->child->forget();
      run->child->kill("the worker ends");
    }
  }
}

}  // namespace gq::worker
