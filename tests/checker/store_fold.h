// store_fold.h - what a store must hold after a list of mutations: an independent model, and its complaints.
//
// Mutations go in, in commit order; core::Image comes out. Nothing here is shared with broker/store or the core: it says what the
// mutations *mean*. A mutation that a real store could not carry out (change of an unknown job, move out of a set the job is not
// in, an id made twice) or that breaks the life's table is a violation.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "broker/core/record.h"
#include "tests/checker/findings.h"
#include "tests/checker/job_numbers.h"

namespace gq::checker {

class StoreFold {
 public:
  StoreFold(const JobNumbers& numbers, Findings& findings) : numbers_(numbers), findings_(findings) {}

  void apply(core::Mutation&& mutation);
  /// What a broker that starts now would load.
  [[nodiscard]] core::Image image() const;

  enum class Presence : std::uint8_t { never, here, tombstone, gone };
  [[nodiscard]] Presence presence(JobNumber job) const;
  /// nullptr unless here.
  [[nodiscard]] const core::JobRecord* find(JobNumber job) const;
  [[nodiscard]] bool has_body(JobNumber job) const;
  /// Token and attempt of the kept result; 0 = none.
  [[nodiscard]] core::Token result(JobNumber job) const;
  /// A disk that lost one body (a fault: the record stays).
  void lose_body(JobNumber job);
  [[nodiscard]] std::uint64_t jobs_here() const { return here_; }
  [[nodiscard]] std::uint64_t not_final() const { return not_final_; }
  [[nodiscard]] JobNumber rows() const { return static_cast<JobNumber>(chunks_.size() * kChunk); }

 private:
  struct Row {
    core::JobRecord record;
    core::Token body{};
    core::Token result{};
    Attempt result_attempt{};
    Digest128 tombstone_digest{};
    WallTime tombstone_ended{};
    Presence presence{Presence::never};
    bool finished{};  ///< reached a terminal state: once
  };
  static constexpr std::size_t kChunk = 512;

  [[nodiscard]] const Row* row(JobNumber job) const;
  Row& row_to_write(JobNumber job);
  Row* here(const JobId& id, const char* verb);
  void on(core::JobCreated&& m);
  void on(core::JobChanged&& m);
  void on(const core::PayloadRead& m);
  void on(const core::ResultStored& m);
  void on(const core::ResultDropped& m);
  void on(const core::JobForgotten& m);
  void on(const core::TombstoneDropped& m);
  void on(const core::UniqueTaken& m);
  void on(const core::UniqueReleased& m);
  void on(core::ModelStored&& m);
  void on(const core::ModelRemoved& m);
  void on(const core::JobRevised& m);
  void on(const core::SettingStored& m);
  void on(const core::SettingDropped& m);
  void violation(const char* rule, JobNumber job, std::string what) { findings_.violation(rule, job, std::move(what)); }

  const JobNumbers& numbers_;
  Findings& findings_;
  std::vector<std::unique_ptr<std::vector<Row>>> chunks_;
  std::map<std::string, JobId> unique_;
  std::map<std::pair<std::string, std::string>, core::ModelRecord> models_;
  std::map<std::pair<core::OperatorSetting::Kind, std::string>, core::OperatorSetting> settings_;
  std::uint64_t seq_max_{};
  std::uint64_t here_{};
  std::uint64_t not_final_{};
};

}  // namespace gq::checker
