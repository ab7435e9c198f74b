// model_condition.h - may this version be promoted? "map50 > current and recall >= 0.9", judged over the metrics of two versions. Pure.
//
//   condition  = comparison { "and" comparison }
//   comparison = METRIC ( ">" | ">=" | "<" | "<=" ) VALUE
//   VALUE      = NUMBER | "current" [ ("+" | "-") NUMBER ]       current: that metric of the promoted version
// METRIC is letters, digits or one of _ . - @ / ( ), beginning with a letter: "metrics/mAP50(B)" is one. Metrics are the numbers in "metrics" of a model's metadata.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/vocabulary/errors.h"

namespace gq::broker {

using ModelMetrics = std::map<std::string, double>;
/// Those of a metadata text; empty when it has none.
ModelMetrics metrics_of(const std::string& metadata);

/// What was compared, in words ("map50 0.71 > 0.68"). CONDITION_FALSE says which comparison does not hold; USAGE where the text is no
/// condition; BAD_INPUT when a version lacks a metric. Without a promoted version comparisons with `current` hold.
Result<std::string> judge_promotion(std::string_view condition, const ModelMetrics& candidate, const std::optional<ModelMetrics>& current);

}  // namespace gq::broker
