#include "worker/runtime/supervisor.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "common/config/clock.h"
#include "common/log.h"
#include "common/net/socket.h"
#include "common/wire/codec.h"

namespace gq::worker {
namespace {

constexpr std::uint8_t kLaneWarm = 2;

std::string json_quote(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) out += c;
  }
  return out + "\"";
}

}  // namespace

Supervisor::Supervisor(WorkerOptions options) : options_(std::move(options)), pauses_(io_, options_.pauses) {}

Supervisor::~Supervisor() {
  devices_.reset();              // joins the monitor
  modelhosts_.reset();
  trainers_.reset();
  command_.reset();
  disk_.join();
  if (scratch_lock_ < 0) return;
  std::error_code ignored;
  std::filesystem::remove_all(options_.scratch + "/attempts", ignored);
  ::close(scratch_lock_);
}

// ---- the loop

int Supervisor::run() {
  ::signal(SIGPIPE, SIG_IGN);
  listen_for_signals();
  devices_->watch(io_, [this](std::vector<wire::Device> devices) { session_->set_devices(std::move(devices)); });
  log::info("worker_starts", {{"name", options_.name}, {"broker", endpoint_}, {"scratch", options_.scratch}});
  read_journal();
  session_->start(now().steady, actions_);
  perform();
  arm();
  io_.run();
  return exit_code_;
}

void Supervisor::listen_for_signals() {
  ErrorCode ignored;
  signals_.add(SIGTERM, ignored);
  signals_.add(SIGINT, ignored);
  const auto wait = [this](auto&& self) -> void {
    signals_.async_wait([this, self](const ErrorCode& ec, int signal) {
      if (ec) return;
      if (signal == SIGTERM && !session_->leaving()) session_->drain(now().steady, actions_);
      else session_->stop(now().steady, actions_);
      perform();
      schedule_turn();
      self(self);
    });
  };
  wait(wait);
}

void Supervisor::schedule_turn() {
  if (turn_posted_) return;
  turn_posted_ = true;
  asio::post(io_, [this] {
    if (turn_posted_) turn();
  });
}

void Supervisor::turn() {
  turn_posted_ = false;
  if (leaving_) return;
  const Instant at = now().steady;
  if (at - blobs_ticked_ >= 1s) {
    blobs_ticked_ = at;
    blobs_->tick();
    parents_->tick();
  }
  session_->tick(at, actions_);
  perform();
  session_->flush(at, actions_);
  perform();
  arm();
}

void Supervisor::arm() {
  if (leaving_) return;
  timer_.expires_after(std::max<Duration>(1ms, session_->next_wakeup() - now().steady));
  timer_.async_wait([this](const ErrorCode& ec) {
    if (!ec) turn();
  });
}

void Supervisor::connect() {
  hang_up();
  const std::uint64_t generation = ++generation_;
  const auto current = [this, generation] { return generation == generation_ && !leaving_; };
  net::DealerPort::Handlers handlers;
  handlers.received = [this, current](net::Packet&& packet) {
    if (current()) on_packet(std::move(packet));
  };
  handlers.drained = [this, current] {
    if (current()) turn();
  };
  handlers.connected = [this, current] {
    if (!current()) return;
    session_->link_up(now().steady, actions_);
    perform();
  };
  handlers.disconnected = [this, current] {
    if (!current()) return;
    blobs_->link_down();
    parents_->link_down();
    session_->link_down(now().steady, actions_);
    perform();
    schedule_turn();
  };
  handlers.refused = [this, current](Error error) {
    if (!current()) return;
    session_->refused(now().steady, error, actions_);
    perform();
    schedule_turn();
  };
  port_ = std::make_unique<net::DealerPort>(context_, io_, std::move(handlers));
  net::DealerPort::Options options;
  options.endpoint = endpoint_;
  options.access = access_.get();
  if (auto connected = port_->connect(options); !connected) {
    session_->refused(now().steady, connected.error(), actions_);
    schedule_turn();
  }
}

void Supervisor::hang_up() {
  if (!port_) return;
  ++generation_;
  blobs_->link_down();
  parents_->link_down();
  // We may be inside one of its callbacks: it goes when the loop is back at the top.
  asio::post(io_, [old = std::shared_ptr<net::DealerPort>(std::move(port_))] { old->close(); });
}

