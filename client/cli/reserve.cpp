// reserve.cpp - gpuq reserve: memory of a device booked for a process that gpuq does not start, or for a command run here meanwhile.
//
// The booking is a job of kind `reserve`: it stands in line like any other, may make lower work leave, is seen in status and workers, and
// ends by its time, by gpuq cancel, or with the command behind --. That command runs in this terminal, on this host, in our process group.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <spawn.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"
#include "common/vocabulary/job.h"

namespace gq::cli {

namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

constexpr auto kLook = 200ms;          // how often we look whether it is granted, or still there
constexpr auto kTermGrace = 10s;       // from SIGTERM to SIGKILL of a command whose booking is over

struct Arguments {
  std::string vram, span, job_class, label, patience;
  int devices = 1, priority = 5;
  std::vector<std::string> where;
};

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "localhost";
}

gpuq::JobSpec spec_of(const Arguments& a, bool runs_here) {
  const auto range = parse_vram(a.vram);
  if (!range) throw gpuq::Error("USAGE", range.error().what, "--vram 3500MiB");
  const auto span = parse_span(a.span);
  if (!span) throw gpuq::Error("USAGE", span.error().what, "--for 2h");
  if (*span <= 0ms || *span > std::chrono::hours(30 * 24)) throw gpuq::Error("OVER_LIMIT", "a reservation lasts up to 30 days, not " + a.span, "--for 2h");
  gpuq::JobSpec spec;
  spec.kind = "reserve";
  spec.job_class = a.job_class;
  spec.priority = a.priority;
  spec.vram_min_mib = range->min_mib;
  spec.vram_max_mib = range->max_mib;
  spec.devices = a.devices;
  spec.where = a.where;
  spec.label = a.label;
  spec.params["for_ms"] = std::to_string(span->count());
  spec.timeout = *span + 60s;          // backfill may count on its end
  if (runs_here) spec.where.push_back("host=" + host_name());
  return spec;
}

gpuq::JobStatus look(gpuq::Client& client, const std::string& id) {
  auto found = client.status({id});
  if (found.empty() || !found.front().found) throw gpuq::Error("NOT_FOUND", "the reservation " + id + " is gone", "gpuq list");
  return std::move(found.front());
}

bool is_final(const gpuq::JobStatus& job) {
  const auto state = parse_job_state(job.state);
  return state && is_terminal(*state);
}

/// Waits until it is granted; nullopt = interrupted or too late, and it is cancelled.
std::optional<gpuq::JobStatus> wait_granted(Cli& cli, gpuq::Client& client, const std::string& id, std::optional<std::chrono::milliseconds> patience) {
  const auto until = std::chrono::steady_clock::now() + patience.value_or(std::chrono::hours(24 * 365));
  std::string said;
  for (;;) {
    gpuq::JobStatus job = look(client, id);
    if (job.state == "running" && job.started_ms != 0) return job;
    if (is_final(job)) throw gpuq::Error(job.code.empty() ? "CANCELLED" : job.code, "the reservation " + id + " is " + job.state + (job.what.empty() ? "" : ": " + job.what), "gpuq status " + id);
    if (!job.reason.empty() && job.reason != said) cli.note("waiting: " + (said = job.reason));
    const bool late = std::chrono::steady_clock::now() >= until;
    if (interrupted() || late) {
      client.cancel({id});
      if (late) throw gpuq::Error("TIMED_OUT", "no device had room in time; the reservation was given up", "gpuq plan submit reserve --vram …, or a longer --wait-for");
      return std::nullopt;
    }
    std::this_thread::sleep_for(kLook);
  }
}

/// UUIDs of cards as CUDA takes them; empty when it holds none (a CPU, a pretend card).
std::string cuda_devices(gpuq::Client& client, const gpuq::JobStatus& job) {
  for (const gpuq::WorkerStatus& worker : client.workers())
    for (const gpuq::DeviceStatus& device : worker.devices)
      if (device.uuid == job.device && device.kind == "cuda") return job.device;
  return {};
}

