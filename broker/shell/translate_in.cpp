// translate_in.cpp - what peers said, checked and put into the core's words.
#include <algorithm>
#include <utility>

#include "broker/shell/translate.h"
#include "common/vocabulary/limits.h"

namespace gq::broker {

namespace {

constexpr std::size_t kTextMax = 256;        // labels, unique keys, where terms
constexpr std::size_t kErrorTextMax = 300;   // of record.h
constexpr std::int64_t kMibMax = kRestOfDevice.value;
constexpr std::size_t kDevicesMax = 64;
constexpr std::size_t kLanesMax = 1024;
constexpr std::size_t kMetadataMax = std::size_t{64} << 10U;

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7F; });
}

std::string known_kinds() {
  std::string text;
  for (const KindTraits& k : kKinds) text.append(text.empty() ? "" : ", ").append(k.name);
  return text;
}

/// NAME or NAME@VERSION.
bool is_model_ref(std::string_view text) {
  const auto at = text.find('@');
  if (at == std::string_view::npos) return is_name(text);
  return is_name(text.substr(0, at)) && is_name(text.substr(at + 1));
}

std::optional<Error> wrong_scheduling(const wire::SubmitItem& item) {
  const auto bad = [](std::string what, std::string next = {}) { return Error{Errc::bad_message, std::move(what), std::move(next)}; };
  if (item.job_class >= kJobClasses) return bad("job class " + std::to_string(item.job_class) + " does not exist", "use 0 inference, 1 training or 2 synthesis");
  if (item.priority > 9) return bad("priority " + std::to_string(item.priority) + " is outside 0..9", "9 goes first");
  if (item.on_preempt > static_cast<std::uint8_t>(OnPreempt::never)) return bad("on_preempt " + std::to_string(item.on_preempt) + " does not exist");
  if (item.budget_min_mib < 0 || item.budget_max_mib < 0 || item.budget_min_mib > kMibMax)
    return bad("the memory budget is outside 0.." + std::to_string(kMibMax) + " MiB");
  if (item.budget_max_mib != 0 && item.budget_max_mib < item.budget_min_mib)
    return bad("the memory budget's maximum is below its minimum", "write --vram MIN..MAX");
  if (item.devices < 1 || item.devices > kDevicesMax) return bad("a job takes 1.." + std::to_string(kDevicesMax) + " devices");
  if (item.retries > kLimits.retries_max) return Error{Errc::over_limit, "more than " + std::to_string(kLimits.retries_max) + " retries", {}};
  if (item.timeout_us < 0 || item.not_before_ms < 0 || item.deadline_ms < 0) return bad("a time is negative");
  return std::nullopt;
}

std::optional<Error> wrong_texts(const wire::SubmitItem& item) {
  if (!item.model.empty() && !is_model_ref(item.model))
    return Error{Errc::bad_message, "model '" + item.model.substr(0, kLimits.name_chars_max) + "' is no NAME or NAME@VERSION", {}};
  if (item.where.size() > kLimits.where_max) return Error{Errc::over_limit, "more than " + std::to_string(kLimits.where_max) + " --where terms", {}};
  for (const std::string& term : item.where)
    if (term.size() > kTextMax || term.find('=') == std::string::npos || !is_printable(term))
      return Error{Errc::bad_message, "a --where term is not key=value", {}};
  if (item.unique.size() > kTextMax || !is_printable(item.unique)) return Error{Errc::bad_message, "the unique key is longer than " + std::to_string(kTextMax) + " printable characters", {}};
  if (item.label.size() > kTextMax || !is_printable(item.label)) return Error{Errc::bad_message, "the label is longer than " + std::to_string(kTextMax) + " printable characters", {}};
  if (item.after.size() > kLimits.after_max) return Error{Errc::over_limit, "more than " + std::to_string(kLimits.after_max) + " --after jobs", {}};
  if (item.blobs.size() > kLimits.items_max) return Error{Errc::over_limit, "more than " + std::to_string(kLimits.items_max) + " input blobs", {}};
  return std::nullopt;
}