bool Supervisor::send(const wire::Message& message, std::uint64_t id, std::string_view body) {
  if (!port_) return false;
  const std::string head = std::visit(
      [id](const auto& m) -> std::string {
        if constexpr (std::is_same_v<std::decay_t<decltype(m)>, std::monostate>) return {};
        else return wire::encode(m, id);
      },
      message);
  switch (port_->send(head, body)) {
    case net::SendOutcome::sent: return true;
    case net::SendOutcome::gone: link_lost_ = true; return false;
    case net::SendOutcome::stuck: return false;   // silence decides
  }
  return false;
}

void Supervisor::on_packet(net::Packet&& packet) {
  auto decoded = wire::decode(packet.head);
  if (!decoded) {
    log::warn("bad_message", {{"reason", decoded.error().what}});
    return;
  }
  if ((decoded->header.id & Blobs::kIdBit) != 0) return blobs_->received(decoded->header.id, decoded->message, packet.body);
  if ((decoded->header.id & ParentResults::kIdBit) != 0) return parents_->received(decoded->header.id, decoded->message, packet.body);
  session_->received(now().steady, decoded->header, std::move(decoded->message), packet.body, actions_);
  perform();
}

void Supervisor::perform() {
  if (performing_) return;   // an action's consequence: the outer call goes on with it
  performing_ = true;
  for (std::size_t i = 0; i < actions_.size(); ++i) {
    session::Action action = std::move(actions_[i]);   // the list may grow and move under us
    perform(action);
    if (link_lost_) {
      link_lost_ = false;
      session_->link_down(now().steady, actions_);
    }
  }
  actions_.clear();
  performing_ = false;
}

void Supervisor::perform(session::Action& action) {
  std::visit(overloaded{
                 [&](session::Connect&) { connect(); },
                 [&](session::Hangup&) { hang_up(); },
                 [&](session::Send& s) { send(s.message, s.id, s.body); },
                 [&](session::StartJob& s) {
                   Executor* executor = executor_of(s.item.kind);
                   if (executor == nullptr) return refuse(s.item.grant, Errc::unknown_kind, "no executor for kind '" + s.item.kind + "'");
                   if (executor != echo_.get()) running_[s.item.grant] = executor;
                   if (!s.item.devices.empty() && s.item.kind != "reserve")   // a booking computes nothing here
                     pauses_.work_begins(s.item.grant, static_cast<JobClass>(s.item.job_class), s.item.devices);
                   executor->start({std::move(s.item), std::move(s.body)});
                 },
                 [&](session::StopJob& s) {
                   if (const auto it = running_.find(s.grant); it != running_.end()) it->second->stop(s.grant, s.cause);
                 },
                 [&](session::PreemptJob& p) {
                   if (const auto it = running_.find(p.grant); it != running_.end()) it->second->preempt(p.grant, p.reason, p.deadline);
                 },
                 [&](session::EvictIdle& e) {
                   if (modelhosts_) modelhosts_->evict(e.device, e.model);
                 },
                 [&](session::JournalEnd& j) { write_down(std::move(j)); },
                 [&](session::ForgetEnd& f) {
                   pinned_.erase(f.grant);
                   journal_->forget(f.grant);
                 },
                 [&](session::UploadAgain& u) { upload_again(u); },
                 [&](session::Welcomed& w) {
                   announce(w.terms);
                   blobs_->link_up(w.terms.blob_chunk_bytes, net::is_loopback(endpoint_));
                   parents_->link_up();
                   schedule_turn();
                 },
                 [&](session::Note& n) {
                   if (n.next.empty()) log::write(n.warn ? log::Level::warn : log::Level::info, n.event, {{"what", n.what}});
                   else log::write(n.warn ? log::Level::warn : log::Level::info, n.event, {{"what", n.what}, {"try", n.next}});
                 },
                 [&](session::Exit& e) { leave(e.code); },
             },
             action);
}

Executor* Supervisor::executor_of(const std::string& kind) const {
  if (kind == "echo") return echo_.get();
  if (kind == "sleep") return sleep_.get();
  if (kind == "reserve") return reserve_.get();
  if (kind == "command") return command_.get();
  if (kind == "detect" || kind == "infer" || kind == "warm") return modelhosts_.get();
  if (kind.rfind("train.", 0) == 0) return trainers_.get();
  return nullptr;
}

void Supervisor::write_down(session::JournalEnd&& end) {
  const Grant grant = end.end.grant;
  pin(grant, end.here);
  journal_->write({std::move(end), now().wall}, [this, grant](Result<void> written) {
    // Not written is no reason not to say it: it only would not survive this process.
    if (!written) log::warn("journal_not_written", {{"job", to_string(grant.job)}, {"reason", written.error().what}});
    session_->journaled(grant, actions_);
    perform();
    schedule_turn();
  });
}