int exit_code_of(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

int run_command(Cli& cli, gpuq::Client& client, const gpuq::JobStatus& job, std::vector<std::string> argv) {
  std::map<std::string, std::string> own{{"GPUQ_JOB_ID", job.id}, {"GPUQ_VRAM_MIB", std::to_string(job.granted_mib)}, {"CUDA_DEVICE_ORDER", "PCI_BUS_ID"}, {"CUDA_VISIBLE_DEVICES", cuda_devices(client, job)}};
  std::vector<std::string> environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry)
    if (const std::string text = *entry; !own.contains(text.substr(0, text.find('=')))) environment.push_back(text);
  for (const auto& [name, value] : own) environment.push_back(name + "=" + value);
  const auto raw = [](std::vector<std::string>& words) {
    std::vector<char*> out;
    for (std::string& word : words) out.push_back(word.data());
    out.push_back(nullptr);
    return out;
  };
  pid_t pid = -1;
  if (const int error = ::posix_spawnp(&pid, argv[0].c_str(), nullptr, nullptr, raw(argv).data(), raw(environment).data()); error != 0) {
    client.cancel({job.id});
    throw gpuq::Error("USAGE", "cannot run " + argv[0] + ": " + std::strerror(error), "check the command behind --");
  }
  int status = 0;
  bool asked = false;
  auto kill_at = std::chrono::steady_clock::time_point::max();
  while (::waitpid(pid, &status, WNOHANG) == 0) {   // ctrl-C reaches it by itself: it is in our process group
    std::this_thread::sleep_for(kLook);
    const auto now = std::chrono::steady_clock::now();
    try {
      if (!asked && look(client, job.id).state != "running") {
        cli.note("the reservation is over; asking " + argv[0] + " to end");
        asked = true;
        kill_at = now + kTermGrace;
        ::kill(pid, SIGTERM);
      }
    } catch (const gpuq::Error& error) {
      if (error.code() == "NOT_FOUND") throw;   // else the broker is away for a moment; the worker keeps the booking
    }
    if (now >= kill_at) ::kill(pid, SIGKILL);
  }
  if (!asked) client.cancel({job.id});
  return exit_code_of(status);
}

int run_reserve(Cli& cli, const Arguments& a) {
  if (cli.had_dashes && cli.argv_after_dashes.empty()) throw gpuq::Error("USAGE", "there is no command behind --", "gpuq reserve --vram 3500MiB -- jupyter lab");
  std::optional<std::chrono::milliseconds> patience;
  if (!a.patience.empty()) {
    const auto span = parse_span(a.patience);
    if (!span) throw gpuq::Error("USAGE", span.error().what, "--wait-for 10m");
    patience = *span;
  }
  gpuq::JobSpec spec = spec_of(a, cli.had_dashes);
  watch_interrupts();
  gpuq::Client& client = cli.client();
  const gpuq::Submitted submitted = client.submit(std::move(spec));
  remember_last(submitted.id);
  const auto job = wait_granted(cli, client, submitted.id, patience);
  if (!job) return kInterrupted;
  if (cli.had_dashes) return run_command(cli, client, *job, cli.argv_after_dashes);
  if (cli.is_json()) {
    print_json(cli.io.out, cli.format() == Format::jsonl, "jobs", {to_json(*job)});
    return 0;
  }
  cli.io.out << job->id << '\n';
  const auto span = parse_span(a.span);
  cli.note("booked " + mib(job->granted_mib) + " on " + job->device + " of " + job->worker + " until " + when(job->started_ms + span->count(), wall_now_ms()));
  if (const std::string uuid = cuda_devices(client, *job); !uuid.empty()) cli.note("  use it: CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=" + uuid + " PROGRAM");
  cli.note("  give it back: gpuq cancel " + job->id);
  return 0;
}

}  // namespace

void add_reserve(CLI::App& app, Cli& cli) {
  auto a = std::make_shared<Arguments>();
  a->span = "1h";
  CLI::App* c = app.add_subcommand("reserve", "book device memory for a process that gpuq does not start: gpuq reserve --vram 3500MiB --for 2h [-- PROGRAM ARGS…]");
  c->add_option("--vram", a->vram, "how much: 3500MiB, or a range that is granted as large as fits")->option_text("SIZE")->required();
  c->add_option("--for", a->span, "how long at most (1h); with a command, until it ends")->option_text("DURATION");
  c->add_option("--class", a->job_class, "whose turn it is (training)")->option_text("CLASS")->check(CLI::IsMember({"inference", "training", "synthesis"}));
  c->add_option("--priority,-p", a->priority, "0..9, 9 is served first (5)")->option_text("N")->check(CLI::Range(0, 9));
  c->add_option("--devices", a->devices, "how many devices of one host (1)")->option_text("N")->check(CLI::Range(1, 64));
  c->add_option("--where", a->where, "a label the worker must have, as worker=NAME or host=NAME; may be repeated")->option_text("KEY=VALUE")->allow_extra_args(false);
  c->add_option("--wait-for", a->patience, "give up when no device has room in time (it waits)")->option_text("DURATION");
  c->add_option("--label", a->label, "free text shown in lists")->option_text("TEXT");
  c->footer("What others use on the device counts as the booking, up to its size. With a command behind --, that runs here, with CUDA_VISIBLE_DEVICES and\n"
            "GPUQ_VRAM_MIB set; when the booking ends first it gets SIGTERM, 10 s later SIGKILL; the exit code is the command's.");
  c->callback([&cli, a] { cli.action = [&cli, a] { return run_reserve(cli, *a); }; });
}

}  // namespace gq::cli
