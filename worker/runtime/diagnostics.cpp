#include "worker/runtime/diagnostics.h"

#include <charconv>
#include <span>

#include "common/wire/job_body.h"

namespace gq::worker {

void Echo::start(Job job) {
  session::Ending ending;
  ending.grant = job.item.grant;
  ending.outcome = Outcome::succeeded;
  if (job.body.find("blob") != std::string::npos) {
    auto body = wire::decode_job_body(std::as_bytes(std::span(job.body)));
    if (!body) return reports_.ended(failed(job.item.grant, body.error()));
    for (const wire::Part& part : body->parts)
      if (!part.blob.empty()) ending.blobs.push_back(part.blob);
  }
  ending.body = std::move(job.body);
  reports_.started(ending.grant);
  reports_.ended(std::move(ending));
}

void Sleep::start(Job job) {
  auto body = wire::decode_job_body(std::as_bytes(std::span(job.body)));
  if (!body) return reports_.ended(failed(job.item.grant, body.error()));
  std::int64_t ms = 0;
  if (const auto param = body->params.find("ms"); param != body->params.end()) {
    const std::string& text = param->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ms);
    if (error != std::errc{} || end != text.data() + text.size() || ms < 0 || ms > INT64_C(86'400'000))
      return reports_.ended(failed(job.item.grant, {Errc::bad_input, "sleep: ms = '" + text.substr(0, 40) + "' is not 0..86400000", "--set ms=1000"}));
  }
  reports_.started(job.item.grant);
  due_.emplace(clock_() + std::chrono::milliseconds(ms), job.item.grant);
  arm();
}

void Sleep::arm() {
  if (due_.empty()) return;
  timer_.expires_after(std::max<Duration>(Duration::zero(), due_.begin()->first - clock_()));
  timer_.async_wait([this](const ErrorCode& ec) {
    if (!ec) wake();
  });
}

void Sleep::wake() {
  const Instant now = clock_();
  while (!due_.empty() && due_.begin()->first <= now) {
    const Grant grant = due_.begin()->second;
    due_.erase(due_.begin());
    session::Ending ending;
    ending.grant = grant;
    ending.outcome = Outcome::succeeded;
    ending.body = wire::encode(wire::ResultBody{});
    reports_.ended(std::move(ending));
  }
  arm();
}

void Sleep::leave(const Grant& grant, Outcome outcome) {
  for (auto it = due_.begin(); it != due_.end(); ++it)
    if (it->second == grant) {
      due_.erase(it);
      session::Ending ending;
      ending.grant = grant;
      ending.outcome = outcome;
      reports_.ended(std::move(ending));
      return;
    }
}
void Sleep::stop(const Grant& grant, session::StopCause) { leave(grant, Outcome::cancelled); }
void Sleep::preempt(const Grant& grant, const std::string&, Duration) { leave(grant, Outcome::yielded); }

}  // namespace gq::worker
