// model_host.h - one device's modelhost: its child, the models in it, and the jobs on their way through. Internal to modelhost.cpp.
//
//   absent -> fetching -> waiting_for_child -> loading -> warm -> leaving -> (gone)
//
// A model leaves only when nobody uses it: no job of it is gathering inputs, waits, or runs. Its lane is closed when its memory is
// really free: the child said so, or, when it was the last model on a card, the child itself has ended (that frees its context too).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/config/model_file.h"
#include "worker/runtime/allotments.h"
#include "worker/runtime/child_process.h"
#include "worker/runtime/child_words.h"
#include "worker/runtime/memory_guard.h"
#include "worker/runtime/modelhost.h"

namespace gq::worker {

struct HostJob {
  Job job;
  std::string model;   ///< NAME@VERSION
  std::uint64_t id{};
  std::shared_ptr<Gathered> gathered;
  bool sent{};
  bool started{};      ///< the child said that its computation began
  bool over{};
};

struct ModelHosts::Shared {
  /// How often a Python model died while it was set up, on any device here, and until when it is not tried again.
  struct Deaths { unsigned count{}; Instant until{}; std::string why; };
  Shared(ChildContext c, std::string p, std::string s) : context(std::move(c)), program(std::move(p)), serve(std::move(s)) {}
  [[nodiscard]] std::optional<Error> quarantine_of(const std::string& model);
  ChildContext context;
  std::string program, serve;
  std::map<std::string, std::shared_ptr<Host>> hosts;   ///< by device; of a Python model: by device and model
  std::map<std::string, Deaths> deaths;                 ///< by model
  std::map<Grant, std::pair<std::weak_ptr<Host>, std::shared_ptr<HostJob>>> jobs;
};

struct ModelHosts::Host : std::enable_shared_from_this<Host> {
  struct Model {
    enum class State : std::uint8_t { absent, fetching, waiting_for_child, loading, warm, leaving } state{State::absent};
    wire::Model about;
    Pinned file;
    Allotment memory;
    std::int64_t booked_mib{};
    std::uint64_t load_id{};       ///< of the load, then of the unload
    std::uint16_t lane{};
    std::size_t users{};           ///< jobs taken and not over
    Instant used{};
    std::vector<std::shared_ptr<HostJob>> waiting;
  };

  /// `python`: the one model that lives here, else many of gpuq-modelhost's.
  Host(Shared& s, std::string uuid, std::string python);
  void take(const std::shared_ptr<HostJob>& job);
  void evict_if_idle(const std::string& key, const std::string& why);
  void leave(const std::shared_ptr<HostJob>& job, Outcome outcome);
  void leave_later(const std::shared_ptr<HostJob>& job, Outcome outcome, Duration grace);
  void shut_down();

  // the child's words
  void on_ready(const child::Frame& frame);
  void on_frame(const child::Frame& frame);
  void on_printed(std::string_view text);
  void on_gone(const std::string& why);

  Shared& shared;
  ChildContext& c;
  std::shared_ptr<ChildProcess> child;

 private:
  // jobs: modelhost.cpp
  void offer(const std::shared_ptr<HostJob>& job);
  void send(const std::shared_ptr<HostJob>& job);
  void on_done(const std::shared_ptr<HostJob>& job, const child::Frame& frame);
  void end(const std::shared_ptr<HostJob>& job, session::Ending ending);
  void forget(const std::shared_ptr<HostJob>& job);
  void fail_waiting(const std::string& key, const Error& error, bool final);
  // a Python model: python_host.cpp
  [[nodiscard]] bool is_python() const { return !python.empty(); }
  void unpack(const std::string& key);
  Result<ChildProcess::Spec> python_spec();
  void add_python_fields(child::Frame& load);
  void expect_loaded();
  void watch_memory();
  void say_log(std::string_view text);
  [[nodiscard]] std::string last_line() const;         ///< ": …", of what it printed; empty when it printed nothing
  bool dies_again(const std::string& key, const std::string& why);   ///< false: quarantined now
  void go_if_empty();
  // models and the child: model_host.cpp
  void fetch(const std::string& key);
  void load_what_waits();
  bool ensure_child();
  void on_loaded(const child::Frame& frame);
  void on_load_failed(const std::string& key, const child::Frame& frame);
  void begin_leaving(const std::string& key, const std::string& why);
  void on_unloaded(std::uint64_t id);
  void watch_idle();
  [[nodiscard]] std::string idle_model(const std::string& except) const;
  void forget_child_of(std::vector<std::string>& broken, bool was_ready);
  [[nodiscard]] std::string output_dir() const { return folder + "/out"; }

  std::string device;
  const std::string python;
  std::optional<ModelFile> about;            ///< model.toml
  std::string unpacked;                      ///< where the model's folder lies
  asio::steady_timer timer;
  asio::steady_timer idle_timer;
  asio::steady_timer setup_timer;
  MemoryGuard memory_guard;
  std::string printed;                       ///< the newest of its log, for an error text
  std::string unsaid;                        ///< of its log: leaves a few times a second
  asio::steady_timer log_timer;
  bool log_armed{};
  const Duration idle_limit;
  std::string folder;
  std::map<std::string, Model> models;
  std::map<std::uint64_t, std::shared_ptr<HostJob>> sent;
  std::uint64_t next_id{1};
  unsigned failures{};
  bool retiring{};               ///< told to end because no model is left in it
  Instant not_before{};
  Instant ready_at{};
  std::string last_trouble;
};

}  // namespace gq::worker
