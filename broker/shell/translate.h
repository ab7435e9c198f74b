// translate.h - wire structs to core events and core effects to wire structs. Pure functions, no socket, no clock.
//
// What a peer sends is checked here, once: everything the core sees is within limits.h and names kinds, classes and states that
// exist. A mistake in one item refuses that item, not its neighbours.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "broker/core/core.h"
#include "broker/core/effects.h"
#include "broker/core/events.h"
#include "broker/policy/source.h"
#include "broker/shell/token_pool.h"
#include "common/vocabulary/errors.h"
#include "common/wire/messages.h"

namespace gq::broker {

// ---- in

core::Grant to_core(const wire::Grant& g);
std::vector<core::Grant> to_core(const std::vector<wire::Grant>& grants);

/// The kind is known, every bound holds. `body`: this item's slice of frame 1.
Result<core::SubmitItem> to_core(wire::SubmitItem&& item, std::string_view body, TokenPool& pool);
Result<core::ListFilter> to_core(wire::ListQuery&& query);
/// Kinds this broker does not know are left out: a newer worker may offer them.
Result<core::WorkerHello> to_core(wire::WorkerHello&& hello, PeerId peer);
Result<core::WorkerPulled> to_core(wire::Pull&& pull, PeerId peer);
Result<core::WorkerBeat> to_core(wire::WorkerBeat&& beat, PeerId peer);
core::AttemptRefused to_core(wire::Refused&& refused, PeerId peer);
/// A result above the inline bound ends the attempt as failed for good: TOO_LARGE (it belongs in a blob).
Result<core::AttemptEnd> to_core(wire::EndedItem&& item, std::string_view result, TokenPool& pool);
Result<core::ModelRecord> to_core(wire::ModelPush&& push, std::uint64_t blob_bytes, const std::string& owner, WallTime now);
Result<std::variant<core::JobCommand, core::FleetCommand>> to_core(wire::Command&& command, PeerId peer, std::uint64_t request, const std::string& by);
Result<core::UpdateReceived> to_core(wire::UpdateJob&& update, PeerId peer, std::uint64_t request, const std::string& by);

/// Letters, digits, '.', '_', '-', up to name_chars_max: names of workers, models, spaces.
bool is_name(std::string_view text);

// ---- out

wire::Grant to_wire(const core::Grant& g);
std::vector<wire::Grant> to_wire(const std::vector<core::Grant>& grants);
wire::Failure to_wire(const Error& error);
wire::SubmittedItem to_wire(const core::SubmitOutcome& outcome);
/// Without its payload: the caller sets payload_bytes to what it sends.
wire::NotifyItem to_wire(JobId job, const core::JobDynamic& now, WallTime submitted);
wire::AssignItem to_wire(core::Assign&& assign);
wire::CancelJob to_wire(const core::Cancel& cancel, Term term);
wire::PreemptJob to_wire(const core::Preempt& preempt, Term term);
wire::WorkerBeatReply to_wire(const core::BeatAnswer& answer, std::uint64_t sent_us, Term term);
wire::Accepted to_wire(const core::EndsAnswer& answer, Term term);
wire::Model to_wire(const core::ModelRecord& model);
wire::JobStatus to_wire(const core::JobRecord& record);
wire::JobStatus to_wire(const core::JobView& view);
wire::WorkerStatus to_wire(const core::WorkerView& view);
wire::CommandReply to_wire(const core::CommandAnswer& answer);
wire::EvictModel to_wire(const core::EvictModel& evict, Term term);
wire::Explanation to_wire(const core::Explanation& explanation);
wire::PlanPolicyReply to_wire(const core::PolicyPlan& plan, const std::vector<std::string>& warnings);
wire::ConfigReply to_wire(const policy::Loaded& loaded);
std::string in_words(const core::OperatorSetting& setting);

}  // namespace gq::broker
