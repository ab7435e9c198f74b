// routes.cpp - see routes.h; the table is in answer().
#include "client/http/routes.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "client/cli/text.h"
#include "client/cli/tokens.h"
#include "client/http/job_json.h"
#include "client/http/multipart.h"
#include "client/http/openapi.h"
#include "client/lib/convert.h"
#include "common/config/nearest.h"

namespace gq::http {

namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kClientsMax = 256;   // tokens in use at once

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

/// Of a query: each name known, each value of its type.
class Query {
 public:
  Query(const Request& request, std::vector<std::string> known) : query_(request.query) {
    for (const auto& [name, value] : query_)
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        const std::string near = nearest(known, name);
        give_up("BAD_MESSAGE", "there is no query parameter '" + name.substr(0, 64) + "' here" + (near.empty() ? "" : ", did you mean '" + near + "'?"), "GET /api/v1/openapi.json says what there is");
      }
  }
  [[nodiscard]] std::string text(const std::string& name) const {
    const auto at = query_.find(name);
    return at == query_.end() ? "" : at->second;
  }
  [[nodiscard]] std::int64_t number(const std::string& name, std::int64_t fallback, std::int64_t low, std::int64_t high) const {
    const auto at = query_.find(name);
    if (at == query_.end()) return fallback;
    std::int64_t value = 0;
    const char* end = at->second.data() + at->second.size();
    const auto [stopped, error] = std::from_chars(at->second.data(), end, value);
    if (error != std::errc{} || stopped != end || at->second.empty() || value < low || value > high)
      give_up("BAD_MESSAGE", "?" + name + "= is no whole number of " + std::to_string(low) + ".." + std::to_string(high), "");
    return value;
  }
  /// Seconds, with fractions.
  [[nodiscard]] std::chrono::milliseconds seconds(const std::string& name, std::chrono::milliseconds fallback, std::chrono::milliseconds high) const {
    const auto at = query_.find(name);
    if (at == query_.end()) return fallback;
    double value = -1;
    const char* end = at->second.data() + at->second.size();
    const auto [stopped, error] = std::from_chars(at->second.data(), end, value, std::chars_format::fixed);
    if (error != std::errc{} || stopped != end || !(value >= 0) || value * 1000 > static_cast<double>(high.count()))
      give_up("BAD_MESSAGE", "?" + name + "= is no number of seconds up to " + std::to_string(high.count() / 1000), "wait again, or ask for the job later: GET /api/v1/jobs/ID");
    return std::chrono::milliseconds(static_cast<std::int64_t>(value * 1000));
  }
  [[nodiscard]] bool truth(const std::string& name) const {
    const std::string value = text(name);
    if (value.empty() || value == "false" || value == "0") return false;
    if (value == "true" || value == "1") return true;
    give_up("BAD_MESSAGE", "?" + name + "= is neither true nor false", "");
  }

 private:
  const std::map<std::string, std::string>& query_;
};

bool is_final(const std::string& state) {
  for (const char* one : {"succeeded", "failed", "cancelled", "expired", "quarantined"})
    if (state == one) return true;
  return false;
}

/// One token's client, and who of its askers waits for which job. libgpuq is asked once for a job, however often it is polled.
struct Member {
  explicit Member(gpuq::Options options, std::string key) : client(std::move(options)), public_key(std::move(key)), waiters(std::make_shared<Waiters>()) {}

  struct Found {
    std::optional<gpuq::JobResult> result;
    std::shared_ptr<std::function<void()>> wake;
  };
  struct Waiters {
    std::mutex mutex;
    std::multimap<std::string, std::weak_ptr<Found>> of_job;
    std::map<std::string, bool> asked;
  };

  gpuq::Client client;
  std::string public_key;
  std::shared_ptr<Waiters> waiters;

