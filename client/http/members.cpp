// members.cpp - see members.h.
#include "client/http/members.h"

#include <strings.h>

#include <vector>

#include "client/cli/tokens.h"
#include "client/lib/convert.h"

namespace gq::http {

std::shared_ptr<Awaited> Member::expect(const std::string& id, std::function<void()> wake) {
  auto awaited = std::make_shared<Awaited>();
  awaited->wake = std::move(wake);
  {
    const std::lock_guard lock(waiters_->mutex);
    std::erase_if(waiters_->of_job, [](const auto& one) { return one.second.expired(); });
    waiters_->of_job.emplace(id, awaited);
    if (!waiters_->asked.insert(id).second) return awaited;
  }
  client.on_final({id}, [in = waiters_](gpuq::JobResult&& result) {
    std::vector<std::shared_ptr<Awaited>> told;
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
    for (const auto& one : told) one->wake();
  });
  return awaited;
}

bool Member::has(const Awaited& awaited) const {
  const std::lock_guard lock(waiters_->mutex);
  return awaited.result.has_value();
}

std::shared_ptr<Member> Members::of(const std::string& authorization) {
  gpuq::Options options;
  options.acknowledge = false;   // a result may be asked for again
  options.connect_timeout = std::chrono::seconds(5);
  options.broker = settings_.broker;
  std::string name, key;
  if (settings_.insecure) {
    options.insecure = true;
    options.name = "http";
  } else {
    constexpr std::string_view kBearer = "Bearer ";
    if (strncasecmp(authorization.c_str(), kBearer.data(), kBearer.size()) != 0)
      throw gpuq::Error("KEY_REFUSED", "this request brings no token", "send Authorization: Bearer TOKEN; gpuq keys issue NAME --http on the broker's host makes one");
    const auto access = cli::check_token(settings_.tokens, std::string_view(authorization).substr(kBearer.size()));
    if (!access) throw client::to_public(access.error());
    name = access->name;
    key = access->public_key;
    options.access_file = cli::token_file(settings_.tokens, name);
  }
  const std::lock_guard lock(mutex_);
  const auto known = members_.find(name);
  if (known != members_.end() && known->second->public_key == key) return known->second;
  if (known == members_.end() && members_.size() >= settings_.tokens_max)
    throw gpuq::Error("OVER_LIMIT", "more than " + std::to_string(settings_.tokens_max) + " tokens are in use", "start a second gpuq-http");
  return members_[name] = std::make_shared<Member>(std::move(options), key);
}

}  // namespace gq::http
