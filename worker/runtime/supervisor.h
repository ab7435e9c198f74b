// supervisor.h - the pieces of one worker, wired together. Internal to worker/runtime.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "common/files/shares.h"
#include "common/net/asio.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "worker/runtime/allotments.h"
#include "worker/runtime/blobs.h"
#include "worker/runtime/parents.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/journal.h"
#include "worker/runtime/pauses.h"
#include "worker/runtime/process.h"
#include "worker/runtime/worker.h"
#include "worker/session/session.h"

namespace gq::worker {

class Supervisor final : public Reports {
 public:
  explicit Supervisor(WorkerOptions options);
  ~Supervisor() override;
  Result<void> prepare();        ///< everything that may fail before the broker is dialled
  int run();

  // Reports
  void started(const Grant& grant) override;
  void ended(session::Ending ending) override;
  void refuse(const Grant& grant, Errc code, std::string what) override;
  void progress(wire::Progress progress) override;
  void log(const Grant& grant, std::uint64_t offset, std::string bytes) override;
  void model_log(const std::string& model, std::string bytes) override;
  void checkpoint(const Grant& grant, const BlobDigest& blob, std::uint64_t step) override;
  void released(const Grant& grant) override;
  std::uint16_t open_warm_lane(const std::string& device, const std::string& model, std::uint32_t capacity) override;
  void close_lane(std::uint16_t lane) override;

 private:
  struct GrantHash {
    std::size_t operator()(const Grant& g) const noexcept { return std::hash<JobId>{}(g.job) ^ (std::size_t{g.attempt} << 20U); }
  };
  // supervisor_start.cpp
  Result<void> read_access();
  Result<void> take_scratch();
  void make_executors();
  void make_session();
  void read_journal();
  // supervisor.cpp
  void listen_for_signals();
  void connect();
  void hang_up();
  void on_packet(net::Packet&& packet);
  bool send(const wire::Message& message, std::uint64_t id, std::string_view body);
  void schedule_turn();
  void turn();
  void arm();
  void perform();
  void perform(session::Action& action);
  void write_down(session::JournalEnd&& end);
  void pin(const Grant& grant, const std::vector<BlobDigest>& blobs);
  void upload_again(const session::UploadAgain& action);
  void announce(const session::BrokerTerms& terms);
  void leave(int code);
  [[nodiscard]] Executor* executor_of(const std::string& kind) const;

  WorkerOptions options_;
  std::unique_ptr<net::AccessFile> access_;
  std::string endpoint_;
  int scratch_lock_{-1};
  asio::thread_pool disk_{2};                ///< before io_: handlers that die with io_ may still hand it work
  asio::io_context io_{1};
  net::Context context_;
  asio::steady_timer timer_{io_};
  asio::signal_set signals_{io_};
  std::unique_ptr<net::DealerPort> port_;
  std::uint64_t generation_{};               ///< of port_: a late callback of an old socket is ignored
  bool link_lost_{};
  std::unique_ptr<Processes> processes_;
  std::unique_ptr<Devices> devices_;
  std::unique_ptr<Allotments> allotments_;
  Pauses pauses_;
  files::Shares shares_;
  std::unique_ptr<Blobs> blobs_;
  std::unique_ptr<ParentResults> parents_;
  std::unique_ptr<Journal> journal_;
  std::unordered_map<Grant, std::vector<Pinned>, GrantHash> pinned_;   ///< what the journal's entries name
  std::unique_ptr<session::Session> session_;
  std::unique_ptr<Executor> echo_, sleep_, reserve_, command_, modelhosts_, trainers_;
  std::vector<std::string> kinds_;
  std::unordered_map<Grant, Executor*, GrantHash> running_;
  session::Actions actions_;
  bool performing_{};
  bool turn_posted_{};
  bool announced_{};
  bool leaving_{};
  std::uint16_t next_lane_{1000};
  Instant blobs_ticked_{};
  int exit_code_{};
};

}  // namespace gq::worker
