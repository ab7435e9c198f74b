// model_host.cpp - models come, are used, and leave; the child that holds them is started, replaced, and sent home.
#include "worker/runtime/model_host.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>

#include "common/config/clock.h"
#include "common/log.h"
#include "worker/runtime/devices.h"

namespace gq::worker {
namespace {

constexpr std::int64_t kBatchMax = 4096;       // what a child may claim
constexpr unsigned kFailedStartsMax = 3;       // then jobs that wait for it are told so instead of waiting on
constexpr Duration kHealthy = 60s;
constexpr Duration kModelIdle = 10min;         // an unused model leaves, or a job that needs the whole device would wait for ever
constexpr Duration kUnloadPatience = 10s;      // a child that knows no `unloaded` is believed after that
constexpr Duration kExitGrace = 2s;

Duration model_idle_limit() {
  const char* seconds = std::getenv("GPUQ_MODEL_IDLE_S");
  return seconds == nullptr ? kModelIdle : Duration(std::chrono::seconds(std::max(1, std::atoi(seconds))));
}

}  // namespace

using State = ModelHosts::Host::Model::State;

ModelHosts::Host::Host(Shared& s, std::string uuid, std::string python_model)
    : shared(s), c(s.context), device(std::move(uuid)), python(std::move(python_model)), timer(c.io), idle_timer(c.io), setup_timer(c.io), memory_guard(c.io, c.devices), log_timer(c.io),
      idle_limit(model_idle_limit()), folder(c.scratch + "/children/modelhost-" + device + (is_python() ? "-" + python : "")) {}

// ---- a model comes

void ModelHosts::Host::fetch(const std::string& key) {
  Model& model = models[key];
  model.state = State::fetching;
  c.blobs.fetch(model.about.blob, [self = shared_from_this(), key](Result<Pinned> file) {
    const auto found = self->models.find(key);
    if (found == self->models.end() || found->second.state != State::fetching) return;
    Model& m = found->second;
    if (!file) {
      m.state = State::absent;
      return self->fail_waiting(key, file.error(), file.error().code == Errc::unknown_blob);
    }
    m.file = std::move(*file);
    if (self->is_python()) return self->unpack(key);
    m.state = State::waiting_for_child;
    self->load_what_waits();
  });
}

void ModelHosts::Host::load_what_waits() {
  if (!ensure_child()) return;
  for (auto& [key, model] : models) {
    if (model.state != State::waiting_for_child) continue;
    model.state = State::loading;
    model.load_id = next_id++;
    child::Frame load{child::Type::load, model.load_id, {}};
    load.add("model", std::string_view(key)).add("name", std::string_view(model.about.name)).add("path", std::string_view(is_python() ? unpacked : model.file->path));
    load.add("runtime", std::string_view(model.about.runtime)).add("metadata", std::string_view(model.about.metadata));
    load.add("budget_mib", model.booked_mib);
    if (is_python()) add_python_fields(load);
    child->send(std::move(load));
    if (is_python()) expect_loaded();
  }
}

void ModelHosts::Host::on_loaded(const child::Frame& frame) {
  for (auto& [key, model] : models) {
    if (model.state != State::loading || model.load_id != frame.id) continue;
    model.state = State::warm;
    setup_timer.cancel();
    if (is_python()) watch_memory();
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

void ModelHosts::Host::on_load_failed(const std::string& key, const child::Frame& frame) {
  setup_timer.cancel();
  models[key].state = State::absent;
  models[key].file.reset();
  const session::Ending ending = ending_of_failure({}, frame);
  // Out of memory: the least recently used idle model makes room, and the load is tried once more. The child takes one after the other.
  if (ending.code == Errc::oom)
    if (const std::string idle = idle_model(key); !idle.empty()) {
      begin_leaving(idle, "room for " + key);
      return fetch(key);
    }
  fail_waiting(key, {ending.code == Errc::job_failed ? Errc::bad_model : ending.code, "model " + key + " cannot be loaded: " + ending.what, ""}, ending.outcome == Outcome::failed_final);
}

// ---- a model leaves

/// Looks from time to time as long as a model is warm.
void ModelHosts::Host::watch_idle() {
  idle_timer.expires_after(std::max<Duration>(idle_limit / 4, 100ms));
  idle_timer.async_wait([weak = weak_from_this()](const ErrorCode& ec) {
    const auto self = weak.lock();
    if (ec || !self || !self->child) return;
    for (;;) {
      const std::string idle = self->idle_model({});
      if (idle.empty() || now().steady - self->models[idle].used < self->idle_limit) break;
      self->begin_leaving(idle, "unused");
    }
    const auto warm = [](const auto& entry) { return entry.second.state == State::warm; };
    if (std::any_of(self->models.begin(), self->models.end(), warm)) self->watch_idle();
  });
}

std::string ModelHosts::Host::idle_model(const std::string& except) const {
  const Model* best = nullptr;
  std::string best_key;
  for (const auto& [key, model] : models)
    if (key != except && model.state == State::warm && model.users == 0 && (best == nullptr || model.used < best->used)) {
      best = &model;
      best_key = key;
    }
  return best_key;
}

void ModelHosts::Host::evict_if_idle(const std::string& key, const std::string& why) {
  const auto it = models.find(key);
  if (it != models.end() && it->second.state == State::warm && it->second.users == 0) begin_leaving(key, why);
}

void ModelHosts::Host::begin_leaving(const std::string& key, const std::string& why) {
  log::info("model_evicted", {{"model", key}, {"device", device}, {"why", why}});
  Model& model = models[key];
  model.state = State::leaving;
  model.load_id = next_id++;
  child::Frame unload{child::Type::unload, model.load_id, {}};
  unload.add("model", std::string_view(key));
  child->send(std::move(unload));
  const auto patience = std::make_shared<asio::steady_timer>(c.io, kUnloadPatience);
  patience->async_wait([weak = weak_from_this(), id = model.load_id, patience](const ErrorCode& ec) {
    if (const auto self = weak.lock(); self && !ec) self->on_unloaded(id);
  });
}

void ModelHosts::Host::on_unloaded(std::uint64_t id) {
  const auto it = std::find_if(models.begin(), models.end(), [&](const auto& m) { return m.second.state == State::leaving && m.second.load_id == id; });
  if (it == models.end() || retiring) return;
  const auto stays = [&](const auto& m) { return m.first != it->first && (m.second.state != State::absent || m.second.users > 0); };
  const wire::Device* where = c.devices.by_uuid(device);
  if (child && where != nullptr && (is_python() || static_cast<DeviceKind>(where->kind) != DeviceKind::cpu) && std::none_of(models.begin(), models.end(), stays)) {
    retiring = true;             // its lane closes when the process is gone
    return child->stop(kExitGrace);
  }
  const std::uint16_t lane = it->second.lane;
  models.erase(it);
  c.reports.close_lane(lane);
}

// ---- the child

/// True when there is one that is ready; otherwise one is started when its time has come.
bool ModelHosts::Host::ensure_child() {
  if (child) return child->is_ready() && !retiring;
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
  Result<ChildProcess::Spec> spec = ChildProcess::Spec{};
  if (is_python()) {
    spec = python_spec();
    if (!spec) {   // no interpreter: trying again helps nobody
      models[python].state = State::absent;
      fail_waiting(python, spec.error(), true);
      go_if_empty();
      return false;
    }
  } else {
    spec->program = shared.program;
    spec->role = "modelhost";
    if (const wire::Device* where = c.devices.by_uuid(device)) spec->vram_mib = where->total_mib - where->driver_mib - where->total_mib / 20;
  }
  spec->devices = {device};
  spec->scratch = folder;
  auto started = ChildProcess::start(c, std::move(*spec), handlers_of<Host>(weak_from_this()));
  if (!started) {
    on_gone(started.error().what);
    return false;
  }
  child = std::move(*started);
  return false;
}

void ModelHosts::Host::on_ready(const child::Frame& frame) {
  ready_at = now().steady;
  log::info("modelhost_ready", {{"device", device}, {"name", std::string(frame.text("device_name"))}, {"context_mib", std::to_string(frame.number("context_mib"))}});
  load_what_waits();
}

void ModelHosts::Host::on_printed(std::string_view text) {
  if (is_python()) return say_log(text);
  log::info("modelhost", {{"device", device}, {"says", std::string(text.substr(0, 500))}});
}

/// Every model it held is gone with it; `broken` are those that it was loading.
void ModelHosts::Host::forget_child_of(std::vector<std::string>& broken, bool was_ready) {
  for (auto it = models.begin(); it != models.end();) {
    auto& [key, model] = *it;
    const State was = model.state;
    if (was == State::warm || was == State::leaving) c.reports.close_lane(model.lane);
    if (was == State::loading || (was == State::waiting_for_child && !was_ready && failures >= kFailedStartsMax)) broken.push_back(key);
    if (was != State::fetching && was != State::waiting_for_child) {
      model.state = State::absent;
      model.file.reset();
    }
    // One with users keeps its claim: they end now, or it is loaded again for them.
    it = model.state == State::absent && model.users == 0 ? models.erase(it) : std::next(it);
  }
}

void ModelHosts::Host::on_gone(const std::string& why) {
  child.reset();
  setup_timer.cancel();
  memory_guard.stop();
  const bool was_ready = ready_at != Instant{};
  if (was_ready && now().steady - ready_at >= kHealthy) failures = 0;
  ready_at = {};
  if (std::exchange(retiring, false)) {
    log::info("modelhost_left", {{"device", device}, {"why", "no model is left in it"}});
  } else {
    not_before = now().steady + respawn_backoff(failures++);
    last_trouble = (why.empty() ? "it ended by itself" : why) + (is_python() ? last_line() : std::string());
    log::warn("modelhost_gone", {{"device", device}, {"reason", last_trouble}, {"jobs", std::to_string(sent.size())}});
  }
  const auto jobs = std::move(sent);
  sent.clear();
  std::vector<std::string> broken;
  forget_child_of(broken, was_ready);
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
    if (is_python() && dies_again(key, last_trouble)) continue;
    models[key].state = State::absent;
    if (is_python()) {
      fail_waiting(key, *shared.quarantine_of(key), true);
      continue;
    }
    fail_waiting(key, {Errc::child_crashed, "the modelhost died while it started or loaded " + key + ": " + last_trouble, ""}, false);
  }
  const auto waits = [](const auto& m) { return m.second.state == State::waiting_for_child; };
  if (std::any_of(models.begin(), models.end(), waits)) load_what_waits();
  go_if_empty();
}

void ModelHosts::Host::on_frame(const child::Frame& frame) {
  switch (frame.type) {
    case child::Type::loaded: return on_loaded(frame);
    case child::Type::unloaded: return on_unloaded(frame.id);
    case child::Type::log:
      if (is_python()) return say_log(std::string(frame.text("text")) + "\n");
      log::info("modelhost", {{"device", device}, {"says", std::string(frame.text("text").substr(0, 500))}});
      return;
    case child::Type::failed:
      for (auto& [key, model] : models)
        if (model.state == State::loading && model.load_id == frame.id) return on_load_failed(key, frame);
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
    case child::Type::progress:
      c.reports.progress({job->job.item.grant, static_cast<std::uint64_t>(frame.number("step")), static_cast<std::uint64_t>(frame.number("total")), {}});
      break;
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

}  // namespace gq::worker
