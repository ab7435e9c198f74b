// members.h - whose request it is: one gpuq::Client for each token, and who of its askers waits for which job.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "client/http/routes.h"
#include "client/include/gpuq/client.h"

namespace gq::http {

/// One asker's wait for one job.
struct Awaited {
  std::optional<gpuq::JobResult> result;            ///< under the waiters' mutex until it is there
  std::function<void()> wake;
};

class Member {
 public:
  Member(gpuq::Options options, std::string key) : client(std::move(options)), public_key(std::move(key)), waiters_(std::make_shared<Waiters>()) {}

  gpuq::Client client;
  const std::string public_key;

  /// libgpuq is asked once for a job, however often it is polled: its callbacks stay until the job is final. `wake` is called then,
  /// on libgpuq's thread, while anybody holds what this returns.
  std::shared_ptr<Awaited> expect(const std::string& id, std::function<void()> wake);
  [[nodiscard]] bool has(const Awaited& awaited) const;

 private:
  struct Waiters {
    std::mutex mutex;
    std::multimap<std::string, std::weak_ptr<Awaited>> of_job;
    std::set<std::string> asked;
  };
  std::shared_ptr<Waiters> waiters_;
};

class Members {
 public:
  explicit Members(const Settings& settings) : settings_(settings) {}
  /// By the Authorization header. Throws KEY_REFUSED, OVER_LIMIT, UNAVAILABLE.
  std::shared_ptr<Member> of(const std::string& authorization);

 private:
  const Settings& settings_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Member>> members_;
};

}  // namespace gq::http
