// submit.cpp - what clients ask of jobs: submit, retry, cancel. Every mistake is answered with what, to whom, and what next.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

void Core::State::on_submit(SubmitReceived& e) {
  SubmitAnswer answer{e.peer, e.request, {}};
  answer.items.reserve(e.items.size());
  std::vector<Index> seen_final;
  for (SubmitItem& item : e.items) {
    answer.items.push_back(submit_one(item, e.owner, e.peer));
    if (!item.watch || !answer.items.back().ok) continue;
    const Index slot = jobs.find(answer.items.back().id);
    if (slot == kNone) continue;
    if (is_terminal(jobs[slot].state) && answer.items.back().existing) seen_final.push_back(slot);
    else watch(slot, e.peer);
  }
  send(std::move(answer));
  for (const Index slot : seen_final) send_notice(slot, e.peer, 0);
}

SubmitOutcome Core::State::submit_one(SubmitItem& item, const std::string& owner, PeerId /*peer*/) {
  JobFixed& f = item.fixed;
  const auto refused = [&](Error error) { return SubmitOutcome{f.id, false, false, std::move(error)}; };
  f.owner = owner;
  if (f.id.empty()) return refused({Errc::bad_message, "the job has no id", "let the client library make one"});
  if (const Index slot = jobs.find(f.id); slot != kNone) {
    if (jobs[slot].digest == f.digest && texts[jobs[slot].owner] == owner) return {f.id, true, true, {}, jobs[slot].durable};
    return refused({Errc::id_conflict, "job " + to_string(f.id) + " exists and is another one", "submit with a new id"});
  }
  if (const Tombstone* tombstone = tombstones.find(f.id)) {
    if (tombstone->digest == f.digest) return {f.id, true, true, {}};
    return refused({Errc::id_conflict, "job " + to_string(f.id) + " existed and was another one", "submit with a new id"});
  }
  if (auto error = refuse_form(f)) return refused(std::move(*error));
  if (item.durability_of_class && kKinds[f.needs.kind].answers && f.unique.empty()) f.durable = config.policy.of(f.needs.job_class).durable;
  if (auto error = refuse_state(f)) return refused(std::move(*error));
  if (item.strict)
    if (auto error = refuse_never(f)) return refused(std::move(*error));
  const JobId id = f.id;
  const bool durable = f.durable;
  (void)create(f, item.body, {});
  return {id, true, false, {}, durable};
}

