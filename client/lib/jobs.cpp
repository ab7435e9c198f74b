// jobs.cpp - submits and watches.
#include "client/lib/jobs.h"

#include <algorithm>

#include "client/lib/convert.h"
#include "client/lib/transfers.h"

namespace gq::client {

// ---- submitting

void Jobs::submit(const std::shared_ptr<Batch>& batch, std::vector<PreparedPtr> items) {
  batch->deadline = steady_now() + engine_.settings().timeout;
  batches_.push_back(batch);
  batch->jobs.reserve(items.size());
  for (PreparedPtr& item : items) {
    batch->jobs.push_back(item->item.id);
    Watched& watched = watched_[item->item.id];
    watched.submitting = watched.watching = true;
    watched.undurable = item->item.durability == 1;
    upload_then_queue(item);
  }
}

void Jobs::upload_then_queue(const PreparedPtr& item) {
  item->uploads_left = item->uploads.size();
  if (item->uploads_left == 0) return coalescer_.add(item);
  for (const BlobSourcePtr& source : item->uploads)
    transfers_.upload(source, [this, item](Result<void> done) {
      if (item->batch->done) return;
      if (!done) return settle(*item, refusal(to_string(item->item.id), done.error()));
      if (--item->uploads_left == 0) coalescer_.add(item);
    }, item->item.durability == 1);
}

void Jobs::expect(const JobId& job) { watched_[job].watching = true; }

void Jobs::flush() {
  while (in_flight_ < kSubmitsInFlight && !coalescer_.empty()) {
    auto items = coalescer_.next_message();
    if (items.empty()) break;
    send_submit(std::move(items));
  }
  while (!to_watch_.empty()) {
    const std::size_t n = std::min(to_watch_.size(), kLimits.items_max);
    std::vector<JobId> jobs(to_watch_.end() - static_cast<std::ptrdiff_t>(n), to_watch_.end());
    to_watch_.resize(to_watch_.size() - n);
    send_watch(std::move(jobs));
  }
  while (fetched_.size() >= kLimits.items_max) {
    wire::Fetched message;
    message.jobs.assign(fetched_.end() - static_cast<std::ptrdiff_t>(kLimits.items_max), fetched_.end());
    fetched_.resize(fetched_.size() - kLimits.items_max);
    engine_.tell(message);
  }
}

void Jobs::send_submit(std::vector<PreparedPtr> items) {
  SubmitFrames frames = to_frames(items);
  for (const PreparedPtr& item : items) ++item->sends;
  ++in_flight_;
  engine_.ask(frames.message, std::move(frames.body), engine_.settings().timeout,
              [this, items = std::move(items)](Result<Answer>&& answer) {
                --in_flight_;
                submit_answered(items, std::move(answer));
              });
}

void Jobs::submit_answered(const std::vector<PreparedPtr>& items, Result<Answer>&& answer) {
  const wire::Submitted* said = answer ? std::get_if<wire::Submitted>(&answer->message) : nullptr;
  if (said != nullptr && said->items.size() == items.size()) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      const wire::SubmittedItem& one = said->items[i];
      if (!one.ok) {
        const Error why = from_failure({one.code, one.what, one.next});
        if (try_again(items[i], why)) continue;
      }
      settle(*items[i], one);
    }
    return;
  }
  const Error why = answer ? Error{Errc::protocol, "the broker answered a submit with something else", "update gpuq on both sides"} : answer.error();
  for (const PreparedPtr& item : items)
    if (!try_again(item, why)) settle(*item, refusal(to_string(item->item.id), why));
}

/// UNAVAILABLE passes by itself (the store is away for a moment), a blob that was collected is sent again.
bool Jobs::try_again(const PreparedPtr& item, const Error& why) {
  if (item->batch->done) return true;
  item->batch->last = why;
  if (why.code == Errc::unavailable) {
    const Duration backoff = std::min<Duration>(1s, 50ms * (1U << std::min(item->sends, 5U)));
    later_.emplace_back(steady_now() + backoff, item);
    return true;
  }
  if (why.code == Errc::unknown_blob && !item->uploads.empty() && item->sends <= 3) {
    upload_then_queue(item);
    return true;
  }
  return false;
}

void Jobs::settle(Prepared& item, const wire::SubmittedItem& answer) { settle(item, to_public(answer)); }

void Jobs::settle(Prepared& item, gpuq::Submitted answer) {
  Batch& batch = *item.batch;
  if (batch.done) return;
  if (answer.ok) {
    if (const auto it = watched_.find(item.item.id); it != watched_.end()) it->second.submitting = it->second.doubted = false, it->second.undurable = it->second.undurable || !answer.durable;
  } else {
    Errc code = Errc::internal;
    parse_errc(answer.code, code);
    give_up(item.item.id, {code, answer.what, answer.next});
  }
  batch.answers[item.index] = std::move(answer);
  if (--batch.left != 0) return;
  batch.done = true;
  batch.promise.set_value(std::move(batch.answers));
}