  std::shared_ptr<Found> expect(const std::string& id, std::shared_ptr<std::function<void()>> wake) {
    auto found = std::make_shared<Found>();
    found->wake = std::move(wake);
    bool first = false;
    {
      const std::lock_guard lock(waiters->mutex);
      std::erase_if(waiters->of_job, [](const auto& one) { return one.second.expired(); });
      waiters->of_job.emplace(id, found);
      first = std::exchange(waiters->asked[id], true) == false;
    }
    if (first)
      client.on_final({id}, [in = waiters](gpuq::JobResult&& result) {
        std::vector<std::shared_ptr<Found>> told;
        {
          const std::lock_guard lock(in->mutex);
          const auto [begin, end] = in->of_job.equal_range(result.id);
          for (auto at = begin; at != end; ++at)
            if (auto one = at->second.lock()) {
              one->result = result;
              told.push_back(std::move(one));
            }
          in->of_job.erase(begin, end);
          in->asked.erase(result.id);
        }
        for (const auto& one : told) (*one->wake)();
      });
    return found;
  }
  bool has(const std::shared_ptr<Found>& found) const {
    const std::lock_guard lock(waiters->mutex);
    return found->result.has_value();
  }
};

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

Json detections_json(const gpuq::JobResult& result) {
  Json json{{"id", result.id}, {"model_version", result.model_version}, {"detections", Json::array()}};
  for (const gpuq::Detection& d : gpuq::parse_detections(result))
    json["detections"].push_back({{"box_px", {d.x1, d.y1, d.x2, d.y2}}, {"score", d.score}, {"label", d.label}, {"name", d.name}});
  return json;
}

gpuq::Part to_part(const FormPart& part, std::string name) {
  gpuq::Part out;
  out.name = std::move(name);
  out.media = part.media;
  out.bytes = std::string(part.bytes);
  return out;
}

}  // namespace

struct Routes::State {
  explicit State(Settings s) : settings(std::move(s)) {}

  Settings settings;
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Member>> members;

  std::shared_ptr<Member> member_of(const Request& request) {
    gpuq::Options options;
    options.acknowledge = false;   // a result may be asked for again
    options.connect_timeout = std::chrono::seconds(5);
    std::string name, key;
    if (settings.insecure) {
      options.insecure = true;
      options.broker = settings.broker;
      options.name = "http";
    } else {
      constexpr std::string_view kBearer = "Bearer ";
      if (!std::equal(kBearer.begin(), kBearer.end(), request.authorization.begin(), request.authorization.begin() + static_cast<std::ptrdiff_t>(std::min(kBearer.size(), request.authorization.size())),
                      [](char a, char b) { return (a | 0x20) == (b | 0x20); }))
        give_up("KEY_REFUSED", "this request brings no token", "send Authorization: Bearer TOKEN; gpuq keys issue NAME --http on the broker's host makes one");
      const auto access = cli::check_token(settings.tokens, std::string_view(request.authorization).substr(kBearer.size()));
      if (!access) give_up(access.error());
      name = access->name;
      key = access->public_key;
      options.access_file = cli::token_file(settings.tokens, name);
      options.broker = settings.broker;
    }
    const std::lock_guard lock(mutex);
    auto& member = members[name];
    if (member && member->public_key == key) return member;
    if (!member && members.size() > kClientsMax) {
      members.erase(name);
      give_up("OVER_LIMIT", "more than " + std::to_string(kClientsMax) + " tokens are in use", "start a second HTTP door");
    }
    return member = std::make_shared<Member>(std::move(options), key);
  }

