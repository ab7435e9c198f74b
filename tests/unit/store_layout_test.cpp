// store_layout_test.cpp - packed records: golden bytes, exact round trips, and decoders that return errors.
#include <cstdio>

#include <gtest/gtest.h>

#include "broker/store/batch_encoder.h"
#include "broker/store/layout.h"
#include "broker/store/reply.h"
#include "tests/integration/store_driver.h"

namespace gq::test {
namespace {

using namespace gq::store;

std::string hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(c));
    out += two;
  }
  return out;
}

core::JobFixed full_fixed() {
  core::JobFixed f = a_job(7, 200).fixed;
  f.needs = {.kind = *kind_index("detect"), .job_class = JobClass::inference, .model = "yolo", .budget_min = {512}, .budget_max = kRestOfDevice,
             .devices = 2, .on_preempt = OnPreempt::checkpoint, .exclusive = true, .where = {"host=a"}};
  f.priority = 9, f.not_before = {5}, f.deadline = {1'760'000'000'000}, f.timeout = 30s, f.retries = 3;
  f.unique = "nightly", f.after = {job_id(1)}, f.retry_of = job_id(2);
  f.blobs.emplace_back().bytes.fill(0xAB);
  return f;
}
core::JobDynamic full_dynamic() {
  auto job = a_job(7);
  moved(job, JobState::running);
  auto& d = job.dynamic;
  d.failures = 1, d.losses = 2, d.own_losses = 1, d.preemptions = 300, d.cancel_asked = true, d.fetched = true, d.due = {9}, d.ended = {10};
  d.checkpoint.blob.bytes.fill(1), d.checkpoint.step = 1000, d.model_version = "0123456789ab", d.error = Errc::oom, d.error_text = "no";
  d.result_bytes = 70'000;
  d.held = true, d.evictions = 5, d.leave_reason = "for job 9", d.leave_for = job_id(9);
  d.result_blobs.emplace_back().bytes.fill(2);
  return d;
}

TEST(StoreLayout, the_packed_bytes_of_version_1_never_change) {
  EXPECT_EQ(hex(encode(a_job(7, 200).fixed)),
            "0107"                                  // version, seq
            "8e80e682b966"                          // submitted
            "1b02000000000000b502000000000000"      // digest
            "046563686f0000000001020000"            // echo, class, model, budgets, devices, on_preempt, exclusive, where
            "050000000000000000"                    // priority, not_before, deadline, timeout, retries, unique, after, blobs, retry_of
            "076261636b656e640561206a6f62c801");    // owner, label, body_bytes
  EXPECT_EQ(hex(encode(core::JobDynamic{})), "0102" + std::string(52, '0'));
  EXPECT_EQ(hex(encode_tombstone({1, 2}, {3})), "010100000000000000020000000000000006");
}

TEST(StoreLayout, what_a_job_never_needed_costs_it_no_byte) {
  // A job written before there were holds and preemptions: running as attempt 2 on w1, one device, cancel asked, a checkpoint.
  const std::string before =
      "01" "03" "02" "0807060504030201" "01000000" "027731" "01" "0547" "50552d37" "8010" "05" "00" "02" "00" + std::string(64, 'a') + "e807" "00" "00" "00" "00" "00";
  std::string bytes;
  for (std::size_t i = 0; i < before.size(); i += 2) bytes.push_back(static_cast<char>(std::stoi(before.substr(i, 2), nullptr, 16)));
  core::JobDynamic d;
  d.state = JobState::running, d.attempt = 2, d.nonce = 0x0102030405060708, d.failures = 1, d.worker = "w1", d.devices = {"GPU-7"};
  d.granted = {1024}, d.cancel_asked = true, d.started = {1}, d.checkpoint.blob.bytes.fill(0xAA), d.checkpoint.step = 1000;
  const auto read = store::decode_dynamic(bytes);
  ASSERT_TRUE(read.has_value()) << read.error().what;
  EXPECT_TRUE(*read == d);
  EXPECT_EQ(hex(encode(d)), before);

  d.held = true;
  EXPECT_EQ(encode(d).size(), bytes.size());
  EXPECT_TRUE(store::decode_dynamic(encode(d)).value() == d);
  d.evictions = 2, d.leave_reason = "for a higher class", d.leave_for = job_id(9);
  EXPECT_EQ(encode(d).size(), bytes.size() + 1 + 19 + 16);
  EXPECT_TRUE(store::decode_dynamic(encode(d)).value() == d);
}

TEST(StoreLayout, flags_of_a_newer_gpuq_are_named) {
  std::string bytes = encode(core::JobDynamic{});
  const std::size_t flags = 1 + 1 + 1 + 8 + 4 + 1 + 1 + 1;
  bytes[flags] = 32;
  EXPECT_EQ(store::decode_dynamic(bytes).error().what, "unknown flags (written by a newer gpuq?)");
}