std::optional<Error> wrong_size(std::size_t bytes) {
  if (bytes <= kLimits.inline_bytes_max) return std::nullopt;
  return Error{Errc::too_large,
               "the job's body has " + std::to_string(bytes) + " bytes, " + std::to_string(kLimits.inline_bytes_max) + " travel inline",
               "put large parts into the blob store (BLOB_PUT) and name them"};
}

core::DeviceReport device_in(wire::Device&& d) {
  const auto mib = [](std::int64_t v) { return Mib{std::clamp<std::int64_t>(v, 0, kMibMax)}; };
  return {.uuid = std::move(d.uuid),
          .name = std::move(d.name),
          .kind = static_cast<core::DeviceKind>(d.kind),
          .index = d.index,
          .total = mib(d.total_mib),
          .driver = mib(d.driver_mib),
          .used = mib(d.used_mib),
          .used_by_us = mib(d.used_by_us_mib),
          .temperature_c = d.temperature_c,
          .utilization_pct = d.utilization_pct,
          .healthy = d.healthy};
}

Result<std::vector<core::DeviceReport>> devices_in(std::vector<wire::Device>&& devices) {
  if (devices.size() > kDevicesMax) return fail(Errc::over_limit, "more than " + std::to_string(kDevicesMax) + " devices");
  std::vector<core::DeviceReport> out;
  out.reserve(devices.size());
  for (wire::Device& d : devices) {
    if (d.uuid.empty() || d.uuid.size() > kTextMax || !is_printable(d.uuid)) return fail(Errc::bad_message, "a device has no usable UUID");
    if (d.name.size() > kTextMax || !is_printable(d.name)) return fail(Errc::bad_message, "device " + d.uuid + " has no printable name");
    if (d.kind > static_cast<std::uint8_t>(core::DeviceKind::simulated))
      return fail(Errc::bad_message, "device " + d.uuid + " is of unknown kind " + std::to_string(d.kind));
    out.push_back(device_in(std::move(d)));
  }
  return out;
}

Result<std::vector<core::LaneDeclared>> lanes_in(std::vector<wire::Lane>&& lanes) {
  if (lanes.size() > kLanesMax) return fail(Errc::over_limit, "more than " + std::to_string(kLanesMax) + " lanes");
  std::vector<core::LaneDeclared> out;
  out.reserve(lanes.size());
  for (wire::Lane& l : lanes) {
    if (l.kind > static_cast<std::uint8_t>(core::LaneKind::warm)) return fail(Errc::bad_message, "lane " + std::to_string(l.lane) + " is of unknown kind " + std::to_string(l.kind));
    if (l.device.size() > kTextMax || l.model.size() > kTextMax) return fail(Errc::bad_message, "lane " + std::to_string(l.lane) + " has an overlong name");
    out.push_back({l.lane, static_cast<core::LaneKind>(l.kind), std::move(l.device), std::move(l.model)});
  }
  return out;
}

std::vector<core::LaneCredit> credit_in(const std::vector<wire::Credit>& credit) {
  std::vector<core::LaneCredit> out;
  out.reserve(credit.size());
  for (const wire::Credit& c : credit) out.push_back({c.lane, c.limit});
  return out;
}

}  // namespace

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kLimits.name_chars_max && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

core::Grant to_core(const wire::Grant& g) { return {g.job, g.attempt, g.nonce}; }

std::vector<core::Grant> to_core(const std::vector<wire::Grant>& grants) {
  std::vector<core::Grant> out;
  out.reserve(grants.size());
  for (const wire::Grant& g : grants) out.push_back(to_core(g));
  return out;
}

