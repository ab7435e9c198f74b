// metrics.h - figures as Prometheus text: gpuq_* in base units, labels from bounded sets, never a job id.
#pragma once

#include <string>

#include "broker/shell/broker.h"
#include "broker/store/blobs.h"

namespace gq::broker {

std::string prometheus_text(const BrokerFigures& figures, const store::BlobStatistics& blobs, std::uint64_t auth_failures);

}  // namespace gq::broker
