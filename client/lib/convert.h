// convert.h - between the wire's words and the public header's.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/vocabulary/errors.h"
#include "common/wire/messages.h"

namespace gq::client {

gpuq::Error to_public(const Error& error);
Error from_failure(const wire::Failure& failure);            ///< an unknown code becomes INTERNAL, its text kept
gpuq::Submitted to_public(const wire::SubmittedItem& item);
Result<gpuq::JobResult> to_public(wire::NotifyItem&& item, std::string_view payload);
gpuq::JobStatus to_public(const wire::JobStatus& status);
gpuq::WorkerStatus to_public(const wire::WorkerStatus& status);
gpuq::Model to_public(const wire::Model& model);
gpuq::Top to_public(const wire::TopReply& top);
gpuq::CommandResult to_public(const wire::CommandItem& item);
gpuq::Explanation to_public(const wire::Explanation& explanation);
gpuq::PolicyPlan to_public(const wire::PlanPolicyReply& plan);
gpuq::Configuration to_public(const wire::ConfigReply& config);
gpuq::Submitted refusal(std::string id, const Error& error);

std::vector<std::string> kind_names();
std::string kinds_text();                                    ///< "detect, infer, …"
/// The nearest of `words` when near enough to be meant, else empty.
std::string closest(std::string_view word, const std::vector<std::string>& words);

}  // namespace gq::client
