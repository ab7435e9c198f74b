#include "worker/runtime/modelhost.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <vector>

#include "common/config/clock.h"
#include "common/log.h"
#include "worker/runtime/child_process.h"
#include "worker/runtime/child_words.h"
#include "worker/runtime/devices.h"

namespace gq::worker {
namespace {

constexpr std::int64_t kBatchMax = 4096;       // what a child may claim
constexpr unsigned kFailedStartsMax = 3;       // then jobs that wait for it are told so instead of waiting on
constexpr Duration kHealthy = 60s;
constexpr Duration kCancelGrace = 10s;
constexpr Duration kModelIdle = 10min;         // an unused model leaves, or a job that needs the whole device would wait for ever

Duration model_idle_limit() {
  const char* seconds = std::getenv("GPUQ_MODEL_IDLE_S");
  return seconds == nullptr ? kModelIdle : Duration(std::chrono::seconds(std::max(1, std::atoi(seconds))));
}

struct HostJob {
  Job job;
  std::uint64_t id{};
  std::shared_ptr<Gathered> gathered;
  bool sent{};
  bool started{};      ///< the child said that its computation began
  bool over{};
};

struct Model {
  enum class State : std::uint8_t { absent, fetching, waiting_for_child, loading, warm } state{State::absent};
  wire::Model about;
  Pinned file;
  std::uint64_t load_id{};
  std::uint16_t lane{};
  Instant used{};
  std::vector<std::shared_ptr<HostJob>> waiting;
};

}  // namespace

struct ModelHosts::Shared {
  Shared(ChildContext c, std::string p) : context(std::move(c)), program(std::move(p)) {}
  ChildContext context;
  std::string program;
  std::map<std::string, std::shared_ptr<Host>> hosts;
  std::map<Grant, std::pair<std::weak_ptr<Host>, std::shared_ptr<HostJob>>> jobs;
};

struct ModelHosts::Host : std::enable_shared_from_this<Host> {
  Host(Shared& s, std::string uuid)
      : shared(s), c(s.context), device(std::move(uuid)), timer(c.io), idle_timer(c.io), folder(c.scratch + "/children/modelhost-" + device) {}

  Shared& shared;
  ChildContext& c;
  std::string device;
  asio::steady_timer timer;
  asio::steady_timer idle_timer;
  const Duration idle_limit = model_idle_limit();
  std::string folder;
  std::shared_ptr<ChildProcess> child;
  std::map<std::string, Model> models;
  std::map<std::uint64_t, std::shared_ptr<HostJob>> sent;
  std::uint64_t next_id{1};
  unsigned failures{};
  Instant not_before{};
  Instant ready_at{};
  std::string last_trouble;

  [[nodiscard]] std::string output_dir() const { return folder + "/out"; }

  // ---- a job arrives

  void take(const std::shared_ptr<HostJob>& job) {
    Model& model = models[model_key(job->job.item.model)];
    if (model.state != Model::State::warm) c.reports.started(job->job.item.grant);   // loading is part of the attempt
    model.used = now().steady;
    gather(job->job, c.blobs, [self = shared_from_this(), job](Result<std::shared_ptr<Gathered>> got) {
      if (job->over) return;
      if (!got) return self->end(job, failed(job->job.item.grant, got.error(), got.error().code != Errc::internal));
      job->gathered = std::move(*got);
      self->offer(job);
    });
  }

  void offer(const std::shared_ptr<HostJob>& job) {
    const std::string key = model_key(job->job.item.model);
    Model& model = models[key];
    if (model.state == Model::State::warm) return send(job);
    model.waiting.push_back(job);
    model.about = job->job.item.model;
    if (model.state == Model::State::absent) fetch(key);
  }

  void fetch(const std::string& key) {
    Model& model = models[key];
    model.state = Model::State::fetching;
    c.blobs.fetch(model.about.blob, [self = shared_from_this(), key](Result<Pinned> file) {
      Model& m = self->models[key];
      if (m.state != Model::State::fetching) return;
      if (!file) {
        m.state = Model::State::absent;
        return self->fail_waiting(key, file.error(), file.error().code == Errc::unknown_blob);
      }
      m.file = std::move(*file);
      m.state = Model::State::waiting_for_child;
      self->load_what_waits();
    });
  }

