// state.cpp - wiring and blocking.
#include "client/lib/state.h"

namespace gpuq {

using namespace gq::client;
using gq::Errc;

Client::State::State(Engine::Settings settings, gq::files::Shares s) : engine(std::move(settings)), shares(std::move(s)) {
  Engine::Hooks hooks;
  hooks.notify = [this](gq::wire::Notify&& notify, std::string&& body) { jobs.notify(std::move(notify), std::move(body)); };
  hooks.resumed = [this] { jobs.rewatch(); };
  hooks.term_changed = [this] { jobs.rewatch(); };
  hooks.failed = [this](const gq::Error& error) { jobs.failed(error); };
  hooks.tick = [this](gq::Instant now) { return jobs.tick(now); };
  hooks.flush = [this] { jobs.flush(); };
  engine.start(std::move(hooks));
}

void Client::State::must_not_block() const {
  if (engine.on_loop_thread())
    throw Error("USAGE", "a blocking call inside a callback would wait for itself", "use the _async form, or hand the work to another thread");
}

gq::JobId Client::State::job_id(const std::string& text) {
  const auto id = gq::parse_job_id(text);
  if (!id) throw Error("USAGE", "'" + text + "' is not a job id (26 characters, as printed by submit)", "gpuq list");
  return *id;
}

gq::Error Client::State::ask_late(const std::string& what) {
  std::promise<gq::Error> promise;
  auto future = promise.get_future();
  engine.post([&] { promise.set_value(engine.late(what)); });
  return future.get();
}

void Client::State::settle(std::promise<Answer>& promise, gq::Result<Answer>&& answer) {
  if (answer) promise.set_value(std::move(*answer));
  else promise.set_exception(std::make_exception_ptr(to_public(answer.error())));
}

void Client::State::unexpected_answer() {
  throw Error("PROTOCOL", "the broker answered with a message of another kind", "update gpuq on both sides: gpuq version");
}

void Client::State::for_each_page(const std::vector<std::string>& ids, const std::function<void(std::vector<gq::JobId>)>& page) {
  std::vector<gq::JobId> some;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    some.push_back(job_id(ids[i]));
    if (some.size() == gq::kLimits.items_max || i + 1 == ids.size()) page(std::exchange(some, {}));
  }
}

std::string Client::State::upload(BlobSourcePtr source) {
  auto promise = std::make_shared<std::promise<gq::Result<void>>>();
  auto future = promise->get_future();
  engine.post([this, source, promise] { transfers.upload(source, [promise](gq::Result<void> done) { promise->set_value(std::move(done)); }); });
  if (auto done = future.get(); !done) throw to_public(done.error());
  return gq::to_string(source->digest);
}

void Client::State::download(const gq::BlobDigest& blob, Transfers::Take take) {
  auto promise = std::make_shared<std::promise<gq::Result<void>>>();
  auto future = promise->get_future();
  engine.post([this, blob, take = std::move(take), promise] {
    transfers.download(blob, take, [this, blob, promise](gq::Result<void> done) {
      if (done) jobs.blob_read(blob);
      promise->set_value(std::move(done));
    });
  });
  if (auto done = future.get(); !done) throw to_public(done.error());
}

}  // namespace gpuq
