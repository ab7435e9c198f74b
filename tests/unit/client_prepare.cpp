// client_prepare.cpp - a spec made ready for the wire: what is checked, what travels inline, how submits are put together.
#include <gtest/gtest.h>

#include "client/lib/coalescer.h"
#include "client/lib/convert.h"
#include "client/lib/prepare.h"
#include "common/wire/codec.h"
#include "common/wire/job_body.h"

namespace gq::client {
namespace {

gpuq::JobSpec echo() {
  gpuq::JobSpec spec;
  spec.kind = "echo";
  return spec;
}
gpuq::Part part(std::string name, std::size_t bytes) {
  gpuq::Part p;
  p.name = std::move(name);
  p.bytes.assign(bytes, 'x');
  return p;
}
Errc refused(gpuq::JobSpec spec) {
  auto job = prepare(std::move(spec));
  EXPECT_FALSE(job);
  return job ? Errc::internal : job.error().code;
}

TEST(Prepare, a_kind_brings_its_class_and_how_it_is_preempted) {
  gpuq::JobSpec spec;
  spec.kind = "train.detector";
  spec.vram_min_mib = 2048;
  const auto job = prepare(std::move(spec));
  ASSERT_TRUE(job);
  EXPECT_EQ((*job)->item.job_class, static_cast<std::uint8_t>(JobClass::training));
  EXPECT_EQ((*job)->item.on_preempt, static_cast<std::uint8_t>(OnPreempt::checkpoint));
  EXPECT_EQ((*job)->item.budget_max_mib, 2048) << "no maximum given: the minimum";
  EXPECT_FALSE((*job)->item.id.empty());
}

TEST(Prepare, mistakes_are_refused_before_they_travel) {
  gpuq::JobSpec spec = echo();
  spec.kind = "ecco";
  auto job = prepare(std::move(spec));
  ASSERT_FALSE(job);
  EXPECT_EQ(job.error().code, Errc::unknown_kind);
  EXPECT_NE(job.error().what.find("did you mean 'echo'?"), std::string::npos) << job.error().what;

  spec = echo(), spec.priority = 10;
  EXPECT_EQ(refused(spec), Errc::over_limit);
  spec = echo(), spec.id = "not-an-id";
  EXPECT_EQ(refused(spec), Errc::usage);
  spec = echo(), spec.after = {"01"};
  EXPECT_EQ(refused(spec), Errc::usage);
  spec = echo(), spec.job_class = "fastest";
  EXPECT_EQ(refused(spec), Errc::usage);
  spec = echo(), spec.vram_min_mib = 8192, spec.vram_max_mib = 2048;
  EXPECT_EQ(refused(spec), Errc::usage);
  spec = echo(), spec.kind = "command";
  EXPECT_EQ(refused(spec), Errc::usage) << "a command without words";
  spec = echo(), spec.params["big"] = std::string(70'000, 'x');
  EXPECT_EQ(refused(spec), Errc::too_large);
  spec = echo(), spec.retries = 101;
  EXPECT_EQ(refused(spec), Errc::over_limit);
}

TEST(Prepare, small_parts_travel_inline_and_large_ones_become_blobs_until_the_rest_fits) {
  gpuq::JobSpec spec = echo();
  spec.parts = {part("small", 1000), part("large", 100'000), part("medium", 60'000)};
  const auto job = prepare(std::move(spec));
  ASSERT_TRUE(job);
  ASSERT_EQ((*job)->uploads.size(), 1U) << "the largest went; 61,000 bytes fit inline";
  EXPECT_EQ((*job)->uploads[0]->total, 100'000U);
  EXPECT_EQ((*job)->item.blobs, std::vector<BlobDigest>{sha256(std::string(100'000, 'x'))});
  const auto body = wire::decode_job_body(std::as_bytes(std::span((*job)->payload)));
  ASSERT_TRUE(body);
  EXPECT_EQ(body->parts[0].bytes.size(), 1000U);
  EXPECT_EQ(body->parts[1].bytes.size(), 0U);
  EXPECT_EQ(body->parts[1].blob_bytes, 100'000U);
  EXPECT_EQ(body->parts[2].bytes.size(), 60'000U);
  EXPECT_LE((*job)->payload.size(), kLimits.inline_bytes_max);
}

TEST(Prepare, exactly_at_the_limit_still_fits_what_the_broker_takes_inline) {
  for (const std::size_t bytes : {65'000UL, 65'300UL, 65'400UL, 65'500UL, 65'536UL, 65'537UL}) {
    gpuq::JobSpec spec = echo();
    spec.parts = {part("p", bytes)};
    const auto job = prepare(std::move(spec));
    ASSERT_TRUE(job);
    EXPECT_LE((*job)->payload.size(), kLimits.inline_bytes_max) << bytes;
  }
}

TEST(Prepare, equal_specs_have_equal_digests_whatever_their_ids_and_other_specs_have_others) {
  const auto digest = [](gpuq::JobSpec spec) { return (*prepare(std::move(spec)))->item.digest; };
  gpuq::JobSpec other = echo();
  EXPECT_EQ(digest(echo()), digest(echo()));
  other.params["x"] = "1";
  EXPECT_NE(digest(echo()), digest(other));
  other = echo(), other.priority = 6;
  EXPECT_NE(digest(echo()), digest(other));
  other = echo(), other.label = "night";
  EXPECT_NE(digest(echo()), digest(other));
  gpuq::JobSpec one = echo(), two = echo();
  one.where = {"a=1", "b=2"}, two.where = {"b=2", "a=1"};
  EXPECT_EQ(digest(one), digest(two)) << "labels are a set";
}

TEST(Prepare, ids_are_ulids_that_do_not_repeat) {
  std::vector<JobId> ids;
  for (int i = 0; i < 100'000; ++i) ids.push_back(new_job_id());
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
}

// ---- coalescing

std::shared_ptr<Batch> batch_of(std::size_t n) {
  auto batch = std::make_shared<Batch>();
  batch->answers.resize(n);
  batch->left = n;
  return batch;
}

TEST(Coalescer, a_thousand_items_are_four_messages_in_the_order_they_came) {
  Coalescer coalescer;
  const auto batch = batch_of(1000);
  std::vector<JobId> sent, received;
  for (int i = 0; i < 1000; ++i) {
    auto job = *prepare(echo());
    job->batch = batch;
    sent.push_back(job->item.id);
    coalescer.add(job);
  }
  std::vector<std::size_t> sizes;
  while (!coalescer.empty()) {
    const auto items = coalescer.next_message();
    sizes.push_back(items.size());
    for (const auto& item : items) received.push_back(item->item.id);
  }
  EXPECT_EQ(sizes, (std::vector<std::size_t>{256, 256, 256, 232}));
  EXPECT_EQ(received, sent);
}

TEST(Coalescer, a_message_stays_below_one_mebibyte_and_its_payloads_cut_again_into_the_items) {
  Coalescer coalescer;
  const auto batch = batch_of(100);
  for (int i = 0; i < 100; ++i) {
    gpuq::JobSpec spec = echo();
    spec.parts = {part("p" + std::to_string(i), 50'000)};
    auto job = *prepare(std::move(spec));
    job->batch = batch;
    coalescer.add(job);
  }
  std::size_t total = 0;
  while (!coalescer.empty()) {
    const auto frames = to_frames(coalescer.next_message());
    EXPECT_LE(frames.body.size() + wire::encode(frames.message).size(), kLimits.frame_bytes_max);
    const auto payloads = wire::split_payloads(frames.message.items, frames.body);
    ASSERT_TRUE(payloads);
    total += payloads->size();
    for (const std::string_view payload : *payloads) EXPECT_TRUE(wire::decode_job_body(std::as_bytes(std::span(payload.data(), payload.size()))));
  }
  EXPECT_EQ(total, 100U);
}

TEST(Coalescer, items_of_a_batch_nobody_waits_for_are_dropped) {
  Coalescer coalescer;
  const auto gone = batch_of(1), kept = batch_of(1);
  auto a = *prepare(echo()), b = *prepare(echo());
  a->batch = gone, b->batch = kept;
  coalescer.add(a), coalescer.add(b);
  gone->done = true;
  const auto items = coalescer.next_message();
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items[0]->item.id, b->item.id);
}

// ---- reading results

TEST(Detections, are_read_from_the_workers_json) {
  gpuq::JobResult result;
  gpuq::Part p;
  p.name = "detections";
  p.bytes = R"({"boxes": [{"x1": 1.5, "y1": 2, "x2": 30, "y2": 40.25, "score": 0.875, "label": 4, "name": "spur", "new": 1}], "width": 640})";
  result.parts.push_back(p);
  const auto boxes = gpuq::parse_detections(result);
  ASSERT_EQ(boxes.size(), 1U);
  EXPECT_EQ(boxes[0].x1, 1.5F);
  EXPECT_EQ(boxes[0].y2, 40.25F);
  EXPECT_EQ(boxes[0].score, 0.875F);
  EXPECT_EQ(boxes[0].label, 4);
  EXPECT_EQ(boxes[0].name, "spur");
  EXPECT_TRUE(gpuq::parse_detections(gpuq::JobResult{}).empty());
}

TEST(Detections, that_are_broken_throw_one_kind_of_error_and_nothing_else) {
  for (const char* bytes : {"", "{", "[1]", R"({"boxes": 3})", R"({"boxes": [{"x1": "a"}]})", R"({"boxes": [{"x1": 1, "y1": 2}]})", R"({})", "null"}) {
    gpuq::JobResult result;
    gpuq::Part p;
    p.name = "detections";
    p.bytes = bytes;
    result.parts.push_back(p);
    try {
      gpuq::parse_detections(result);
      ADD_FAILURE() << "accepted: " << bytes;
    } catch (const gpuq::Error& error) {
      EXPECT_EQ(error.code(), "BAD_MESSAGE") << bytes;
      EXPECT_EQ(error.exit_code(), 2);
    }
  }
}

TEST(DidYouMean, finds_what_was_meant_and_nothing_far_off) {
  EXPECT_EQ(closest("sumbit", {"submit", "status", "wait"}), "submit");
  EXPECT_EQ(closest("statsu", {"submit", "status", "wait"}), "status");
  EXPECT_EQ(closest("detct", kind_names()), "detect");
  EXPECT_EQ(closest("xyzzy", {"submit", "status", "wait"}), "");
}

}  // namespace
}  // namespace gq::client