  void load_what_waits() {
    if (!ensure_child()) return;
    for (auto& [key, model] : models) {
      if (model.state != Model::State::waiting_for_child) continue;
      model.state = Model::State::loading;
      model.load_id = next_id++;
      child::Frame load{child::Type::load, model.load_id, {}};
      load.add("model", std::string_view(key)).add("name", std::string_view(model.about.name)).add("path", std::string_view(model.file->path));
      load.add("runtime", std::string_view(model.about.runtime)).add("metadata", std::string_view(model.about.metadata));
      load.add("budget_mib", model.about.budget_mib);
      child->send(std::move(load));
    }
  }

  void send(const std::shared_ptr<HostJob>& job) {
    if (job->over) return;
    job->id = next_id++;
    job->sent = true;
    sent[job->id] = job;
    child->send(run_frame(job->id, job->job, *job->gathered, output_dir()));
  }

  // ---- the child

  /// True when there is one that is ready; otherwise one is started when its time has come.
  bool ensure_child() {
    if (child) return child->is_ready();
    const Instant at = now().steady;
    if (at < not_before) {
      timer.expires_after(not_before - at);
      timer.async_wait([self = shared_from_this()](const ErrorCode& ec) {
        if (!ec) self->load_what_waits();
      });
      return false;
    }
    ::mkdir(folder.c_str(), 0700);
    ::mkdir(output_dir().c_str(), 0700);
    ChildProcess::Spec spec;
    spec.program = shared.program;
    spec.role = "modelhost";
    spec.devices = {device};
    if (const wire::Device* about = c.devices.by_uuid(device)) spec.vram_mib = about->total_mib - about->driver_mib - about->total_mib / 20;
    spec.scratch = folder;
    const std::weak_ptr<Host> weak = shared_from_this();
    ChildProcess::Handlers handlers;
    handlers.ready = [weak](const child::Frame& frame) {
      if (const auto self = weak.lock()) self->on_ready(frame);
    };
    handlers.frame = [weak](child::Frame&& frame) {
      if (const auto self = weak.lock()) self->on_frame(frame);
    };
    handlers.printed = [weak](std::string_view text) {
      if (const auto self = weak.lock()) log::info("modelhost", {{"device", self->device}, {"says", std::string(text.substr(0, 500))}});
    };
    handlers.gone = [weak](const std::string& why) {
      if (const auto self = weak.lock()) self->on_gone(why);
    };
    auto started = ChildProcess::start(c, std::move(spec), std::move(handlers));
    if (!started) {
      on_gone(started.error().what);
      return false;
    }
    child = std::move(*started);
    return false;
  }

  void on_ready(const child::Frame& frame) {
    ready_at = now().steady;
    log::info("modelhost_ready", {{"device", device}, {"name", std::string(frame.text("device_name"))}, {"context_mib", std::to_string(frame.number("context_mib"))}});
    load_what_waits();
  }

  void on_gone(const std::string& why) {
    child.reset();
    if (ready_at != Instant{} && now().steady - ready_at >= kHealthy) failures = 0;
    const bool was_ready = ready_at != Instant{};
    ready_at = {};
    not_before = now().steady + respawn_backoff(failures++);
    last_trouble = why.empty() ? "it ended by itself" : why;
    log::warn("modelhost_gone", {{"device", device}, {"reason", last_trouble}, {"jobs", std::to_string(sent.size())}});
    const auto jobs = std::move(sent);
    sent.clear();
    std::vector<std::string> broken;
    bool waits = false;
    for (auto& [key, model] : models) {
      if (model.state == Model::State::warm) c.reports.close_lane(model.lane);
      if (model.state == Model::State::loading) broken.push_back(key);
      if (model.state == Model::State::waiting_for_child) {
        waits = true;
        if (!was_ready && failures >= kFailedStartsMax) broken.push_back(key);
      } else if (model.state != Model::State::fetching) {
        model.state = Model::State::absent;
        model.file.reset();
      }
    }
    for (const auto& [id, job] : jobs) {
      session::Ending ending;
      ending.grant = job->job.item.grant;
      ending.started = job->started;
      ending.outcome = job->started && !why.empty() ? Outcome::crashed : Outcome::lost;
      ending.code = job->started ? Errc::child_crashed : Errc::worker_lost;
      ending.what = (job->started ? "the modelhost died while it ran: " : "the modelhost died before it began: ") + last_trouble;
      end(job, std::move(ending));
    }
    // A model that kills its host while it loads would do so for ever: its jobs fail, and use their retries.
    for (const std::string& key : broken) {
      models[key].state = Model::State::absent;
      fail_waiting(key, {Errc::child_crashed, "the modelhost died while it started or loaded " + key + ": " + last_trouble, ""}, false);
    }
    if (waits) load_what_waits();
  }

