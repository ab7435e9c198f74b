// job_json.cpp - one table of fields; each reads its own type.
#include "client/http/job_json.h"

#include <openssl/evp.h>

#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "client/cli/text.h"
#include "common/config/nearest.h"

namespace gq::http {

namespace {

using Json = nlohmann::json;
using Problem = std::optional<Error>;

Error bad(std::string what, std::string next = "GET /api/v1/openapi.json says what a job looks like") { return {Errc::bad_message, std::move(what), std::move(next)}; }
Error wrong(const std::string& field, const char* wanted) { return bad("\"" + field + "\" is not " + wanted); }

Problem read(const std::string& field, const Json& value, std::string& into) {
  if (!value.is_string()) return wrong(field, "a string");
  into = value.get<std::string>();
  return {};
}
Problem read(const std::string& field, const Json& value, bool& into) {
  if (!value.is_boolean()) return wrong(field, "true or false");
  into = value.get<bool>();
  return {};
}
template <class Integer>
Problem read_integer(const std::string& field, const Json& value, Integer& into) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<Integer>::max())) ||
      (!value.is_number_unsigned() && (value.get<std::int64_t>() < 0)))
    return wrong(field, "a whole number of 0 or more");
  into = value.get<Integer>();
  return {};
}
Problem read(const std::string& field, const Json& value, int& into) { return read_integer(field, value, into); }
Problem read(const std::string& field, const Json& value, std::int64_t& into) { return read_integer(field, value, into); }
Problem read(const std::string& field, const Json& value, std::vector<std::string>& into) {
  if (!value.is_array()) return wrong(field, "a list of strings");
  for (const Json& one : value) {
    if (!one.is_string()) return wrong(field, "a list of strings");
    into.push_back(one.get<std::string>());
  }
  return {};
}
/// Numbers and truths too: --set conf=0.4 is a text on every way in.
Problem read(const std::string& field, const Json& value, std::map<std::string, std::string>& into) {
  if (!value.is_object()) return wrong(field, "an object of strings, numbers, true and false");
  for (const auto& [key, one] : value.items()) {
    if (one.is_string()) into[key] = one.get<std::string>();
    else if (one.is_number() || one.is_boolean()) into[key] = one.dump();
    else return wrong(field + "." + key, "a string, a number, true or false");
  }
  return {};
}
Problem read_span(const std::string& field, const Json& value, std::chrono::milliseconds& into) {
  if (!value.is_number() || !(value.get<double>() >= 0) || value.get<double>() > 1e9) return wrong(field, "a number of seconds");
  into = std::chrono::milliseconds(std::llround(value.get<double>() * 1000));
  return {};
}
Problem read_vram(const std::string& field, const Json& value, gpuq::JobSpec& spec) {
  if (!value.is_string()) return wrong(field, "a text like \"6GiB\", \"2GiB..8GiB\" or \"2GiB..rest\"");
  const auto range = cli::parse_vram(value.get<std::string>());
  if (!range) return bad(range.error().what, range.error().next);
  spec.vram_min_mib = range->min_mib;
  spec.vram_max_mib = range->max_mib;
  return {};
}

Problem read_base64(const std::string& field, const Json& value, std::string& into) {
  if (!value.is_string()) return wrong(field, "base64 text");
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() % 4 != 0) return wrong(field, "base64 text (its length is no multiple of 4)");
  into.resize(text.size() / 4 * 3);
  const int n = text.empty() ? 0 : EVP_DecodeBlock(reinterpret_cast<unsigned char*>(into.data()), reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (n < 0) return wrong(field, "base64 text");
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  into.resize(static_cast<std::size_t>(n) - padding);
  return {};
}

template <class Fields>
std::vector<std::string> names_of(const Fields& fields) {
  std::vector<std::string> names;
  for (const auto& [name, reader] : fields) names.push_back(name);
  return names;
}

/// Every member of `object` is one of `fields`.
template <class Fields, class Into>
Problem read_object(const std::string& whole, const Json& object, const Fields& fields, Into& into) {
  for (const auto& [key, value] : object.items()) {
    const auto field = fields.find(key);
    if (field == fields.end()) {
      const std::string near = nearest(names_of(fields), key);
      return bad(whole + " has no field \"" + key.substr(0, 64) + "\"" + (near.empty() ? "" : ", did you mean \"" + near + "\"?"));
    }
    if (auto problem = field->second(key, value, into)) return problem;
  }
  return {};
}

template <auto Member, class T>
Problem into_member(const std::string& field, const Json& value, T& into) { return read(field, value, into.*Member); }

struct PartFields { gpuq::Part part; int contents = 0; };
using PartReader = std::function<Problem(const std::string&, const Json&, PartFields&)>;
using JobReader = std::function<Problem(const std::string&, const Json&, JobAsked&)>;

