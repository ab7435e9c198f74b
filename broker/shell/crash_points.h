// crash_points.h - GPUQ_CRASH_AT=<site>[:n] ends the process with _exit(137) at the n-th pass of a named site, for the chaos tests
// that walk the commit cycle. Unset, a site costs one comparison.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gq::broker {

enum class CrashSite : unsigned char {
  recv_submit,      ///< a submit was decoded, the core has not seen it
  stepped_submit,   ///< the core accepted it, nothing is written
  before_commit,    ///< the batch was cut, the store has not seen it
  in_commit,        ///< the store has it, it has not answered
  after_commit,     ///< durable, nothing released
  mid_release,      ///< some of its sends are in the outbox
  after_release,    ///< all of its sends have left
  recv_ended,       ///< results were decoded, the core has not seen them
  stepped_ended,    ///< the core accepted them, nothing is written
  after_assign,     ///< assignments of a committed batch have left
  after_accepted,   ///< ACCEPTED has left
  none,
};

/// All names, in the order above: the chaos test walks them.
const std::vector<std::string_view>& crash_site_names();
void crash_at(CrashSite site);

}  // namespace gq::broker