  void on_frame(const child::Frame& frame) {
    switch (frame.type) {
      case child::Type::loaded: return on_loaded(frame);
      case child::Type::log:
        log::info("modelhost", {{"device", device}, {"says", std::string(frame.text("text").substr(0, 500))}});
        return;
      case child::Type::failed:
        for (auto& [key, model] : models)
          if (model.state == Model::State::loading && model.load_id == frame.id) return on_load_failed(key, frame);
        break;
      default: break;
    }
    const auto it = sent.find(frame.id);
    if (it == sent.end()) return;   // cancelled meanwhile
    const std::shared_ptr<HostJob> job = it->second;
    switch (frame.type) {
      case child::Type::started:
        job->started = true;
        c.reports.started(job->job.item.grant);
        break;
      case child::Type::progress: {
        wire::Progress progress{job->job.item.grant, static_cast<std::uint64_t>(frame.number("step")), static_cast<std::uint64_t>(frame.number("total")), {}};
        c.reports.progress(std::move(progress));
        break;
      }
      case child::Type::done:
        sent.erase(it);
        on_done(job, frame);
        break;
      case child::Type::failed:
        sent.erase(it);
        end(job, ending_of_failure(job->job.item.grant, frame));
        break;
      case child::Type::yielded: {
        sent.erase(it);
        session::Ending ending;
        ending.grant = job->job.item.grant;
        ending.outcome = Outcome::yielded;
        end(job, std::move(ending));
        break;
      }
      default: break;
    }
  }

  void on_loaded(const child::Frame& frame) {
    for (auto& [key, model] : models) {
      if (model.state != Model::State::loading || model.load_id != frame.id) continue;
      model.state = Model::State::warm;
      const auto batch = std::clamp<std::int64_t>(frame.number("batch_max", 1), 1, kBatchMax);
      model.lane = c.reports.open_warm_lane(device, key, static_cast<std::uint32_t>(2 * batch));
      log::info("model_warm", {{"model", key}, {"device", device}, {"used_mib", std::to_string(frame.number("used_mib"))}, {"batch_max", std::to_string(batch)}});
      const auto waiting = std::move(model.waiting);
      model.waiting.clear();
      for (const auto& job : waiting) send(job);
      watch_idle();
      return;
    }
  }

  /// Looks from time to time as long as a model is warm.
  void watch_idle() {
    idle_timer.expires_after(std::max<Duration>(idle_limit / 4, 100ms));
    idle_timer.async_wait([weak = weak_from_this()](const ErrorCode& ec) {
      const auto self = weak.lock();
      if (ec || !self || !self->child) return;
      for (;;) {
        const std::string idle = self->idle_model({});
        if (idle.empty() || now().steady - self->models[idle].used < self->idle_limit) break;
        self->evict(idle, "unused");
      }
      const auto warm = [](const auto& entry) { return entry.second.state == Model::State::warm; };
      if (std::any_of(self->models.begin(), self->models.end(), warm)) self->watch_idle();
    });
  }

  void evict(const std::string& key, const std::string& why) {
    log::info("model_evicted", {{"model", key}, {"device", device}, {"why", why}});
    child::Frame unload{child::Type::unload, 0, {}};
    unload.add("model", std::string_view(key));
    child->send(std::move(unload));
    c.reports.close_lane(models[key].lane);
    models.erase(key);
  }

  void on_load_failed(const std::string& key, const child::Frame& frame) {
    models[key].state = Model::State::absent;
    models[key].file.reset();
    const session::Ending ending = ending_of_failure({}, frame);
    // Out of memory: the least recently used idle model makes room, and the load is tried once more.
    if (ending.code == Errc::oom)
      if (const std::string idle = idle_model(key); !idle.empty()) {
        evict(idle, "room for " + key);
        return fetch(key);
      }
    fail_waiting(key, {ending.code == Errc::job_failed ? Errc::bad_model : ending.code, "model " + key + " cannot be loaded: " + ending.what, ""}, ending.outcome == Outcome::failed_final);
  }

  [[nodiscard]] std::string idle_model(const std::string& except) const {
    const Model* best = nullptr;
    std::string best_key;
    for (const auto& [key, model] : models) {
      if (key == except || model.state != Model::State::warm) continue;
      const bool busy = std::any_of(sent.begin(), sent.end(), [&](const auto& s) { return model_key(s.second->job.item.model) == key; });
      if (!busy && (best == nullptr || model.used < best->used)) {
        best = &model;
        best_key = key;
      }
    }
    return best_key;
  }

