// shapes.cpp - lines of waiting jobs, and which shapes are to be tried.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

namespace {
constexpr auto kLater = [](const Entry& a, const Entry& b) { return a.seq > b.seq; };
}  // namespace

Index Core::State::shape_for(const Needs& needs, bool suspect, Index owner) {
  const Index tenant = tenant_for(owner);
  if (last_shape != kNone && shapes[last_shape].suspect == suspect && shapes[last_shape].tenant == tenant && shapes[last_shape].needs == needs) return last_shape;
  auto& known = shape_of[suspect ? 1 : 0][tenant];
  const auto [it, is_new] = known.try_emplace(needs, kNone);
  if (is_new) {
    it->second = shapes.make();
    Shape& shape = shapes[it->second];
    shape.live = true;
    shape.needs = needs;
    shape.suspect = suspect;
    shape.tenant = tenant;
  }
  last_shape = it->second;
  return last_shape;
}

void Core::State::release_shape(Index index) {
  Shape& shape = shapes[index];
  if (--shape.refs != 0) return;
  drop_plans_of(index);
  if (shape.backoffs != 0)
    for (auto it = backoffs.begin(); it != backoffs.end();)
      it = (it->first >> 32U) == index ? backoffs.erase(it) : std::next(it);
  auto& by_tenant = shape_of[shape.suspect ? 1 : 0];
  const auto known = by_tenant.find(shape.tenant);
  known->second.erase(shape.needs);
  if (known->second.empty()) by_tenant.erase(known);
  if (last_shape == index) last_shape = kNone;
  shapes.drop(index);
}

std::int64_t Core::State::order_of(const Job& job) const {
  if (!config.policy.aging) return -static_cast<std::int64_t>(job.priority);
  return job.submitted_ms - job.priority * std::chrono::duration_cast<std::chrono::milliseconds>(config.policy.aging_step).count();
}

void Core::State::enqueue(Index slot) {
  Job& job = jobs[slot];
  if (job.held) return;
  const bool suspect = job.own_losses + 1 >= config.limits.own_losses_max && job.own_losses > 0;
  const bool elsewhere = shapes[job.shape].tenant != tenant_for(job.owner);  // the policy tells tenants apart now, or no longer
  if (elsewhere) drop_entry(slot);
  if (elsewhere || (suspect && !shapes[job.shape].suspect && !job.queued)) {
    const Index to = shape_for(shapes[job.shape].needs, suspect || shapes[job.shape].suspect, job.owner);
    shapes[to].refs++;
    release_shape(job.shape);
    job.shape = to;
  }
  Shape& shape = shapes[job.shape];
  ++shape.ready;
  if (!job.queued) {
    job.queued = true;
    auto& line = shape.lines[job.priority];
    if (!line) line = std::make_unique<Line>();
    if (line->queue.empty() || line->queue.back().seq < job.seq) {
      line->queue.push_back({job.seq, slot});
    } else {
      line->returned.push_back({job.seq, slot});
      std::push_heap(line->returned.begin(), line->returned.end(), kLater);
    }
  }
  if (shape.standing == Standing::empty) {
    shape.standing = Standing::fresh;
    begin_standing(job.shape);
    (void)head(job.shape, &shape.key);
    fresh[on_device(shape)].insert(shape.key);
  } else {
    const ShapeKey key{classes[static_cast<std::size_t>(shape.needs.job_class)].rank, shape.key.share, order_of(job), job.seq, job.shape};
    if (key < shape.key) rekey(job.shape);
    if (shape.standing == Standing::parked && (shape.ready > shape.recheck_above || is_one_too_many(shape))) make_fresh(job.shape);
  }
}

/// From this job on another copy of the model is worth its memory: places that were passed over meanwhile are to be asked again.
bool Core::State::is_one_too_many(const Shape& shape) const {
  if (shape.ready % kJobsPerLoad != 1 || !kKinds[shape.needs.kind].uses_model) return false;
  const Index version = resolved(shape);
  return version != kNone && shape.ready == content_with(shape, version) + 1;
}

/// Its entry, living or stale, goes: before its priority or its shape changes, which say where the entry would be found.
void Core::State::drop_entry(Index slot) {
  Job& job = jobs[slot];
  if (!job.queued) return;
  job.queued = false;
  Line& line = *shapes[job.shape].lines[job.priority];
  const auto found = std::lower_bound(line.queue.begin(), line.queue.end(), job.seq, [](const Entry& e, std::uint64_t seq) { return e.seq < seq; });
  if (found != line.queue.end() && found->seq == job.seq && found->job == slot) {
    found->job = kNone;  // taking it out would move all behind it
    return;
  }
  for (Entry& e : line.returned)
    if (e.job == slot && e.seq == job.seq) e.job = kNone;
}

