// store_fsck_test.cpp - fsck on a real redis-server: it reads what a store wrote, repairs what was spoilt so that a store opens again,
// and stays away from a broker that leads.
#include <fstream>

#include "broker/store/fsck_session.h"
#include "broker/store/blob_files.h"
#include "tests/integration/store_lives.h"
#include "tests/integration/store_redis_server.h"

namespace gq::test {
namespace {

using store::FindingKind;

class StoreFsckTest : public testing::Test {
 protected:
  StoreFsckTest() { begin(); }
  void begin() {
    broker.store = store::make_redis_store(io, server.options(), broker.watcher());
    broker.open();
  }
  /// The broker ends; its hint that it leads ends with it.
  void end() {
    broker.store->close();
    server.client()("DEL", "gpuq:{test}:leader");
  }
  std::unique_ptr<store::FsckSession> session() {
    auto opened = std::make_unique<store::FsckSession>(io, server.options());
    const auto ok = opened->open();
    EXPECT_TRUE(ok) << ok.error().what;
    return opened;
  }
  store::Examined look() {
    auto raw = session()->read();
    EXPECT_TRUE(raw) << raw.error().what;
    return raw ? store::examine(*raw, store::Keys("test"), "1") : store::Examined{};
  }
  void repair(const store::Examined& found) {
    const auto fsck = session();
    const auto taken = fsck->take_term();
    ASSERT_TRUE(taken) << taken.error().what;
    for (const auto& finding : found.findings) {
      const auto done = fsck->apply(finding.commands);
      EXPECT_TRUE(done) << to_string(finding.kind) << ": " << done.error().what;
    }
  }

