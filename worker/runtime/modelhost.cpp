// modelhost.cpp - jobs of warm models: taken, given to the device's child, answered or handed back. The child and its models: model_host.cpp.
#include "worker/runtime/modelhost.h"

#include <algorithm>

#include "common/config/clock.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/model_host.h"

namespace gq::worker {
namespace {

constexpr Duration kCancelGrace = 10s;

}  // namespace

using State = ModelHosts::Host::Model::State;

// ---- a job's way

void ModelHosts::Host::take(const std::shared_ptr<HostJob>& job) {
  const wire::AssignItem& item = job->job.item;
  Model& model = models[job->model];
  const auto refuse = [&](Errc code, std::string what) {
    job->over = true;
    shared.jobs.erase(item.grant);
    c.reports.refuse(item.grant, code, std::move(what));
  };
  if (model.state == State::leaving) return refuse(Errc::not_here, "model " + job->model + " is just leaving " + device);
  if (model.state == State::absent && !model.memory) {
    auto memory = c.allotments.book({device}, item.granted_mib > 0 ? item.granted_mib : item.model.budget_mib);
    if (!memory) {
      models.erase(job->model);
      return refuse(memory.error().code, memory.error().what);
    }
    model.memory = std::move(*memory);
    model.booked_mib = item.granted_mib > 0 ? item.granted_mib : item.model.budget_mib;
  }
  ++model.users;
  if (model.state != State::warm) c.reports.started(item.grant);   // loading is part of the attempt
  model.used = now().steady;
  gather(job->job, c, [self = shared_from_this(), job](Result<std::shared_ptr<Gathered>> got) {
    if (job->over) return;
    if (!got) return self->end(job, failed(job->job.item.grant, got.error(), got.error().code != Errc::internal));
    job->gathered = std::move(*got);
    self->offer(job);
  });
}

void ModelHosts::Host::offer(const std::shared_ptr<HostJob>& job) {
  Model& model = models[job->model];
  if (model.state == State::warm) return send(job);
  model.waiting.push_back(job);
  model.about = job->job.item.model;
  if (model.state == State::absent) fetch(job->model);
}

void ModelHosts::Host::send(const std::shared_ptr<HostJob>& job) {
  if (job->over) return;
  if (job->job.item.kind == "warm") {   // the model is loaded: that was all
    session::Ending ending;
    ending.grant = job->job.item.grant;
    ending.outcome = Outcome::succeeded;
    ending.body = wire::encode(wire::ResultBody{.values = {{"model", job->model}}, .parts = {}});
    return end(job, std::move(ending));
  }
  if (is_python() && std::find(about->kinds.begin(), about->kinds.end(), job->job.item.kind) == about->kinds.end())
    return end(job, failed(job->job.item.grant, {Errc::bad_input, "model " + job->model + " does not answer " + job->job.item.kind, "kinds in its model.toml says what it answers"}, true));
  job->id = next_id++;
  job->sent = true;
  sent[job->id] = job;
  child->send(run_frame(job->id, job->job, *job->gathered, output_dir()));
}

void ModelHosts::Host::on_done(const std::shared_ptr<HostJob>& job, const child::Frame& frame) {
  auto output = output_of(frame, output_dir());
  if (!output) return end(job, failed(job->job.item.grant, output.error()));
  output->values.try_emplace("model", job->model);
  std::vector<std::string> files;
  for (const Output::Item& item : output->items)
    if (!item.file.empty()) files.push_back(item.file);
  output->outputs = job->gathered->body.outputs;
  pack(std::move(*output), c, BlobsGo::to_broker, [self = shared_from_this(), job, files = std::move(files)](Result<Packed> packed) {
    for (const std::string& file : files) ::remove(file.c_str());
    if (!packed) return self->end(job, failed(job->job.item.grant, packed.error(), packed.error().code == Errc::too_large));
    session::Ending ending;
    ending.grant = job->job.item.grant;
    ending.outcome = Outcome::succeeded;
    ending.body = std::move(packed->body);
    ending.blobs = std::move(packed->blobs);
    self->end(job, std::move(ending));
  });
}

void ModelHosts::Host::fail_waiting(const std::string& key, const Error& error, bool final) {
  const auto waiting = std::move(models[key].waiting);
  models[key].waiting.clear();
  models[key].memory.reset();
  for (const auto& job : waiting) {
    session::Ending ending = failed(job->job.item.grant, error, final);
    ending.started = false;
    end(job, std::move(ending));
  }
}

void ModelHosts::Host::end(const std::shared_ptr<HostJob>& job, session::Ending ending) {
  if (std::exchange(job->over, true)) return;
  shared.jobs.erase(job->job.item.grant);
  if (const auto model = models.find(job->model); model != models.end() && model->second.users > 0) {
    model->second.used = now().steady;
    // A model that nobody waits for any more and that never came has no claim to memory.
    if (--model->second.users == 0 && model->second.state == State::absent) models.erase(model);
  }
  c.reports.ended(std::move(ending));
}

/// Ends it here and now; the child is told, and what it still says of it is ignored.
void ModelHosts::Host::leave(const std::shared_ptr<HostJob>& job, Outcome outcome) {
  if (job->sent && child) child->send({child::Type::cancel, job->id, {}});
  sent.erase(job->id);
  for (auto& [key, model] : models) std::erase(model.waiting, job);
  session::Ending ending;
  ending.grant = job->job.item.grant;
  ending.outcome = outcome;
  end(job, std::move(ending));
}

void ModelHosts::Host::leave_later(const std::shared_ptr<HostJob>& job, Outcome outcome, Duration grace) {
  const auto patience = std::make_shared<asio::steady_timer>(c.io, grace);
  patience->async_wait([self = shared_from_this(), job, outcome, patience](const ErrorCode& ec) {
    if (!ec && !job->over) self->leave(job, outcome);
  });
}

void ModelHosts::Host::shut_down() {
  for (auto& [id, job] : sent) job->over = true;
  timer.cancel();
  idle_timer.cancel();
  if (!child) return;
  child->forget();
  child->kill("the worker ends");
}

// ---- all devices

ModelHosts::ModelHosts(ChildContext context, std::string program, std::string serve) : shared_(std::make_shared<Shared>(std::move(context), std::move(program), std::move(serve))) {}
ModelHosts::~ModelHosts() {
  for (auto& [device, host] : shared_->hosts)
    if (host->child) host->child->forget();
}

void ModelHosts::start(Job job) {
  if (job.item.devices.empty()) return shared_->context.reports.refuse(job.item.grant, Errc::not_here, "a model job without a device");
  if (job.item.model.name.empty()) {
    return shared_->context.reports.ended(failed(job.item.grant, {Errc::unknown_model, "the job names no model", "--model NAME"}));
  }
  const std::string device = job.item.devices[0];
  if (shared_->context.devices.by_uuid(device) == nullptr) return shared_->context.reports.refuse(job.item.grant, Errc::not_here, "no device " + device + " here");
  const std::string model = model_key(job.item.model);
  const bool python = job.item.model.runtime == "python";
  if (python ? shared_->serve.empty() : shared_->program.empty())
    return shared_->context.reports.refuse(job.item.grant, Errc::not_here, python ? "this worker has no gpuq/serve for Python models" : "this worker has no gpuq-modelhost");
  if (python)
    if (auto why = shared_->quarantine_of(model)) return shared_->context.reports.ended(failed(job.item.grant, *why));
  std::shared_ptr<Host>& host = shared_->hosts[python ? device + " " + model : device];
  if (!host) host = std::make_shared<Host>(*shared_, device, python ? model : std::string());
  auto entry = std::make_shared<HostJob>();
  entry->model = model;
  entry->job = std::move(job);
  shared_->jobs[entry->job.item.grant] = {host, entry};
  const auto keep = host;
  keep->take(entry);
}

void ModelHosts::stop(const Grant& grant, session::StopCause cause) {
  const auto it = shared_->jobs.find(grant);
  if (it == shared_->jobs.end()) return;
  const auto host = it->second.first.lock();
  const auto job = it->second.second;
  if (!host) return;
  const bool polite = job->sent && job->started && (cause == session::StopCause::cancel || cause == session::StopCause::timeout);
  if (!polite || !host->child) return host->leave(job, Outcome::cancelled);
  host->child->send({child::Type::cancel, job->id, {}});
  host->leave_later(job, Outcome::cancelled, kCancelGrace);
}

/// What is not in a batch yet goes back at once, at no cost; what computes already is quicker to finish than to do again.
void ModelHosts::preempt(const Grant& grant, const std::string&, Duration deadline) {
  const auto it = shared_->jobs.find(grant);
  if (it == shared_->jobs.end()) return;
  const auto job = it->second.second;
  const auto host = it->second.first.lock();
  if (!host) return;
  if (job->started) host->leave_later(job, Outcome::yielded, deadline > Duration::zero() ? deadline : shared_->context.term_grace);
  else host->leave(job, Outcome::yielded);
}

void ModelHosts::evict(const std::string& device, const std::string& model) {
  for (const std::string& key : {device, device + " " + model})
    if (const auto host = shared_->hosts.find(key); host != shared_->hosts.end()) {
      const auto keep = host->second;
      keep->evict_if_idle(model, "the broker needs the room");
    }
}

void ModelHosts::kill_all() {
  for (auto& [device, host] : shared_->hosts) host->shut_down();
}

}  // namespace gq::worker
