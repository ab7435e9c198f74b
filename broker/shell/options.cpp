// options.cpp - the command line and the configuration file. The flags are those of policy::broker_settings(): one list for both.
#include "broker/shell/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <vector>

#include "broker/policy/settings.h"
#include "broker/shell/broker.h"

namespace gq::broker {

namespace {

using Flag = policy::PolicySource::Flag;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string default_data_dir() {
  if (const std::string state = environment("XDG_STATE_HOME"); !state.empty()) return state + "/gpuq";
  const std::string home = environment("HOME");
  return (home.empty() ? std::string("/var/lib") : home + "/.local/state") + "/gpuq";
}

std::string swapped(std::string text, char from, char to) {
  std::replace(text.begin(), text.end(), from, to);
  return text;
}

/// broker.listen_clients -> --listen-clients
std::string flag_of(const std::string& key) { return "--" + swapped(key.substr(std::string_view("broker.").size()), '_', '-'); }

/// One flag for each key of [broker]; what was given is gathered as a list.
struct FlagSet {
  struct Entry {
    std::string key, value;
    bool truth{};
    CLI::Option* option{};
  };
  std::deque<Entry> entries;   // CLI11 keeps pointers into it

  void add_to(CLI::App& app) {
    for (const Setting& setting : policy::broker_settings()) {
      if (setting.key.starts_with("broker.timing.")) continue;
      Entry& entry = entries.emplace_back(Entry{setting.key, "", false, nullptr});
      const std::string help = setting.help + (setting.fallback.empty() || setting.type == SettingType::boolean ? "" : " (" + setting.fallback + ")");
      entry.option = setting.type == SettingType::boolean ? app.add_flag(flag_of(setting.key), entry.truth, help) : app.add_option(flag_of(setting.key), entry.value, help);
    }
  }
  [[nodiscard]] std::vector<Flag> given() const {
    std::vector<Flag> flags;
    for (const Entry& entry : entries)
      if (!entry.option->empty()) flags.push_back({entry.key, entry.value.empty() && entry.truth ? "true" : entry.value, flag_of(entry.key)});
    return flags;
  }
};

/// --timing NAME=DURATION
Result<void> add_timing(std::vector<Flag>& flags, const std::string& name_and_value) {
  const auto equals = name_and_value.find('=');
  const std::string name = swapped(name_and_value.substr(0, equals), '-', '_');
  const auto known = std::any_of(policy::kTimings.begin(), policy::kTimings.end(), [&](const policy::NamedTiming& timing) { return timing.name == name; });
  if (known) {
    flags.push_back({"broker.timing." + name, equals == std::string::npos ? "" : name_and_value.substr(equals + 1), "--timing"});
    return {};
  }
  std::string wrong = "no timing is called '" + name_and_value.substr(0, equals) + "'; there are:";
  for (const policy::NamedTiming& timing : policy::kTimings) wrong += " " + swapped(std::string(timing.name), '_', '-');
  return fail(Errc::usage, wrong, "gpuq-broker --help");
}

Result<void> take(Options& options, const Config& config) {
  const auto bytes = [&](const char* key) { return static_cast<std::uint64_t>(config.memory(key).value) << 20U; };
  options.data_dir = config.text("broker.data_dir");
  if (options.data_dir.empty()) options.data_dir = default_data_dir();
  options.redis = config.text("broker.redis");
  const auto durability = store::parse_durability(config.text("broker.durability"));
  if (!durability)
    return fail(Errc::usage, config.where("broker.durability") + ": broker.durability = '" + config.text("broker.durability") + "' is no durability", "\"always\" or \"everysec\"");
  options.durability = *durability;
  options.redis_budget_bytes = bytes("broker.redis_budget");
  const std::int64_t replicas = config.number("broker.redis_replicas");
  if (replicas < -1 || replicas > 16) return fail(Errc::usage, config.where("broker.redis_replicas") + ": broker.redis_replicas = " + std::to_string(replicas) + " is not 0..16", "1: a failover loses nothing that was answered");
  if (replicas >= 0) options.redis_replicas = static_cast<std::uint32_t>(replicas);
  options.redis_memory_bytes = bytes("broker.redis_memory");
  options.blob_quota_bytes = bytes("broker.blob_quota");
  options.queued_bytes_max = bytes("broker.queued_max");
  options.space = config.text("broker.namespace");
  options.listen_clients = config.text("broker.listen_clients");
  options.listen_workers = config.text("broker.listen_workers");
  options.listen_http = config.text("broker.listen_http");
  options.keys_dir = config.text("broker.keys");
  if (options.keys_dir.empty()) options.keys_dir = options.data_dir + "/keys";
  options.insecure = config.boolean("broker.insecure");
  for (const policy::NamedTiming& timing : policy::kTimings) options.timing.*timing.field = config.duration("broker.timing." + std::string(timing.name));
  return {};
}

}  // namespace

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app{"gpuq-broker - keeps jobs durable and gives them to workers.\n"
               "Without options: data and a private Redis in " + default_data_dir() + ", listening on loopback, keys made on the first start."};
  app.name("gpuq-broker");
  app.set_version_flag("--version", "gpuq-broker " + std::string(kVersion));
  std::string file, lease, restart_grace;
  std::vector<std::string> timings;
  app.add_option("--config", file, "gpuq.toml: [broker] has the options below, the other sections are the policy; SIGHUP reads it again");
  FlagSet set;
  set.add_to(app);
  auto* lease_option = app.add_option("--lease", lease, "How long an unheard worker keeps its jobs (10s)");
  auto* grace_option = app.add_option("--restart-grace", restart_grace, "How long after a start nothing is declared lost (15s)");
  app.add_option("--timing", timings, "NAME=DURATION, for tests; see limits.h");
  app.add_flag("--memory-store", options.memory_store, "For tests: NOTHING IS DURABLE");
  app.add_option("--ready-fd", options.ready_fd, "Write one JSON line with the endpoints to this descriptor once serving");
  FsckOptions fsck;
  CLI::App* fsck_command = app.add_subcommand("fsck", "Is the data whole? Looks at every record, set and blob that --data-dir or --redis holds, while no broker runs. Exit 1: there is damage");
  fsck_command->fallthrough();   // --data-dir and the others may stand behind it
  fsck_command->add_flag("--repair", fsck.repair, "File jobs where they belong; put aside what cannot be read. Nothing is deleted");
  fsck_command->add_flag("--deep", fsck.deep, "Read every blob, and try the whole queue in a scheduler");
  fsck_command->add_flag("--json", fsck.json, "One object instead of lines");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    app.exit(asked);
    return std::optional<Options>{};
  } catch (const CLI::ParseError& error) {
    return fail(Errc::usage, error.what(), "gpuq-broker --help");
  }
  if (fsck_command->parsed()) options.fsck = fsck;
  std::vector<Flag> flags = set.given();
  if (!lease_option->empty()) flags.push_back({"broker.timing.lease", lease, "--lease"});
  if (!grace_option->empty()) flags.push_back({"broker.timing.restart_grace", restart_grace, "--restart-grace"});
  for (const std::string& timing : timings)
    if (auto known = add_timing(flags, timing); !known) return tl::unexpected(known.error());
  auto source = policy::PolicySource::open(file, std::move(flags));
  if (!source) return tl::unexpected(source.error());
  if (auto taken = take(options, source->started_with()); !taken) return tl::unexpected(taken.error());
  options.policy = std::make_shared<policy::PolicySource>(std::move(*source));
  return std::optional<Options>(std::move(options));
}

}  // namespace gq::broker