Result<core::SubmitItem> to_core(wire::SubmitItem&& item, std::string_view body, TokenPool& pool) {
  if (item.id.empty()) return fail(Errc::bad_message, "a submit without a job id", "make a ULID for each job");
  const auto kind = kind_index(item.kind);
  if (!kind) return fail(Errc::unknown_kind, "no kind is called '" + item.kind.substr(0, kLimits.name_chars_max) + "'", "kinds: " + known_kinds());
  if (kKinds[*kind].uses_model && item.model.empty())
    return fail(Errc::unknown_model, "kind " + item.kind + " needs a model", "name one with --model; gpuq model list shows them");
  if (auto wrong = wrong_scheduling(item)) return tl::unexpected(std::move(*wrong));
  if (auto wrong = wrong_texts(item)) return tl::unexpected(std::move(*wrong));
  if (auto wrong = wrong_size(body.size())) return tl::unexpected(std::move(*wrong));

  std::sort(item.where.begin(), item.where.end());
  core::SubmitItem out;
  core::JobFixed& fixed = out.fixed;
  fixed.id = item.id;
  fixed.digest = item.digest;
  fixed.needs = {.kind = *kind,
                 .job_class = static_cast<JobClass>(item.job_class),
                 .model = std::move(item.model),
                 .budget_min = {item.budget_min_mib},
                 .budget_max = {std::min(item.budget_max_mib, kMibMax)},
                 .devices = item.devices,
                 .on_preempt = static_cast<OnPreempt>(item.on_preempt),
                 .exclusive = item.exclusive,
                 .where = std::move(item.where)};
  fixed.priority = item.priority;
  fixed.not_before = {item.not_before_ms};
  fixed.deadline = {item.deadline_ms};
  fixed.timeout = Duration{item.timeout_us};
  fixed.retries = item.retries;
  fixed.unique = std::move(item.unique);
  fixed.after = std::move(item.after);
  fixed.blobs = std::move(item.blobs);
  fixed.label = std::move(item.label);
  fixed.body_bytes = static_cast<std::uint32_t>(body.size());
  fixed.durable = item.durability != 1;
  out.durability_of_class = item.durability == 0;
  out.body = pool.add(body);
  out.watch = item.watch;
  out.strict = item.strict;
  return out;
}

Result<core::ListFilter> to_core(wire::ListQuery&& query) {
  core::ListFilter filter;
  if (!query.state.empty() && !(filter.state = parse_job_state(query.state)))
    return fail(Errc::bad_message, "no state is called '" + query.state + "'", "states: blocked waiting ready running yielding succeeded failed cancelled expired quarantined");
  if (!query.job_class.empty() && !(filter.job_class = parse_job_class(query.job_class)))
    return fail(Errc::bad_message, "no class is called '" + query.job_class + "'", "classes: inference training synthesis");
  if (!query.kind.empty() && !kind_index(query.kind)) return fail(Errc::unknown_kind, "no kind is called '" + query.kind + "'", "kinds: " + known_kinds());
  filter.kind = std::move(query.kind);
  filter.active_only = query.active_only;
  filter.after = query.after;
  filter.limit = std::clamp<std::uint32_t>(query.limit, 1, 500);
  return filter;
}

Result<core::WorkerHello> to_core(wire::WorkerHello&& hello, PeerId peer) {
  if (!is_name(hello.name)) return fail(Errc::bad_message, "a worker's name has 1..64 letters, digits, '.', '_' or '-'");
  core::WorkerHello out;
  out.peer = peer;
  out.worker = std::move(hello.name);
  out.instance = hello.instance;
  out.version = std::move(hello.version);
  out.host = std::move(hello.host);
  for (const std::string& name : hello.kinds)
    if (const auto kind = kind_index(name)) out.kinds.push_back(*kind);
  std::sort(out.kinds.begin(), out.kinds.end());
  for (const std::string& label : hello.labels)
    if (label.size() > kTextMax || label.find('=') == std::string::npos || !is_printable(label)) return fail(Errc::bad_message, "label '" + label.substr(0, kLimits.name_chars_max) + "' is not key=value");
  out.labels = std::move(hello.labels);
  std::sort(out.labels.begin(), out.labels.end());
  auto devices = devices_in(std::move(hello.devices));
  if (!devices) return tl::unexpected(std::move(devices.error()));
  out.devices = std::move(*devices);
  auto lanes = lanes_in(std::move(hello.lanes));
  if (!lanes) return tl::unexpected(std::move(lanes.error()));
  out.lanes = std::move(*lanes);
  out.credit = credit_in(hello.credit);
  out.running = to_core(hello.running);
  return out;
}

