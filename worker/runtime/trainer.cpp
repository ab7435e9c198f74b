#include "worker/runtime/trainer.h"

#include <unistd.h>

#include <filesystem>
#include <map>
#include <optional>

#include "common/log.h"
#include "worker/runtime/attempt_run.h"
#include "worker/runtime/child_process.h"
#include "worker/runtime/child_words.h"
#include "worker/runtime/devices.h"

namespace gq::worker {
namespace {

constexpr std::uint64_t kRunId = 1;
constexpr Duration kDeadlineMargin = 500ms;
constexpr Duration kExitGrace = 5s;               // for a trainer that has said its last word
constexpr std::int64_t kContextSlackMib = 256;    // beside its context: what a library keeps for itself after everything was freed

}  // namespace

struct Trainers::Shared {
  Shared(ChildContext c, std::string p) : context(std::move(c)), program(std::move(p)) {}
  ChildContext context;
  std::string program;
  std::map<Grant, std::shared_ptr<Run>> runs;
};

struct Trainers::Run : AttemptRun {
  Run(Shared& s, Job j, Allotment memory)
      : AttemptRun(s.context, std::move(j), std::move(memory), [&s](const Grant& g) { s.runs.erase(g); }), shared(s), deadline_timer(c.io) {}

  Shared& shared;
  std::shared_ptr<ChildProcess> child;
  asio::steady_timer deadline_timer;
  std::int64_t context_mib{};
  bool computing{};            ///< the child said started
  bool stopped{};
  bool preempted{};
  unsigned checkpoints{};
  std::optional<session::Ending> said;   ///< the child's last word; reported when its process is gone and its checkpoints are kept
  std::optional<Output> output;          ///< of a success
  bool packing{};

  std::shared_ptr<Run> self() { return self_as<Run>(); }

  void launch() override {
    ChildProcess::Spec spec;
    spec.program = shared.program;
    spec.role = "trainer";
    spec.devices = job.item.devices;
    spec.vram_mib = job.item.granted_mib;
    spec.scratch = folder->work();
    auto started = ChildProcess::start(c, std::move(spec), handlers_of<Run>(self()));
    if (!started) return end(failed(grant(), started.error(), false));
    child = std::move(*started);
  }

  void on_ready(const child::Frame& ready) {
    context_mib = ready.number("context_mib");
    child::Frame frame = run_frame(kRunId, job, *gathered, folder->out());
    frame.add("checkpoint_dir", std::string_view(folder->checkpoint()));
    if (gathered->resume) frame.add("resume", std::string_view(gathered->resume->path)).add("resume_step", static_cast<std::int64_t>(job.item.resume_step));
    child->send(std::move(frame));
    allow_pauses(job.item.pause_for, [this](bool held) {
      if (child) child->send({held ? child::Type::hold : child::Type::go, kRunId, {}});
    });
  }

  void on_printed(std::string_view text) {
    if (!over) print(text);
  }

  void on_frame(const child::Frame& frame) {
    if (over || said) return;
    switch (frame.type) {
      case child::Type::started: computing = true; break;
      case child::Type::progress: {
        wire::Progress progress{grant(), static_cast<std::uint64_t>(frame.number("step")), static_cast<std::uint64_t>(frame.number("total")), {}};
        for (const child::Field& field : frame.fields)
          if (field.key.rfind("metric.", 0) == 0) progress.metrics[field.key.substr(7)] = frame.real(field.key);
        report_progress(std::move(progress));
        break;
      }
      case child::Type::released: on_released(); break;
      case child::Type::checkpoint: on_checkpoint(frame); break;
      case child::Type::log: print(std::string(frame.text("text")) + "\n"); break;
      case child::Type::yielded: say(Outcome::yielded); break;
      case child::Type::failed: {
        session::Ending e = ending_of_failure(grant(), frame);
        if (stopped) e.outcome = Outcome::cancelled;
        say(std::move(e));
        break;
      }
      case child::Type::done: {
        auto made = output_of(frame, folder->out());
        if (!made) return say(failed(grant(), made.error()));
        output = std::move(*made);
        say(Outcome::succeeded);
        break;
      }
      default: break;
    }
  }

  /// The child's word, and where the card can be asked, the card's: the job that waits would run out of memory on a promise.
  void on_released() {
    if (!preempted || job.item.devices.empty()) return;
    c.devices.when_freed(c.io, job.item.devices[0], child->pid(), context_mib + kContextSlackMib, [self = self()] { self->let_go(); });
  }

