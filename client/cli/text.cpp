// text.cpp - see text.h. Golden tests fix what these print.
#include "client/cli/text.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <iomanip>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/cli/cli.h"
#include "common/vocabulary/units.h"

namespace gq::cli {

using Json = nlohmann::ordered_json;

std::int64_t wall_now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Result<VramRange> parse_vram(std::string_view text) {
  const auto bad = [&] { return fail(Errc::usage, "'" + std::string(text) + "' is no memory size", "use 6GiB, 6144MiB, 2GiB..8GiB or 2GiB..rest"); };
  const auto dots = text.find("..");
  const auto low = parse_mib(text.substr(0, dots));
  if (!low || low->value <= 0) return bad();
  if (dots == std::string_view::npos) return VramRange{low->value, low->value};
  const std::string_view rest = text.substr(dots + 2);
  if (rest == "rest") return VramRange{low->value, std::numeric_limits<std::int64_t>::max()};
  const auto high = parse_mib(rest);
  if (!high) return bad();
  if (high->value < low->value) return fail(Errc::usage, "the memory range '" + std::string(text) + "' is upside down", "use for example 2GiB..8GiB");
  return VramRange{low->value, high->value};
}

Result<std::chrono::milliseconds> parse_span(std::string_view text) {
  const auto span = parse_duration(text);
  if (!span) return fail(Errc::usage, "'" + std::string(text) + "' is no duration", "use for example 30s, 15min, 2h or 1h30min");
  return *span;
}

Result<std::int64_t> parse_when(std::string_view text, std::int64_t now_ms) {
  if (const auto span = parse_duration(text)) return now_ms + span->count();
  const std::string s(text);
  const std::time_t now_s = static_cast<std::time_t>(now_ms / 1000);
  std::tm parts{};
  int used = 0;
  if (std::sscanf(s.c_str(), "%2d:%2d%n", &parts.tm_hour, &parts.tm_min, &used) == 2 && static_cast<std::size_t>(used) == s.size() &&
      parts.tm_hour < 24 && parts.tm_min < 60 && parts.tm_hour >= 0 && parts.tm_min >= 0) {
    std::tm today{};
    localtime_r(&now_s, &today);
    today.tm_hour = parts.tm_hour, today.tm_min = parts.tm_min, today.tm_sec = 0, today.tm_isdst = -1;
    std::time_t due = std::mktime(&today);
    if (due <= now_s) {
      today.tm_mday += 1;
      today.tm_isdst = -1;
      due = std::mktime(&today);
    }
    return std::int64_t{due} * 1000;
  }
  parts = {};
  int year = 0, month = 0, seconds = 0;
  char separator = 0;
  used = 0;
  const int n = std::sscanf(s.c_str(), "%4d-%2d-%2d%c%2d:%2d%n", &year, &month, &parts.tm_mday, &separator, &parts.tm_hour, &parts.tm_min, &used);
  const auto bad = [&] { return fail(Errc::usage, "'" + s + "' is no time", "use 2h (from now), 22:30, or 2026-11-21T10:00Z"); };
  if (n != 6 || (separator != 'T' && separator != ' ')) return bad();
  std::string_view rest = text.substr(static_cast<std::size_t>(used));
  if (rest.size() >= 3 && rest[0] == ':') {
    if (std::sscanf(std::string(rest).c_str(), ":%2d", &seconds) != 1) return bad();
    rest.remove_prefix(3);
  }
  if (month < 1 || month > 12 || parts.tm_mday < 1 || parts.tm_mday > 31 || parts.tm_hour > 23 || parts.tm_min > 59 || seconds > 59) return bad();
  parts.tm_year = year - 1900, parts.tm_mon = month - 1, parts.tm_sec = seconds, parts.tm_isdst = -1;
  if (rest.empty()) return std::int64_t{std::mktime(&parts)} * 1000;
  const std::int64_t utc = std::int64_t{timegm(&parts)} * 1000;
  if (rest == "Z") return utc;
  int hours = 0, minutes = 0;
  char sign = 0;
  used = 0;
  const std::string zone(rest);
  if (std::sscanf(zone.c_str(), "%c%2d:%2d%n", &sign, &hours, &minutes, &used) != 3 || static_cast<std::size_t>(used) != zone.size() || (sign != '+' && sign != '-')) return bad();
  const std::int64_t offset = (hours * 60 + minutes) * std::int64_t{60'000};
  return sign == '+' ? utc - offset : utc + offset;
}

Result<std::pair<std::string, std::string>> parse_pair(const std::string& text, std::string_view option) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    return fail(Errc::usage, std::string(option) + " '" + text + "' is not of the form name=value", std::string(option) + " name=value");
  return std::pair{text.substr(0, equals), text.substr(equals + 1)};
}

std::string age(std::int64_t ms) {
  char buffer[32];
  const std::int64_t s = ms / 1000;
  if (ms < 0) return "0ms";
  if (ms < 1000) std::snprintf(buffer, sizeof buffer, "%dms", static_cast<int>(ms));
  else if (s < 60) std::snprintf(buffer, sizeof buffer, "%ds", static_cast<int>(s));
  else if (s < 3600) std::snprintf(buffer, sizeof buffer, "%dm%02ds", static_cast<int>(s / 60), static_cast<int>(s % 60));
  else if (s < 86'400) std::snprintf(buffer, sizeof buffer, "%dh%02dm", static_cast<int>(s / 3600), static_cast<int>(s / 60 % 60));
  else std::snprintf(buffer, sizeof buffer, "%lldd%02dh", static_cast<long long>(s / 86'400), static_cast<int>(s / 3600 % 24));
  return buffer;
}

std::string stamp(std::int64_t wall_ms) {
  if (wall_ms == 0) return "-";
  const std::time_t seconds = static_cast<std::time_t>(wall_ms / 1000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char buffer[32];
  std::strftime(buffer, sizeof buffer, "%Y-%m-%d %H:%M:%SZ", &parts);
  return buffer;
}

std::string when(std::int64_t wall_ms, std::int64_t now_ms) {
  if (wall_ms == 0) return "-";
  constexpr std::int64_t kDayMs = 86'400'000;
  const std::string whole = stamp(wall_ms);
  return (wall_ms / kDayMs == now_ms / kDayMs ? whole.substr(11) : whole) + (wall_ms > now_ms ? " (in " + age(wall_ms - now_ms) + ")" : "");
}

std::string ahead_text(std::uint64_t ahead) { return (ahead == std::numeric_limits<std::uint64_t>::max() ? "many" : std::to_string(ahead)) + " ahead"; }
Json ahead_json(std::uint64_t ahead) { return ahead == std::numeric_limits<std::uint64_t>::max() ? Json(nullptr) : Json(ahead); }

std::string mib(std::int64_t value) { return to_string(Mib{value}); }

std::string bytes_text(std::uint64_t bytes) {
  char buffer[32];
  if (bytes < 10'240) std::snprintf(buffer, sizeof buffer, "%llu B", static_cast<unsigned long long>(bytes));
  else if (bytes < (10ULL << 20U)) std::snprintf(buffer, sizeof buffer, "%llu KiB", static_cast<unsigned long long>(bytes >> 10U));
  else if (bytes < (10ULL << 30U)) std::snprintf(buffer, sizeof buffer, "%llu MiB", static_cast<unsigned long long>(bytes >> 20U));
  else std::snprintf(buffer, sizeof buffer, "%.1f GiB", static_cast<double>(bytes) / static_cast<double>(1ULL << 30U));
  return buffer;
}

std::string media_of(std::string_view name, std::string_view bytes) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return "image/png";
  if (bytes.starts_with("\xFF\xD8\xFF")) return "image/jpeg";
  const auto dot = name.rfind('.');
  const std::string_view extension = dot == std::string_view::npos ? "" : name.substr(dot + 1);
  if (extension == "json") return "application/json";
  if (extension == "txt" || extension == "csv" || extension == "log") return "text/plain";
  return "application/octet-stream";
}

bool is_text(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    const auto c = static_cast<unsigned char>(bytes[i]);
    std::size_t length = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : (c & 0xF0U) == 0xE0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    if (length == 0 || i + length > bytes.size()) return false;
    if (c < 0x20 && c != '\n' && c != '\t' && c != '\r') return false;
    if (c == 0x7F) return false;
    for (std::size_t k = 1; k < length; ++k)
      if ((static_cast<unsigned char>(bytes[i + k]) & 0xC0U) != 0x80) return false;
    i += length;
  }
  return true;
}

void Table::print(std::ostream& out, bool with_header) const {
  const auto columns_of = [](std::string_view text) {   // code points, good enough for names
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80; }));
  };
  std::vector<std::size_t> widths(header_.size());
  for (std::size_t i = 0; i < header_.size(); ++i) {
    if (with_header) widths[i] = columns_of(header_[i]);
    for (const auto& row : rows_) if (i < row.size()) widths[i] = std::max(widths[i], columns_of(row[i]));
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      text += cells[i];
      if (i + 1 < cells.size()) text.append(widths[i] - columns_of(cells[i]) + 2, ' ');
    }
    while (!text.empty() && text.back() == ' ') text.pop_back();
    out << text << '\n';
  };
  if (with_header) line(header_);
  for (const auto& row : rows_) line(row);
}