/// What is wrong with the request whatever the state of the queue.
std::optional<Error> Core::State::refuse_form(const JobFixed& f) const {
  const Needs& n = f.needs;
  const Limits& l = config.limits;
  const auto bad = [](std::string what, std::string next = {}) { return Error{Errc::bad_message, std::move(what), std::move(next)}; };
  const auto over = [](std::string what, std::string next = {}) { return Error{Errc::over_limit, std::move(what), std::move(next)}; };
  if (n.kind >= kKinds.size()) return Error{Errc::unknown_kind, "kind number " + std::to_string(n.kind) + " is not known", "gpuq submit --help"};
  const KindTraits& kind = kKinds[n.kind];
  const std::string name{kind.name};
  if (static_cast<std::size_t>(n.job_class) >= kJobClasses) return bad("the class is not inference, training or synthesis");
  if (n.on_preempt > OnPreempt::never) return bad("on-preempt is not checkpoint, pause, restart or never");
  if (f.priority >= kPriorities) return bad("priority " + std::to_string(f.priority) + " is not within 0..9", "9 starts first, 5 is the default");
  if (f.retries > l.retries_max)
    return over(std::to_string(f.retries) + " retries are more than " + std::to_string(l.retries_max));
  if (n.budget_min.value < 0 || n.budget_max.value < 0 || n.budget_min > kRestOfDevice || n.budget_max > kRestOfDevice ||
      (n.budget_max.value > 0 && n.budget_max < n.budget_min))
    return bad("the memory range runs from " + to_string(n.budget_min) + " to " + to_string(n.budget_max), "--vram 2GiB..8GiB");
  if (n.devices == 0) return bad("zero devices asked for", "--devices 1");
  if (n.devices > 1 && (kind.uses_model || !kind.uses_device)) return bad("a " + name + " job runs on one device", "leave --devices out");
  if (n.devices > 64) return over(std::to_string(n.devices) + " devices are more than one host has");
  if (kind.uses_model && n.model.empty())
    return Error{Errc::unknown_model, "a " + name + " job needs a model", "--model NAME; gpuq model list"};
  if (!kind.uses_model && !n.model.empty()) return bad("a " + name + " job takes no model", "leave --model out");
  if (n.model.size() > 2 * l.name_chars_max + 1) return over("the model's name is longer than " + std::to_string(l.name_chars_max));
  if (n.where.size() > l.where_max) return over(std::to_string(n.where.size()) + " labels are more than " + std::to_string(l.where_max));
  for (const std::string& w : n.where)
    if (w.size() > 2 * l.name_chars_max + 1 || w.find('=') == std::string::npos || w.front() == '=')
      return bad("label '" + w.substr(0, l.name_chars_max) + "' is not key=value", "--where zone=a");
  if (!std::is_sorted(n.where.begin(), n.where.end())) return bad("labels are not sorted");
  if (f.unique.size() > l.name_chars_max || f.label.size() > l.name_chars_max)
    return over("a unique key or label is longer than " + std::to_string(l.name_chars_max) + " characters");
  if (f.after.size() > l.after_max) return over(std::to_string(f.after.size()) + " parents are more than " + std::to_string(l.after_max));
  if (f.timeout < Duration{0} || f.not_before.ms < 0 || f.deadline.ms < 0) return bad("a time is negative");
  if (!f.durable && !kind.answers)
    return bad("a " + name + " job outlives its caller: it is kept on disk", "leave --durability out");
  if (!f.durable && !f.unique.empty()) return bad("a unique key holds over restarts, a job with durability none does not", "leave --unique or --durability out");
  if (f.body_bytes > l.frame_bytes_hard) return Error{Errc::too_large, "the job's arguments are larger than a frame", "pass large inputs as files"};
  return std::nullopt;
}

/// What stands against it now.
std::optional<Error> Core::State::refuse_state(const JobFixed& f) const {
  if (const std::string& model = f.needs.model; !model.empty()) {
    const auto version = version_of.find(model);
    const bool known = model.find('@') == std::string::npos ? promoted.contains(model)
                                                            : version != version_of.end() && versions[version->second].registered;
    if (!known) return Error{Errc::unknown_model, "model " + model + " is not registered", "gpuq model push NAME PATH"};
  }
  for (const JobId& parent : f.after) {
    const Index slot = jobs.find(parent);
    if (slot == kNone) return Error{Errc::not_found, "job " + to_string(parent) + ", which it is to come after, is not known", "gpuq list"};
    if (!jobs[slot].durable) return Error{Errc::refused, "job " + to_string(parent) + ", which it is to come after, is kept in memory only", "submit that one without --durability none"};
  }
  if (!f.unique.empty())
    if (const auto it = uniques.find(f.unique); it != uniques.end())
      return Error{Errc::duplicate, "key '" + f.unique + "' is held by job " + to_string(jobs[it->second].id),
                   "gpuq status " + to_string(jobs[it->second].id)};
  if (unfinished >= config.limits.jobs_max)
    return Error{Errc::queue_full, std::to_string(unfinished) + " jobs are waiting or running", "wait, or cancel some"};
  if (auto full = refuse_class_full(f.needs.job_class)) return full;
  if (auto full = refuse_tenant_full(f.owner)) return full;
  if (!f.durable && totals.undurable_bytes + kRecordBytes + f.body_bytes > config.undurable_bytes_max)
    return Error{Errc::queue_full, "jobs with durability none fill the memory that is set aside for them", "fetch their results, or leave --durability out"};
  if (totals.queued_bytes + f.body_bytes > config.queued_bytes_max)
    return Error{Errc::queue_full, "the arguments of waiting jobs fill their budget", "wait, or pass large inputs as files"};
  if (totals.final_bytes > config.final_bytes_max)
    return Error{Errc::queue_full, "results that nobody has fetched fill their budget", "fetch results, or raise the budget"};
  return std::nullopt;
}