  void fail_waiting(const std::string& key, const Error& error, bool final) {
    const auto waiting = std::move(models[key].waiting);
    models[key].waiting.clear();
    for (const auto& job : waiting) {
      session::Ending ending = failed(job->job.item.grant, error, final);
      ending.started = false;
      end(job, std::move(ending));
    }
  }

  void on_done(const std::shared_ptr<HostJob>& job, const child::Frame& frame) {
    auto output = output_of(frame, output_dir());
    if (!output) return end(job, failed(job->job.item.grant, output.error()));
    output->values.try_emplace("model", model_key(job->job.item.model));
    std::vector<std::string> files;
    for (const Output::Item& item : output->items)
      if (!item.file.empty()) files.push_back(item.file);
    pack(std::move(*output), c.blobs, [self = shared_from_this(), job, files = std::move(files)](Result<Packed> packed) {
      for (const std::string& file : files) ::remove(file.c_str());
      if (!packed) return self->end(job, failed(job->job.item.grant, packed.error(), packed.error().code == Errc::too_large));
      session::Ending ending;
      ending.grant = job->job.item.grant;
      ending.outcome = Outcome::succeeded;
      ending.body = std::move(packed->body);
      ending.blobs = std::move(packed->blobs);
      self->end(job, std::move(ending));
    });
  }

  void end(const std::shared_ptr<HostJob>& job, session::Ending ending) {
    if (std::exchange(job->over, true)) return;
    shared.jobs.erase(job->job.item.grant);
    c.reports.ended(std::move(ending));
  }

  /// Ends it here and now; the child is told, and what it still says of it is ignored.
  void leave(const std::shared_ptr<HostJob>& job, Outcome outcome) {
    if (job->sent && child) child->send({child::Type::cancel, job->id, {}});
    sent.erase(job->id);
    for (auto& [key, model] : models) std::erase(model.waiting, job);
    session::Ending ending;
    ending.grant = job->job.item.grant;
    ending.outcome = outcome;
    end(job, std::move(ending));
  }
};

ModelHosts::ModelHosts(ChildContext context, std::string program) : shared_(std::make_shared<Shared>(std::move(context), std::move(program))) {}
ModelHosts::~ModelHosts() {
  for (auto& [device, host] : shared_->hosts)
    if (host->child) host->child->forget();
}

void ModelHosts::start(Job job) {
  if (job.item.devices.empty()) return shared_->context.reports.refuse(job.item.grant, Errc::not_here, "a model job without a device");
  if (job.item.model.name.empty()) {
    return shared_->context.reports.ended(failed(job.item.grant, {Errc::unknown_model, "the job names no model", "--model NAME"}));
  }
  const std::string device = job.item.devices[0];
  if (shared_->context.devices.by_uuid(device) == nullptr) return shared_->context.reports.refuse(job.item.grant, Errc::not_here, "no device " + device + " here");
  std::shared_ptr<Host>& host = shared_->hosts[device];
  if (!host) host = std::make_shared<Host>(*shared_, device);
  auto entry = std::make_shared<HostJob>();
  entry->job = std::move(job);
  shared_->jobs[entry->job.item.grant] = {host, entry};
  const auto keep = host;
  keep->take(entry);
}

void ModelHosts::stop(const Grant& grant, session::StopCause cause) {
  const auto it = shared_->jobs.find(grant);
  if (it == shared_->jobs.end()) return;
  const auto host = it->second.first.lock();
  const auto job = it->second.second;
  if (!host) return;
  const bool polite = job->sent && job->started && (cause == session::StopCause::cancel || cause == session::StopCause::timeout);
  if (!polite || !host->child) return host->leave(job, Outcome::cancelled);
  host->child->send({child::Type::cancel, job->id, {}});
  const auto timer = std::make_shared<asio::steady_timer>(shared_->context.io, kCancelGrace);
  timer->async_wait([host, job, timer](const ErrorCode& ec) {
    if (!ec && !job->over) host->leave(job, Outcome::cancelled);
  });
}

void ModelHosts::preempt(const Grant& grant, const std::string&, Duration) {
  const auto it = shared_->jobs.find(grant);
  if (it == shared_->jobs.end()) return;
  const auto job = it->second.second;
  if (const auto host = it->second.first.lock()) host->leave(job, Outcome::yielded);   // restarts from nothing, and is short
}

void ModelHosts::kill_all() {
  for (auto& [device, host] : shared_->hosts) {
    for (auto& [id, job] : host->sent) job->over = true;
    host->timer.cancel();
    host->idle_timer.cancel();
    if (host->child) {
      host->child->forget();
      host->child->kill("the worker ends");
    }
  }
}

}  // namespace gq::worker