// ---- JSON

Json to_json(const gpuq::Submitted& s) {
  Json j{{"id", s.id}, {"ok", s.ok}, {"existing", s.existing}};
  if (!s.ok) j["error"] = {{"code", s.code}, {"what", s.what}, {"next", s.next}};
  return j;
}

Json to_json(const gpuq::JobStatus& s) {
  Json j{{"id", s.id}, {"found", s.found}};
  if (!s.found) return j;
  j.update({{"kind", s.kind}, {"class", s.job_class}, {"state", s.state}, {"priority", s.priority}, {"model", s.model}, {"model_version", s.model_version},
            {"label", s.label}, {"owner", s.owner}, {"worker", s.worker}, {"device", s.device}, {"code", s.code}, {"what", s.what}, {"reason", s.reason},
            {"ahead", ahead_json(s.ahead)}, {"on_preempt", s.on_preempt}, {"cancel_asked", s.cancel_asked}, {"attempt", s.attempt}, {"failures", s.failures},
            {"losses", s.losses}, {"preemptions", s.preemptions}, {"evictions", s.evictions}, {"held", s.held}, {"leave_reason", s.leave_reason},
            {"leave_for", s.leave_for}, {"durability", s.durable ? "always" : "none"}, {"retries", s.retries}, {"vram_min_mib", s.budget_min_mib}, {"vram_max_mib", s.budget_max_mib},
            {"granted_mib", s.granted_mib}, {"submitted_ms", s.submitted_ms}, {"started_ms", s.started_ms}, {"ended_ms", s.ended_ms}, {"due_ms", s.due_ms},
            {"deadline_ms", s.deadline_ms}, {"progress_step", s.progress_step}, {"progress_total", s.progress_total}, {"checkpoint_step", s.checkpoint_step},
            {"checkpoint", s.checkpoint}, {"result_bytes", s.result_bytes}, {"result_blobs", s.result_blobs}, {"retry_of", s.retry_of}, {"after", s.after}});
  j["metrics"] = s.metrics;
  j["last_lines"] = is_text(s.last_lines) ? s.last_lines : "";
  return j;
}