void Supervisor::pin(const Grant& grant, const std::vector<BlobDigest>& blobs) {
  for (const BlobDigest& blob : blobs)
    if (Pinned file = blobs_->find(blob)) pinned_[grant].push_back(std::move(file));
}

void Supervisor::upload_again(const session::UploadAgain& action) {
  const auto open = std::make_shared<std::size_t>(action.blobs.size());
  for (const BlobDigest& blob : action.blobs) {
    const bool kept = blobs_->store_again(blob, [this, open, grant = action.grant](Result<Pinned> stored) {
      if (!stored) session_->result_missing(grant);
      else if (--*open == 0) session_->result_stored(grant);
      schedule_turn();
    });
    if (!kept) {
      session_->result_missing(action.grant);
      return schedule_turn();
    }
  }
}

void Supervisor::announce(const session::BrokerTerms& terms) {
  log::info("welcomed", {{"broker", endpoint_}, {"version", terms.version}, {"term", std::to_string(terms.term)}});
  if (announced_ || options_.ready_fd < 0) return;
  announced_ = true;
  std::string devices;
  for (const wire::Device& device : devices_->list()) devices += (devices.empty() ? "" : ",") + json_quote(device.uuid);
  std::string kinds;
  for (const std::string& kind : kinds_) kinds += (kinds.empty() ? "" : ",") + json_quote(kind);
  const std::string line = "{\"ready\":true,\"name\":" + json_quote(options_.name) + ",\"pid\":" + std::to_string(::getpid()) + ",\"term\":" +
                           std::to_string(terms.term) + ",\"devices\":[" + devices + "],\"kinds\":[" + kinds + "]}\n";
  if (::write(options_.ready_fd, line.data(), line.size()) < 0) log::warn("ready_fd", {{"reason", std::strerror(errno)}});
  ::close(options_.ready_fd);
}

void Supervisor::leave(int code) {
  if (leaving_) return;
  leaving_ = true;
  exit_code_ = code;
  for (Executor* executor : {command_.get(), modelhosts_.get(), trainers_.get()})
    if (executor != nullptr) executor->kill_all();
  processes_->kill_all();
  hang_up();
  log::info("worker_ends", {{"name", options_.name}});
  asio::post(io_, [this] { io_.stop(); });   // behind the posted close: a goodbye leaves while the context lingers
}

// ---- Reports

void Supervisor::started(const Grant& grant) {
  session_->job_started(now().steady, grant);
  schedule_turn();
}
void Supervisor::ended(session::Ending ending) {
  running_.erase(ending.grant);
  pauses_.work_ends(ending.grant);
  session_->job_ended(now().steady, std::move(ending), actions_);
  perform();
  schedule_turn();
}
void Supervisor::refuse(const Grant& grant, Errc code, std::string what) {
  running_.erase(grant);
  pauses_.work_ends(grant);
  session_->job_refused(grant, code, std::move(what));
  schedule_turn();
}
void Supervisor::progress(wire::Progress progress) {
  session_->job_progress(std::move(progress));
  schedule_turn();
}
void Supervisor::log(const Grant& grant, std::uint64_t offset, std::string bytes) {
  session_->job_log(grant, offset, std::move(bytes));
  schedule_turn();
}
void Supervisor::model_log(const std::string& model, std::string bytes) {
  session_->model_log(model, std::move(bytes));
  schedule_turn();
}
void Supervisor::checkpoint(const Grant& grant, const BlobDigest& blob, std::uint64_t step) {
  session_->job_checkpoint(grant, blob, step);
  schedule_turn();
}
void Supervisor::released(const Grant& grant) {
  session_->job_released(grant);
  schedule_turn();
}
std::uint16_t Supervisor::open_warm_lane(const std::string& device, const std::string& model, std::uint32_t capacity) {
  const std::uint16_t lane = next_lane_++;
  if (next_lane_ < 1000) next_lane_ = 1000;
  session_->open_lane({lane, kLaneWarm, device, model}, capacity);
  schedule_turn();
  return lane;
}
void Supervisor::close_lane(std::uint16_t lane) {
  session_->close_lane(lane);
  schedule_turn();
}

int run_worker(WorkerOptions options) {
  Supervisor supervisor(std::move(options));
  if (auto ready = supervisor.prepare(); !ready) {
    const Error& error = ready.error();
    std::cerr << "error[" << gq::to_string(error.code) << "]: " << error.what << "\n";
    if (!error.next.empty()) std::cerr << "  try: " << error.next << "\n";
    return exit_code(error.code);
  }
  return supervisor.run();
}

}  // namespace gq::worker