// ---- watching

void Jobs::claim(const JobId& job, SinkPtr sink, bool patient) {
  if (const auto kept = unclaimed_.find(job); kept != unclaimed_.end()) {
    gpuq::JobResult result = std::move(kept->second.result);
    unclaimed_bytes_ -= kept->second.bytes;
    unclaimed_.erase(kept);
    acknowledge(job, result);
    sink->final(std::move(result));
    return;
  }
  const auto [it, is_new] = watched_.try_emplace(job);
  if (!it->second.sink) it->second.sink = std::move(sink);
  else it->second.more.push_back(std::move(sink));
  if (!is_new) return;
  if (!patient) return to_watch_.push_back(job);
  const Instant due = steady_now() + 20ms;
  if (watch_later_.empty() || watch_later_.back().first < due - 1ms) watch_later_.emplace_back(due, std::vector<JobId>{});
  watch_later_.back().second.push_back(job);
}

void Jobs::unclaim(const JobId& job, const Sink* sink) {
  const auto it = watched_.find(job);
  if (it == watched_.end()) return;
  std::erase_if(it->second.more, [&](const SinkPtr& s) { return s.get() == sink; });
  if (it->second.sink.get() == sink) it->second.sink.reset();
}

void Jobs::send_watch(std::vector<JobId> jobs) {
  for (const JobId& job : jobs)
    if (const auto it = watched_.find(job); it != watched_.end()) it->second.watching = true;
  const wire::Watch message{jobs};
  const std::uint64_t id = engine_.ask(message, {}, engine_.settings().timeout, [this, jobs = std::move(jobs)](Result<Answer>&& answer) {
    if (!answer) {
      if (answer.error().code == Errc::cancelled) return;
      for (const JobId& job : jobs)
        if (const auto it = watched_.find(job); it != watched_.end()) it->second.watching = false;
      watch_later_.emplace_back(steady_now() + 500ms, jobs);   // whoever waits has a deadline of their own
      return;
    }
    if (const auto* said = std::get_if<wire::Watched>(&answer->message))
      for (const JobId& job : said->unknown) {
        const auto it = watched_.find(job);
        if (it == watched_.end() || it->second.submitting) continue;
        if (!it->second.doubted) {
          it->second.doubted = true;
          it->second.watching = false;
          watch_later_.emplace_back(steady_now() + 200ms, std::vector<JobId>{job});
          continue;
        }
        if (it->second.undurable) give_up(job, {Errc::unavailable, "the broker that held job " + to_string(job) + " is gone, and with durability none so is the job", "submit it again"});
        else give_up(job, {Errc::not_found, "there is no job " + to_string(job), "gpuq list"});
      }
  });
  watch_questions_.push_back(id);
}

void Jobs::rewatch() {
  for (const std::uint64_t id : watch_questions_) engine_.forget(id);
  watch_questions_.clear();
  watch_later_.clear();
  to_watch_.clear();
  to_watch_.reserve(watched_.size());
  for (const auto& [job, watched] : watched_)
    if (!watched.submitting) to_watch_.push_back(job);
  flush();
}

void Jobs::notify(wire::Notify&& notify, std::string&& body) {
  auto payloads = wire::split_payloads(notify.items, body);
  if (!payloads) return;   // lengths that do not add up: the jobs stay watched and are asked for again on the next link
  for (std::size_t i = 0; i < notify.items.size(); ++i) {
    const JobId job = notify.items[i].id;
    auto result = to_public(std::move(notify.items[i]), (*payloads)[i]);
    if (result) deliver(job, std::move(*result));
    else give_up(job, result.error());
  }
}

void Jobs::deliver(const JobId& job, gpuq::JobResult&& result) {
  const auto it = watched_.find(job);
  if (it == watched_.end()) return;   // told twice, or never asked
  const SinkPtr sink = std::move(it->second.sink);
  const std::vector<SinkPtr> more = std::move(it->second.more);
  watched_.erase(it);
  if (!sink && more.empty()) return keep(job, std::move(result));
  acknowledge(job, result);
  for (const SinkPtr& other : more) other->final(gpuq::JobResult(result));
  if (sink) sink->final(std::move(result));
}