  void on_checkpoint(const child::Frame& frame) {
    const std::string path(frame.text("path"));
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
    keep_checkpoint(kept, static_cast<std::uint64_t>(frame.number("step")), [self = self(), kept] {
      ::unlink(kept.c_str());
      self->maybe_end();
    });
  }

  void say(Outcome outcome) {
    session::Ending e;
    e.grant = grant();
    e.outcome = outcome;
    say(std::move(e));
  }
  void say(session::Ending e) {
    if (said || over) return;
    said = std::move(e);
    deadline_timer.cancel();
    if (child) child->stop(kExitGrace);
    maybe_end();
  }

  void on_gone(const std::string& why) {
    child.reset();
    forget_pauses();
    if (over) return;
    if (preempted) let_go();   // whatever it said or did not say
    if (said) return maybe_end();
    if (stopped) return say(Outcome::cancelled);
    session::Ending e;
    e.grant = grant();
    if (preempted) {
      e.outcome = Outcome::yielded;   // killed at the deadline: goes on from its last checkpoint, and the broker counts it
      e.code = Errc::timed_out;
      e.what = why.empty() ? "it ended without a word when it was asked to leave" : why;
    } else {
      const std::string lines = log->last_lines();
      e.outcome = computing ? Outcome::crashed : Outcome::failed;   // one that never starts must not be tried for ever
      e.code = Errc::child_crashed;
      e.what = "the trainer died" + std::string(computing ? "" : " before it began") + ": " + (why.empty() ? "it ended without a result" : why) + (lines.empty() ? "" : ": " + lines);
      e.started = computing;
    }
    say(std::move(e));
  }

  /// An end means that nothing of it is left on the device: the process is gone, too.
  void maybe_end() {
    if (!said || child || keeping() || packing || over) return;
    if (!output) return end(std::move(*said));
    packing = true;
    for (Output::Item& item : log->as_items()) output->items.push_back(std::move(item));
    send_log();
    output->outputs = gathered->body.outputs;
    pack(std::move(*output), c, BlobsGo::here, [self = self()](Result<Packed> packed) {
      if (!packed) return self->end(failed(self->grant(), packed.error(), packed.error().code == Errc::too_large));
      self->said->body = std::move(packed->body);
      self->said->blobs = std::move(packed->blobs);
      self->said->stored_here = true;
      self->end(std::move(*self->said));
    });
  }

  void kill_after(Duration grace, const char* why) {
    deadline_timer.expires_after(grace);
    deadline_timer.async_wait([self = self(), why](const ErrorCode& ec) {
      if (!ec && self->child && !self->said) self->child->kill(why);
    });
  }

  void stop(session::StopCause cause) {
    stopped = true;
    end_pauses();
    if (!child) return said ? void() : end_as(Outcome::cancelled);
    child->send({child::Type::cancel, kRunId, {}});
    kill_after(cause == session::StopCause::cancel || cause == session::StopCause::timeout ? 5s : 1s, "told to stop");
  }

  void preempt(const std::string& reason, Duration deadline) {
    if (preempted || stopped || said) return;
    preempted = true;
    end_pauses();
    if (!child) return end_as(Outcome::yielded);
    if (!child->is_ready()) return child->kill("it was asked to leave before it was ready");
    if (static_cast<OnPreempt>(job.item.on_preempt) == OnPreempt::restart) return child->kill("it is to start over, as submitted");
    if (deadline <= Duration::zero()) deadline = c.term_grace;
    child::Frame frame{child::Type::preempt, kRunId, {}};
    frame.add("deadline_ms", static_cast<std::int64_t>(deadline / 1ms)).add("reason", std::string_view(reason));
    child->send(std::move(frame));
    kill_after(deadline + kDeadlineMargin, "it did not leave by the deadline and was killed");
  }
};

Trainers::Trainers(ChildContext context, std::string program) : shared_(std::make_shared<Shared>(std::move(context), std::move(program))) {}
Trainers::~Trainers() = default;

void Trainers::start(Job job) {
  auto memory = shared_->context.allotments.book(job.item.devices, job.item.granted_mib);
  if (!memory) return shared_->context.reports.refuse(job.item.grant, memory.error().code, memory.error().what);
  auto run = std::make_shared<Run>(*shared_, std::move(job), std::move(*memory));
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
    run->abandon();
    if (run->child) {
      run->child->forget();
      run->child->kill("the worker ends");
    }
  }
}

}  // namespace gq::worker