/// The policy's cap on what may wait in a class.
std::optional<Error> Core::State::refuse_class_full(JobClass c) const {
  const std::uint32_t most = config.policy.of(c).queued_max;
  const auto& counts = totals.by_class_and_state[static_cast<std::size_t>(c)];
  const std::uint64_t waiting = counts[static_cast<std::size_t>(JobState::blocked)] + counts[static_cast<std::size_t>(JobState::waiting)] +
                                counts[static_cast<std::size_t>(JobState::ready)];
  if (most == 0 || waiting < most) return std::nullopt;
  const std::string name{to_string(c)};
  return Error{Errc::queue_full, std::to_string(waiting) + " " + name + " jobs are waiting, and class." + name + ".queued_max is " + std::to_string(most),
               "wait, cancel some, or raise the cap"};
}

/// The record and its place in every index but the line; used by load, too.
Index Core::State::remember(const JobFixed& f) {
  const Index slot = jobs.add(f.id);
  Job& job = jobs[slot];
  job.digest = f.digest;
  job.seq = f.seq;
  job.submitted_ms = f.submitted.ms;
  job.timeout = f.timeout;
  job.priority = f.priority;
  job.retries = f.retries;
  job.body_bytes = f.body_bytes;
  job.durable = f.durable;
  job.owner = texts.intern(f.owner);
  job.shape = shape_for(f.needs, false, job.owner);
  shapes[job.shape].refs++;
  if (const Shape& s = shapes[job.shape]; on_device(s) && !kKinds[s.needs.kind].uses_model)  // of model jobs only those count that load one
    for (std::uint16_t i = 0; i < s.needs.devices; ++i) packing.count(budget_base(s).value);
  if (f.not_before.ms != 0 || f.deadline.ms != 0 || !f.unique.empty() || !f.after.empty() || !f.blobs.empty() ||
      !f.retry_of.empty() || !f.label.empty()) {
    Extra& x = extra_of(job);
    x.not_before = f.not_before;
    x.deadline = f.deadline;
    x.unique = f.unique;
    x.after = f.after;
    x.blobs = f.blobs;
    x.retry_of = f.retry_of;
    x.label = f.label;
  }
  return slot;
}

Index Core::State::create(JobFixed& f, Token body, JobId body_of) {
  f.seq = ++last_seq;
  f.submitted = {last_submitted_ms = std::max(last_submitted_ms, now.wall.ms)};
  const Index slot = remember(f);
  Job& job = jobs[slot];
  count_unfinished(job.owner, 1);
  ++totals.submitted;
  totals.queued_bytes += job.body_bytes;
  if (!job.durable) totals.undurable_bytes += bytes_of(job);

  Index failed_parent = kNone;
  std::uint32_t parents_left = 0;
  for (const JobId& id : f.after) {
    const Index parent = jobs.find(id);
    ++extra_of(jobs[parent]).heirs;
    if (jobs[parent].state == JobState::succeeded) continue;
    ++parents_left;
    if (is_terminal(jobs[parent].state)) failed_parent = parent;
    else extra_of(jobs[parent]).children.push_back({job.seq, slot});
  }
  if (parents_left != 0) {
    extra_of(job).parents_left = parents_left;
    job.state = JobState::blocked;
  } else if (f.not_before.ms > now.wall.ms) {
    job.state = JobState::waiting;
    job.due_ms = f.not_before.ms;
    arm_waiting(slot);
  } else {
    job.state = JobState::ready;
  }
  totals.by_class_and_state[static_cast<std::size_t>(f.needs.job_class)][static_cast<std::size_t>(job.state)]++;
  if (job.state == JobState::ready) enqueue(slot);
  wrote |= job.durable;
  job.changed = static_cast<std::uint32_t>(batch_of(job));

  const WallTime deadline = f.deadline;
  const std::string unique = f.unique;
  out->emplace_back(std::in_place_type<Commit>, Commit{JobCreated{{std::move(f), dynamic_of(slot)}, body, body_of}, job.durable});
  if (!unique.empty()) {
    uniques.emplace(unique, slot);
    commit(UniqueTaken{unique, job.id});
  }
  if (failed_parent != kNone) {
    fail_child(slot, failed_parent);
  } else if (deadline.ms != 0) {
    arm_wall(deadline, TimerKind::deadline, slot, job.seq);
  }
  return slot;
}

