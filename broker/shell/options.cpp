// options.cpp - the command line and the configuration file.
#include "broker/shell/options.h"

#include <CLI/CLI.hpp>
#include <array>
#include <cstdlib>
#include <iostream>
#include <vector>

#include "broker/shell/broker.h"

namespace gq::broker {

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string default_data_dir() {
  if (const std::string state = environment("XDG_STATE_HOME"); !state.empty()) return state + "/gpuq";
  const std::string home = environment("HOME");
  return (home.empty() ? std::string("/var/lib") : home + "/.local/state") + "/gpuq";
}

struct NamedDuration { std::string_view name; Duration Timing::*field; };
constexpr std::array kTimingNames{
    NamedDuration{"heartbeat", &Timing::heartbeat_interval}, NamedDuration{"silence", &Timing::silence},
    NamedDuration{"lease", &Timing::lease},                  NamedDuration{"restart-grace", &Timing::restart_grace},
    NamedDuration{"offer-timeout", &Timing::offer_timeout},  NamedDuration{"probe-span", &Timing::rescue_probe_span},
    NamedDuration{"hello-wait", &Timing::rescue_hello_wait}, NamedDuration{"beat-age", &Timing::rescue_beat_age},
    NamedDuration{"own-stall", &Timing::own_stall},          NamedDuration{"timeout-margin", &Timing::timeout_margin},
    NamedDuration{"yield-deadline", &Timing::yield_deadline},NamedDuration{"backoff-min", &Timing::retry_backoff_min},
    NamedDuration{"backoff-max", &Timing::retry_backoff_max},NamedDuration{"refuse-backoff", &Timing::refuse_backoff},
    NamedDuration{"aging-step", &Timing::aging_step},        NamedDuration{"tombstone", &Timing::tombstone},
    NamedDuration{"retention", &Timing::result_retention},   NamedDuration{"orphan-timeout", &Timing::orphan_timeout}};

bool set_timing(Timing& timing, const std::string& name_and_value, std::string& wrong) {
  const auto equals = name_and_value.find('=');
  const std::string name = name_and_value.substr(0, equals);
  const auto value = equals == std::string::npos ? std::nullopt : parse_duration(std::string_view(name_and_value).substr(equals + 1));
  for (const NamedDuration& known : kTimingNames) {
    if (known.name != name) continue;
    if (!value) {
      wrong = "'" + name_and_value + "' has no duration such as 250ms, 30s or 1h30min";
      return false;
    }
    timing.*known.field = *value;
    return true;
  }
  wrong = "no timing is called '" + name + "'; there are:";
  for (const NamedDuration& known : kTimingNames) wrong.append(" ").append(known.name);
  return false;
}

std::uint64_t bytes_of(const std::string& text, const char* flag, std::string& wrong) {
  if (text.empty()) return 0;
  const auto size = parse_mib(text);
  if (!size) wrong = std::string(flag) + " '" + text + "' is no size such as 512MiB or 4GiB";
  return size ? static_cast<std::uint64_t>(size->value) << 20U : 0;
}

}  // namespace

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  options.data_dir = default_data_dir();
  CLI::App app{"gpuq-broker - keeps jobs durable and gives them to workers.\n"
               "Without options: data and a private Redis in " + options.data_dir + ", listening on loopback, keys made on the first start."};
  app.name("gpuq-broker");
  app.set_version_flag("--version", "gpuq-broker " + std::string(kVersion));
  app.set_config("--config", "", "Options from a TOML file, named as the flags: listen-clients = \"tcp://…\"")->check(CLI::ExistingFile);
  app.allow_config_extras(CLI::config_extras_mode::error);
  std::string durability = "always", redis_budget, redis_memory, blob_quota, queued_max, lease, restart_grace;
  std::vector<std::string> timings;
  app.add_option("--data-dir", options.data_dir, "Where the managed Redis, blobs and keys lie")->capture_default_str();
  app.add_option("--redis", options.redis, "Use this Redis: redis[s]://[user:password@]host[:port][/db] or a unix socket's path (default: a managed child)");
  app.add_option("--durability", durability, "always: fsync before every answer; everysec: a power cut may take the last seconds")
      ->check(CLI::IsMember({"always", "everysec"}))->capture_default_str();
  app.add_option("--redis-budget", redis_budget, "Bytes gpuq may use of a Redis without maxmemory, e.g. 2GiB");
  app.add_option("--redis-memory", redis_memory, "maxmemory of the managed child, e.g. 4GiB");
  app.add_option("--blob-quota", blob_quota, "Most bytes of the blob store (default 64GiB)");
  app.add_option("--queued-max", queued_max, "Most bytes of payloads of unfinished jobs; beyond it submits get QUEUE_FULL");
  app.add_option("--namespace", options.space, "Keys are gpuq:{NAME}:…; one broker group per namespace")->capture_default_str();
  app.add_option("--listen-clients", options.listen_clients, "Endpoint for clients and admins; port 0 = any")->capture_default_str();
  app.add_option("--listen-workers", options.listen_workers, "Endpoint for workers; port 0 = any")->capture_default_str();
  app.add_option("--listen-http", options.listen_http, "host:port for /healthz and /metrics, or 'none'")->capture_default_str();
  app.add_option("--keys", options.keys_dir, "Folder of the server's key pair and of who may enter (default DATA/keys; made if absent)");
  app.add_flag("--insecure", options.insecure, "No keys, no encryption; loopback only");
  app.add_option("--lease", lease, "How long an unheard worker keeps its jobs (default 10s)");
  app.add_option("--restart-grace", restart_grace, "How long after a start nothing is declared lost (default 15s)");
  app.add_option("--timing", timings, "NAME=DURATION, for tests; see limits.h");
  app.add_flag("--memory-store", options.memory_store, "For tests: NOTHING IS DURABLE");
  app.add_option("--ready-fd", options.ready_fd, "Write one JSON line with the endpoints to this descriptor once serving");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    app.exit(asked);
    return std::optional<Options>{};
  } catch (const CLI::ParseError& error) {
    return fail(Errc::usage, error.what(), "gpuq-broker --help");
  }
  std::string wrong;
  options.durability = store::parse_durability(durability).value_or(store::Durability::always);
  options.redis_budget_bytes = bytes_of(redis_budget, "--redis-budget", wrong);
  options.redis_memory_bytes = bytes_of(redis_memory, "--redis-memory", wrong);
  if (!blob_quota.empty()) options.blob_quota_bytes = bytes_of(blob_quota, "--blob-quota", wrong);
  options.queued_bytes_max = bytes_of(queued_max, "--queued-max", wrong);
  if (!lease.empty()) timings.insert(timings.begin(), "lease=" + lease);
  if (!restart_grace.empty()) timings.insert(timings.begin(), "restart-grace=" + restart_grace);
  for (const std::string& timing : timings)
    if (!set_timing(options.timing, timing, wrong)) break;
  if (!wrong.empty()) return fail(Errc::usage, wrong, "gpuq-broker --help");
  if (options.keys_dir.empty()) options.keys_dir = options.data_dir + "/keys";
  return std::optional<Options>(std::move(options));
}

}  // namespace gq::broker
