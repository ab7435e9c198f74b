// store_fsck_test.cpp - each kind of damage: how it is told, what repairs it, and what is left alone.
#include "tests/unit/store_fsck_shelf.h"

namespace gq::test {
namespace {

using store::Finding;
using store::FindingKind;
using store::StateSet;

core::JobRecord running_job(std::uint64_t n) {
  core::JobRecord job = a_job(n);
  moved(job, JobState::running);
  return job;
}
core::JobRecord ended_job(std::uint64_t n, std::uint32_t result_bytes = 5) {
  core::JobRecord job = running_job(n);
  moved(job, JobState::succeeded, [&](core::JobDynamic& d) { d.result_bytes = result_bytes; });
  return job;
}

/// The one damage there is; it comes before all notes.
Finding only(const store::Examined& found) {
  EXPECT_EQ(found.damages(), 1U);
  return found.findings.empty() ? Finding{} : found.findings.front();
}
/// After the repair nothing is damaged.
void expect_repaired(Shelf& shelf) {
  shelf.apply(shelf.examine());
  for (const Finding& f : shelf.examine().findings) EXPECT_TRUE(f.note) << to_string(f.kind) << " " << f.where << ": " << f.what;
}

TEST(StoreFsck, what_a_broker_leaves_is_whole_and_read_as_it_is) {
  Shelf shelf;
  const auto ready = a_job(1), running = running_job(2), ended = ended_job(3);
  for (const auto& job : {ready, running, ended}) shelf.put(job);
  const auto found = shelf.examine();
  EXPECT_TRUE(found.findings.empty());
  expect_equal(found.image, {.jobs = {ready, running, ended}, .models = {}, .tombstones = {}});
  EXPECT_TRUE(Shelf{.raw = {}}.examine().findings.empty());   // and so is a namespace that nobody has used yet
}

TEST(StoreFsck, a_job_in_no_set_is_filed_where_its_state_says) {
  Shelf shelf;
  shelf.put(running_job(1)).places.clear();
  shelf.put(a_job(2)).places.clear();   // no state at all: ready, never started
  const auto found = shelf.examine();
  ASSERT_EQ(found.damages(), 2U);
  EXPECT_EQ(found.findings[0].kind, FindingKind::in_no_set);
  EXPECT_EQ(found.findings[0].repair, "filed under running");
  EXPECT_EQ(found.findings[1].repair, "filed under ready:" + std::string(to_string(a_job(2).fixed.needs.job_class)));
  shelf.apply(found);
  EXPECT_EQ(shelf.raw.jobs.at(job_id(1)).places.front().set, StateSet::running);
  EXPECT_TRUE(shelf.examine().findings.empty());
}

TEST(StoreFsck, the_record_decides_where_a_job_belongs) {
  Shelf shelf;
  shelf.put(running_job(1)).places = {{StateSet::final, 9}};
  shelf.put(ended_job(2)).places.push_back({StateSet::running, 4});
  shelf.put(running_job(3)).places[0].score += 1;
  const auto found = shelf.examine();
  ASSERT_EQ(found.damages(), 3U);
  EXPECT_EQ(found.findings[0].kind, FindingKind::in_wrong_set);
  EXPECT_EQ(found.findings[1].kind, FindingKind::in_two_sets);
  EXPECT_EQ(found.findings[2].kind, FindingKind::wrong_score);
  EXPECT_EQ(found.image.jobs.size(), 3U);   // all are kept
  expect_repaired(shelf);
  EXPECT_EQ(shelf.raw.jobs.size(), 3U);
  EXPECT_EQ(shelf.raw.quarantined, 0U);
}

TEST(StoreFsck, a_job_whose_state_is_unknown_is_not_guessed_to_be_ready) {
  Shelf shelf;
  shelf.put(running_job(1)).dynamic = {};
  shelf.put(running_job(2)).dynamic.bytes = "\x01garbage";
  auto& lost_place = shelf.put(ended_job(3));   // neither state nor place, but a result: it has run
  lost_place.dynamic = {}, lost_place.places.clear();
  const auto found = shelf.examine();
  ASSERT_EQ(found.damages(), 3U);
  EXPECT_EQ(found.findings[0].kind, FindingKind::no_state);
  EXPECT_NE(found.findings[0].what.find("of key 'backend', label 'a job'"), std::string::npos) << found.findings[0].what;
  EXPECT_NE(found.findings[0].what.find("may have run or not"), std::string::npos);
  EXPECT_EQ(found.findings[1].kind, FindingKind::no_state);
  EXPECT_EQ(found.findings[2].kind, FindingKind::bad_state);
  EXPECT_TRUE(found.image.jobs.empty());
  expect_repaired(shelf);
  EXPECT_TRUE(shelf.raw.jobs.empty());
  EXPECT_EQ(shelf.raw.quarantined, 8U);   // every key there was: 2 + 3 + 3
}

TEST(StoreFsck, a_record_that_cannot_be_used_is_put_aside_with_all_that_belongs_to_it) {
  Shelf shelf;
  shelf.put(ended_job(1)).fixed = {};
  shelf.put(running_job(2)).fixed.bytes = "\x07newer";
  shelf.put(running_job(3)).fixed.bytes.reset();
  auto odd = a_job(4);
  odd.fixed.priority = 10;
  shelf.put(odd);
  shelf.raw.jobs[job_id(5)].places = {{StateSet::running, 1}};   // a member that names nothing
  const auto found = shelf.examine();
  EXPECT_EQ(found.damages(), 5U);
  EXPECT_EQ(std::count_if(found.findings.begin(), found.findings.end(), [](const Finding& f) { return f.kind == FindingKind::no_record; }), 2);
  EXPECT_EQ(std::count_if(found.findings.begin(), found.findings.end(), [](const Finding& f) { return f.kind == FindingKind::bad_record; }), 3);
  EXPECT_NE(found.findings[0].what.find("state body result a place in final"), std::string::npos) << found.findings[0].what;
  expect_repaired(shelf);
  EXPECT_TRUE(shelf.raw.jobs.empty());
}

TEST(StoreFsck, two_jobs_with_one_place_in_the_order_of_submits_get_two) {
  Shelf shelf;
  auto first = a_job(1), second = a_job(2), none = a_job(3);
  second.fixed.seq = 1, none.fixed.seq = 0;
  for (const auto& job : {first, second, none}) shelf.put(job);
  const auto found = shelf.examine();
  ASSERT_EQ(found.damages(), 2U);
  EXPECT_EQ(found.findings[0].kind, FindingKind::seq_twice);
  expect_repaired(shelf);
  std::vector<std::uint64_t> order;
  for (const auto& job : shelf.examine().image.jobs) order.push_back(job.fixed.seq);
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order, (std::vector<std::uint64_t>{1, 2, 3}));
}

TEST(StoreFsck, what_is_gone_for_good_is_said_and_nothing_is_changed) {
  Shelf shelf;
  shelf.put(a_job(1)).body = false;
  shelf.put(ended_job(2)).result = false;
  auto fetched = ended_job(3);
  fetched.dynamic.fetched = true;
  auto& given_up = shelf.put(fetched);
  given_up.result = given_up.body = false;
  auto aged = ended_job(4);
  aged.dynamic.error = Errc::result_expired;
  shelf.put(aged).result = false;
  const auto found = shelf.examine();
  ASSERT_EQ(found.findings.size(), 4U);
  EXPECT_EQ(found.damages(), 2U);
  EXPECT_EQ(found.findings[0].kind, FindingKind::no_body);
  EXPECT_NE(found.findings[0].what.find("PAYLOAD_LOST"), std::string::npos);
  EXPECT_EQ(found.findings[1].kind, FindingKind::no_result);
  for (const Finding& f : found.findings) EXPECT_TRUE(f.commands.empty() && f.repair.empty());
  EXPECT_EQ(found.image.jobs.size(), 4U);
}

TEST(StoreFsck, terms_batches_and_keys_of_another_type) {
  Shelf shelf;
  shelf.put(a_job(1));
  shelf.raw.term = {};
  EXPECT_EQ(only(shelf.examine()).kind, FindingKind::no_term);
  expect_repaired(shelf);
  shelf.raw.batch.bytes = "soon";
  EXPECT_EQ(only(shelf.examine()).kind, FindingKind::bad_batch);
  expect_repaired(shelf);
  shelf.raw.odd_types = {shelf.keys.models};
  EXPECT_EQ(only(shelf.examine()).kind, FindingKind::foreign_type);
  expect_repaired(shelf);
  shelf.raw.odd_members = {{StateSet::running, "hello"}};
  EXPECT_EQ(only(shelf.examine()).kind, FindingKind::bad_member);
  expect_repaired(shelf);

  Shelf foreign;
  foreign.raw.term.bytes = "a lock of somebody else";   // not ours to touch
  EXPECT_EQ(only(foreign.examine()).kind, FindingKind::foreign_type);
  EXPECT_TRUE(only(foreign.examine()).commands.empty());
}

TEST(StoreFsck, fields_that_cannot_be_read_are_put_aside_alone) {
  Shelf shelf;
  core::ModelRecord model;
  model.name = "yolo", model.version = "0123456789ab";
  core::OperatorSetting setting;
  setting.target = "w1";
  shelf.raw.models = {{"yolo@0123456789ab", store::encode(model)}, {"other@1", store::encode(model)}, {"odd@2", "odd"}};
  shelf.raw.settings = {{store::field_of(setting.kind, "w1"), store::encode(setting)}, {"drain_worker w2", "odd"}};
  shelf.raw.tombs = {{to_string(job_id(1)), store::encode_tombstone({1, 2}, {3})}, {to_string(job_id(2)), ""}, {"x", store::encode_tombstone({1, 2}, {3})}};
  const auto found = shelf.examine();
  EXPECT_EQ(found.damages(), 5U);
  EXPECT_EQ(found.image.models, (std::vector{model}));
  EXPECT_EQ(found.image.settings, (std::vector{setting}));
  EXPECT_EQ(found.image.tombstones.size(), 1U);
  expect_repaired(shelf);
}

TEST(StoreFsck, the_list_of_unique_keys_repeats_what_unfinished_jobs_say) {
  Shelf shelf;
  auto nightly = a_job(1), gone = ended_job(2);
  nightly.fixed.unique = "nightly", gone.fixed.unique = "gone";
  shelf.put(nightly), shelf.put(gone);
  EXPECT_TRUE(shelf.examine().findings.empty());
  shelf.raw.unique = {{"nightly", to_string(job_id(9))}, {"gone", to_string(job_id(2))}};
  EXPECT_EQ(shelf.examine().damages(), 2U);
  expect_repaired(shelf);
  EXPECT_EQ(shelf.raw.unique, (std::map<std::string, std::string>{{"nightly", to_string(job_id(1))}}));
}

TEST(StoreFsck, strangers_and_what_was_put_aside_are_notes) {
  Shelf shelf;
  shelf.raw.unknown_keys = {"gpuq:{test}:j:nothing"};
  shelf.raw.quarantined = 3;
  const auto found = shelf.examine();
  EXPECT_EQ(found.damages(), 0U);
  ASSERT_EQ(found.findings.size(), 2U);
  EXPECT_EQ(found.findings[1].kind, FindingKind::quarantined);
}

TEST(StoreFsck, blobs_are_named_once_by_whoever_needs_them_most) {
  core::Image image;
  auto ended = ended_job(1), waiting = a_job(2), running = running_job(3);
  BlobDigest shared, state;
  shared.bytes.fill(1), state.bytes.fill(2);
  ended.fixed.blobs = {shared}, waiting.fixed.blobs = {shared};
  running.dynamic.checkpoint.blob = state;
  image.jobs = {ended, waiting, running};
  const auto named = store::blobs_named_by(image);
  ASSERT_EQ(named.size(), 2U);
  EXPECT_EQ(named[0].by, "job " + to_string(job_id(2)));
  EXPECT_FALSE(named[0].needed.empty());
  EXPECT_EQ(named[1].digest, state);

  auto fetched = ended_job(4), waits = ended_job(5);
  fetched.dynamic.fetched = true;
  fetched.dynamic.result_blobs = {shared}, waits.dynamic.result_blobs = {state};
  image.jobs = {fetched, waits};
  const auto results = store::blobs_named_by(image);
  EXPECT_TRUE(results[0].needed.empty()) << "its caller has it";
  EXPECT_NE(results[1].needed.find("gpuq retry " + to_string(job_id(5))), std::string::npos);
}

}  // namespace
}  // namespace gq::test