const std::map<std::string, PartReader>& part_fields() {
  static const std::map<std::string, PartReader> fields{
      {"name", [](const auto& f, const Json& v, PartFields& p) { return read(f, v, p.part.name); }},
      {"media", [](const auto& f, const Json& v, PartFields& p) { return read(f, v, p.part.media); }},
      {"text", [](const auto& f, const Json& v, PartFields& p) { ++p.contents; return read(f, v, p.part.bytes); }},
      {"base64", [](const auto& f, const Json& v, PartFields& p) { ++p.contents; return read_base64(f, v, p.part.bytes); }},
      {"json", [](const auto&, const Json& v, PartFields& p) { ++p.contents; p.part.bytes = v.dump(); return Problem{}; }},
      {"share", [](const auto& f, const Json& v, PartFields& p) { ++p.contents; return read(f, v, p.part.share); }},
  };
  return fields;
}

Problem read_parts(const std::string& field, const Json& value, gpuq::JobSpec& spec) {
  if (!value.is_array()) return wrong(field, "a list of parts");
  if (value.size() > kPartsMax) return Error{Errc::over_limit, "more than " + std::to_string(kPartsMax) + " parts in one job", "put them into one archive"};
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string name = field + "[" + std::to_string(i) + "]";
    if (!value[i].is_object()) return wrong(name, "an object with a name and its content");
    PartFields read_part;
    if (value[i].contains("json")) read_part.part.media = "application/json";
    else if (value[i].contains("text")) read_part.part.media = "text/plain";
    if (auto problem = read_object(name, value[i], part_fields(), read_part)) return problem;
    if (read_part.part.name.empty()) return bad(name + " has no name");
    if (read_part.contents != 1) return bad(name + " needs exactly one of \"text\", \"base64\", \"json\" and \"share\"");
    spec.parts.push_back(std::move(read_part.part));
  }
  return {};
}

const std::map<std::string, JobReader>& job_fields() {
  using Spec = JobAsked;
  static const std::map<std::string, JobReader> fields{
      {"kind", into_member<&Spec::kind, Spec>},
      {"class", into_member<&Spec::job_class, Spec>},
      {"priority", into_member<&Spec::priority, Spec>},
      {"model", into_member<&Spec::model, Spec>},
      {"vram", read_vram},
      {"devices", into_member<&Spec::devices, Spec>},
      {"per_device", into_member<&Spec::per_device, Spec>},
      {"where", into_member<&Spec::where, Spec>},
      {"params", into_member<&Spec::params, Spec>},
      {"argv", into_member<&Spec::argv, Spec>},
      {"env", into_member<&Spec::env, Spec>},
      {"cwd", into_member<&Spec::cwd, Spec>},
      {"parts", read_parts},
      {"outputs", into_member<&Spec::outputs, Spec>},
      {"after", into_member<&Spec::after, Spec>},
      {"not_before_ms", into_member<&Spec::not_before_ms, Spec>},
      {"deadline_ms", into_member<&Spec::deadline_ms, Spec>},
      {"timeout_s", [](const auto& f, const Json& v, Spec& s) { return read_span(f, v, s.timeout); }},
      {"retries", into_member<&Spec::retries, Spec>},
      {"on_preempt", into_member<&Spec::on_preempt, Spec>},
      {"array", into_member<&Spec::array, Spec>},
      {"unique", into_member<&Spec::unique, Spec>},
      {"id", into_member<&Spec::id, Spec>},
      {"label", into_member<&Spec::label, Spec>},
      {"exclusive", into_member<&Spec::exclusive, Spec>},
      {"strict", into_member<&Spec::strict, Spec>},
      {"durability", into_member<&Spec::durability, Spec>},
  };
  return fields;
}

/// nlohmann keeps the last of doubled keys: which one was meant is not for us to say. Depth is bounded for its recursive destructor.
Result<Json> parse(std::string_view text) {
  constexpr int kDepthMax = 16;
  std::vector<std::set<std::string>> open;
  Problem problem;
  const auto look = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end && !open.empty()) open.pop_back();
    if (event == Json::parse_event_t::key && !open.empty() && !open.back().insert(value.get<std::string>()).second && !problem)
      problem = bad("field \"" + value.get<std::string>().substr(0, 64) + "\" stands there twice");
    if (depth > kDepthMax && !problem) problem = bad("the JSON is nested deeper than " + std::to_string(kDepthMax));
    return depth <= kDepthMax;
  };
  try {
    Json json = Json::parse(text, look);
    if (problem) return tl::unexpected(std::move(*problem));
    return json;
  } catch (const Json::parse_error& error) {
    return tl::unexpected(bad("the body is no JSON: at byte " + std::to_string(error.byte)));
  }
}

}  // namespace

std::vector<std::string> job_field_names() { return names_of(job_fields()); }
std::vector<std::string> part_field_names() { return names_of(part_fields()); }

Result<JobAsked> job_of(std::string_view text) {
  auto json = parse(text);
  if (!json) return tl::unexpected(std::move(json.error()));
  if (!json->is_object()) return tl::unexpected(bad("the body is no JSON object"));
  JobAsked spec;
  if (auto problem = read_object("a job", *json, job_fields(), spec)) return tl::unexpected(std::move(*problem));
  return spec;
}

}  // namespace gq::http
