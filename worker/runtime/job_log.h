// job_log.h - what a job prints: the whole of it to a file (rotated at 64 MiB, one older file is kept), the newest of it to the broker.
//
// To the broker at most kPending bytes wait; when a job prints faster, the oldest waiting ones are skipped and the offset shows the
// gap. The last lines go into the error text when it fails.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/runtime/attempt.h"

namespace gq::worker {

class JobLog {
 public:
  static constexpr std::uint64_t kRotateBytes = std::uint64_t{64} << 20U;
  static constexpr std::size_t kPending = std::size_t{256} << 10U;
  explicit JobLog(std::string path, std::uint64_t rotate_bytes = kRotateBytes);
  ~JobLog();
  JobLog(const JobLog&) = delete;
  JobLog& operator=(const JobLog&) = delete;
  void add(std::string_view bytes);
  /// What is due for the broker: at most 64 KiB from `offset`; empty = nothing.
  std::string take(std::uint64_t& offset);
  [[nodiscard]] bool pending() const { return !waiting_.empty(); }
  /// The end of it, on one line, for an error text.
  [[nodiscard]] std::string last_lines() const;
  /// Log files as artefacts ("gpuq-log.txt"); none when nothing was printed.
  [[nodiscard]] std::vector<Output::Item> as_items() const;
  static bool is_log(std::string_view artefact) { return artefact == "gpuq-log.txt" || artefact == "gpuq-log.1.txt"; }

 private:
  std::string path_;
  std::uint64_t rotate_bytes_;
  int fd_{-1};
  std::uint64_t in_file_{};
  std::uint64_t total_{};
  bool rotated_{};
  std::string waiting_;
  std::string tail_;
};

}  // namespace gq::worker