Json to_json(const gpuq::JobResult& r) {
  Json j{{"id", r.id}, {"state", r.state}};
  if (!r.ok()) j["error"] = {{"code", r.code}, {"what", r.what}};
  j.update({{"attempt", r.attempt}, {"worker", r.worker}, {"device", r.device}, {"model_version", r.model_version},
            {"submitted_ms", r.submitted_ms}, {"started_ms", r.started_ms}, {"ended_ms", r.ended_ms}});
  j["values"] = r.values;
  j["parts"] = Json::array();
  for (const gpuq::Part& part : r.parts) {
    Json p{{"name", part.name}, {"media", part.media}, {"size_bytes", part.blob.empty() && part.share.empty() ? part.bytes.size() : part.size}};
    if (!part.share.empty()) p["share"] = part.share;
    else if (!part.blob.empty()) p["blob"] = part.blob;
    else if (part.media == "application/json") {
      auto value = Json::parse(part.bytes, nullptr, false);
      if (!value.is_discarded()) p["json"] = std::move(value);
    } else if (is_text(part.bytes)) p["text"] = part.bytes;
    j["parts"].push_back(std::move(p));
  }
  return j;
}

Json to_json(const std::vector<gpuq::Detection>& detections) {
  Json j = Json::array();
  for (const gpuq::Detection& d : detections) j.push_back({{"box_px", {d.x1, d.y1, d.x2, d.y2}}, {"score", d.score}, {"label", d.label}, {"name", d.name}});
  return j;
}