  Reply answer(const Request& r, Link& link);
  Reply submit(Member& member, const Request& r);
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
  const auto member = member_of(r);
  if (p.size() == 3 && p[2] == "jobs") return r.method == "POST" ? submit(*member, r) : get ? list(*member, r) : not_allowed(r, "GET, POST");
  if (p.size() == 4 && p[2] == "jobs") return get ? look(*member, r, link) : r.method == "DELETE" ? cancel(*member, r) : not_allowed(r, "GET, DELETE");
  if (p.size() == 5 && p[2] == "jobs" && p[4] == "logs") return get ? logs(*member, r) : not_allowed(r, "GET");
  if (p.size() >= 6 && p[2] == "jobs" && p[4] == "parts") return get ? part(*member, r) : not_allowed(r, "GET");
  if (p.size() == 3 && p[2] == "models") {
    if (!get) return not_allowed(r, "GET");
    const Query none(r, {});
    Json json{{"models", Json::array()}};
    for (const gpuq::Model& model : member->client.models()) json["models"].push_back(cli::to_json(model));
    return reply(json);
  }
  if (p.size() == 5 && p[2] == "models" && (p[4] == "detect" || p[4] == "infer")) return r.method == "POST" ? call(*member, r, link) : not_allowed(r, "POST");
  return Routes::failure(Error{Errc::not_found, "there is nothing at this address", "GET /api/v1/openapi.json says what there is"});
}

Reply Routes::State::submit(Member& member, const Request& r) {
  const Query none(r, {});
  gpuq::JobSpec spec;
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
  const gpuq::Submitted done = member.client.submit(std::move(spec));
  Reply out = reply({{"id", done.id}, {"existing", done.existing}}, done.existing ? 200 : 202);
  out.headers.emplace_back("Location", "/api/v1/jobs/" + done.id);
  return out;
}

Reply Routes::State::list(Member& member, const Request& r) {
  const Query query(r, {"state", "class", "kind", "active", "after", "limit"});
  gpuq::ListFilter filter{.state = query.text("state"), .job_class = query.text("class"), .kind = query.text("kind"), .active_only = query.truth("active"),
                          .after = query.text("after"), .limit = static_cast<int>(query.number("limit", 100, 1, 500))};
  Json json{{"jobs", Json::array()}};
  for (const gpuq::JobStatus& job : member.client.list(filter)) json["jobs"].push_back(cli::to_json(job));
  return reply(json);
}

/// The job as it is, with its result once it is final; ?wait= holds the answer back until then, or that long.
Reply Routes::State::look(Member& member, const Request& r, Link& link) {
  const Query query(r, {"wait"});
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
    const auto came = link.wait([&] { return member.has(expected); }, until);
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
  const Query none(r, {});
  const std::string& id = r.path[3];
  const std::string outcome = member.client.cancel({id}).at(0);
  if (outcome == "unknown") give_up("NOT_FOUND", "there is no job " + id + " of yours", "GET /api/v1/jobs shows the jobs that are remembered");
  return reply({{"id", id}, {"outcome", outcome}}, outcome == "asked" ? 202 : 200);
}

Reply Routes::State::logs(Member& member, const Request& r) {
  const Query query(r, {"offset"});
  const auto chunk = member.client.logs(r.path[3], static_cast<std::uint64_t>(query.number("offset", 0, 0, std::numeric_limits<std::int64_t>::max())));
  return {.content_type = "text/plain; charset=utf-8", .body = chunk.bytes,
          .headers = {{"Gpuq-Log-Offset", std::to_string(chunk.offset)}, {"Gpuq-Log-Next", std::to_string(chunk.next)}, {"Gpuq-Log-End", chunk.end ? "true" : "false"}}};
}