void Core::State::on_retry(RetryReceived& e) {
  RetryAnswer answer{e.peer, e.request, {e.new_id, false, false, {}}};
  SubmitOutcome& item = answer.item;
  const Index source = jobs.find(e.job);
  Index slot = jobs.find(e.new_id);
  bool notice = false;
  if (slot != kNone) {
    const Extra* x = extra(jobs[slot]);
    item.ok = item.existing = x != nullptr && x->retry_of == e.job && !e.job.empty();
    if (!item.ok) item.error = {Errc::id_conflict, "job " + to_string(e.new_id) + " exists and is another one", "retry with a new id"};
    notice = item.ok && is_terminal(jobs[slot].state);
  } else if (e.new_id.empty() || tombstones.contains(e.new_id)) {
    item.error = {Errc::id_conflict, "the new job's id is empty or was used before", "retry with a new id"};
  } else if (source == kNone) {
    item.error = {Errc::not_found, "job " + to_string(e.job) + " is not known", "gpuq list"};
  } else if (!in_scope(source, e.scope)) {
    item.error = out_of_scope(source, e.scope);
  } else if (!is_terminal(jobs[source].state)) {
    item.error = {Errc::refused, "job " + to_string(e.job) + " is still " + std::string(to_string(jobs[source].state)),
                  "gpuq cancel " + to_string(e.job)};
  } else {
    JobFixed f = fixed_of(source);
    f.id = e.new_id;
    f.owner = e.owner;
    f.retry_of = e.job;
    f.after.clear();
    f.not_before = {};
    if (f.deadline.ms <= now.wall.ms) f.deadline = {};
    if (auto error = refuse_state(f)) {
      item.error = std::move(*error);
    } else {
      slot = create(f, 0, e.job);
      item.ok = true;
    }
  }
  if (item.ok && e.watch && !notice) watch(slot, e.peer);
  send(std::move(answer));
  if (notice && e.watch) send_notice(slot, e.peer, 0);
}

void Core::State::on_cancel(CancelReceived& e) {
  CancelAnswer answer{e.peer, e.request, {}};
  for (const JobId& id : e.jobs) {
    const Index slot = jobs.find(id);
    answer.items.push_back(slot == kNone ? CancelResult::unknown : !in_scope(slot, e.scope) ? CancelResult::refused : cancel_one(slot));
  }
  send(std::move(answer));
}

/// Of a running job only the intent is stored: its result may come first, and its memory is charged until it has left.
CancelResult Core::State::cancel_one(Index slot) {
  Job& job = jobs[slot];
  if (is_terminal(job.state)) return CancelResult::already_final;
  if (!is_granted(job.state)) {
    set_error(job, Errc::cancelled, "cancelled on request");
    job.nonce = 0;
    move_job(slot, Verb::cancel);
    return CancelResult::cancelled;
  }
  if (job.cancel_asked) return CancelResult::asked;
  job.cancel_asked = true;
  commit_change(slot, job.state);
  Hold& hold = holds[job.hold];
  hold.intent_batch = batch_of(job);
  for (const Index device : hold.devices) touch_plan(device);  // what it holds there is still to come now
  Worker& worker = workers[hold.worker];
  if (worker.connected && worker_at(worker.peer) == hold.worker) {
    hold.cancel_number = ++worker.last_number;
    send(Cancel{worker.peer, hold.cancel_number, grant_of(slot), "asked"});
  }
  return CancelResult::asked;
}

}  // namespace gq::core
