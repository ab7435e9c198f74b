// supervisor_start.cpp - everything that may fail before the broker is dialled: key, scratch folder, devices, executors, session.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "common/config/clock.h"
#include "common/log.h"
#include "worker/runtime/child_paths.h"
#include "worker/runtime/command.h"
#include "worker/runtime/diagnostics.h"
#include "worker/runtime/modelhost.h"
#include "worker/runtime/supervisor.h"
#include "worker/runtime/trainer.h"

namespace gq::worker {
namespace {

constexpr std::uint16_t kSlotsLane = 1;
constexpr std::uint16_t kFirstStartLane = 2;
constexpr std::uint32_t kStartCredit = 4;      // starts under way per device; what runs is bounded by the ledger
constexpr std::uint8_t kLaneSlots = 0;
constexpr std::uint8_t kLaneStart = 1;

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

/// Worker names are 1..64 letters, digits, '.', '_' or '-'.
std::string as_name(std::string text) {
  for (char& c : text)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.' && c != '_' && c != '-') c = '-';
  return text.substr(0, kLimits.name_chars_max);
}

}  // namespace

Result<void> Supervisor::read_access() {
  endpoint_ = options_.broker;
  if (options_.insecure) {
    if (endpoint_.empty()) return fail(Errc::usage, "--insecure needs --broker", "--broker tcp://127.0.0.1:7701");
  } else {
    const std::string path = options_.access_file.empty() ? net::default_access_path(net::Role::worker) : options_.access_file;
    auto access = net::read_access_file(path);
    if (!access) {
      Error error = access.error();
      if (error.next.empty()) error.next = "on the broker's host: gpuq keys issue --role worker NAME > worker.json, then --access-file worker.json";
      return tl::unexpected(std::move(error));
    }
    if (access->role != net::Role::worker)
      return fail(Errc::key_refused, path + " is the key of a " + std::string(net::to_string(access->role)) + ", not of a worker", "gpuq keys issue --role worker NAME");
    access_ = std::make_unique<net::AccessFile>(std::move(*access));
    options_.name = access_->name;
    if (endpoint_.empty()) endpoint_ = access_->broker;
    if (endpoint_.empty()) return fail(Errc::usage, path + " names no broker", "--broker tcp://HOST:7701");
  }
  if (options_.name.empty()) options_.name = host_name();
  options_.name = as_name(options_.name);
  return {};
}

Result<void> Supervisor::take_scratch() {
  if (options_.scratch.empty()) {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");
    options_.scratch = std::string(runtime != nullptr && *runtime != '\0' ? runtime : "/tmp") + "/gpuq-worker-" + std::to_string(::getuid()) + "-" + options_.name;
  }
  std::error_code ec;
  std::filesystem::create_directories(options_.scratch, ec);
  struct stat status {};
  if (::stat(options_.scratch.c_str(), &status) != 0 || !S_ISDIR(status.st_mode))
    return fail(Errc::usage, "cannot use the scratch folder " + options_.scratch + ": " + (ec ? ec.message() : "it is no folder"), "--scratch DIR");
  if (status.st_uid != ::getuid()) return fail(Errc::usage, "the scratch folder " + options_.scratch + " belongs to somebody else", "--scratch DIR");
  ::chmod(options_.scratch.c_str(), 0700);
  options_.scratch = std::filesystem::canonical(options_.scratch, ec).string();
  scratch_lock_ = ::open((options_.scratch + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (scratch_lock_ < 0) return fail(Errc::usage, options_.scratch + " is not writable: " + std::strerror(errno), "--scratch DIR");
  if (::flock(scratch_lock_, LOCK_EX | LOCK_NB) != 0)
    return fail(Errc::data_dir_in_use, "another gpuq-worker uses " + options_.scratch, "give each worker on a host its own --name or --scratch");
  std::filesystem::remove_all(options_.scratch + "/attempts", ec);   // of a worker that died
  std::filesystem::create_directories(options_.scratch + "/attempts", ec);
  std::filesystem::create_directories(options_.scratch + "/children", ec);
  return {};
}

Result<void> Supervisor::prepare() {
  if (auto access = read_access(); !access) return access;
  if (auto scratch = take_scratch(); !scratch) return scratch;
  auto shares = files::Shares::open(options_.shares);
  if (!shares) return tl::unexpected(shares.error());
  shares_ = std::move(*shares);
  auto devices = Devices::find(options_.devices, options_.name);
  if (!devices) return tl::unexpected(devices.error());
  devices_ = std::move(*devices);
  allotments_ = std::make_unique<Allotments>(*devices_);
  processes_ = std::make_unique<Processes>(io_);
  if (auto guardian = processes_->start_guardian(); !guardian) log::warn("no_guardian", {{"reason", guardian.error().what}, {"means", "children may outlive a killed worker"}});
  blobs_ = std::make_unique<Blobs>(
      io_, disk_, [this](wire::Message message, std::uint64_t id, std::string_view body) { return send(message, id, body); },
      options_.scratch + "/cache", options_.cache_bytes);
  parents_ = std::make_unique<ParentResults>([this](wire::Message message, std::uint64_t id, std::string_view body) { return send(message, id, body); });
  journal_ = std::make_unique<Journal>(io_, disk_, options_.scratch + "/journal");
  make_executors();
  make_session();
  return {};
}

/// What an earlier process of this worker had to say when it was killed.
void Supervisor::read_journal() {
  for (Journal::Entry& entry : journal_->read(now().wall, options_.orphan_timeout)) {
    log::info("journal_entry_found", {{"job", to_string(entry.what.end.grant.job)}, {"outcome", std::string(gq::to_string(static_cast<Outcome>(entry.what.end.outcome)))}});
    pin(entry.what.end.grant, entry.what.here);
    session_->restore(std::move(entry.what.end), std::move(entry.what.body), std::move(entry.what.here), actions_);
  }
}

void Supervisor::make_executors() {
  const ChildContext context{io_, *processes_, *devices_, *blobs_, *parents_, disk_, *this, *allotments_, pauses_, shares_, options_.scratch, options_.term_grace};
  echo_ = std::make_unique<Echo>(*this);
  sleep_ = std::make_unique<Sleep>(io_, *this, [] { return now().steady; });
  reserve_ = std::make_unique<Reserve>(io_, *this, [] { return now().steady; }, *devices_, *allotments_);
  command_ = std::make_unique<Command>(context);
  kinds_ = {"echo", "sleep", "reserve", "command"};
  const std::string host_program = child_program("gpuq-modelhost"), serve = python_file("gpuq/serve/__main__.py");
  if (!host_program.empty() || !serve.empty()) {
    modelhosts_ = std::make_unique<ModelHosts>(context, host_program, serve);
    kinds_.insert(kinds_.end(), {"detect", "infer", "warm"});
  }
  if (host_program.empty()) log::info("runtimes_left_out", {{"runtime", "torchscript"}, {"reason", "no gpuq-modelhost beside gpuq-worker"}, {"try", "build with LibTorch, or set GPUQ_LIBEXEC"}});
  if (serve.empty()) log::info("runtimes_left_out", {{"runtime", "python"}, {"reason", "no gpuq/serve in ../share/gpuq/python beside gpuq-worker"}, {"try", "set GPUQ_PYTHON_DIR to client/python"}});
  if (const std::string program = child_program("gpuq-trainer"); !program.empty()) {
    trainers_ = std::make_unique<Trainers>(context, program);
    kinds_.push_back("train.detector");
  } else {
    log::info("kinds_left_out", {{"kinds", "train.detector"}, {"reason", "no gpuq-trainer beside gpuq-worker"}, {"try", "build with LibTorch, or set GPUQ_LIBEXEC"}});
  }
}

void Supervisor::make_session() {
  session::Options options;
  options.name = options_.name;
  options.version = options_.version;
  options.host = host_name();
  options.instance = random_u64();
  options.kinds = kinds_;
  options.labels = options_.labels;
  options.labels.push_back("host=" + options.host);
  options.labels.push_back("worker=" + options_.name);
  for (const std::string& name : shares_.names()) options.labels.push_back(files::share_label(name));
  std::sort(options.labels.begin(), options.labels.end());
  options.labels.erase(std::unique(options.labels.begin(), options.labels.end()), options.labels.end());
  options.timing.orphan_timeout = options_.orphan_timeout;
  options.drain_grace = options_.drain_grace;
  options.once = options_.once;
  options.journals = true;
  session_ = std::make_unique<session::Session>(std::move(options));
  session_->set_devices(devices_->list());
  session_->open_lane({kSlotsLane, kLaneSlots, "", ""}, options_.slots);
  std::uint16_t lane = kFirstStartLane;
  for (const wire::Device& device : devices_->list()) session_->open_lane({lane++, kLaneStart, device.uuid, ""}, kStartCredit);
}

}  // namespace gq::worker