/// The job has left `ready`, or is on hold; its entry stays in line and is skipped when its turn comes.
void Core::State::leave_line(Index slot) {
  const Index index = jobs[slot].shape;
  Shape& shape = shapes[index];
  --shape.ready;
  if (shape.ready == 0) {
    stand(index, Standing::empty);
    stop_awaiting(index);
  } else if (shape.key.seq == jobs[slot].seq) {
    rekey(index);
  }
}

std::optional<Entry> Core::State::head(Index index, ShapeKey* key) {
  Shape& shape = shapes[index];
  std::optional<Entry> best;
  ShapeKey best_key;
  const std::int64_t share = share_of(shape);
  const auto stale = [&](const Entry& e) {
    if (e.job == kNone) return true;
    Job& job = jobs[e.job];
    if (job.seq != e.seq) return true;
    if (job.state == JobState::ready && !job.held && job.shape == index) return false;
    job.queued = false;
    return true;
  };
  for (auto& line : shape.lines) {
    if (!line) continue;
    while (!line->queue.empty() && stale(line->queue.front())) line->queue.pop_front();
    while (!line->returned.empty() && stale(line->returned.front())) {
      std::pop_heap(line->returned.begin(), line->returned.end(), kLater);
      line->returned.pop_back();
    }
    if (line->queue.empty() && line->returned.empty()) continue;
    const bool from_queue = line->returned.empty() || (!line->queue.empty() && line->queue.front().seq < line->returned.front().seq);
    const Entry& entry = from_queue ? line->queue.front() : line->returned.front();
    const ShapeKey candidate{classes[static_cast<std::size_t>(shape.needs.job_class)].rank, share, order_of(jobs[entry.job]), entry.seq, index};
    if (!best || candidate < best_key) {
      best = entry;
      best_key = candidate;
    }
  }
  if (key != nullptr && best) *key = best_key;
  return best;
}

void Core::State::stand(Index index, Standing standing) {
  Shape& shape = shapes[index];
  if (shape.standing == Standing::fresh) fresh[on_device(shape)].erase(shape.key);
  if (shape.standing == Standing::parked) parked[on_device(shape)].erase(shape.key);
  shape.standing = standing;
  if (standing == Standing::empty) {
    shape.waits_since = -1;
    shape.plans_after = 0;
    end_standing(index);
  }
  if (standing == Standing::fresh) fresh[on_device(shape)].insert(shape.key);
  if (standing == Standing::parked) parked[on_device(shape)].insert(shape.key);
}

void Core::State::rekey(Index index) {
  Shape& shape = shapes[index];
  if (shape.standing == Standing::empty) return;
  auto& set = shape.standing == Standing::fresh ? fresh[on_device(shape)] : parked[on_device(shape)];
  auto node = set.extract(shape.key);
  check(head(index, &shape.key).has_value(), "a shape counts ready jobs but has none in line");
  node.value() = shape.key;
  set.insert(std::move(node));
}

void Core::State::make_fresh(Index index) {
  if (shapes[index].standing != Standing::parked) return;
  shapes[index].recheck_above = kNone;
  stand(index, Standing::fresh);
}

void Core::State::wake_version(Index version) {
  std::vector<Index> wake;
  for (const ShapeKey& key : parked[1])
    if (resolved(shapes[key.shape]) == version) wake.push_back(key.shape);
  for (const Index shape : wake) make_fresh(shape);
}

/// Only the shapes of one class: the sets are sorted by its rank first.
void Core::State::wake_class(JobClass c) {
  const std::uint8_t rank = classes[static_cast<std::size_t>(c)].rank;
  for (auto& set : parked) {
    std::vector<Index> wake;
    for (auto at = set.lower_bound({rank, INT64_MIN, INT64_MIN, 0, 0}); at != set.end() && at->rank == rank; ++at)
      if (shapes[at->shape].needs.job_class == c) wake.push_back(at->shape);
    for (const Index shape : wake) make_fresh(shape);
  }
}

/// After a change of the ladder or of aging.
void Core::State::rekey_all() {
  for (Index i = 0; i < shapes.extent(); ++i)
    if (shapes[i].live) rekey(i);
}

void Core::State::wake_all_parked() {
  for (auto& set : parked) {
    std::vector<Index> wake;
    for (const ShapeKey& key : set) wake.push_back(key.shape);
    for (const Index shape : wake) make_fresh(shape);
  }
}

}  // namespace gq::core
