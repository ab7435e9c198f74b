// routes.cpp - see routes.h; the table is in answer().
#include "client/http/routes.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <nlohmann/json.hpp>

#include "client/cli/text.h"
#include "client/http/job_json.h"
#include "client/http/members.h"
#include "client/http/multipart.h"
#include "client/http/openapi.h"
#include "client/http/query.h"
#include "client/lib/array.h"
#include "client/lib/convert.h"
#include "common/log.h"
#include "common/vocabulary/job.h"

namespace gq::http {

namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kArrayBytesMax = std::size_t{256} << 20U;   // each job of an array has a copy of what came
constexpr int kBrokersOutlived = 3;   // how often one call is submitted again because its broker went
constexpr auto kClocksDiffer = std::chrono::minutes(1);   // of this machine and the broker's: only the net for a door that dies

[[noreturn]] void give_up(const char* code, std::string what, std::string next) { throw gpuq::Error(code, std::move(what), std::move(next)); }
[[noreturn]] void give_up(const Error& error) { throw client::to_public(error); }

Reply reply(const Json& json, int status = 200) { return {.status = status, .content_type = "application/json", .body = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n", .headers = {}}; }

Reply hung_up() {
  Reply out;
  out.hung_up = true;
  return out;
}

Reply not_allowed(const Request& request, const char* allowed) {
  Reply out = Routes::failure(Error{Errc::bad_message, request.method + " is not for this address", std::string("use ") + allowed});
  out.status = 405;
  out.headers.emplace_back("Allow", allowed);
  return out;
}

bool is_final(const std::string& state) {
  const auto parsed = parse_job_state(state);
  return parsed && is_terminal(*parsed);
}

/// A part's address; an artefact's name has its '/'.
std::string href_of(const std::string& id, const std::string& name) {
  std::string text = "/api/v1/jobs/" + id + "/parts/";
  for (const char c : name) {
    static constexpr char kDigits[] = "0123456789ABCDEF";
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("-._~/").find(c) != std::string_view::npos;
    if (plain) text += c;
    else (text += '%').append({kDigits[static_cast<unsigned char>(c) >> 4U], kDigits[static_cast<unsigned char>(c) & 15U]});
  }
  return text;
}

Json result_json(const gpuq::JobResult& result) {
  Json json = cli::to_json(result);
  for (Json& part : json["parts"])
    if (!part.contains("share")) part["href"] = href_of(result.id, part.value("name", ""));
  return json;
}

Json detections_json(const gpuq::JobResult& result) { return {{"id", result.id}, {"model_version", result.model_version}, {"detections", cli::to_json(gpuq::parse_detections(result))}}; }

gpuq::Part to_part(const FormPart& part, std::string name) {
  gpuq::Part out;
  out.name = std::move(name);
  out.media = part.media;
  out.bytes = std::string(part.bytes);
  return out;
}

}  // namespace

struct Routes::State {
  explicit State(Settings s) : settings(std::move(s)), members(settings) {}

  Settings settings;
  Members members;

  Reply answer(const Request& r, Link& link);
  Reply submit(Member& member, const Request& r);
  static Reply submit_array(Member& member, const JobAsked& asked, std::size_t body_bytes);
  Reply list(Member& member, const Request& r);
  Reply look(Member& member, const Request& r, Link& link);
  Reply cancel(Member& member, const Request& r);
  Reply logs(Member& member, const Request& r);
  Reply part(Member& member, const Request& r);
  Reply call(Member& member, const Request& r, Link& link);
  gpuq::JobSpec call_of(const Request& r);
};

Reply Routes::State::answer(const Request& r, Link& link) {
  const auto& p = r.path;
  const bool get = r.method == "GET" || r.method == "HEAD";
  if (p.size() == 1 && p[0] == "healthz") return get ? reply({{"ok", true}}) : not_allowed(r, "GET");
  if (p.size() < 3 || p[0] != "api" || p[1] != "v1") return Routes::failure(Error{Errc::not_found, "there is nothing at this address", "GET /api/v1/openapi.json says what there is"});
  if (p.size() == 3 && p[2] == "openapi.json") return get ? Reply{.body = std::string(openapi()), .headers = {}} : not_allowed(r, "GET");
  Member& member = *r.member;
  if (p.size() == 3 && p[2] == "jobs") return r.method == "POST" ? submit(member, r) : get ? list(member, r) : not_allowed(r, "GET, POST");
  if (p.size() == 4 && p[2] == "jobs") return get ? look(member, r, link) : r.method == "DELETE" ? cancel(member, r) : not_allowed(r, "GET, DELETE");
  if (p.size() == 5 && p[2] == "jobs" && p[4] == "logs") return get ? logs(member, r) : not_allowed(r, "GET");
  if (p.size() >= 6 && p[2] == "jobs" && p[4] == "parts") return get ? part(member, r) : not_allowed(r, "GET");
  if (p.size() == 3 && p[2] == "models") {
    if (!get) return not_allowed(r, "GET");
    const Query none(r.query, {});
    Json json{{"models", Json::array()}};
    for (const gpuq::Model& model : member.client.models()) json["models"].push_back(cli::to_json(model));
    return reply(json);
  }
  if (p.size() == 5 && p[2] == "models" && (p[4] == "detect" || p[4] == "infer")) return r.method == "POST" ? call(member, r, link) : not_allowed(r, "POST");
  return Routes::failure(Error{Errc::not_found, "there is nothing at this address", "GET /api/v1/openapi.json says what there is"});
}

Reply Routes::State::submit(Member& member, const Request& r) {
  const Query none(r.query, {});
  JobAsked spec;
  const std::string media = media_type(r.content_type);
  if (media == "application/json") {
    auto job = job_of(r.body);
    if (!job) give_up(job.error());
    spec = std::move(*job);
  } else if (media == "multipart/form-data") {
    const auto form = parse_form(r.content_type, r.body);
    if (!form) give_up(form.error());
    const auto about = std::find_if(form->begin(), form->end(), [](const FormPart& one) { return one.name == "job"; });
    if (about == form->end()) give_up("BAD_MESSAGE", "the form has no field \"job\"", "put the job's JSON into it; every other field is a part of the job");
    auto job = job_of(about->bytes);
    if (!job) give_up(job.error());
    spec = std::move(*job);
    for (const FormPart& one : *form)
      if (one.name != "job") spec.parts.push_back(to_part(one, one.name));
  } else {
    Reply out = Routes::failure(Error{Errc::bad_message, "a job does not come as '" + media.substr(0, 64) + "'", "send application/json, or multipart/form-data with a field \"job\""});
    out.status = 415;
    return out;
  }
  if (!r.idempotency_key.empty()) {
    if (!spec.id.empty() && spec.id != r.idempotency_key) give_up("BAD_MESSAGE", "Idempotency-Key and \"id\" differ", "send one of them: both are the job's id");
    spec.id = r.idempotency_key;
  }
  if (!spec.array.empty()) return submit_array(member, spec, r.body.size());
  const gpuq::Submitted done = member.client.submit(std::move(spec));
  Reply out = reply({{"id", done.id}, {"existing", done.existing}}, done.existing ? 200 : 202);
  out.headers.emplace_back("Location", "/api/v1/jobs/" + done.id);
  return out;
}

/// All of them are asked in one go; what was refused says why in its place.
Reply Routes::State::submit_array(Member& member, const JobAsked& asked, std::size_t body_bytes) {
  const auto indices = client::parse_array(asked.array);
  if (!indices) give_up(indices.error());
  if (indices->size() * body_bytes > kArrayBytesMax)
    give_up("OVER_LIMIT", "an array of " + std::to_string(indices->size()) + " jobs with " + cli::bytes_text(body_bytes) + " each is more than " + cli::bytes_text(kArrayBytesMax),
            "put what they share on a share, or submit it in pieces");
  Json json{{"jobs", Json::array()}};
  int refused = 0;
  const auto answers = member.client.submit(gpuq::array_of(asked, asked.array));
  for (const gpuq::Submitted& one : answers) {
    Json& item = json["jobs"].emplace_back(Json{{"id", one.id}, {"existing", one.existing}});
    if (one.ok) continue;
    ++refused;
    item["error"] = {{"code", one.code}, {"what", one.what}, {"next", one.next}};
  }
  if (refused == static_cast<int>(answers.size())) give_up(answers.front().code.c_str(), answers.front().what, answers.front().next);
  return reply(json, 202);
}

Reply Routes::State::list(Member& member, const Request& r) {
  const Query query(r.query, {"state", "class", "kind", "active", "after", "limit"});
  gpuq::ListFilter filter{.state = query.text("state"), .job_class = query.text("class"), .kind = query.text("kind"), .active_only = query.truth("active"),
                          .after = query.text("after"), .limit = static_cast<int>(query.number("limit", 100, 1, 500))};
  Json json{{"jobs", Json::array()}};
  for (const gpuq::JobStatus& job : member.client.list(filter)) json["jobs"].push_back(cli::to_json(job));
  return reply(json);
}

/// The job as it is, with its result once it is final; ?wait= holds the answer back until then, or that long.
Reply Routes::State::look(Member& member, const Request& r, Link& link) {
  const Query query(r.query, {"wait"});
  const auto until = Clock::now() + query.seconds("wait", std::chrono::milliseconds(0), settings.patience_max);
  const std::string& id = r.path[3];
  const auto status = [&] {
    auto found = member.client.status({id}).at(0);
    if (!found.found) give_up("NOT_FOUND", "there is no job " + id, "GET /api/v1/jobs shows the jobs that are remembered");
    return found;
  };
  gpuq::JobStatus now = status();
  std::optional<gpuq::JobResult> result;
  if (!is_final(now.state) && Clock::now() < until) {
    const auto expected = member.expect(id, link.wake());
    const auto came = link.wait([&] { return member.has(*expected); }, until);
    if (!came) return hung_up();
    if (*came) result = expected->result;
    now = status();
  }
  Json json = cli::to_json(now);
  if (is_final(now.state)) {
    try {
      if (!result || !is_final(result->state)) result = member.client.result(id);
      json["result"] = result_json(*result);
    } catch (const gpuq::Error& error) {   // the record outlives the result
      json["result"] = {{"error", {{"code", error.code()}, {"what", error.what()}, {"next", error.next()}}}};
    }
  }
  return reply(json);
}

Reply Routes::State::cancel(Member& member, const Request& r) {
  const Query none(r.query, {});
  const std::string& id = r.path[3];
  const std::string outcome = member.client.cancel({id}).at(0);
  if (outcome == "unknown") give_up("NOT_FOUND", "there is no job " + id, "GET /api/v1/jobs shows the jobs that are remembered");
  if (outcome == "refused") give_up("REFUSED", "job " + id + " was submitted with another token", "use that one, or an admin's");
  return reply({{"id", id}, {"outcome", outcome}}, outcome == "asked" ? 202 : 200);
}

Reply Routes::State::logs(Member& member, const Request& r) {
  const Query query(r.query, {"offset"});
  const auto chunk = member.client.logs(r.path[3], static_cast<std::uint64_t>(query.number("offset", 0, 0, std::numeric_limits<std::int64_t>::max())));
  return {.content_type = "text/plain; charset=utf-8", .body = chunk.bytes,
          .headers = {{"Gpuq-Log-Offset", std::to_string(chunk.offset)}, {"Gpuq-Log-Next", std::to_string(chunk.next)}, {"Gpuq-Log-End", chunk.end ? "true" : "false"}}};
}

Reply Routes::State::part(Member& member, const Request& r) {
  const Query none(r.query, {});
  const gpuq::JobResult result = member.client.result(r.path[3]);
  std::string name = r.path[5];
  for (std::size_t i = 6; i < r.path.size(); ++i) name += "/" + r.path[i];
  const gpuq::Part* part = result.part(name);
  if (part == nullptr) give_up("NOT_FOUND", "the result of job " + result.id + " has no part '" + name.substr(0, 64) + "'", "GET /api/v1/jobs/" + result.id + " names its parts");
  if (!part->share.empty()) give_up("NOT_HERE", "that part lies on share " + part->share, "read it there");
  if (part->size > settings.part_bytes_max)
    give_up("TOO_LARGE", "part '" + name.substr(0, 64) + "' is " + cli::bytes_text(part->size) + ", by HTTP come at most " + cli::bytes_text(settings.part_bytes_max), "gpuq result " + result.id + " -d DIR");
  // Never as something that a browser would run.
  return {.content_type = "application/octet-stream", .body = member.client.fetch(*part), .headers = {{"X-Content-Type-Options", "nosniff"}, {"Gpuq-Media-Type", part->media}}};
}

gpuq::JobSpec Routes::State::call_of(const Request& r) {
  const std::string media = media_type(r.content_type);
  const bool detects = r.path[4] == "detect";
  gpuq::JobSpec spec;
  if (media == "multipart/form-data") {
    const auto form = parse_form(r.content_type, r.body);
    if (!form) give_up(form.error());
    for (const FormPart& one : *form) {
      if (!detects) spec.parts.push_back(to_part(one, one.name));
      else if (one.is_file && spec.parts.empty()) spec.parts.push_back(to_part(one, "image"));
      else if (one.is_file) give_up("BAD_MESSAGE", "the form has more than one file", "one image for each request; they are batched on the device");
      else spec.params[one.name] = std::string(one.bytes);
    }
  } else if (media == "application/json" && !detects) {
    auto job = job_of(r.body);
    if (!job) give_up(job.error());
    spec = std::move(*job);
    if (!job->array.empty()) give_up("BAD_MESSAGE", "an array is of commands", "POST /api/v1/jobs");
    if (!spec.kind.empty() || !spec.model.empty()) give_up("BAD_MESSAGE", "\"kind\" and \"model\" are in the address already", "leave them out");
  } else if (!media.empty() && media != "application/x-www-form-urlencoded" && media != "application/json" && media.find('/') != std::string::npos) {
    spec.parts.push_back({.name = detects ? "image" : "input", .media = media, .bytes = r.body, .blob = {}, .size = 0});
  } else {
    give_up("BAD_MESSAGE", "no input came: the content type is '" + media.substr(0, 64) + "'", "curl -F file=@x.png, or --data-binary @x.png -H 'Content-Type: image/png'");
  }
  if (spec.parts.empty()) give_up("BAD_MESSAGE", detects ? "the form has no file" : "the request has no part", "curl -F file=@x.png URL");
  if (detects && spec.parts[0].bytes.empty()) give_up("BAD_INPUT", "the file is empty", "send a JPEG or PNG");
  spec.kind = r.path[4];
  spec.model = r.path[3];
  return spec;
}

/// One answer within ?timeout=. Who hangs up, or whose time is over, has no use for the job any more: it is cancelled. The caller waits,
/// so the job is not written to disk unless ?durability=always; should its broker go meanwhile, it is submitted again from here.
Reply Routes::State::call(Member& member, const Request& r, Link& link) {
  const Query query(r.query, {"timeout", "conf", "iou", "max_det", "priority", "durability"});
  const auto patience = query.seconds("timeout", settings.patience, settings.patience_max);
  const auto until = Clock::now() + patience;
  for (int again = kBrokersOutlived;; --again) {
    gpuq::JobSpec spec = call_of(r);
    for (const char* name : {"conf", "iou", "max_det"})
      if (!query.text(name).empty()) spec.params[name] = query.text(name);
    spec.priority = static_cast<int>(query.number("priority", spec.priority, 0, 9));
    if (!query.text("durability").empty()) spec.durability = query.text("durability");
    if (spec.durability.empty() && spec.id.empty() && spec.unique.empty()) spec.durability = "none";
    const bool kept = spec.durability != "none";
    const std::int64_t net = cli::wall_now_ms() + std::chrono::milliseconds(patience + kClocksDiffer).count();
    spec.deadline_ms = spec.deadline_ms == 0 ? net : std::min(spec.deadline_ms, net);
    const std::string id = member.client.submit(std::move(spec)).id;
    const auto expected = member.expect(id, link.wake());
    const auto came = link.wait([&] { return member.has(*expected); }, until);
    if (!came || !*came) {
      try {
        member.client.cancel({id});
      } catch (const gpuq::Error&) {   // its deadline ends it then
      }
      if (!came) return hung_up();
      give_up("TIMED_OUT", "job " + id + " did not end within " + std::to_string(patience.count()) + " ms; it is cancelled", "a longer ?timeout=, or POST /api/v1/jobs and come back for the result");
    }
    const gpuq::JobResult& result = *expected->result;
    if (!kept && result.code == "UNAVAILABLE" && again > 0) continue;   // its broker is gone, and the job with it
    if (!result.ok()) {
      Reply out = Routes::failure(gpuq::Error(result.code.empty() ? "JOB_FAILED" : result.code, result.what.empty() ? "job " + id + " " + result.state : result.what, "GET /api/v1/jobs/" + id + "/logs"));
      if (out.status == 500) out.status = 502;   // not ours: the model's
      return out;
    }
    if (r.path[4] != "detect") return reply(result_json(result));
    Reply out = reply(detections_json(result));
    if (!kept) member.client.acknowledge({id});   // all of it is in the answer
    return out;
  }
}

// ---- the public face

Routes::Routes(Settings settings) : state_(std::make_shared<State>(std::move(settings))) {}
Routes::~Routes() = default;

namespace {
template <class F>
auto told(F&& work) -> decltype(work()) {
  try {
    return work();
  } catch (const gpuq::Error& error) {
    return Routes::failure(error);
  } catch (const std::exception& error) {
    log::error("request_failed", {{"why", error.what()}});
    return Routes::failure(Error{Errc::internal, error.what(), "look at the log of gpuq-http"});
  }
}
}  // namespace

std::optional<Reply> Routes::admit(Request& head) {
  const auto& p = head.path;
  if (p.size() < 3 || p[0] != "api" || p[1] != "v1" || (p.size() == 3 && p[2] == "openapi.json")) return std::nullopt;
  return told([&]() -> std::optional<Reply> {
    head.member = state_->members.of(head.authorization);
    return std::nullopt;
  });
}

Reply Routes::answer(const Request& request, Link& link) {
  return told([&] { return state_->answer(request, link); });
}

Reply Routes::failure(const gpuq::Error& error) {
  Reply out = reply({{"error", {{"code", error.code()}, {"what", error.what()}, {"next", error.next()}}}}, status_of(error.code()));
  if (out.status == 401) out.headers.emplace_back("WWW-Authenticate", "Bearer realm=\"gpuq\"");
  if (out.status == 429 || out.status == 503) out.headers.emplace_back("Retry-After", "1");
  return out;
}
Reply Routes::failure(const Error& error) { return failure(client::to_public(error)); }

int status_of(std::string_view code) {
  static const std::map<std::string_view, int> statuses{
      {"USAGE", 400}, {"BAD_MESSAGE", 400}, {"UNKNOWN_KIND", 400}, {"OVER_LIMIT", 400}, {"NOT_FOUND", 404}, {"UNKNOWN_MODEL", 404}, {"UNKNOWN_BLOB", 404}, {"GONE", 410},
      {"RESULT_EXPIRED", 410}, {"ID_CONFLICT", 409}, {"DUPLICATE", 409}, {"NO_FIT", 409}, {"DEPENDENCY_FAILED", 409}, {"CANCELLED", 409}, {"REFUSED", 403}, {"KEY_REFUSED", 401},
      {"TOO_LARGE", 413}, {"BAD_IMAGE", 422}, {"BAD_INPUT", 422}, {"BAD_MODEL", 422}, {"NOT_HERE", 422}, {"QUEUE_FULL", 429}, {"UNREACHABLE", 503}, {"UNAVAILABLE", 503},
      {"STORAGE_FULL", 503}, {"TIMED_OUT", 504}, {"EXPIRED", 504}};
  const auto at = statuses.find(code);
  return at == statuses.end() ? 500 : at->second;
}

}  // namespace gq::http
