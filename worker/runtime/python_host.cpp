// python_host.cpp - a Python model on one device: its folder, its interpreter, its time to set up, its memory, and its quarantine.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "common/config/clock.h"
#include "common/log.h"
#include "worker/runtime/archive.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/model_host.h"

namespace gq::worker {
namespace {

namespace fs = std::filesystem;
constexpr unsigned kSetupDeathsMax = 2;        // then quarantined
constexpr Duration kQuarantine = 10min;
constexpr Duration kLogInterval = 200ms;
constexpr std::size_t kPrintedMax = 4096;
constexpr std::size_t kUnsaidMax = 64U << 10U;

/// The folder of a version, unpacked once and whole. On the disk thread.
Result<ModelFile> lay_out_model(const std::string& archive, const std::string& folder) {
  std::error_code ec;
  if (!fs::exists(folder + "/model.toml", ec)) {
    const std::string partial = folder + ".part";
    fs::remove_all(partial, ec);
    fs::create_directories(partial, ec);
    if (auto unpacked = unpack_folder(archive, partial); !unpacked) {
      fs::remove_all(partial, ec);
      if (unpacked.error().code == Errc::storage_full) return tl::unexpected(unpacked.error());
      return fail(Errc::bad_model, "its archive cannot be unpacked: " + unpacked.error().what, "gpuq model push NAME FOLDER");
    }
    fs::remove_all(folder, ec);
    fs::rename(partial, folder, ec);
    if (ec) return fail(Errc::storage_full, "cannot make " + folder + ": " + ec.message(), "look at the worker's --scratch folder");
  }
  return ModelFile::read(folder);
}

}  // namespace

using State = ModelHosts::Host::Model::State;

std::optional<Error> ModelHosts::Shared::quarantine_of(const std::string& model) {
  const auto it = deaths.find(model);
  if (it == deaths.end() || it->second.count < kSetupDeathsMax) return std::nullopt;
  const Duration left = it->second.until - now().steady;
  if (left <= Duration::zero()) {
    deaths.erase(it);   // it gets another chance
    return std::nullopt;
  }
  return Error{Errc::bad_model, "model " + model + " is in quarantine on this worker: it died " + std::to_string(kSetupDeathsMax) + " times while it was set up, the last time: " + it->second.why,
               "push a corrected version; this one is tried again in " + std::to_string(std::chrono::ceil<std::chrono::minutes>(left).count()) + " min"};
}

void ModelHosts::Host::unpack(const std::string& key) {
  Model& model = models[key];
  unpacked = c.scratch + "/models/" + to_string(model.file->digest).substr(0, 32);
  asio::post(c.disk, [self = shared_from_this(), key, archive = model.file, folder = unpacked] {
    auto read = lay_out_model(archive->path, folder);
    asio::post(self->c.io, [self, key, read = std::move(read)]() mutable {
      const auto found = self->models.find(key);
      if (found == self->models.end() || found->second.state != State::fetching) return;
      if (!read) {
        found->second.state = State::absent;
        self->fail_waiting(key, {read.error().code, "model " + key + ": " + read.error().what, read.error().next}, read.error().code == Errc::bad_model);
        return self->go_if_empty();
      }
      self->about = std::move(*read);
      found->second.state = State::waiting_for_child;
      self->load_what_waits();
    });
  });
}

Result<ChildProcess::Spec> ModelHosts::Host::python_spec() {
  auto program = about->python();
  if (!program) return tl::unexpected(Error{program.error().code, "model " + python + ": " + program.error().what, program.error().next});
  ChildProcess::Spec spec;
  spec.program = std::move(*program);
  spec.arguments = {"-u", shared.serve};   // -u: what it prints just before it dies is what people need
  spec.role = "model";
  spec.vram_mib = models[python].booked_mib;
  spec.environment = about->env;
  spec.environment["PYTHONDONTWRITEBYTECODE"] = "1";
  spec.environment["PYTHONNOUSERSITE"] = "1";
  return spec;
}

void ModelHosts::Host::add_python_fields(child::Frame& load) {
  load.add("entry", std::string_view(about->entry)).add("max_batch", about->max_batch).add("instances", about->instances).add("warmup", std::int64_t{about->warmup});
}

void ModelHosts::Host::expect_loaded() {
  setup_timer.expires_after(about->setup_timeout);
  setup_timer.async_wait([weak = weak_from_this(), limit = about->setup_timeout](const ErrorCode& ec) {
    const auto self = weak.lock();
    if (!ec && self && self->child) self->child->kill("setup did not end within " + std::to_string(limit.count() / 1000) + " s (setup_timeout in model.toml)");
  });
}

void ModelHosts::Host::watch_memory() {
  memory_guard.start({device}, child->pid(), models[python].booked_mib, [this](BudgetWatch::Verdict verdict, const std::string& text) {
    if (verdict == BudgetWatch::Verdict::too_long && child) return child->kill(text);
    log::warn("model_over_budget", {{"model", python}, {"device", device}, {"what", text}, {"next", "it is sent away if it stays so; raise vram in model.toml"}});
  });
}

/// To whoever asks `gpuq logs --model`: at most kUnsaidMax wait, the newest.
void ModelHosts::Host::say_log(std::string_view text) {
  printed.append(text);
  if (printed.size() > kPrintedMax) printed.erase(0, printed.size() - kPrintedMax / 2);
  unsaid.append(text);
  if (unsaid.size() > kUnsaidMax) unsaid.erase(0, unsaid.size() - kUnsaidMax);
  if (std::exchange(log_armed, true)) return;
  log_timer.expires_after(kLogInterval);
  log_timer.async_wait([self = shared_from_this()](const ErrorCode&) {
    self->log_armed = false;
    self->c.reports.model_log(self->python, std::exchange(self->unsaid, {}));
  });
}

std::string ModelHosts::Host::last_line() const {
  std::size_t end = printed.find_last_not_of(" \n\r");
  if (end == std::string::npos) return {};
  const std::size_t begin = printed.rfind('\n', end);
  return ": " + printed.substr(begin == std::string::npos ? 0 : begin + 1, end - (begin == std::string::npos ? 0 : begin + 1) + 1).substr(0, 200);
}

/// True: it is tried once more for those who wait.
bool ModelHosts::Host::dies_again(const std::string& key, const std::string& why) {
  Shared::Deaths& deaths = shared.deaths[key];
  deaths.why = why;
  if (++deaths.count >= kSetupDeathsMax) {
    deaths.until = now().steady + kQuarantine;
    log::warn("model_quarantined", {{"model", key}, {"device", device}, {"why", why}, {"next", "push a corrected version"}});
    return false;
  }
  const auto model = models.find(key);
  if (model == models.end()) return true;   // nobody waits for it
  model->second.state = State::waiting_for_child;
  return true;
}

/// A Python model's host is nothing without its model.
void ModelHosts::Host::go_if_empty() {
  if (!is_python() || child) return;
  std::erase_if(models, [](const auto& m) { return m.second.state == State::absent && m.second.users == 0 && m.second.waiting.empty(); });
  if (!models.empty()) return;
  asio::post(c.io, [self = shared_from_this()] {
    if (self->child || !self->models.empty()) return;
    const auto it = self->shared.hosts.find(self->device + " " + self->python);
    if (it != self->shared.hosts.end() && it->second == self) self->shared.hosts.erase(it);
  });
}

}  // namespace gq::worker
