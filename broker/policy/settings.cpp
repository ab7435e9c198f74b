// settings.cpp - see settings.h.
#include "broker/policy/settings.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "broker/core/policy.h"

namespace gq::policy {

namespace {

std::string words(const std::vector<JobClass>& classes) {
  std::string text;
  for (const JobClass c : classes) (text += text.empty() ? "" : ",") += to_string(c);
  return text;
}

void add_class(std::vector<Setting>& all, JobClass c, const core::ClassPolicy& d) {
  const std::string prefix = "class." + std::string(to_string(c)) + ".";
  const auto add = [&](const char* key, SettingType type, std::string fallback, const char* help) { all.push_back({prefix + key, type, std::move(fallback), help}); };
  add("budget", SettingType::text, d.budget == Mib{} ? "kind" : typed(d.budget),
      "largest grant of a job that names no --vram: a size such as \"12GiB\", \"rest\" = whatever the card has, or \"kind\" = the kind's own default");
  add("window", SettingType::text, "always", "jobs start only inside, and leave before it closes: \"22:00-07:00, sat-sun\"");
  add("time_zone", SettingType::text, "", "IANA name for window and when, such as \"Asia/Seoul\"; empty = policy.time_zone");
  add("devices", SettingType::list, "", "where its jobs may run: [\"host1/0\", \"label:big\", \"GPU-…\", \"0\"]; empty = everywhere");
  add("not_beside", SettingType::list, words(d.not_beside), "classes it never shares a device with: [\"training\"]");
  add("pause_for", SettingType::list, words(d.pause_for), "higher classes for which it is held on a card while they have work there: [\"inference\"]");
  add("preemptible", SettingType::boolean, d.preemptible ? "true" : "false", "may higher classes take the device away?");
  add("cloud", SettingType::text, d.cloud ? "allowed" : "never", "may its jobs start on rented devices (of workers with a label cloud=PROVIDER)? \"allowed\" or \"never\"");
  add("durability", SettingType::text, d.durable ? "always" : "none", "of its jobs that answer a waiting caller and say nothing themselves: \"always\" = on disk before the submit is answered, \"none\" = in memory only");
  add("min_run", SettingType::duration, typed(d.min_run), "not preempted before; nothing starts that cannot run so long before its window closes");
  add("min_run_ignored_by", SettingType::list, words(d.min_run_ignored_by), "classes that need not wait for min_run");
  add("preemptions_max", SettingType::number, std::to_string(d.preemptions_max), "preempted so often by higher classes, a job may finish");
  add("protect_after", SettingType::number, std::to_string(d.protect_after), "from so many preemptions on, min_run grows by itself with each one");
  add("grace", SettingType::duration, typed(d.grace), "from being asked to leave to being killed");
  add("checkpoint_interval", SettingType::duration, typed(d.checkpoint_interval), "how often its jobs checkpoint: stopping one never costs more than this");
  add("running_max", SettingType::number, std::to_string(d.running_max), "most jobs that run at once; 0 = no cap");
  add("queued_max", SettingType::number, std::to_string(d.queued_max), "most jobs that wait to start; beyond it submits get QUEUE_FULL; 0 = no cap");
  add("reserve[].device", SettingType::text, "", "\"GPU-…\", \"label:NAME\", \"HOST/INDEX\", \"INDEX\" while one host is known, or \"*\" = every device");
  add("reserve[].vram", SettingType::text, "", "kept for this class: a size \"6GiB\", a part of the card \"25%\", or \"loaded\" = what its warm models hold");
  add("reserve[].when", SettingType::text, "always", "a window: \"mon-fri 07:00-22:00\"");
  add("reserve[].time_zone", SettingType::text, "", "IANA name; empty = the class's");
}

}  // namespace

std::string typed(Duration duration) {
  auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  if (ms == 0) return "0s";
  std::string text;
  for (const auto& [unit, size] : {std::pair{"d", 86'400'000LL}, {"h", 3'600'000LL}, {"min", 60'000LL}, {"s", 1'000LL}, {"ms", 1LL}}) {
    if (ms >= size) text += std::to_string(ms / size) + unit;
    ms %= size;
  }
  return text;
}

std::string typed(Mib size) {
  return size.value % 1024 == 0 ? std::to_string(size.value / 1024) + "GiB" : std::to_string(size.value) + "MiB";
}

std::vector<Setting> broker_settings() {
  std::vector<Setting> all{
      {"broker.data_dir", SettingType::text, "", "where the managed Redis, blobs and keys lie; empty = $XDG_STATE_HOME/gpuq or ~/.local/state/gpuq"},
      {"broker.redis", SettingType::text, "", "use this Redis: redis[s]://[user:password@]host[:port][/db], redis[s]-sentinel://host,host,host#NAME or a unix socket's path; empty = a managed child"},
      {"broker.redis_replicas", SettingType::number, "-1", "replicas that must have a batch before it is answered; -1 = 1 with sentinels, else 0"},
      {"broker.durability", SettingType::text, "always", "always: fsync before every answer; everysec: a power cut may take the last seconds"},
      {"broker.redis_budget", SettingType::memory, "", "bytes gpuq may use of a Redis without maxmemory, such as \"2GiB\""},
      {"broker.redis_memory", SettingType::memory, "", "maxmemory of the managed child, such as \"4GiB\""},
      {"broker.blob_quota", SettingType::memory, "64GiB", "most bytes of the blob store"},
      {"broker.queued_max", SettingType::memory, "4GiB", "most bytes of payloads of unfinished jobs; beyond it submits get QUEUE_FULL"},
      {"broker.namespace", SettingType::text, "default", "keys are gpuq:{NAME}:…; one broker group per namespace"},
      {"broker.listen_clients", SettingType::text, "tcp://127.0.0.1:7700", "endpoint for clients and admins; port 0 = any"},
      {"broker.listen_workers", SettingType::text, "tcp://127.0.0.1:7701", "endpoint for workers; port 0 = any"},
      {"broker.listen_http", SettingType::text, "127.0.0.1:7702", "host:port for /healthz and /metrics, or \"none\""},
      {"broker.keys", SettingType::text, "", "folder of the server's key pair and of who may enter; empty = DATA/keys"},
      {"broker.insecure", SettingType::boolean, "false", "no keys, no encryption; loopback only"}};
  for (const NamedTiming& timing : kTimings)
    all.push_back({"broker.timing." + std::string(timing.name), SettingType::duration, typed(Timing{}.*timing.field), "see limits.h"});
  return all;
}

std::vector<Setting> policy_settings() {
  const core::Policy d;
  std::vector<Setting> all{
      {"policy.ladder", SettingType::list, words({d.ladder.begin(), d.ladder.end()}), "every class once, the highest first"},
      {"policy.aging", SettingType::text, typed(d.aging_step), "one step of --priority is worth so much waiting; \"off\" = strict priority inside a class"},
      {"policy.headroom", SettingType::text, std::to_string(d.headroom_pct) + "%", "part of every card that is never granted"},
      {"policy.hold_at_c", SettingType::number, std::to_string(d.hold_at_c), "a device this hot gets no new work"},
      {"policy.resume_at_c", SettingType::number, std::to_string(d.resume_at_c), "… until it has cooled down to this"},
      {"policy.reserve_after", SettingType::duration, typed(d.reserve_after), "a gang, or a job too large for what is left, waits so long; then room is kept for it"},
      {"policy.model_idle_min", SettingType::duration, typed(d.model_idle_min), "a lower class evicts only models idle for so long"},
      {"policy.packing", SettingType::text, "auto", "\"best-fit\", \"fgd\" (least fragmentation), or \"auto\" = fgd in fleets of more than 8 devices"},
      {"policy.fair", SettingType::boolean, d.fair ? "true" : "false", "tenants of a class take turns, by GPU-seconds used lately"},
      {"policy.fair_half_life", SettingType::duration, typed(d.fair_half_life), "after so long, use counts half"},
      {"policy.time_zone", SettingType::text, "local", "IANA name for windows that name none; \"local\" = TZ, or the broker's machine"},
      {"device.*.headroom", SettingType::text, "", "part or amount of this card that is never granted: \"10%\" or \"1GiB\""},
      {"device.*.hold_at_c", SettingType::number, "0", "as policy.hold_at_c, for this device"},
      {"device.*.resume_at_c", SettingType::number, "0", "as policy.resume_at_c, for this device"},
      {"device.*.labels", SettingType::list, "", "what \"label:NAME\" finds, beside the worker's own labels"},
      {"tenant.*.running_max", SettingType::number, "0", "most jobs that run at once; 0 = no cap"},
      {"tenant.*.queued_max", SettingType::number, "0", "most unfinished jobs; 0 = no cap"},
      {"tenant.*.weight", SettingType::real, "1", "share under policy.fair"}};
  for (std::size_t c = 0; c < kJobClasses; ++c) add_class(all, static_cast<JobClass>(c), d.of(static_cast<JobClass>(c)));
  return all;
}

std::vector<Setting> file_settings() {
  auto all = broker_settings();
  auto rest = policy_settings();
  std::move(rest.begin(), rest.end(), std::back_inserter(all));
  return all;
}

}  // namespace gq::policy
