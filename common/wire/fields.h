// fields.h - the wire form of every struct in messages.h: one table each, in one place. Internal to common/wire.
//
// Only append; never reorder an array form, never rename a map key, never reuse either. The number behind a field bounds it:
// the largest value of an enum, the most elements of a list. PROTOCOL.md says the same for people; a test compares the two.
#pragma once

#include "common/vocabulary/limits.h"
#include "common/wire/job_body.h"
#include "common/wire/messages.h"
#include "common/wire/shape.h"

namespace gq::wire {

inline constexpr std::uint64_t kClassMax = kJobClasses - 1;
inline constexpr std::uint64_t kStateMax = kJobStates - 1;
inline constexpr std::uint64_t kOnPreemptMax = static_cast<std::uint64_t>(OnPreempt::never);
inline constexpr std::uint64_t kOutcomeMax = static_cast<std::uint64_t>(Outcome::lost);
inline constexpr std::uint64_t kDeviceKindMax = 3;
inline constexpr std::uint64_t kLaneKindMax = 2;
inline constexpr std::uint64_t kItemsMax = kLimits.items_max;

#define F(m) field(#m, &S::m)
#define FMAX(m, max) field(#m, &S::m, max)
#define FBIN(m) field(#m, &S::m, 0, true)
#define GQ_SHAPE(Struct, the_form, ...)                        \
  template <>                                                  \
  struct Shape<Struct> {                                       \
    using S = Struct;                                          \
    static constexpr Form form = Form::the_form;               \
    static constexpr auto fields = std::make_tuple(__VA_ARGS__); \
  };

// ---- the header and what many messages share: small, often, so arrays
GQ_SHAPE(Header, array, F(v), F(min), F(type), F(id), F(trace))
GQ_SHAPE(Grant, array, F(job), F(attempt), F(nonce))
GQ_SHAPE(Lane, array, F(lane), FMAX(kind, kLaneKindMax), F(device), F(model))
GQ_SHAPE(Credit, array, F(lane), F(limit))
GQ_SHAPE(Model, array, F(name), F(version), F(runtime), F(metadata), F(owner), F(blob), F(bytes), F(budget_mib), F(pushed_ms), F(promoted), F(promoted_ms))

// ---- hot bodies and their items: arrays
GQ_SHAPE(SubmitItem, array, F(id), F(digest), F(kind), FMAX(job_class, kClassMax), FMAX(priority, 9), F(payload_bytes), F(watch), F(model),
         F(budget_min_mib), F(budget_max_mib), F(devices), FMAX(on_preempt, kOnPreemptMax), F(exclusive), F(where), F(not_before_ms),
         F(deadline_ms), F(timeout_us), F(retries), F(unique), F(after), F(blobs), F(label), F(strict), FMAX(durability, 2))
GQ_SHAPE(Submit, array, FMAX(items, kItemsMax))
GQ_SHAPE(SubmittedItem, array, F(id), F(ok), F(existing), F(code), F(what), F(next), FMAX(durability, 2))
GQ_SHAPE(Submitted, array, FMAX(items, kItemsMax))
GQ_SHAPE(NotifyItem, array, F(id), FMAX(state, kStateMax), F(attempt), F(payload_bytes), F(submitted_ms), F(started_ms), F(ended_ms), F(worker),
         F(device), F(model_version), F(code), F(what), F(blobs))
GQ_SHAPE(Notify, array, FMAX(items, kItemsMax))
GQ_SHAPE(AssignItem, array, F(number), F(grant), F(lane), F(kind), F(payload_bytes), FMAX(job_class, kClassMax), FMAX(priority, 9), F(devices),
         F(granted_mib), FMAX(on_preempt, kOnPreemptMax), F(exclusive), F(timeout_us), F(owner), F(model), F(resume), F(resume_step), F(pause_for), FMAX(after, kItemsMax))
GQ_SHAPE(Assign, array, F(term), FMAX(items, kItemsMax))
GQ_SHAPE(Started, array, FMAX(grants, kItemsMax))
GQ_SHAPE(EndedItem, array, F(grant), FMAX(outcome, kOutcomeMax), F(started), F(payload_bytes), F(code), F(what), F(blobs), F(checkpoint),
         F(checkpoint_step))
GQ_SHAPE(Ended, array, FMAX(items, kItemsMax))
GQ_SHAPE(Accepted, array, F(term), FMAX(grants, kItemsMax), FMAX(verdicts, kItemsMax))

// ---- everything else: maps
GQ_SHAPE(ClientHello, map, F(name), F(version), F(protocol), F(near))
GQ_SHAPE(ClientWelcome, map, F(broker_version), F(term), F(protocol), F(role), F(name), F(frame_bytes_max), F(inline_bytes_max),
         F(blob_chunk_bytes), F(beat_ms), F(space), F(near))
GQ_SHAPE(Device, map, F(uuid), F(name), FMAX(kind, kDeviceKindMax), F(index), F(total_mib), F(driver_mib), F(used_mib), F(used_by_us_mib),
         F(temperature_c), F(utilization_pct), F(healthy))
GQ_SHAPE(WorkerHello, map, F(name), F(instance), F(version), F(protocol), F(host), F(kinds), F(labels), F(devices), F(lanes), F(credit),
         F(running))
GQ_SHAPE(WorkerWelcome, map, F(broker_version), F(term), F(protocol), F(beat_ms), F(lease_ms), F(orphan_ms), F(frame_bytes_max),
         F(inline_bytes_max), F(blob_chunk_bytes), F(revoke), F(numbered))
GQ_SHAPE(Beat, map, F(sent_us))
GQ_SHAPE(BeatReply, map, F(sent_us), F(term))
GQ_SHAPE(Goodbye, map, F(reason))
GQ_SHAPE(Failure, map, F(code), F(what), F(next))

GQ_SHAPE(Watch, map, F(jobs))
GQ_SHAPE(Watched, map, F(unknown))
GQ_SHAPE(Fetched, map, F(jobs))
GQ_SHAPE(CancelJobs, map, F(jobs))
GQ_SHAPE(CancelReply, map, F(items))
GQ_SHAPE(Retry, map, F(job), F(new_id), F(watch))
GQ_SHAPE(RetryReply, map, F(item))
GQ_SHAPE(StatusQuery, map, F(jobs))
GQ_SHAPE(JobStatus, map, F(id), F(found), F(kind), FMAX(job_class, kClassMax), FMAX(state, kStateMax), FMAX(priority, 9), F(model),
         F(model_version), F(label), F(owner), F(worker), F(device), F(code), F(what), F(reason), F(on_preempt), F(budget_min_mib),
         F(budget_max_mib), F(granted_mib), F(attempt), F(failures), F(losses), F(preemptions), F(retries), F(submitted_ms), F(started_ms),
         F(ended_ms), F(due_ms), F(deadline_ms), F(ahead), F(result_bytes), F(result_blobs), F(retry_of), F(after), F(cancel_asked),
         F(checkpoint_step), F(checkpoint), F(progress_step), F(progress_total), F(metrics), F(last_lines), F(held), F(evictions),
         F(leave_reason), F(leave_for), FMAX(durability, 2))
GQ_SHAPE(StatusReply, map, F(jobs))
GQ_SHAPE(ListQuery, map, F(state), F(job_class), F(kind), F(active_only), F(after), F(limit))
GQ_SHAPE(ListReply, map, F(jobs))
GQ_SHAPE(WorkersQuery, map)
GQ_SHAPE(DeviceStatus, map, F(device), F(headroom_mib), F(foreign_mib), F(granted_mib), F(free_mib), F(holders), F(warm), F(state), F(reserved))
GQ_SHAPE(WorkerStatus, map, F(name), F(host), F(version), F(state), F(since_beat_ms), F(labels), F(kinds), F(running), F(devices))
GQ_SHAPE(WorkersReply, map, F(workers))
GQ_SHAPE(LogQuery, map, F(job), F(offset), F(follow), F(model))
GQ_SHAPE(LogReply, map, F(job), F(offset), F(next), F(end))
GQ_SHAPE(ModelPush, map, F(model), F(promote))
GQ_SHAPE(ModelCommand, map, F(verb), F(name), F(version), F(condition))
GQ_SHAPE(ModelRemove, map, F(name), F(version))
GQ_SHAPE(ModelReply, map, F(model))
GQ_SHAPE(ModelsQuery, map)
GQ_SHAPE(ModelsReply, map, F(models))
GQ_SHAPE(ResultQuery, map, F(job), F(child))
GQ_SHAPE(ResultReply, map, F(item))
GQ_SHAPE(TopQuery, map)
GQ_SHAPE(TopReply, map, F(broker_version), F(store), F(space), F(term), F(uptime_ms), F(by_class_and_state), F(submitted), F(succeeded),
         F(failed), F(lost), F(stale), F(assigned), F(queued_bytes), F(final_bytes), F(broker_bytes), F(commits), F(commit_p50_ms),
         F(commit_p99_ms), F(jobs_per_commit_milli), F(preempted), F(evicted_models), F(plans_made), F(plans_expired), F(killed_at_deadline),
         F(switches))

GQ_SHAPE(Command, map, F(verb), FMAX(jobs, kItemsMax), F(target), F(reason), F(deadline_ms))
GQ_SHAPE(CommandItem, map, F(ok), F(text), F(code), F(what), F(next))
GQ_SHAPE(CommandReply, map, FMAX(items, kItemsMax))
GQ_SHAPE(UpdateJob, map, F(job), FMAX(priority, 9), F(deadline_ms), F(not_before_ms), F(timeout_ms), F(retries), FMAX(job_class, kClassMax),
         F(budget_min_mib), F(budget_max_mib), FMAX(on_preempt, kOnPreemptMax), F(where))
GQ_SHAPE(PlaceVerdict, map, F(worker), F(host), F(device), F(index), F(warm), F(constraint), F(sentence), F(lacking_mib), F(until_ms))
GQ_SHAPE(RefusalCount, map, F(constraint), F(count))
GQ_SHAPE(Remedy, map, F(kind), F(text), F(when_ms), F(jobs), F(budget_mib))
GQ_SHAPE(Explanation, map, F(job), FMAX(state, kStateMax), F(summary), F(would_start), F(ahead), F(never), F(places), F(places_looked_at),
         F(refusals), F(remedies))
GQ_SHAPE(ExplainQuery, map, F(job))
GQ_SHAPE(ExplainReply, map, F(explanation))
GQ_SHAPE(PlanSubmit, map, F(item))
GQ_SHAPE(PlanPolicy, map, F(text), F(name))
GQ_SHAPE(PlanChange, map, F(job), F(text))
GQ_SHAPE(PlanPolicyReply, map, F(ok), F(code), F(what), F(next), F(warnings), F(stranded), F(would_start), F(would_wait))
GQ_SHAPE(ConfigQuery, map, F(reload))
GQ_SHAPE(ConfigSetting, map, F(key), F(value), F(origin), F(where))
GQ_SHAPE(ConfigReply, map, F(file), F(loaded_ms), F(settings), F(warnings))

GQ_SHAPE(Pull, map, F(opened), F(closed), F(credit))
GQ_SHAPE(Refused, map, F(grant), F(code), F(what))
GQ_SHAPE(PreemptJob, map, F(term), F(number), F(grant), F(reason), F(deadline_ms))
GQ_SHAPE(CancelJob, map, F(term), F(number), F(grant), F(reason))
GQ_SHAPE(Progress, map, F(grant), F(step), F(total), F(metrics))
GQ_SHAPE(Log, map, F(grant), F(offset))
GQ_SHAPE(CheckpointSaved, map, F(grant), F(blob), F(step))
GQ_SHAPE(MemoryReleased, map, F(grant))
GQ_SHAPE(WorkerBeat, map, F(sent_us), F(last_number), F(running), F(devices))
GQ_SHAPE(Eviction, map, F(device), F(model))
GQ_SHAPE(WorkerBeatReply, map, F(sent_us), F(term), F(revoke), F(cancels), F(preempts), F(evictions))
GQ_SHAPE(EvictModel, map, F(term), F(device), F(model))
GQ_SHAPE(ModelLog, map, F(model))

GQ_SHAPE(BlobPut, map, F(blob), F(total), F(offset), F(brief), F(near))
GQ_SHAPE(BlobPutReply, map, F(blob), F(next), F(complete))
GQ_SHAPE(BlobGet, map, F(blob), F(offset), F(bytes_max), F(near))
GQ_SHAPE(BlobGetReply, map, F(blob), F(total), F(offset), F(path))

// ---- what payloads hold (job_body.h)
GQ_SHAPE(Part, map, F(name), F(media), FBIN(bytes), F(blob), F(blob_bytes), F(share), F(share_bytes), F(share_mtime_ms))
GQ_SHAPE(JobBody, map, F(params), F(argv), F(env), F(cwd), F(parts), F(outputs), F(cwd_identity), F(per_device))
GQ_SHAPE(ResultBody, map, F(values), F(parts))

#undef F
#undef FMAX
#undef FBIN

}  // namespace gq::wire
