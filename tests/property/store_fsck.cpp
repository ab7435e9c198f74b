// store_fsck.cpp - whatever is done to a sound namespace: one repair makes it whole again as far as anything can, sound jobs stay as they
// are, and nothing is deleted.
#include <random>

#include "tests/unit/store_fsck_shelf.h"

namespace gq::test {
namespace {

using store::StateSet;

struct Vandal {
  explicit Vandal(std::uint64_t seed) : random(seed) {}
  std::mt19937_64 random;
  std::uint64_t any(std::uint64_t below) { return random() % below; }

  core::JobRecord job(std::uint64_t n) {
    core::JobRecord record = a_job(n);
    record.fixed.needs.job_class = static_cast<JobClass>(any(kJobClasses));
    if (any(3) == 0) record.fixed.unique = "u" + std::to_string(n);
    const auto state = static_cast<JobState>(any(kJobStates));
    if (state != JobState::ready) moved(record, state, [&](core::JobDynamic& d) {
      d.due.ms = static_cast<std::int64_t>(any(1'000'000)), d.attempt = 1 + static_cast<Attempt>(any(3));
      if (is_terminal(state)) d.result_bytes = static_cast<std::uint32_t>(any(2)) * 9;
    });
    return record;
  }
  void flip(store::RawValue& value) {
    if (!value.bytes || value.bytes->empty()) return;
    (*value.bytes)[any(value.bytes->size())] ^= static_cast<char>(1U << any(8));
  }
  /// One thing that a bad disk, a bad restore or a person with redis-cli may do to one job.
  void harm(Shelf& shelf, const JobId& id) {
    store::RawJob& job = shelf.raw.jobs.at(id);
    const auto set = static_cast<StateSet>(any(store::kStateSets));
    const auto stands = [&] { return std::any_of(job.places.begin(), job.places.end(), [&](const auto& p) { return p.set == set; }); };
    switch (any(9)) {
      case 0: job.fixed = {}; break;
      case 1: job.dynamic = {}; break;
      case 2: job.body = false; break;
      case 3: job.result = !job.result; break;
      case 4: job.places.clear(); break;
      case 5: if (!stands()) job.places.push_back({set, 1}); break;
      case 6: job.places = {{set, static_cast<std::int64_t>(any(100))}}; break;
      case 7: flip(job.fixed); break;
      default: flip(job.dynamic);
    }
    if (!job.fixed.there && !job.dynamic.there && !job.body && !job.result && job.places.empty()) shelf.raw.jobs.erase(id);
  }
};

TEST(StoreFsckProperty, one_repair_leaves_only_what_cannot_be_repaired_and_touches_nothing_sound) {
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Vandal vandal(seed);
    Shelf shelf;
    std::map<JobId, core::JobRecord> sound;
    for (std::uint64_t n = 1; n <= 30; ++n) {
      const auto job = vandal.job(n);
      shelf.put(job);
      sound.emplace(job.fixed.id, job);
    }
    ASSERT_TRUE(shelf.examine().findings.empty());
    for (auto harms = 1 + vandal.any(12); harms > 0 && !shelf.raw.jobs.empty(); --harms) {
      const JobId id = std::next(shelf.raw.jobs.begin(), static_cast<std::ptrdiff_t>(vandal.any(shelf.raw.jobs.size())))->first;
      sound.erase(id);
      vandal.harm(shelf, id);
    }
    const auto keys_of = [](const store::RawNamespace& raw) {
      std::size_t keys = raw.quarantined;
      for (const auto& [id, job] : raw.jobs) keys += static_cast<std::size_t>(job.fixed.there) + job.dynamic.there + job.body + job.result;
      return keys;
    };
    const std::size_t keys_before = keys_of(shelf.raw);
    const auto found = shelf.examine();
    for (const store::Finding& f : found.findings)   // of two jobs with one place in the order any may be the one that was changed
      if (f.kind == store::FindingKind::seq_twice) sound.erase(*parse_job_id(f.where.substr(shelf.keys.fixed.size())));
    shelf.apply(found);
    const auto after = shelf.examine();
    for (const store::Finding& f : after.findings)
      EXPECT_TRUE(f.note || f.commands.empty()) << "still to be repaired: " << to_string(f.kind) << " " << f.where << ": " << f.what;
    EXPECT_EQ(keys_of(shelf.raw), keys_before) << "a repair deletes nothing";
    std::map<JobId, core::JobRecord> now;
    for (const auto& job : after.image.jobs) now.emplace(job.fixed.id, job);
    for (const auto& [id, job] : sound) {
      ASSERT_TRUE(now.contains(id)) << to_string(id);
      EXPECT_TRUE(now.at(id) == job) << to_string(id);
    }
    // What is left is what a broker loads: each in the one set of its state.
    for (const auto& [id, job] : shelf.raw.jobs) {
      ASSERT_TRUE(now.contains(id)) << to_string(id);
      ASSERT_EQ(job.places.size(), 1U);
      EXPECT_EQ(job.places[0].set, store::set_of(now.at(id).dynamic.state, now.at(id).fixed.needs.job_class));
    }
  }
}

}  // namespace
}  // namespace gq::test
