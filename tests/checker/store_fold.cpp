// store_fold.cpp - see store_fold.h.
#include "tests/checker/store_fold.h"

#include <algorithm>

namespace gq::checker {
namespace {

/// The table, as a matrix: is there a verb that leads from here to there?
constexpr auto reachable = [] {
  std::array<std::array<bool, kJobStates>, kJobStates> table{};
  for (const Transition& t : kTransitions) table[static_cast<std::size_t>(t.from)][static_cast<std::size_t>(t.to)] = true;
  return table;
}();

bool legal(JobState from, JobState to) { return from == to || reachable[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)]; }

std::string arrow(JobState from, JobState to) { return std::string(gq::to_string(from)) + " -> " + std::string(gq::to_string(to)); }

}  // namespace

const StoreFold::Row* StoreFold::row(JobNumber job) const {
  const std::size_t chunk = job / kChunk;
  return job != kNoJob && chunk < chunks_.size() && chunks_[chunk] ? &(*chunks_[chunk])[job % kChunk] : nullptr;
}

StoreFold::Row& StoreFold::row_to_write(JobNumber job) {
  const std::size_t chunk = job / kChunk;
  if (chunk >= chunks_.size()) chunks_.resize(chunk + 1);
  if (!chunks_[chunk]) chunks_[chunk] = std::make_unique<std::vector<Row>>(kChunk);
  return (*chunks_[chunk])[job % kChunk];
}

StoreFold::Presence StoreFold::presence(JobNumber job) const {
  const Row* r = row(job);
  return r ? r->presence : Presence::never;
}
const core::JobRecord* StoreFold::find(JobNumber job) const {
  const Row* r = row(job);
  return r && r->presence == Presence::here ? &r->record : nullptr;
}
bool StoreFold::has_body(JobNumber job) const {
  const Row* r = row(job);
  return r && r->presence == Presence::here && r->body != 0;
}
core::Token StoreFold::result(JobNumber job) const {
  const Row* r = row(job);
  return r && r->presence == Presence::here ? r->result : 0;
}
void StoreFold::lose_body(JobNumber job) {
  if (find(job)) row_to_write(job).body = 0;
}

StoreFold::Row* StoreFold::here(const JobId& id, const char* verb) {
  const JobNumber job = numbers_.number(id);
  const Row* r = row(job);
  if (r && r->presence == Presence::here) return const_cast<Row*>(r);
  violation("unexpected", job, std::string(verb) + " of a job that is not there: " + gq::to_string(id));
  return nullptr;
}

void StoreFold::apply(core::Mutation&& mutation) {
  std::visit([this](auto&& m) { on(std::move(m)); }, std::move(mutation));
}

void StoreFold::on(core::JobCreated&& m) {
  const JobNumber job = numbers_.number(m.record.fixed.id);
  if (job == kNoJob) return violation("unexpected", job, "created an id nobody submitted: " + gq::to_string(m.record.fixed.id));
  Row& r = row_to_write(job);
  if (r.presence == Presence::here || r.presence == Presence::tombstone)
    return violation("created twice", job, "created although its id is remembered");
  const core::JobDynamic& d = m.record.dynamic;
  if (is_granted(d.state) || d.attempt != 0) violation("life", job, "created in state " + std::string(gq::to_string(d.state)));
  if (m.record.fixed.seq <= seq_max_) violation("submit order", job, "its number is not greater than all before it");
  seq_max_ = std::max(seq_max_, m.record.fixed.seq);
  r.body = m.body;
  if (!m.body_of.empty()) {
    const Row* source = row(numbers_.number(m.body_of));
    r.body = source && source->presence == Presence::here ? source->body : 0;
  }
  findings_.note(Note::created, job, 0, static_cast<std::uint32_t>(d.state));
  r.finished = is_terminal(d.state);
  r.presence = Presence::here;
  r.result = 0;
  r.record = std::move(m.record);
  ++here_;
  if (!r.finished) ++not_final_;
}

void StoreFold::on(core::JobChanged&& m) {
  Row* r = here(m.id, "change");
  if (!r) return;
  const JobNumber job = numbers_.number(m.id);
  core::JobDynamic& was = r->record.dynamic;
  findings_.note(Note::changed, job, static_cast<std::uint32_t>(m.now.state), m.now.attempt);
  if (m.from != was.state)
    violation("one set", job, "change says it was " + std::string(gq::to_string(m.from)) + ", it is " + std::string(gq::to_string(was.state)));
  if (!legal(was.state, m.now.state)) violation("life", job, "no verb leads " + arrow(was.state, m.now.state));
  if (m.seq != r->record.fixed.seq || m.job_class != r->record.fixed.needs.job_class)
    violation("one set", job, "change names another place in the queue than the job has");
  if (m.now.attempt < was.attempt) violation("attempts only grow", job, "attempt went down");
  const bool granted_now = is_granted(m.now.state) && !is_granted(was.state);
  // The same grant may go on (declared lost, found alive); any other start has a fresh number.
  const bool goes_on = m.now.attempt == was.attempt && m.now.nonce == was.nonce && was.attempt != 0;
  if (granted_now && m.now.attempt <= was.attempt && !goes_on) violation("attempts only grow", job, "granted without a fresh attempt");
  const bool settled_without_it = !is_granted(m.now.state) && m.now.nonce == 0;  // not by the newest grant's word: it is stale now
  if (!granted_now && (m.now.attempt != was.attempt || (m.now.nonce != was.nonce && !settled_without_it)))
    violation("attempts only grow", job, "attempt or nonce changed without a grant, " + arrow(was.state, m.now.state));
  if (m.now.failures < was.failures || m.now.losses < was.losses || m.now.preemptions < was.preemptions || m.now.own_losses < was.own_losses)
    violation("counters", job, "a counter went down");
  if (m.now.evictions < was.evictions || m.now.checkpoint.step < was.checkpoint.step) violation("counters", job, "evictions or the checkpoint's step went down");
  if (is_terminal(was.state) && m.now.state != was.state) violation("single accept", job, "left its final state: " + arrow(was.state, m.now.state));
  if (is_terminal(m.now.state) && !r->finished) {
    r->finished = true;
    --not_final_;
  }
  was = std::move(m.now);
}

