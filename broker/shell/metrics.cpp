// metrics.cpp - numbers come from the broker's memory, never from a walk over the store.
#include "broker/shell/metrics.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "common/wire/messages.h"

namespace gq::broker {

namespace {

class Text {
 public:
  /// Opens a family; samples follow.
  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    ((((out_ += "# HELP ") += name) += ' ') += help) += '\n';
    ((((out_ += "# TYPE ") += name) += ' ') += type) += '\n';
  }
  void sample(double value, std::initializer_list<std::pair<std::string_view, std::string_view>> labels = {}, std::string_view suffix = {}) {
    (out_ += name_) += suffix;
    char separator = '{';
    for (const auto& [key, text] : labels) {
      (((out_ += separator) += key) += "=\"");
      for (const char c : text) {
        if (c == '\n') {
          out_ += "\\n";
          continue;
        }
        if (c == '"' || c == '\\') out_ += '\\';
        out_ += c;
      }
      out_ += '"';
      separator = ',';
    }
    if (labels.size() > 0) out_ += '}';
    char number[48];
    std::snprintf(number, sizeof number, " %.10g\n", value);
    out_ += number;
  }
  void single(std::string_view name, std::string_view type, std::string_view help, double value) {
    family(name, type, help);
    sample(value);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
  std::string name_;
};

double seconds(Duration d) { return static_cast<double>(d.count()) / 1e6; }
double number(auto value) { return static_cast<double>(value); }
double mebibytes(Mib m) { return static_cast<double>(m.value) * 1048576.0; }

std::uint64_t in_states(const core::Totals& totals, std::size_t job_class, std::initializer_list<JobState> states) {
  std::uint64_t sum = 0;
  for (const JobState s : states) sum += totals.by_class_and_state[job_class][static_cast<std::size_t>(s)];
  return sum;
}

void jobs(Text& text, const core::Totals& totals) {
  text.family("gpuq_jobs", "gauge", "Jobs remembered, by class and state.");
  for (std::size_t c = 0; c < kJobClasses; ++c)
    for (std::size_t s = 0; s < kJobStates; ++s)
      text.sample(number(totals.by_class_and_state[c][s]), {{"queue", to_string(static_cast<JobClass>(c))}, {"state", to_string(static_cast<JobState>(s))}});
  text.single("gpuq_jobs_submitted_total", "counter", "Jobs accepted since this broker started.", number(totals.submitted));
  text.family("gpuq_jobs_finished_total", "counter", "Jobs that reached a final state since this broker started.");
  text.sample(number(totals.succeeded), {{"outcome", "succeeded"}});
  text.sample(number(totals.failed), {{"outcome", "failed"}});
  text.single("gpuq_assignments_total", "counter", "Attempts granted since this broker started.", number(totals.assigned));
  text.single("gpuq_lease_expirations_total", "counter", "Attempts declared lost since this broker started.", number(totals.lost));
  text.single("gpuq_fenced_completions_total", "counter", "Ends refused as stale since this broker started.", number(totals.stale));
  text.single("gpuq_preemptions_total", "counter", "Attempts asked to leave their device since this broker started.", number(totals.preempted));
  text.single("gpuq_killed_at_deadline_total", "counter", "Of these: those that had not left by their deadline.", number(totals.killed_at_deadline));
  text.single("gpuq_model_evictions_total", "counter", "Idle models asked to leave their device since this broker started.", number(totals.evicted_models));
  text.family("gpuq_plans_total", "counter", "Plans to make room for a waiting job, by what came of them.");
  text.sample(number(totals.plans_made - std::min(totals.plans_made, totals.plans_expired)), {{"result", "followed"}});
  text.sample(number(totals.plans_expired), {{"result", "expired"}});
  text.family("gpuq_jobs_running", "gauge", "Jobs that hold a grant, by class.");
  for (std::size_t c = 0; c < kJobClasses; ++c)
    text.sample(number(in_states(totals, c, {JobState::running, JobState::yielding})), {{"queue", to_string(static_cast<JobClass>(c))}});
  text.family("gpuq_jobs_queued", "gauge", "Jobs that wait for anything, by class.");
  for (std::size_t c = 0; c < kJobClasses; ++c)
    text.sample(number(in_states(totals, c, {JobState::blocked, JobState::waiting, JobState::ready})), {{"queue", to_string(static_cast<JobClass>(c))}});
  text.single("gpuq_queued_payload_bytes", "gauge", "Payloads of unfinished jobs.", number(totals.queued_bytes));
  text.single("gpuq_undurable_bytes", "gauge", "Jobs with durability none, their payloads and results, in memory.", number(totals.undurable_bytes));
  text.single("gpuq_retained_bytes", "gauge", "Records, payloads and results of final jobs.", number(totals.final_bytes));
}

void store(Text& text, const BrokerFigures& f) {
  text.single("gpuq_store_up", "gauge", "1 while the store can be reached.", f.store_up ? 1 : 0);
  text.family("gpuq_store_op_seconds", "summary", "How long commits take, cut to durable.");
  text.sample(seconds(f.commit_latency.quantile(0.50)), {{"op", "commit"}, {"quantile", "0.5"}});
  text.sample(seconds(f.commit_latency.quantile(0.99)), {{"op", "commit"}, {"quantile", "0.99"}});
  text.sample(seconds(f.commit_latency.sum()), {{"op", "commit"}}, "_sum");
  text.sample(number(f.commit_latency.count()), {{"op", "commit"}}, "_count");
  text.single("gpuq_commit_jobs_total", "counter", "Jobs written, summed over commits.", number(f.jobs_committed));
  text.single("gpuq_commit_bytes_total", "counter", "Bytes written and read, summed over commits.", number(f.bytes_committed));
}

void fleet(Text& text, const BrokerFigures& f) {
  std::map<std::string, int> by_state{{"live", 0}, {"draining", 0}, {"silent", 0}, {"disconnected", 0}, {"lost", 0}};
  for (const core::WorkerView& w : f.workers) ++by_state[w.state];
  text.family("gpuq_workers", "gauge", "Workers known, by state.");
  for (const auto& [state, count] : by_state) text.sample(count, {{"state", state}});
  text.family("gpuq_worker_heartbeat_age_seconds", "gauge", "Since the newest heartbeat.");
  for (const core::WorkerView& w : f.workers) text.sample(seconds(w.since_beat), {{"worker", w.name}});

  const auto devices = [&](std::string_view name, std::string_view help, auto value_of) {
    text.family(name, "gauge", help);
    for (const core::WorkerView& w : f.workers)
      for (const core::DeviceView& d : w.devices) {
        if (d.report.kind == core::DeviceKind::cpu) continue;
        const double value = value_of(d);
        if (value >= 0) text.sample(value, {{"worker", w.name}, {"gpu", std::to_string(d.report.index)}, {"uuid", d.report.uuid}});
      }
  };
  devices("gpuq_gpu_memory_total_bytes", "Device memory.", [](const core::DeviceView& d) { return mebibytes(d.report.total); });
  devices("gpuq_gpu_memory_used_bytes", "Used by everybody, measured.", [](const core::DeviceView& d) { return mebibytes(d.report.used); });
  devices("gpuq_gpu_memory_reserved_bytes", "Granted by the ledger.", [](const core::DeviceView& d) { return mebibytes(d.granted); });
  devices("gpuq_gpu_open", "1 while new work may start on it.", [](const core::DeviceView& d) { return d.state.empty() || d.state.starts_with("ok") || d.state.starts_with("held") ? 1.0 : 0.0; });
  text.family("gpuq_gpu_state", "gauge", "Always 1; the label says why a device takes no new work.");
  for (const core::WorkerView& w : f.workers)
    for (const core::DeviceView& d : w.devices)
      if (d.report.kind != core::DeviceKind::cpu) text.sample(1, {{"worker", w.name}, {"gpu", std::to_string(d.report.index)}, {"uuid", d.report.uuid}, {"state", d.state.empty() ? "ok" : d.state.substr(0, d.state.find_first_of(" ("))}});
  devices("gpuq_gpu_temperature_celsius", "As the driver says.", [](const core::DeviceView& d) { return number(d.report.temperature_c); });
  devices("gpuq_gpu_utilization_ratio", "As the driver says.", [](const core::DeviceView& d) { return d.report.utilization_pct < 0 ? -1.0 : d.report.utilization_pct / 100.0; });
}

}  // namespace

std::string prometheus_text(const BrokerFigures& f, const gq::store::BlobStatistics& blobs, std::uint64_t auth_failures) {
  Text text;
  text.family("gpuq_build_info", "gauge", "Always 1.");
  text.sample(1, {{"version", kVersion}, {"protocol", std::to_string(wire::kProtocolVersion)}});
  text.single("gpuq_serving", "gauge", "1 while requests are answered and the store can be reached.", f.serving ? 1 : 0);
  text.single("gpuq_uptime_seconds", "gauge", "Since this broker started.", seconds(f.uptime));
  jobs(text, f.totals);
  store(text, f);
  fleet(text, f);
  text.family("gpuq_peers", "gauge", "Connections that have spoken.");
  text.sample(number(f.client_peers), {{"port", "clients"}});
  text.sample(number(f.worker_peers), {{"port", "workers"}});
  text.family("gpuq_messages_total", "counter", "Messages on both ports.");
  text.sample(number(f.messages_in), {{"direction", "in"}});
  text.sample(number(f.messages_out), {{"direction", "out"}});
  text.single("gpuq_messages_malformed_total", "counter", "Messages that could not be decoded.", number(f.malformed));
  text.single("gpuq_auth_failures_total", "counter", "Keys refused at the door.", number(auth_failures));
  text.single("gpuq_core_memory_bytes", "gauge", "Heap of the scheduler, by its own count.", number(f.core_bytes));
  text.single("gpuq_blob_bytes", "gauge", "Whole blobs stored.", number(blobs.bytes));
  text.single("gpuq_blobs", "gauge", "Whole blobs stored.", number(blobs.blobs));
  text.family("gpuq_blob_transferred_bytes_total", "counter", "Content of blobs that came or went; a file that a worker copied by itself did not go.");
  text.sample(number(blobs.bytes_in), {{"direction", "in"}});
  text.sample(number(blobs.bytes_out), {{"direction", "out"}});
  text.single("gpuq_blob_quota_bytes", "gauge", "Most bytes the blob store takes.", number(blobs.quota_bytes));
  return text.take();
}

}  // namespace gq::broker