void Jobs::keep(const JobId& job, gpuq::JobResult&& result) {
  std::size_t bytes = 256;
  for (const gpuq::Part& part : result.parts) bytes += part.bytes.size() + 160;
  unclaimed_bytes_ += bytes;
  unclaimed_[job] = {std::move(result), bytes};
  unclaimed_order_.push_back(job);
  while (unclaimed_order_.size() > kUnclaimedMax || unclaimed_bytes_ > kUnclaimedBytesMax) {
    if (const auto it = unclaimed_.find(unclaimed_order_.front()); it != unclaimed_.end()) {
      unclaimed_bytes_ -= it->second.bytes;
      unclaimed_.erase(it);
    }
    unclaimed_order_.pop_front();
    if (unclaimed_order_.empty()) break;
  }
}

void Jobs::give_up(const JobId& job, const Error& error) {
  const auto it = watched_.find(job);
  if (it == watched_.end()) return;
  const SinkPtr sink = std::move(it->second.sink);
  const std::vector<SinkPtr> more = std::move(it->second.more);
  watched_.erase(it);
  if (sink) sink->failed(job, error);
  for (const SinkPtr& other : more) other->failed(job, error);
}

void Jobs::failed(const Error& error) {
  for (const auto& batch : batches_) {
    if (batch->done) continue;
    batch->done = true;
    batch->promise.set_exception(std::make_exception_ptr(to_public(error)));
  }
  batches_.clear();
  coalescer_.clear();
  later_.clear();
  watch_later_.clear();
  to_watch_.clear();
  std::unordered_map<JobId, Watched> watched;
  watched.swap(watched_);
  for (auto& [job, entry] : watched) {
    if (entry.sink) entry.sink->failed(job, error);
    for (const SinkPtr& other : entry.more) other->failed(job, error);
  }
  say_fetched();   // a program that ends right behind its result has it all the same
}

// ---- fetched

void Jobs::say_fetched() {
  if (fetched_.empty() || !engine_.up()) return;
  engine_.tell(wire::Fetched{std::move(fetched_)});
  fetched_.clear();
}

void Jobs::acknowledge(const JobId& job, const gpuq::JobResult& result) {
  if (!engine_.settings().acknowledge) return;
  const auto blobs = static_cast<std::size_t>(std::count_if(result.parts.begin(), result.parts.end(), [](const gpuq::Part& p) { return !p.blob.empty(); }));
  if (blobs == 0) return acknowledge(job);
  if (unread_.size() > 10'000) return;   // never read: they leave by age
  auto unread = std::make_shared<Unread>(Unread{job, blobs});
  for (const gpuq::Part& part : result.parts)
    if (const auto digest = parse_blob_digest(part.blob)) unread_[*digest].push_back(unread);
}

void Jobs::acknowledge(const JobId& job) {
  if (fetched_.empty()) fetched_due_ = steady_now() + 50ms;
  fetched_.push_back(job);
}

void Jobs::blob_read(const BlobDigest& blob) {
  const auto it = unread_.find(blob);
  if (it == unread_.end()) return;
  for (const auto& unread : it->second)
    if (unread->left > 0 && --unread->left == 0) {
      if (fetched_.empty()) fetched_due_ = steady_now() + 50ms;
      fetched_.push_back(unread->job);
    }
  unread_.erase(it);
}

// ---- time

bool Jobs::tick(Instant now) {
  while (!batches_.empty()) {
    const std::shared_ptr<Batch> batch = batches_.front();
    if (!batch->done && batch->deadline > now) break;
    batches_.pop_front();
    if (batch->done) continue;
    batch->done = true;
    const Error error = batch->last && engine_.up() ? *batch->last : engine_.late("the submit");
    batch->promise.set_exception(std::make_exception_ptr(to_public(error)));
    for (const JobId& job : batch->jobs) {   // perhaps made, perhaps not: whoever waits for one asks the broker
      const auto it = watched_.find(job);
      if (it == watched_.end() || !it->second.submitting) continue;
      it->second.submitting = false;
      if (it->second.sink || !it->second.more.empty()) to_watch_.push_back(job);
      else watched_.erase(it);
    }
  }
  for (std::size_t i = 0; i < later_.size();) {
    if (later_[i].first > now) { ++i; continue; }
    coalescer_.add(std::move(later_[i].second));
    later_[i] = std::move(later_.back());
    later_.pop_back();
  }
  for (std::size_t i = 0; i < watch_later_.size();) {
    if (watch_later_[i].first > now) { ++i; continue; }
    for (const JobId& job : watch_later_[i].second)
      if (const auto it = watched_.find(job); it != watched_.end() && !it->second.watching) to_watch_.push_back(job);
    watch_later_[i] = std::move(watch_later_.back());
    watch_later_.pop_back();
  }
  if (fetched_due_ <= now) say_fetched();
  if (watch_questions_.size() > 1024) watch_questions_.erase(watch_questions_.begin(), watch_questions_.end() - 512);
  return !batches_.empty() || !fetched_.empty() || !later_.empty() || !watch_later_.empty();
}

}  // namespace gq::client