  RedisServer server;
  asio::io_context io;
  StoreDriver broker{io};
};

TEST_F(StoreFsckTest, what_a_store_wrote_is_read_back_as_the_image_that_it_loads) {
  Lives lives(7);
  for (int n = 0; n < 40; ++n) broker.commit(lives.batch(1 + static_cast<std::size_t>(n * 7 % 90)));
  const auto image = broker.open().image;
  end();
  const auto found = look();
  expect_equal(found.image, image);
  for (const auto& f : found.findings) {   // random lives rewrite final records and promise results that nobody stored; no broker does
    const bool random = f.kind == FindingKind::wrong_score || f.kind == FindingKind::no_result || f.kind == FindingKind::bad_unique || f.kind == FindingKind::seq_twice;
    EXPECT_TRUE(random || f.note) << to_string(f.kind) << " " << f.where << ": " << f.what;
  }
}

TEST_F(StoreFsckTest, a_page_is_no_limit) {
  std::vector<BatchItem> many;
  for (std::uint64_t n = 1; n <= 5000; ++n) many.push_back(created(a_job(n), "x"));
  broker.commit(std::move(many));
  end();
  const auto found = look();
  EXPECT_TRUE(found.findings.empty());
  EXPECT_EQ(found.image.jobs.size(), 5000U);
}

TEST_F(StoreFsckTest, a_spoilt_namespace_opens_again_after_the_repair_and_keeps_what_was_sound) {
  auto sound = a_job(1), lost_place = a_job(2), two_places = a_job(3), lost_state = a_job(4), odd = a_job(5), lost_record = a_job(6);
  std::vector<BatchItem> items;
  for (auto* job : {&sound, &lost_place, &two_places, &lost_state, &odd, &lost_record}) items.push_back(created(*job, "body"));
  broker.commit(std::move(items));
  broker.commit({moved(lost_state, JobState::running), moved(two_places, JobState::running)});
  end();
  auto redis = server.client();
  const auto id = [](const core::JobRecord& job) { return to_string(job.fixed.id); };
  redis("ZREM", "gpuq:{test}:ready:" + std::string(to_string(lost_place.fixed.needs.job_class)), id(lost_place));
  redis("ZADD", "gpuq:{test}:final", "1", id(two_places));
  redis("DEL", "gpuq:{test}:d:" + id(lost_state));
  redis("SET", "gpuq:{test}:j:" + id(odd), "odd");
  redis("DEL", "gpuq:{test}:j:" + id(lost_record));
  redis("ZADD", "gpuq:{test}:running", "1", "hello");
  redis("LPUSH", "gpuq:{test}:settings", "a list");
  redis("SET", "gpuq:{test}:batch", "soon");

  broker.store = store::make_redis_store(io, server.options(), broker.watcher());
  EXPECT_EQ(broker.try_open().error().code, Errc::redis_corrupt);
  end();
  const auto found = look();
  EXPECT_EQ(found.damages(), 8U);
  const auto before = redis("DBSIZE").integer;
  repair(found);
  EXPECT_GE(redis("DBSIZE").integer, before) << "a repair deletes nothing";
  EXPECT_EQ(redis("GET", "gpuq:{test}:quarantine:1:j:" + id(odd)).text, "odd");
  EXPECT_EQ(redis("LRANGE", "gpuq:{test}:quarantine:1:settings", "0", "-1").items.at(0).text, "a list");
  const auto after = look();
  EXPECT_EQ(after.damages(), 0U);
  ASSERT_EQ(after.findings.size(), 1U);
  EXPECT_EQ(after.findings[0].kind, FindingKind::quarantined);

  broker.store = store::make_redis_store(io, server.options(), broker.watcher());
  expect_equal(broker.open().image, {.jobs = {sound, lost_place, two_places}, .models = {}, .tombstones = {}});
}

TEST_F(StoreFsckTest, while_a_broker_leads_nothing_is_read) {
  broker.commit({created(a_job(1), "x")});
  ASSERT_TRUE(run_until(io, [&] { return server.client()("EXISTS", "gpuq:{test}:leader").integer == 1; }));
  std::atomic<bool> over{false};
  asio::io_context other;   // the broker's loop goes on meanwhile, as a process of its own would
  std::thread lively([&] {
    while (!over) io.restart(), io.run_for(20ms);
  });
  store::FsckSession fsck(other, server.options());
  const auto opened = fsck.open();
  over = true;
  lively.join();
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Errc::data_dir_in_use);
  EXPECT_NE(opened.error().what.find("a broker leads namespace 'test'"), std::string::npos) << opened.error().what;
}

TEST_F(StoreFsckTest, a_broker_that_starts_during_a_repair_ends_the_repair) {
  broker.commit({created(a_job(1), "x")});
  end();
  const auto fsck = session();
  ASSERT_TRUE(fsck->take_term());
  begin();
  const auto refused = fsck->apply({{"SET", "gpuq:{test}:batch", "0"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::fenced);
  EXPECT_EQ(server.client()("GET", "gpuq:{test}:batch").text, "1");
}

TEST_F(StoreFsckTest, a_broker_that_woke_up_late_is_fenced_by_a_repair) {
  broker.commit({created(a_job(1), "x")});
  server.client()("DEL", "gpuq:{test}:leader");   // it stood still for longer than its hint lives
  {
    asio::io_context other;
    store::FsckSession fsck(other, server.options());
    ASSERT_TRUE(fsck.open());
    ASSERT_TRUE(fsck.take_term());
  }
  broker.start_commit({created(a_job(2), "x")});
  EXPECT_TRUE(broker.wait_told("fenced FENCED"));
}

TEST_F(StoreFsckTest, a_redis_that_would_not_keep_a_repair_is_only_read) {
  broker.commit({created(a_job(1), "x")});
  end();
  server.client()("CONFIG", "SET", "appendfsync", "no");
  const auto fsck = session();
  EXPECT_TRUE(fsck->read());
  const auto refused = fsck->take_term();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::redis_durability);
}

TEST_F(StoreFsckTest, a_term_that_is_somebody_elses_is_not_moved) {
  end();
  server.client()("SET", "gpuq:{test}:term", "locked by a cron job");
  const auto refused = session()->take_term();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::redis_corrupt);
  EXPECT_EQ(server.client()("GET", "gpuq:{test}:term").text, "locked by a cron job");
}

TEST(StoreFsckBlobs, missing_and_spoilt_files_are_found) {
  TempFolder folder;
  store::Sha256 hash;
  hash.update("hello");
  store::NamedBlob blob{hash.finish(), "job X", "it will fail"};
  const auto look = [&](bool deep) { return store::look_at_blobs(folder.path().string(), {blob}, deep); };
  ASSERT_EQ(look(false).size(), 1U);
  EXPECT_EQ(look(false)[0].kind, FindingKind::no_blob);
  EXPECT_FALSE(look(false)[0].note);
  const fs::path file = store::BlobFiles(folder.path()).path_of(blob.digest);
  fs::create_directories(file.parent_path());
  std::ofstream(file) << "hello";
  EXPECT_TRUE(look(true).empty());
  std::ofstream(file) << "hallo";
  EXPECT_TRUE(look(false).empty());
  const auto spoilt = look(true);
  ASSERT_EQ(spoilt.size(), 1U);
  EXPECT_EQ(spoilt[0].kind, FindingKind::bad_blob);
  ASSERT_EQ(spoilt[0].moves.size(), 1U);
  EXPECT_EQ(spoilt[0].moves[0].second, (folder.path() / "quarantine" / to_string(blob.digest)).string());
  blob.needed.clear();   // nobody needs it any more
  fs::remove(file);
  EXPECT_TRUE(look(false)[0].note);
}

}  // namespace
}  // namespace gq::test