Result<core::WorkerPulled> to_core(wire::Pull&& pull, PeerId peer) {
  auto opened = lanes_in(std::move(pull.opened));
  if (!opened) return tl::unexpected(std::move(opened.error()));
  return core::WorkerPulled{peer, std::move(*opened), std::move(pull.closed), credit_in(pull.credit)};
}

Result<core::WorkerBeat> to_core(wire::WorkerBeat&& beat, PeerId peer) {
  auto devices = devices_in(std::move(beat.devices));
  if (!devices) return tl::unexpected(std::move(devices.error()));
  return core::WorkerBeat{peer, beat.last_number, to_core(beat.running), std::move(*devices)};
}

core::AttemptRefused to_core(wire::Refused&& refused, PeerId peer) {
  Errc code = Errc::no_fit;
  parse_errc(refused.code, code);
  refused.what.resize(std::min(refused.what.size(), kErrorTextMax));
  return {peer, to_core(refused.grant), code, std::move(refused.what)};
}

Result<core::AttemptEnd> to_core(wire::EndedItem&& item, std::string_view result, TokenPool& pool) {
  if (item.outcome > static_cast<std::uint8_t>(Outcome::lost)) return fail(Errc::bad_message, "outcome " + std::to_string(item.outcome) + " does not exist");
  core::AttemptEnd end;
  end.grant = to_core(item.grant);
  end.outcome = static_cast<Outcome>(item.outcome);
  end.started = item.started;
  if (end.outcome != Outcome::succeeded) {
    end.error = Errc::job_failed;
    parse_errc(item.code, end.error);
    item.what.resize(std::min(item.what.size(), kErrorTextMax));
    end.error_text = std::move(item.what);
  }
  end.checkpoint = {item.checkpoint, item.checkpoint_step};
  if (result.size() > kLimits.inline_bytes_max) {
    end.outcome = Outcome::failed_final;
    end.error = Errc::too_large;
    end.error_text = "the result has " + std::to_string(result.size()) + " bytes inline; above " + std::to_string(kLimits.inline_bytes_max) + " it belongs in a blob";
    return end;
  }
  end.result = pool.add(result);
  end.result_bytes = static_cast<std::uint32_t>(result.size());
  end.result_blobs = std::move(item.blobs);
  return end;
}

Result<core::ModelRecord> to_core(wire::ModelPush&& push, std::uint64_t blob_bytes, const std::string& owner, WallTime now) {
  wire::Model& m = push.model;
  if (!is_name(m.name)) return fail(Errc::bad_message, "a model's name has 1..64 letters, digits, '.', '_' or '-'");
  if (m.runtime != "torchscript" && m.runtime != "gpuq-detector" && m.runtime != "python")
    return fail(Errc::bad_model, "no runtime is called '" + m.runtime.substr(0, kLimits.name_chars_max) + "'", "runtimes: torchscript, gpuq-detector, python");
  if (m.metadata.size() > kMetadataMax) return fail(Errc::too_large, "a model's metadata has at most " + std::to_string(kMetadataMax) + " bytes");
  if (m.budget_mib < 0 || m.budget_mib > kMibMax) return fail(Errc::bad_message, "the model's memory budget is out of range");
  return core::ModelRecord{.name = std::move(m.name),
                           .version = to_string(m.blob).substr(0, 12),
                           .blob = m.blob,
                           .bytes = blob_bytes,
                           .runtime = std::move(m.runtime),
                           .budget = {m.budget_mib},
                           .metadata = std::move(m.metadata),
                           .pushed = now,
                           .owner = owner,
                           .promoted = false,
                           .promoted_at = {}};
}

}  // namespace gq::broker
