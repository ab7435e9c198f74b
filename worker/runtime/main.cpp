// main.cpp - gpuq-worker's command line.
#include <CLI/CLI.hpp>
#include <cstring>
#include <iostream>

#include "common/log.h"
#include "worker/runtime/process.h"
#include "worker/runtime/ranks.h"
#include "worker/runtime/worker.h"

#ifndef GPUQ_VERSION
#define GPUQ_VERSION "0.1.0"
#endif

namespace {

int usage_error(const std::string& what, const std::string& next) {
  std::cerr << "error[USAGE]: " << what << "\n  try: " << next << "\n";
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--guardian") == 0) return gq::worker::guardian_main();
  if (argc > 1 && std::strcmp(argv[1], "--ranks") == 0) return gq::worker::ranks_main(argc, argv);
  gq::log::set_name("gpuq-worker");
  gq::worker::WorkerOptions options;
  options.version = GPUQ_VERSION;
  std::string cpu_memory;
  std::string cache_bytes;
  std::string orphan_timeout;
  std::string drain_grace;
  std::string term_grace;
  std::string pause_slice;

  CLI::App app("gpuq-worker: offers this machine's devices to a gpuq broker and runs what it is given", "gpuq-worker");
  app.set_version_flag("--version", "gpuq-worker " GPUQ_VERSION);
  app.add_option("--broker", options.broker, "tcp://HOST:7701; default: what the access file says");
  app.add_option("--access-file", options.access_file, "this worker's key; default: $GPUQ_ACCESS_FILE, ~/.config/gpuq/worker.json, /etc/gpuq/worker.json");
  app.add_flag("--insecure", options.insecure, "no encryption, no keys: for loopback only");
  app.add_option("--name", options.name, "name shown to people; with a key the key's name counts (default: host name)");
  app.add_option("--devices", options.devices.devices, "auto, cpu, or GPU UUIDs separated by commas")->default_val("auto");
  app.add_option("--labels", options.labels, "key=value, may repeat; jobs ask for them with --where")->delimiter(',');
  app.add_option("--share", options.shares, "NAME=DIR, may repeat: a folder that jobs may name as share:NAME/path")->allow_extra_args(false);
  app.add_option("--cpu-memory", cpu_memory, "memory of the CPU device, as 8GiB (default: half of this host's)");
  app.add_option("--slots", options.slots, "jobs without a device at a time")->default_val(256)->check(CLI::Range(1, 65536));
  app.add_option("--simulate-gpus", options.devices.simulate, "pretend cards, as 24GiB,8GiB: for tests");
  app.add_option("--scratch", options.scratch, "folder for attempts and cached files");
  app.add_option("--cache-bytes", cache_bytes, "room for cached models and inputs, as 20GiB");
  app.add_option("--orphan-timeout", orphan_timeout, "how long jobs go on without a broker (default 15min)");
  app.add_option("--drain-grace", drain_grace, "after SIGTERM: how long jobs may take to finish or to leave (default 30s)");
  app.add_option("--term-grace", term_grace, "from SIGTERM to SIGKILL of a command (default 30s)");
  app.add_option("--pause-slice", pause_slice, "of every 2 s, how long paused work runs beside a higher class (default 200ms; 0s = not at all)");
  app.add_option("--ready-fd", options.ready_fd, "write one JSON line there once the broker has welcomed this worker");
  app.add_flag("--once", options.once, "end with code 4 when the broker refuses this worker, instead of trying again");
  app.footer("SIGTERM drains (twice: stops at once), SIGINT stops at once. Devices are named by the UUID that `nvidia-smi -L` prints.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return usage_error(error.what(), "gpuq-worker --help");
  }

  if (!cpu_memory.empty()) {
    const auto size = gq::parse_mib(cpu_memory);
    if (!size || size->value <= 0) return usage_error("--cpu-memory: '" + cpu_memory + "' is not a size", "--cpu-memory 8GiB");
    options.devices.cpu_memory = *size;
  }
  if (!cache_bytes.empty()) {
    const auto size = gq::parse_mib(cache_bytes);
    if (!size || size->value <= 0) return usage_error("--cache-bytes: '" + cache_bytes + "' is not a size", "--cache-bytes 20GiB");
    options.cache_bytes = static_cast<std::uint64_t>(size->value) << 20U;
  }
  for (const auto& [text, name, target] : {std::tuple(&orphan_timeout, "--orphan-timeout", &options.orphan_timeout),
                                           std::tuple(&drain_grace, "--drain-grace", &options.drain_grace),
                                           std::tuple(&term_grace, "--term-grace", &options.term_grace),
                                           std::tuple(&pause_slice, "--pause-slice", &options.pauses.slice)}) {
    if (text->empty()) continue;
    const auto duration = gq::parse_duration(*text);
    if (!duration) return usage_error(std::string(name) + ": '" + *text + "' is not a duration", std::string(name) + " 30s");
    *target = *duration;
  }
  if (options.pauses.slice >= options.pauses.period) return usage_error("--pause-slice: '" + pause_slice + "' is not below 2s", "--pause-slice 200ms");
  for (const std::string& label : options.labels)
    if (label.find('=') == std::string::npos || label.front() == '=') return usage_error("--labels: '" + label + "' is not key=value", "--labels room=lab,card=big");
  return gq::worker::run_worker(std::move(options));
}
