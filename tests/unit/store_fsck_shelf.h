// store_fsck_shelf.h - a namespace on a shelf: sound jobs put there by hand, and the commands of a repair done to it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "broker/store/fsck.h"
#include "tests/integration/store_driver.h"

namespace gq::test {

struct Shelf {
  store::Keys keys{"test"};
  store::RawNamespace raw{.term = {true, "3 abc"}, .batch = {true, "17"}, .jobs = {}, .odd_members = {}, .odd_types = {}, .unknown_keys = {}, .models = {}, .settings = {}, .tombs = {}, .unique = {}, .quarantined = 0};

  /// As a broker would have left it.
  store::RawJob& put(const core::JobRecord& job) {
    store::RawJob& raw_job = raw.jobs[job.fixed.id];
    raw_job.fixed = {true, store::encode(job.fixed)};
    if (!(job.dynamic == core::JobDynamic{})) raw_job.dynamic = {true, store::encode(job.dynamic)};
    raw_job.body = true;
    raw_job.result = is_terminal(job.dynamic.state) && job.dynamic.result_bytes > 0;
    raw_job.places = {{store::set_of(job.dynamic.state, job.fixed.needs.job_class), store::score_of(job.dynamic, job.fixed.seq)}};
    if (!job.fixed.unique.empty() && !is_terminal(job.dynamic.state)) raw.unique[job.fixed.unique] = to_string(job.fixed.id);
    return raw_job;
  }
  [[nodiscard]] store::Examined examine() const { return store::examine(raw, keys, "1"); }

  /// Does what Redis would; a command that Redis would refuse, or that a repair never sends, is a failed test.
  void apply(const store::Examined& found) {
    for (const store::Finding& finding : found.findings)
      for (const store::Command& command : finding.commands) apply(command);
  }

 private:
  void apply(const store::Command& c) {
    if (c[0] == "RENAME") return rename(c[1], c[2]);
    if (c[0] == "SET" && c[1] == keys.term) return void(raw.term = {true, c[2]});
    if (c[0] == "SET") {
      ASSERT_TRUE(c[1].starts_with(keys.fixed));
      return void(raw.jobs.at(*parse_job_id(c[1].substr(keys.fixed.size()))).fixed = {true, c[2]});
    }
    if (c[0] == "SADD") return void(++raw.quarantined);
    if (c[0] == "ZREM" || c[0] == "ZADD") {
      const auto set = std::find(keys.sets.begin(), keys.sets.end(), c[1]);
      ASSERT_NE(set, keys.sets.end());
      const auto which = static_cast<store::StateSet>(set - keys.sets.begin());
      const std::string& member = c.back();
      std::erase_if(raw.odd_members, [&](const auto& odd) { return odd.first == which && odd.second == member; });
      const auto id = parse_job_id(member);
      if (!id) return;
      store::RawJob& job = raw.jobs[*id];
      std::erase_if(job.places, [&](const store::RawJob::Place& p) { return p.set == which; });
      if (c[0] == "ZADD") job.places.push_back({which, std::stoll(c[2])});
      else forget_if_empty(*id);
      return;
    }
    ASSERT_TRUE(c[0] == "HSET" || c[0] == "HDEL") << c[0];
    if (c[1].find(":quarantine:") != std::string::npos) return void(++raw.quarantined);
    for (auto& [name, hash] : {std::pair{&keys.models, &raw.models}, {&keys.settings, &raw.settings}, {&keys.tombs, &raw.tombs}, {&keys.unique, &raw.unique}}) {
      if (c[1] != *name) continue;
      if (c[0] == "HSET") hash->insert_or_assign(c[2], c[3]);
      else EXPECT_EQ(hash->erase(c[2]), 1U);
    }
  }

  void rename(const std::string& from, const std::string& to) {
    EXPECT_TRUE(to.starts_with("gpuq:{test}:quarantine:1:")) << to;
    ++raw.quarantined;
    if (from == keys.batch) return void(raw.batch = {});
    if (std::erase(raw.odd_types, from) > 0) return;
    for (const auto& prefix : {keys.fixed, keys.dynamic, keys.body, keys.result}) {
      if (!from.starts_with(prefix)) continue;
      const JobId id = *parse_job_id(from.substr(prefix.size()));
      store::RawJob& job = raw.jobs.at(id);
      const bool was = prefix == keys.fixed ? std::exchange(job.fixed, {}).there : prefix == keys.dynamic ? std::exchange(job.dynamic, {}).there : prefix == keys.body ? std::exchange(job.body, false) : std::exchange(job.result, false);
      EXPECT_TRUE(was) << "Redis refuses to rename a missing key: " << from;
      return forget_if_empty(id);
    }
    ADD_FAILURE() << "no repair renames " << from;
  }
  void forget_if_empty(const JobId& id) {
    const store::RawJob& job = raw.jobs.at(id);
    if (!job.fixed.there && !job.dynamic.there && !job.body && !job.result && job.places.empty()) raw.jobs.erase(id);
  }
};

}  // namespace gq::test