void StoreFold::on(const core::PayloadRead& m) { here(m.id, "payload read"); }

void StoreFold::on(const core::ResultStored& m) {
  Row* r = here(m.id, "result");
  if (!r) return;
  const JobNumber job = numbers_.number(m.id);
  findings_.note(Note::result_stored, job, 0, m.attempt);

  if (r->result != 0) violation("single accept", job, "a second result was stored");
  if (m.attempt != r->record.dynamic.attempt) violation("highest attempt", job, "the stored result is of an older attempt");
  r->result = m.result;
  r->result_attempt = m.attempt;
}

void StoreFold::on(const core::ResultDropped& m) {
  if (Row* r = here(m.id, "result drop")) r->result = 0;
}

void StoreFold::on(const core::JobForgotten& m) {
  Row* r = here(m.id, "forget");
  if (!r) return;
  const JobNumber job = numbers_.number(m.id);
  findings_.note(Note::forgotten, job, 0, m.tombstone ? 1 : 0);
  if (m.from != r->record.dynamic.state) violation("one set", job, "forgotten from a set it is not in");
  if (!is_terminal(r->record.dynamic.state)) violation("lost", job, "forgotten before it was final");
  r->presence = m.tombstone ? Presence::tombstone : Presence::gone;
  r->tombstone_digest = m.digest;
  r->tombstone_ended = m.ended;
  r->record = {};
  r->body = r->result = 0;
  --here_;
}

void StoreFold::on(const core::TombstoneDropped& m) {
  const JobNumber job = numbers_.number(m.id);
  if (presence(job) != Presence::tombstone) return violation("unexpected", job, "dropped a tombstone that is not there");
  row_to_write(job).presence = Presence::gone;
}

void StoreFold::on(const core::UniqueTaken& m) {
  const auto [it, fresh] = unique_.emplace(m.key, m.id);
  if (!fresh && it->second != m.id) violation("unique key", numbers_.number(m.id), "key '" + m.key + "' is held by another job");
  it->second = m.id;
}
void StoreFold::on(const core::UniqueReleased& m) {
  if (unique_.erase(m.key) == 0) violation("unique key", kNoJob, "released a key nobody holds: '" + m.key + "'");
}

void StoreFold::on(core::ModelStored&& m) {
  const std::string name = m.record.name;
  const std::string version = m.record.version;
  models_[{name, version}] = std::move(m.record);
  const auto promoted = std::count_if(models_.begin(), models_.end(), [&](const auto& e) { return e.first.first == name && e.second.promoted; });
  (void)promoted;  // two may stand promoted between the mutations of one batch
}
void StoreFold::on(const core::ModelRemoved& m) {
  std::erase_if(models_, [&](const auto& e) { return e.first.first == m.name && (m.version.empty() || e.first.second == m.version); });
}

void StoreFold::on(const core::JobRevised& m) {
  Row* r = here(m.fixed.id, "a revision");
  if (!r) return;
  const core::JobFixed& was = r->record.fixed;
  if (was.seq != m.fixed.seq || was.submitted != m.fixed.submitted || was.digest != m.fixed.digest)
    violation("unexpected", numbers_.number(m.fixed.id), "a revision changed what must stay: seq, submit time or digest");
  r->record.fixed = m.fixed;
}
void StoreFold::on(const core::SettingStored& m) { settings_[{m.setting.kind, m.setting.target}] = m.setting; }
void StoreFold::on(const core::SettingDropped& m) {
  if (settings_.erase({m.kind, m.target}) == 0) violation("unexpected", kNoJob, "dropped a setting that is not there: " + m.target);
}

core::Image StoreFold::image() const {
  core::Image image;
  for (JobNumber job = 0; job < rows(); ++job) {
    const Row* r = row(job);
    if (!r) continue;
    if (r->presence == Presence::here) image.jobs.push_back(r->record);
    if (r->presence == Presence::tombstone) image.tombstones.push_back({numbers_.id(job), r->tombstone_digest, r->tombstone_ended});
  }
  for (const auto& [key, record] : models_) image.models.push_back(record);
  for (const auto& [key, setting] : settings_) image.settings.push_back(setting);
  return image;
}

}  // namespace gq::checker