TEST(StoreLayout, every_field_comes_back) {
  const auto f = full_fixed();
  EXPECT_TRUE(decode_fixed(f.id, encode(f)).value() == f);
  const auto d = full_dynamic();
  EXPECT_TRUE(store::decode_dynamic(store::encode(d)).value() == d);
  EXPECT_TRUE(store::decode_dynamic(store::encode(core::JobDynamic{})).value() == core::JobDynamic{});
  core::ModelRecord m{.name = "yolo", .version = "1", .blob = {}, .bytes = 1ULL << 40U, .runtime = "torchscript", .budget = {-1},
                      .metadata = "{}", .pushed = {-5}, .owner = "ops", .promoted = true};
  EXPECT_TRUE(store::decode_model(store::encode(m)).value() == m);
  const core::OperatorSetting s{core::OperatorSetting::Kind::drain_device, "GPU-7", {1'760'000'000'000}, "new fan", "ops", {5}};
  EXPECT_TRUE(store::decode_setting(store::encode(s)).value() == s);
  EXPECT_EQ(store::field_of(s.kind, s.target), "drain_device GPU-7");
  EXPECT_FALSE(store::decode_setting(store::encode(s) + "x"));
}

TEST(StoreLayout, a_record_cut_anywhere_is_an_error_and_so_is_one_with_more) {
  const std::string fixed = encode(full_fixed()), dynamic = encode(full_dynamic());
  for (std::size_t n = 0; n < fixed.size(); ++n) EXPECT_FALSE(store::decode_fixed(job_id(7), fixed.substr(0, n))) << n;
  for (std::size_t n = 0; n < dynamic.size(); ++n) EXPECT_FALSE(store::decode_dynamic(dynamic.substr(0, n))) << n;
  EXPECT_EQ(store::decode_fixed(job_id(7), fixed + "x").error().code, Errc::redis_corrupt);
  EXPECT_EQ(store::decode_dynamic(dynamic + "x").error().what, "1 bytes too many");
}

TEST(StoreLayout, a_flipped_bit_never_crashes_and_a_newer_version_is_named) {
  std::string bytes = encode(full_fixed());
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string odd = bytes;
    odd[bit / 8] = static_cast<char>(odd[bit / 8] ^ (1 << (bit % 8)));
    (void)store::decode_fixed(job_id(7), odd);
    (void)store::decode_dynamic(odd);
    (void)store::decode_model(odd);
    (void)store::decode_setting(odd);
  }
  bytes[0] = 2;
  EXPECT_EQ(store::decode_fixed(job_id(7), bytes).error().what, "record version 2 is not 1");
}

// ---- the batch encoder: net effects

/// "SET k v" per command, ids as #n.
std::vector<std::string> commands_of(const store::EncodedBatch& batch) {
  std::vector<std::string> commands;
  store::ReplyReader reader;   // commands are arrays of bulk strings, like a reply
  reader.feed(batch.commands.bytes());
  while (auto command = reader.next().value()) {
    std::string line;
    for (const auto& word : command->items) {
      std::string text = word.text;
      for (std::uint64_t n = 1; n < 10; ++n)
        if (const auto at = text.find(to_string(job_id(n))); at != std::string::npos) text.replace(at, 26, "#" + std::to_string(n));
      if (const auto at = text.find("gpuq:{t}:"); at == 0) text.erase(0, 9);
      else if (!text.empty() && text[0] == '\1') text = "<record>";
      line += (line.empty() ? "" : " ") + text;
    }
    commands.push_back(line);
  }
  return commands;
}
std::vector<std::string> encoded(std::vector<store::BatchItem> items) {
  return commands_of(store::encode_batch({1, std::move(items)}, store::Keys("t")));
}
using Lines = std::vector<std::string>;

TEST(StoreBatch, each_step_of_a_life_is_as_few_commands_as_possible) {
  auto a = a_job(1), b = a_job(2);
  EXPECT_EQ(encoded({created(a, "A"), created(b, "B")}),
            (Lines{"MSET j:#1 <record> b:#1 A j:#2 <record> b:#2 B", "ZADD ready:inference 1 #1 2 #2"}));
  EXPECT_EQ(encoded({moved(a, JobState::running), item(core::PayloadRead{a.fixed.id}), moved(b, JobState::running), item(core::PayloadRead{b.fixed.id})}),
            (Lines{"MGET b:#1 b:#2", "MSET d:#1 <record> d:#2 <record>", "ZREM ready:inference #1 #2", "ZADD running 1760000000006 #1 1760000000007 #2"}));
  EXPECT_EQ(encoded({moved(a, JobState::succeeded), item(core::ResultStored{a.fixed.id, 1, 1, 1}, "R")}),
            (Lines{"MSET d:#1 <record> r:#1 R", "ZREM running #1", "ZADD final 1760000000010 #1"}));
  EXPECT_EQ(encoded({item(core::JobForgotten{a.fixed.id, JobState::succeeded, true, {1, 2}, {3}})}),
            (Lines{"UNLINK j:#1 d:#1 b:#1 r:#1", "ZREM final #1", "HSET tombs #1 <record>"}));
}

