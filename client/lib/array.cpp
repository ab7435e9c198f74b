// array.cpp - see array.h.
#include "client/lib/array.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "client/lib/convert.h"
#include "common/vocabulary/ids.h"

namespace gq::client {

namespace {

constexpr std::uint32_t kIndexMax = 999'999'999;

bool read_number(std::string_view& text, std::uint32_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value > kIndexMax) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

}  // namespace

Result<std::vector<std::uint32_t>> parse_array(std::string_view text) {
  const auto wrong = [whole = std::string(text)] { return fail(Errc::usage, "array '" + whole + "' is no list of indices", "0-9, 0-90:10, or 1,4,7"); };
  std::vector<std::uint32_t> indices;
  std::set<std::uint32_t> seen;
  for (std::string_view rest = text;;) {
    std::string_view range = rest.substr(0, rest.find(','));
    std::uint32_t first = 0, last = 0, step = 1;
    if (!read_number(range, first)) return wrong();
    last = first;
    if (range.starts_with('-')) {
      range.remove_prefix(1);
      if (!read_number(range, last) || last < first) return wrong();
      if (range.starts_with(':')) {
        range.remove_prefix(1);
        if (!read_number(range, step) || step == 0) return wrong();
      }
    }
    if (!range.empty()) return wrong();
    for (std::uint64_t i = first; i <= last; i += step) {
      if (indices.size() == kArrayMax) return fail(Errc::over_limit, "an array has more than " + std::to_string(kArrayMax) + " indices", "submit it in pieces: 0-9999, then 10000-…");
      if (!seen.insert(static_cast<std::uint32_t>(i)).second) return fail(Errc::usage, "the array names index " + std::to_string(i) + " twice", "once is enough");
      indices.push_back(static_cast<std::uint32_t>(i));
    }
    const std::size_t comma = rest.find(',');
    if (comma == std::string_view::npos) return indices;
    rest.remove_prefix(comma + 1);
  }
}

Result<std::vector<gpuq::JobSpec>> array_of(const gpuq::JobSpec& job, const std::vector<std::uint32_t>& indices) {
  if (job.kind != "command") return fail(Errc::usage, "an array is for commands, not for " + (job.kind.empty() ? "no kind" : job.kind), "gpuq submit --array 0-9 -- python part.py");
  std::optional<JobId> id;
  if (!job.id.empty() && !(id = parse_job_id(job.id))) return fail(Errc::usage, "id '" + job.id + "' is not a job id", "leave it out, and one is made");
  std::vector<gpuq::JobSpec> jobs;
  jobs.reserve(indices.size());
  for (std::size_t k = 0; k < indices.size(); ++k) {
    gpuq::JobSpec one = job;
    const std::string index = std::to_string(indices[k]);
    one.env["GPUQ_ARRAY_INDEX"] = index;
    one.env["GPUQ_ARRAY_COUNT"] = std::to_string(indices.size());
    one.label = (job.label.empty() ? "array" : job.label) + "[" + index + "]";
    if (!job.unique.empty()) one.unique = job.unique + "[" + index + "]";
    if (id) {
      JobId next = *id;
      next.lo += k;
      if (next.lo < id->lo) ++next.hi;
      one.id = to_string(next);
    }
    jobs.push_back(std::move(one));
  }
  return jobs;
}

}  // namespace gq::client

namespace gpuq {

std::vector<JobSpec> array_of(const JobSpec& job, std::string_view indices) {
  auto parsed = gq::client::parse_array(indices);
  if (!parsed) throw gq::client::to_public(parsed.error());
  auto jobs = gq::client::array_of(job, *parsed);
  if (!jobs) throw gq::client::to_public(jobs.error());
  return std::move(*jobs);
}

}  // namespace gpuq
