// client.cpp - the public face: checks in the caller's thread, work posted to the engine's, answers through futures.
#include "client/include/gpuq/client.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sstream>

#include "client/lib/convert.h"
#include "client/lib/model_content.h"
#include "client/lib/state.h"

namespace gpuq {

using namespace gq::client;
using gq::Errc;

namespace {

[[noreturn]] void raise(const gq::Error& error) { throw to_public(error); }

class FutureSink final : public Sink {
 public:
  void final(JobResult&& result) override { promise.set_value(std::move(result)); }
  void failed(const gq::JobId&, const gq::Error& error) override { promise.set_exception(std::make_exception_ptr(to_public(error))); }
  std::promise<JobResult> promise;
};

/// One for any number of jobs.
class BulkSink final : public Sink {
 public:
  explicit BulkSink(std::function<void(JobResult&&)> callback) : callback_(std::move(callback)) {}
  void final(JobResult&& result) override { callback_(std::move(result)); }
  void failed(const gq::JobId& job, const gq::Error& error) override {
    JobResult result;
    result.id = gq::to_string(job);
    result.state = error.code == Errc::not_found ? "unknown" : "refused";
    result.code = gq::to_string(error.code);
    result.what = error.what;
    callback_(std::move(result));
  }
 private:
  std::function<void(JobResult&&)> callback_;
};

std::string broker_endpoint(std::string text) {
  if (text.find("://") == std::string::npos) text.insert(0, "tcp://");
  const auto colon = text.rfind(':');
  if (text.starts_with("tcp://") && (colon == 3 || text.find_first_not_of("0123456789", colon + 1) != std::string::npos)) text += ":7700";
  return text;
}

bool is_loopback(const std::string& endpoint) {
  for (const char* prefix : {"tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://", "inproc://"})
    if (endpoint.starts_with(prefix)) return true;
  return false;
}

Engine::Settings settings_from(const Options& options) {
  Engine::Settings settings;
  settings.name = options.name;
  settings.timeout = options.timeout;
  settings.connect_timeout = options.connect_timeout;
  settings.acknowledge = options.acknowledge;
  if (options.timeout <= std::chrono::milliseconds::zero()) raise({Errc::usage, "Options::timeout must be positive", ""});
  if (options.insecure) {
    settings.endpoint = broker_endpoint(options.broker.empty() ? "tcp://127.0.0.1:7700" : options.broker);
    if (!is_loopback(settings.endpoint))
      raise({Errc::refused, "a connection without keys to " + settings.endpoint + " is refused: it is not this machine", "use an access file: gpuq keys issue --role client --name NAME"});
    return settings;
  }
  const std::string path = options.access_file.empty() ? gq::net::default_access_path(gq::net::Role::client) : options.access_file;
  auto access = gq::net::read_access_file(path);
  if (!access && options.access_file.empty() && ::access(path.c_str(), F_OK) != 0)
    raise({Errc::not_found, "there is no access file here (" + path + "), so no broker is known", "gpuq up   or, on the broker's host: gpuq keys issue --role client --name NAME"});
  if (!access) raise(access.error());
  if (access->role == gq::net::Role::worker)
    raise({Errc::refused, path + " is a worker's access file", "gpuq keys issue --role client --name NAME"});
  settings.endpoint = broker_endpoint(options.broker.empty() ? access->broker : options.broker);
  if (settings.name.empty()) settings.name = access->name;
  settings.access = std::make_shared<const gq::net::AccessFile>(std::move(*access));
  return settings;
}

gq::files::Shares shares_from(const Options& options) {
  std::vector<std::string> declared = options.shares;
  if (const char* text = std::getenv("GPUQ_SHARES"); declared.empty() && text != nullptr) {
    std::istringstream in(text);
    for (std::string one; std::getline(in, one, ',');)
      if (!one.empty()) declared.push_back(one);
  }
  auto shares = gq::files::Shares::open(declared);
  if (!shares) raise(shares.error());
  return std::move(*shares);
}

}  // namespace

// ---- Error

Error::Error(std::string code, std::string what, std::string next) : code_(std::move(code)), next_(std::move(next)), text_(std::move(what)) {}
Error::Error(const Error&) = default;
Error& Error::operator=(const Error&) = default;
Error::~Error() = default;

int Error::exit_code() const noexcept {
  Errc code = Errc::internal;
  return gq::parse_errc(code_, code) ? gq::exit_code(code) : 5;
}

// ---- vocabulary

const Part* JobResult::part(std::string_view name) const {
  for (const Part& part : parts)
    if (part.name == name) return &part;
  return nullptr;
}
std::string make_job_id() { return gq::to_string(new_job_id()); }
const char* class_name(int c) { return c >= 0 && c < 3 ? gq::to_string(static_cast<gq::JobClass>(c)).data() : "unknown"; }
const char* state_name(int s) { return s >= 0 && s < 10 ? gq::to_string(static_cast<gq::JobState>(s)).data() : "unknown"; }

// ---- life

Client::Client(Options options) : state_(std::make_unique<State>(settings_from(options), shares_from(options))) {}
Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
bool Client::connected() const { return state_->engine.connected(); }

// ---- submit

std::future<std::vector<Submitted>> Client::submit_async(std::vector<JobSpec> specs) {
  auto batch = std::make_shared<Batch>();
  std::future<std::vector<Submitted>> future = batch->promise.get_future();
  batch->answers.resize(specs.size());
  std::vector<PreparedPtr> items;
  items.reserve(specs.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::string id = specs[i].id;
    auto item = prepare(std::move(specs[i]));
    if (!item) {
      batch->answers[i] = refusal(id, item.error());
      continue;
    }
    (*item)->batch = batch;
    (*item)->index = i;
    items.push_back(std::move(*item));
  }
  batch->left = items.size();
  if (items.empty()) {
    batch->promise.set_value(std::move(batch->answers));
    return future;
  }
  State& state = *state_;
  state.engine.post([&state, batch, items = std::move(items)]() mutable { state.jobs.submit(batch, std::move(items)); });
  return future;
}

std::vector<Submitted> Client::submit(std::vector<JobSpec> jobs) {
  state_->must_not_block();
  return submit_async(std::move(jobs)).get();   // bounded: each batch has the client's deadline
}

Submitted Client::submit(JobSpec job) {
  std::vector<JobSpec> one;
  one.push_back(std::move(job));
  Submitted answer = std::move(submit(std::move(one)).front());
  if (!answer.ok) throw Error(answer.code, answer.what, answer.next);
  return answer;
}

// ---- results

std::future<JobResult> Client::result_async(const std::string& id) {
  const gq::JobId job = State::job_id(id);
  auto sink = std::make_shared<FutureSink>();
  auto future = sink->promise.get_future();
  State& state = *state_;
  state.engine.post([&state, job, sink] { state.jobs.claim(job, sink); });
  return future;
}

JobResult Client::wait(const std::string& id, std::optional<std::chrono::milliseconds> timeout) {
  state_->must_not_block();
  const gq::JobId job = State::job_id(id);
  auto sink = std::make_shared<FutureSink>();
  auto future = sink->promise.get_future();
  State& state = *state_;
  state.engine.post([&state, job, sink] { state.jobs.claim(job, sink); });
  const auto patience = timeout.value_or(state.timeout());
  if (future.wait_for(patience) != std::future_status::ready) {
    state.engine.post([&state, job, sink] { state.jobs.unclaim(job, sink.get()); });
    if (!connected()) raise(state.ask_late("job " + id));
    raise({Errc::timed_out, "job " + id + " is not final after " + std::to_string(patience.count()) + " ms; it goes on", "gpuq status " + id + "   or wait longer"});
  }
  return future.get();
}

void Client::on_final(const std::vector<std::string>& ids, std::function<void(JobResult&&)> callback) {
  std::vector<gq::JobId> jobs;
  jobs.reserve(ids.size());
  for (const std::string& id : ids) jobs.push_back(State::job_id(id));
  auto sink = std::make_shared<BulkSink>(std::move(callback));
  State& state = *state_;
  state.engine.post([&state, jobs = std::move(jobs), sink] {
    for (const gq::JobId& job : jobs) state.jobs.claim(job, sink, true);
  });
}

JobResult Client::result(const std::string& id) {
  Answer answer = state_->ask(gq::wire::ResultQuery{State::job_id(id)});
  auto& reply = state_->expect<gq::wire::ResultReply>(answer);
  auto result = to_public(std::move(reply.item), answer.body);
  if (!result) raise(result.error());
  return std::move(*result);
}

// ---- blobs

std::string Client::fetch(const Part& part) {
  if (!part.share.empty()) return state_->read_shared(part);
  if (part.blob.empty()) return part.bytes;
  return fetch_blob(part.blob);
}

std::string Client::fetch_blob(const std::string& digest_text) {
  state_->must_not_block();
  const auto digest = gq::parse_blob_digest(digest_text);
  if (!digest) raise({Errc::usage, "'" + digest_text + "' is no blob digest", "a digest is 64 hexadecimal digits"});
  auto bytes = std::make_shared<std::string>();
  state_->download(*digest, [bytes](std::uint64_t total, std::uint64_t offset, std::string_view piece) -> gq::Result<void> {
    if (offset == 0) bytes->resize(static_cast<std::size_t>(total));
    if (offset + piece.size() > bytes->size()) return gq::fail(Errc::protocol, "a piece of a blob lies outside of it", "");
    std::memcpy(bytes->data() + offset, piece.data(), piece.size());
    return {};
  });
  if (!gq::is_brief_name(*digest) && sha256(*bytes) != *digest) raise({Errc::internal, "blob " + digest_text + " arrived with other content than its name says", "gpuq doctor; the broker's disk may be damaged"});
  return std::move(*bytes);
}

void Client::acknowledge(const std::vector<std::string>& ids) {
  std::vector<gq::JobId> jobs;
  jobs.reserve(ids.size());
  for (const std::string& id : ids) jobs.push_back(State::job_id(id));
  state_->engine.post([state = state_.get(), jobs = std::move(jobs)] {
    for (const gq::JobId& job : jobs) state->jobs.acknowledge(job);
  });
}

void Client::fetch_to(const Part& part, const std::string& path) {
  state_->must_not_block();
  const std::string temporary = path + ".part";
  const int fd = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) raise({Errc::bad_input, "cannot write " + temporary + ": " + std::strerror(errno), "choose a folder you may write to"});
  struct Guard {
    int fd; const std::string& temporary; bool keep{};
    ~Guard() { ::close(fd); if (!keep) ::unlink(temporary.c_str()); }
  } guard{fd, temporary};
  const auto write_at = [fd, temporary](std::uint64_t offset, std::string_view bytes) -> gq::Result<void> {
    while (!bytes.empty()) {
      const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return gq::fail(Errc::bad_input, "cannot write " + temporary + ": " + std::strerror(errno), "free some room, then try again");
      bytes.remove_prefix(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
    return {};
  };
  if (!part.share.empty()) {
    state_->read_shared(part, [&write_at](std::uint64_t offset, std::string_view piece) { return write_at(offset, piece); });
  } else if (part.blob.empty()) {
    if (auto ok = write_at(0, part.bytes); !ok) raise(ok.error());
  } else {
    const auto digest = gq::parse_blob_digest(part.blob);
    if (!digest) raise({Errc::usage, "'" + part.blob + "' is no blob digest", ""});
    state_->download(*digest, [write_at](std::uint64_t, std::uint64_t offset, std::string_view piece) { return write_at(offset, piece); });
    auto written = open_blob_file(temporary);
    if (!written) raise(written.error());
    if (!gq::is_brief_name(*digest) && (*written)->digest != *digest) raise({Errc::internal, "blob " + part.blob + " arrived with other content than its name says", "gpuq doctor; the broker's disk may be damaged"});
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) raise({Errc::bad_input, "cannot write " + path + ": " + std::strerror(errno), "choose a folder you may write to"});
  guard.keep = true;
}

std::string Client::upload(std::string_view bytes) {
  state_->must_not_block();
  return state_->upload(blob_of(std::string(bytes)));
}

std::string Client::upload_file(const std::string& path) {
  state_->must_not_block();
  auto source = open_blob_file(path);
  if (!source) raise(source.error());
  return state_->upload(std::move(*source));
}

// ---- detect

std::vector<Detection> Client::detect(const std::string& model, std::string_view image, const std::map<std::string, std::string>& params) {
  JobSpec spec;
  spec.kind = "detect";
  spec.model = model;
  spec.params = params;
  Part part;
  part.name = "image";
  part.media = image.starts_with("\x89PNG") ? "image/png" : image.starts_with("\xFF\xD8") ? "image/jpeg" : "application/octet-stream";
  part.bytes = image;
  spec.parts.push_back(std::move(part));
  const JobResult result = wait(submit(std::move(spec)).id);
  if (!result.ok()) throw Error(result.code.empty() ? "JOB_FAILED" : result.code, result.what.empty() ? "the job is " + result.state : result.what, "gpuq status " + result.id);
  return parse_detections(result);
}

// ---- questions

std::vector<std::string> Client::cancel(const std::vector<std::string>& ids) {
  static constexpr const char* kWords[] = {"cancelled", "asked", "already_final", "unknown", "refused"};
  std::vector<std::string> out;
  state_->for_each_page(ids, [&](std::vector<gq::JobId> jobs) {
    const std::size_t asked = jobs.size();
    Answer answer = state_->ask(gq::wire::CancelJobs{std::move(jobs)});
    const auto& reply = state_->expect<gq::wire::CancelReply>(answer);
    for (std::size_t i = 0; i < asked; ++i) out.emplace_back(i < reply.items.size() && reply.items[i] < std::size(kWords) ? kWords[reply.items[i]] : "unknown");
  });
  return out;
}

Submitted Client::retry(const std::string& id) {
  const gq::JobId job = State::job_id(id);
  const gq::JobId made = new_job_id();
  Answer answer = state_->ask(gq::wire::Retry{job, made, true}, [this, made] { state_->jobs.expect(made); });
  const auto& reply = state_->expect<gq::wire::RetryReply>(answer);
  Submitted out = to_public(reply.item);
  if (!out.ok) throw Error(out.code, out.what, out.next);
  return out;
}

std::vector<JobStatus> Client::status(const std::vector<std::string>& ids) {
  std::vector<JobStatus> out;
  state_->for_each_page(ids, [&](std::vector<gq::JobId> jobs) {
    Answer answer = state_->ask(gq::wire::StatusQuery{std::move(jobs)});
    for (const auto& one : state_->expect<gq::wire::StatusReply>(answer).jobs) out.push_back(to_public(one));
  });
  return out;
}

std::vector<JobStatus> Client::list(const ListFilter& filter) {
  gq::wire::ListQuery query;
  query.state = filter.state;
  query.job_class = filter.job_class;
  query.kind = filter.kind;
  query.active_only = filter.active_only;
  if (!filter.after.empty()) query.after = State::job_id(filter.after);
  query.limit = static_cast<std::uint32_t>(std::clamp(filter.limit, 1, 10'000));
  Answer answer = state_->ask(query);
  std::vector<JobStatus> out;
  for (const auto& one : state_->expect<gq::wire::ListReply>(answer).jobs) out.push_back(to_public(one));
  return out;
}

std::vector<WorkerStatus> Client::workers() {
  Answer answer = state_->ask(gq::wire::WorkersQuery{});
  std::vector<WorkerStatus> out;
  for (const auto& one : state_->expect<gq::wire::WorkersReply>(answer).workers) out.push_back(to_public(one));
  return out;
}

Top Client::top() {
  Answer answer = state_->ask(gq::wire::TopQuery{});
  return to_public(state_->expect<gq::wire::TopReply>(answer));
}

// ---- logs

LogChunk Client::logs(const std::string& id, std::uint64_t offset) {
  Answer answer = state_->ask(gq::wire::LogQuery{State::job_id(id), offset, false, {}});
  const auto& reply = state_->expect<gq::wire::LogReply>(answer);
  return {std::move(answer.body), reply.offset, reply.next, reply.end};
}

LogChunk Client::model_logs(const std::string& model, std::uint64_t offset) {
  Answer answer = state_->ask(gq::wire::LogQuery{{}, offset, false, model});
  const auto& reply = state_->expect<gq::wire::LogReply>(answer);
  return {std::move(answer.body), reply.offset, reply.next, reply.end};
}

void Client::follow_logs(const std::string& id, std::uint64_t offset, std::function<bool(const LogChunk&)> on_chunk) {
  state_->must_not_block();
  const gq::JobId job = State::job_id(id);
  struct Mail {
    std::mutex mutex;
    std::condition_variable come;
    std::vector<LogChunk> chunks;
    std::optional<gq::Error> error;
    std::uint64_t stream{};
    std::uint64_t next{};
  };
  auto mail = std::make_shared<Mail>();
  mail->next = offset;
  Engine& engine = state_->engine;
  engine.post([&engine, mail, job, offset] {
    mail->stream = engine.ask_stream(gq::wire::LogQuery{job, offset, true, {}}, [&engine, mail, job](gq::Result<Answer>&& answer) {
      const std::lock_guard lock(mail->mutex);
      if (!answer) {
        mail->error = answer.error();
      } else if (const auto* reply = std::get_if<gq::wire::LogReply>(&answer->message)) {
        if (reply->next < mail->next && !reply->end) return;   // said twice around a reconnect
        mail->next = reply->next;
        mail->chunks.push_back({std::move(answer->body), reply->offset, reply->next, reply->end});
        engine.renew(mail->stream, gq::wire::LogQuery{job, reply->next, true, {}});
        if (reply->end) engine.forget(mail->stream);
      } else {
        mail->error = gq::Error{Errc::protocol, "the broker answered a log query with something else", "update gpuq on both sides"};
      }
      mail->come.notify_one();
    });
  });
  const auto leave = [&] { engine.post([&engine, mail] { engine.forget(mail->stream); }); };
  for (;;) {
    std::vector<LogChunk> chunks;
    std::optional<gq::Error> error;
    {
      std::unique_lock lock(mail->mutex);
      // Wakes a few times a second so that a caller who wants to leave (on_chunk on an empty chunk) is asked.
      mail->come.wait_for(lock, std::chrono::milliseconds(250), [&] { return !mail->chunks.empty() || mail->error; });
      chunks.swap(mail->chunks);
      error.swap(mail->error);
    }
    if (chunks.empty() && !error && !on_chunk({"", mail->next, mail->next, false})) return leave();
    for (const LogChunk& chunk : chunks) {
      const bool go_on = on_chunk(chunk);
      if (!go_on || chunk.end) return leave();
    }
    if (error) raise(*error);
  }
}

// ---- models

Model Client::push_model(const std::string& name, const std::string& path, const std::string& runtime, std::int64_t budget_mib, bool promote) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
    raise({Errc::bad_input, path + " is a folder; this call takes one TorchScript file", "export it with torch.jit.save or yolo export format=torchscript; a Python model's folder: gpuq model push NAME FOLDER"});
  if (::stat(path.c_str(), &status) == 0 && status.st_size == 0) raise({Errc::bad_model, path + " is empty", "push a TorchScript file"});
  if (runtime == "torchscript")
    if (const auto error = not_servable(path)) raise(*error);
  const std::string blob = upload_file(path);
  return push_model_from_blob(name, blob, static_cast<std::uint64_t>(status.st_size), runtime, {}, budget_mib, promote);
}

Model Client::promote_model(const std::string& name, const std::string& version, const std::string& condition) {
  Answer answer = state_->ask(gq::wire::ModelCommand{"promote", name, version, condition});
  return to_public(state_->expect<gq::wire::ModelReply>(answer).model);
}

Model Client::rollback_model(const std::string& name) {
  Answer answer = state_->ask(gq::wire::ModelCommand{"rollback", name, {}, {}});
  return to_public(state_->expect<gq::wire::ModelReply>(answer).model);
}

Model Client::push_model_from_blob(const std::string& name, const std::string& blob, std::uint64_t bytes, const std::string& runtime,
                                   const std::string& metadata, std::int64_t budget_mib, bool promote) {
  const auto digest = gq::parse_blob_digest(blob);
  if (!digest) raise({Errc::usage, "'" + blob + "' is no blob digest", ""});
  gq::wire::ModelPush push;
  push.model.name = name;
  push.model.runtime = runtime;
  push.model.metadata = metadata;
  push.model.blob = *digest;
  push.model.bytes = bytes;
  push.model.budget_mib = budget_mib;
  push.promote = promote;
  Answer answer = state_->ask(push);
  return to_public(state_->expect<gq::wire::ModelReply>(answer).model);
}

std::vector<Model> Client::models() {
  Answer answer = state_->ask(gq::wire::ModelsQuery{});
  std::vector<Model> out;
  for (const auto& one : state_->expect<gq::wire::ModelsReply>(answer).models) out.push_back(to_public(one));
  return out;
}

Model Client::remove_model(const std::string& name, const std::string& version) {
  Answer answer = state_->ask(gq::wire::ModelRemove{name, version});
  return to_public(state_->expect<gq::wire::ModelReply>(answer).model);
}

}  // namespace gpuq
