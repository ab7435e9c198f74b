// state.h - what a gpuq::Client holds: the engine and what sits on it, wired together; and blocking questions.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "client/include/gpuq/client.h"
#include "client/lib/convert.h"
#include "client/lib/engine.h"
#include "client/lib/jobs.h"
#include "client/lib/transfers.h"
#include "common/files/shares.h"
#include "common/net/keys.h"
#include "common/vocabulary/job.h"

namespace gpuq {

struct Client::State {
  gq::client::Engine engine;
  gq::client::Transfers transfers{engine};
  gq::client::Jobs jobs{engine, transfers};

  gq::files::Shares shares;
  std::mutex shares_mutex;
  std::vector<std::string> served_labels;                      ///< of live workers
  std::chrono::steady_clock::time_point served_until{};        ///< asked again after that

  State(gq::client::Engine::Settings settings, gq::files::Shares shares);
  ~State() { engine.stop(); }   // before jobs and transfers go: their callbacks run on its thread

  [[nodiscard]] std::chrono::milliseconds timeout() const { return std::chrono::duration_cast<std::chrono::milliseconds>(engine.settings().timeout); }
  void must_not_block() const;
  static gq::JobId job_id(const std::string& text);
  gq::Error ask_late(const std::string& what);

  /// Ask and wait for the answer; throws gpuq::Error. `first` runs on the loop just before.
  template <class M>
  gq::client::Answer ask(const M& message, std::function<void()> first = {}) {
    must_not_block();
    auto promise = std::make_shared<std::promise<gq::client::Answer>>();
    auto future = promise->get_future();
    engine.post([this, message, promise, first = std::move(first)] {
      if (first) first();
      engine.ask(message, {}, engine.settings().timeout, [promise](gq::Result<gq::client::Answer>&& answer) { settle(*promise, std::move(answer)); });
    });
    return future.get();
  }
  template <class R>
  R& expect(gq::client::Answer& answer) {
    if (R* reply = std::get_if<R>(&answer.message)) return *reply;
    unexpected_answer();
  }
  void for_each_page(const std::vector<std::string>& ids, const std::function<void(std::vector<gq::JobId>)>& page);
  std::string upload(gq::client::BlobSourcePtr source);
  std::string read_shared(const Part& part);                   ///< throws gpuq::Error
  void read_shared(const Part& part, const std::function<gq::Result<void>(std::uint64_t, std::string_view)>& take);
  void download(const gq::BlobDigest& blob, gq::client::Transfers::Take take);

 private:
  static void settle(std::promise<gq::client::Answer>& promise, gq::Result<gq::client::Answer>&& answer);
  [[noreturn]] static void unexpected_answer();
};

}  // namespace gpuq
