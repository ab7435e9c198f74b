#include "worker/runtime/diagnostics.h"

#include <algorithm>
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

// ---- what takes its time

Result<std::int64_t> Timed::read_ms(const Job& job, const char* key, std::int64_t ms_max, const char* next) {
  auto body = wire::decode_job_body(std::as_bytes(std::span(job.body)));
  if (!body) return tl::unexpected(body.error());
  std::int64_t ms = 0;
  const auto param = body->params.find(key);
  if (param == body->params.end()) return ms;
  const std::string& text = param->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ms);
  if (error != std::errc{} || end != text.data() + text.size() || ms < 0 || ms > ms_max)
    return fail(Errc::bad_input, job.item.kind + ": " + key + " = '" + text.substr(0, 40) + "' is not 0.." + std::to_string(ms_max), next);
  return ms;
}

void Timed::begin(const Grant& grant, std::int64_t ms, std::shared_ptr<const void> held) {
  reports_.started(grant);
  due_.emplace(clock_() + std::chrono::milliseconds(ms), Run{grant, std::move(held)});
  arm();
}

void Timed::arm() {
  if (due_.empty()) return;
  timer_.expires_after(std::max<Duration>(Duration::zero(), due_.begin()->first - clock_()));
  timer_.async_wait([this](const ErrorCode& ec) {
    if (!ec) wake();
  });
}

void Timed::wake() {
  const Instant now = clock_();
  while (!due_.empty() && due_.begin()->first <= now) {
    session::Ending ending;
    ending.grant = due_.begin()->second.grant;
    due_.erase(due_.begin());
    ending.outcome = Outcome::succeeded;
    ending.body = wire::encode(wire::ResultBody{});
    reports_.ended(std::move(ending));
  }
  arm();
}

void Timed::leave(const Grant& grant, Outcome outcome) {
  for (auto it = due_.begin(); it != due_.end(); ++it)
    if (it->second.grant == grant) {
      session::Ending ending;
      ending.grant = grant;
      ending.outcome = outcome;
      due_.erase(it);
      return reports_.ended(std::move(ending));
    }
}
void Timed::stop(const Grant& grant, session::StopCause) { leave(grant, Outcome::cancelled); }
void Timed::preempt(const Grant& grant, const std::string&, Duration) { leave(grant, Outcome::yielded); }

void Sleep::start(Job job) {
  const auto ms = read_ms(job, "ms", INT64_C(86'400'000), "--set ms=1000");
  if (!ms) return reports_.ended(failed(job.item.grant, ms.error()));
  begin(job.item.grant, *ms, nullptr);
}

void Reserve::start(Job job) {
  const wire::AssignItem& item = job.item;
  const auto ms = read_ms(job, "for_ms", kMsMax, "gpuq reserve --for 2h");
  if (!ms) return reports_.ended(failed(item.grant, ms.error()));
  if (*ms == 0) return reports_.ended(failed(item.grant, {Errc::bad_input, "reserve: for how long? for_ms is missing", "gpuq reserve --for 2h"}));
  auto memory = allotments_.book(item.devices, item.granted_mib);
  if (!memory) return reports_.refuse(item.grant, memory.error().code, memory.error().what);
  auto held = std::make_shared<std::pair<Allotment, Devices::Booking>>(std::move(*memory), devices_.book(item.devices, item.granted_mib));
  begin(item.grant, *ms, std::move(held));
}

}  // namespace gq::worker