Json to_json(const gpuq::WorkerStatus& w) {
  Json j{{"name", w.name}, {"host", w.host}, {"version", w.version}, {"state", w.state}, {"since_beat_ms", w.since_beat_ms},
         {"labels", w.labels}, {"kinds", w.kinds}, {"running", w.running}};
  j["devices"] = Json::array();
  for (const gpuq::DeviceStatus& d : w.devices)
    j["devices"].push_back({{"uuid", d.uuid}, {"name", d.name}, {"kind", d.kind}, {"index", d.index}, {"healthy", d.healthy}, {"temperature_c", d.temperature_c},
                            {"utilization_pct", d.utilization_pct}, {"total_mib", d.total_mib}, {"driver_mib", d.driver_mib}, {"used_mib", d.used_mib},
                            {"used_by_gpuq_mib", d.used_by_us_mib}, {"headroom_mib", d.headroom_mib}, {"foreign_mib", d.foreign_mib}, {"granted_mib", d.granted_mib},
                            {"free_mib", d.free_mib}, {"holders", d.holders}, {"warm", d.warm}, {"state", d.state}, {"reserved", d.reserved}});
  return j;
}

Json to_json(const gpuq::Model& m) {
  return {{"name", m.name}, {"version", m.version}, {"runtime", m.runtime}, {"blob", m.blob}, {"size_bytes", m.bytes}, {"budget_mib", m.budget_mib},
          {"pushed_ms", m.pushed_ms}, {"owner", m.owner}, {"promoted", m.promoted}, {"promoted_ms", m.promoted_ms}, {"metadata", m.metadata}};
}

Json to_json(const gpuq::Top& t) {
  Json j{{"broker_version", t.broker_version}, {"store", t.store}, {"space", t.space}, {"term", t.term}, {"uptime_ms", t.uptime_ms}};
  Json classes = Json::object();
  for (int c = 0; c < 3; ++c) {
    Json states = Json::object();
    for (int s = 0; s < 10; ++s) states[gpuq::state_name(s)] = t.jobs[c][s];
    classes[gpuq::class_name(c)] = std::move(states);
  }
  j["jobs"] = std::move(classes);
  j.update({{"submitted_total", t.submitted}, {"succeeded_total", t.succeeded}, {"failed_total", t.failed}, {"lost_total", t.lost}, {"stale_total", t.stale},
            {"assigned_total", t.assigned}, {"queued_bytes", t.queued_bytes}, {"final_bytes", t.final_bytes}, {"broker_bytes", t.broker_bytes},
            {"commits_total", t.commits}, {"commit_p50_ms", t.commit_p50_ms}, {"commit_p99_ms", t.commit_p99_ms}, {"jobs_per_commit", t.jobs_per_commit},
            {"preempted_total", t.preempted}, {"evicted_models_total", t.evicted_models}, {"preemption_plans_total", t.plans_made},
            {"preemption_plans_expired_total", t.plans_expired}, {"killed_at_deadline_total", t.killed_at_deadline}, {"switches", t.switches}});
  return j;
}

void print_object(std::ostream& out, bool line, std::string_view key, const Json& object) {
  Json whole{{"schema_version", kSchemaVersion}};
  if (line) whole.update(object);
  else whole[std::string(key)] = object;
  out << whole.dump(line ? -1 : 2, ' ', false, Json::error_handler_t::replace) << '\n';
}

void print_json(std::ostream& out, bool lines, std::string_view key, const std::vector<Json>& items) {
  if (lines) {
    for (const Json& item : items) {
      Json line{{"schema_version", kSchemaVersion}};
      line.update(item);
      out << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
    }
    return;
  }
  Json whole{{"schema_version", kSchemaVersion}};
  whole[std::string(key)] = items;
  out << whole.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

}  // namespace gq::cli