Reply Routes::State::part(Member& member, const Request& r) {
  const Query none(r, {});
  const gpuq::JobResult result = member.client.result(r.path[3]);
  std::string name = r.path[5];
  for (std::size_t i = 6; i < r.path.size(); ++i) name += "/" + r.path[i];
  const gpuq::Part* part = result.part(name);
  if (part == nullptr) give_up("NOT_FOUND", "the result of job " + result.id + " has no part '" + name.substr(0, 64) + "'", "GET /api/v1/jobs/" + result.id + " names its parts");
  if (!part->share.empty()) give_up("NOT_HERE", "that part lies on share " + part->share, "read it there");
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

/// One answer within ?timeout=. Who hangs up, or whose time is over, has no use for the job any more: it is cancelled.
Reply Routes::State::call(Member& member, const Request& r, Link& link) {
  const Query query(r, {"timeout", "conf", "iou", "max_det", "priority"});
  const auto patience = query.seconds("timeout", settings.patience, settings.patience_max);
  const auto until = Clock::now() + patience;
  gpuq::JobSpec spec = call_of(r);
  for (const char* name : {"conf", "iou", "max_det"})
    if (!query.text(name).empty()) spec.params[name] = query.text(name);
  spec.priority = static_cast<int>(query.number("priority", spec.priority, 0, 9));
  spec.deadline_ms = cli::wall_now_ms() + patience.count();
  const std::string id = member.client.submit(std::move(spec)).id;
  const auto expected = member.expect(id, link.wake());
  const auto came = link.wait([&] { return member.has(expected); }, until);
  if (!came || !*came) {
    try {
      member.client.cancel({id});
    } catch (const gpuq::Error&) {   // its deadline ends it then
    }
    if (!came) return hung_up();
    give_up("TIMED_OUT", "job " + id + " did not end within " + std::to_string(patience.count()) + " ms; it is cancelled", "a longer ?timeout=, or POST /api/v1/jobs and come back for the result");
  }
  const gpuq::JobResult& result = *expected->result;
  if (!result.ok()) {
    Reply out = Routes::failure(gpuq::Error(result.code.empty() ? "JOB_FAILED" : result.code, result.what.empty() ? "job " + id + " " + result.state : result.what, "GET /api/v1/jobs/" + id + "/logs"));
    if (out.status == 500) out.status = result.code == "BAD_IMAGE" || result.code == "BAD_INPUT" ? 422 : 502;
    return out;
  }
  return reply(r.path[4] == "detect" ? detections_json(result) : result_json(result));
}

// ---- the public face

Routes::Routes(Settings settings) : state_(std::make_shared<State>(std::move(settings))) {}
Routes::~Routes() = default;

std::optional<Reply> Routes::admit(const Request& head) {
  const auto& p = head.path;
  if (p.size() < 3 || p[0] != "api" || p[1] != "v1" || (p.size() == 3 && p[2] == "openapi.json")) return std::nullopt;
  try {
    (void)state_->member_of(head);
    return std::nullopt;
  } catch (const gpuq::Error& error) {
    return failure(error);
  }
}

Reply Routes::answer(const Request& request, Link& link) {
  try {
    return state_->answer(request, link);
  } catch (const gpuq::Error& error) {
    return failure(error);
  } catch (const std::exception& error) {
    return failure(Error{Errc::internal, error.what(), "look at the HTTP door's log"});
  }
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

Result<void> read_target(std::string_view target, Request& into) {
  const auto wrong = [] { return fail(Errc::bad_message, "the address has a wrong %-escape", "write %2F-less, valid %XX"); };
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  const auto decode = [&](std::string_view text, bool plus, std::string& out) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '+' && plus) out += ' ';
      else if (text[i] != '%') out += text[i];
      else if (i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
        out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
        i += 2;
      } else return false;
    }
    return out.find('\0') == std::string::npos;
  };
  const std::size_t mark = target.find('?');
  std::string_view path = target.substr(0, mark);
  while (!path.empty()) {
    path.remove_prefix(1);   // the '/'
    const std::size_t end = std::min(path.find('/'), path.size());
    std::string segment;
    if (!decode(path.substr(0, end), false, segment) || segment.find('/') != std::string::npos) return wrong();
    into.path.push_back(std::move(segment));
    path.remove_prefix(end);
  }
  std::string_view query = mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (pair.empty()) continue;
    const std::size_t equals = std::min(pair.find('='), pair.size());
    std::string name, value;
    if (!decode(pair.substr(0, equals), true, name) || !decode(pair.substr(std::min(equals + 1, pair.size())), true, value)) return wrong();
    if (!into.query.emplace(name, value).second) return fail(Errc::bad_message, "?" + name.substr(0, 64) + "= stands there twice", "say it once");
  }
  return {};
}

}  // namespace gq::http