TEST(StoreBatch, a_whole_life_in_one_batch_is_its_end) {
  auto a = a_job(1);
  auto submit = created(a, "A");
  const auto batch = store::encode_batch({1, {submit, moved(a, JobState::running), item(core::PayloadRead{a.fixed.id}),
                                              moved(a, JobState::succeeded), item(core::ResultStored{a.fixed.id, 1, 1, 1}, "R")}},
                                         store::Keys("t"));
  EXPECT_EQ(commands_of(batch), (Lines{"MSET j:#1 <record> d:#1 <record> b:#1 A r:#1 R", "ZADD final 1760000000010 #1"}));
  EXPECT_TRUE(batch.reads.empty());
  EXPECT_EQ(*batch.known.at(a.fixed.id), "A");
}

TEST(StoreBatch, a_revised_job_is_written_again_and_moves_only_when_its_class_changed) {
  auto a = a_job(1);
  a.fixed.priority = 9;
  EXPECT_EQ(encoded({item(core::JobRevised{a.fixed})}), (Lines{"MSET j:#1 <record>"}));
  a.fixed.needs.job_class = JobClass::training;
  EXPECT_EQ(encoded({item(core::JobRevised{a.fixed}), moved(a, JobState::ready)}),
            (Lines{"MSET j:#1 <record> d:#1 <record>", "ZREM ready:inference #1", "ZADD ready:training 1 #1", "ZREM ready:synthesis #1"}));
  auto revised = item(core::JobRevised{a.fixed});
  EXPECT_EQ(encoded({revised, moved(a, JobState::ready), moved(a, JobState::running)}),
            (Lines{"MSET j:#1 <record> d:#1 <record>", "ZREM ready:inference #1", "ZREM ready:training #1", "ZREM ready:synthesis #1", "ZADD running 1760000000006 #1"}));
  auto b = a_job(2);
  auto submit = created(b, "B");
  b.fixed.needs.job_class = JobClass::synthesis;
  EXPECT_EQ(encoded({submit, item(core::JobRevised{b.fixed}), moved(b, JobState::ready)}), (Lines{"MSET j:#2 <record> b:#2 B", "ZADD ready:synthesis 2 #2"}));
}

TEST(StoreBatch, of_a_switch_only_the_last_position_counts) {
  const core::OperatorSetting drain{core::OperatorSetting::Kind::drain_worker, "w1", {}, "", "ops", {1}};
  EXPECT_EQ(encoded({item(core::SettingStored{drain})}), (Lines{"HSET settings drain_worker w1 <record>"}));
  EXPECT_EQ(encoded({item(core::SettingStored{drain}), item(core::SettingDropped{drain.kind, drain.target})}), (Lines{"HDEL settings drain_worker w1"}));
}

TEST(StoreBatch, a_life_begun_and_forgotten_in_one_batch_is_nothing) {
  auto a = a_job(1);
  EXPECT_EQ(encoded({created(a, "A"), item(core::JobForgotten{a.fixed.id, JobState::ready, false, {}, {}})}), Lines{});
}

TEST(StoreBatch, moving_to_and_fro_in_one_batch_touches_no_set_twice) {
  auto a = a_job(1);
  EXPECT_EQ(encoded({moved(a, JobState::running), moved(a, JobState::ready)}), (Lines{"MSET d:#1 <record>"}));
  moved(a, JobState::running);
  EXPECT_EQ(encoded({moved(a, JobState::yielding)}), (Lines{"MSET d:#1 <record>", "ZADD running 1760000000006 #1"}));
}

TEST(StoreBatch, a_retry_copies_and_reads_where_the_body_still_is) {
  auto a = a_job(1), b = a_job(2);
  EXPECT_EQ(encoded({item(core::JobCreated{b, 0, a.fixed.id}), item(core::PayloadRead{b.fixed.id})}),
            (Lines{"MGET b:#1", "MSET j:#2 <record>", "COPY b:#1 b:#2 REPLACE", "ZADD ready:inference 2 #2"}));
}

TEST(StoreBatch, a_faulty_command_is_named) {
  auto a = a_job(1);
  const auto batch = store::encode_batch({1, {created(a, "A")}}, store::Keys("t"));
  EXPECT_EQ(store::describe_command(batch.commands.bytes(), 1), "ZADD gpuq:{t}:ready:inference");
  EXPECT_EQ(store::describe_command(batch.commands.bytes(), 2), "?");
}

}  // namespace
}  // namespace gq::test
