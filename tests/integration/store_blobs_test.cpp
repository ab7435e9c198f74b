// store_blobs_test.cpp - blobs on a real file system: resume, digest, quota, names, collection, crashes.
#include <fstream>

#include "broker/store/blobs.h"
#include "tests/integration/store_driver.h"
#include "tests/integration/store_redis_server.h"

namespace gq::test {
namespace {

using store::UploadState;

class BlobStory : public testing::Test {
 protected:
  BlobStory() {
    options.dir = folder.path() / "blobs";
    options.clock = [this] { return now; };
    reopen();
  }
  void reopen() {
    blobs = store::make_blob_store(io, options);
    const auto opened = wait<Result<void>>([&](auto done) { blobs->open(done); });
    EXPECT_TRUE(opened) << opened.error().what;
  }
  template <class T, class Call>
  T wait(Call call) {
    std::optional<T> answer;
    call([&](T value) { answer = std::move(value); });
    EXPECT_FALSE(answer) << "answered from inside the call";
    if (!run_until(io, [&] { return answer.has_value(); })) ADD_FAILURE() << "never answered";
    return std::move(*answer);
  }
  Result<UploadState> begin(BlobDigest d, std::uint64_t size) {
    return wait<Result<UploadState>>([&](auto done) { blobs->begin_upload(d, size, done); });
  }
  Result<UploadState> append(BlobDigest d, std::uint64_t at, std::string bytes) {
    return wait<Result<UploadState>>([&](auto done) { blobs->append(d, at, std::move(bytes), done); });
  }
  Result<void> finish(BlobDigest d) {
    return wait<Result<void>>([&](auto done) { blobs->finish(d, done); });
  }
  Result<BlobDigest> put(std::string bytes) {
    return wait<Result<BlobDigest>>([&](auto done) { blobs->put(std::move(bytes), done); });
  }
  void put_briefly(const std::string& bytes) {
    const BlobDigest d = store::digest_of(bytes);
    const auto begun = wait<Result<UploadState>>([&](auto done) { blobs->begin_upload(d, bytes.size(), done, true); });
    ASSERT_TRUE(begun);
    if (begun->complete) return;
    ASSERT_TRUE(wait<Result<UploadState>>([&](auto done) { blobs->append(d, 0, bytes, done, true); }));
    ASSERT_TRUE(wait<Result<void>>([&](auto done) { blobs->finish(d, done, true); }));
  }
  Result<store::BlobChunk> read(BlobDigest d, std::uint64_t at, std::size_t length) {
    return wait<Result<store::BlobChunk>>([&](auto done) { blobs->read(d, at, length, done); });
  }
  std::size_t collect() {
    return wait<std::size_t>([&](auto done) { blobs->collect(done); });
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(options.dir))
      if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), options.dir).string());
    std::sort(names.begin(), names.end());
    return names;
  }

  TempFolder folder;
  asio::io_context io;
  Instant now{1000s};
  store::BlobOptions options;
  std::unique_ptr<store::BlobStore> blobs;
};

TEST_F(BlobStory, a_blob_goes_up_in_chunks_comes_down_in_chunks_and_lies_under_its_digest) {
  const std::string bytes = std::string(1000, 'a') + std::string(1000, 'b');
  const BlobDigest digest = store::digest_of(bytes);
  EXPECT_EQ(begin(digest, 2000)->offset, 0U);
  EXPECT_EQ(append(digest, 0, bytes.substr(0, 700))->offset, 700U);
  EXPECT_FALSE(blobs->contains(digest));
  EXPECT_EQ(append(digest, 700, bytes.substr(700))->offset, 2000U);
  ASSERT_TRUE(finish(digest));
  EXPECT_TRUE(blobs->contains(digest));
  const std::string hex = to_string(digest);
  EXPECT_EQ(files(), std::vector<std::string>{hex.substr(0, 2) + "/" + hex.substr(2, 2) + "/" + hex});
  EXPECT_EQ(read(digest, 900, 200)->bytes, bytes.substr(900, 200));
  EXPECT_EQ(read(digest, 1900, 4096)->bytes, bytes.substr(1900));
  EXPECT_EQ(read(digest, 2000, 10)->bytes, "");
  EXPECT_EQ(read(digest, 0, 1)->total, 2000U);
  EXPECT_EQ(read(digest, 2001, 1).error().code, Errc::bad_message);
  EXPECT_EQ(to_string(store::digest_of("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(BlobStory, an_upload_goes_on_where_it_stopped_and_doubled_chunks_do_no_harm) {
  const std::string bytes(5000, 'x');
  const BlobDigest digest = store::digest_of(bytes);
  begin(digest, 5000);
  append(digest, 0, bytes.substr(0, 2000));
  EXPECT_EQ(begin(digest, 5000)->offset, 2000U);                       // the sender came back
  EXPECT_EQ(append(digest, 0, bytes.substr(0, 2000))->offset, 2000U);  // a chunk sent twice
  EXPECT_EQ(append(digest, 1500, bytes.substr(0, 1000))->offset, 2500U);  // one that overlaps
  EXPECT_EQ(append(digest, 4000, bytes.substr(0, 1000))->offset, 2500U);  // a gap: told where to go on
  EXPECT_EQ(finish(digest).error().code, Errc::bad_message);           // too early; the upload stays
  EXPECT_EQ(append(digest, 2500, bytes.substr(0, 2500))->offset, 5000U);
  EXPECT_TRUE(finish(digest));
  EXPECT_TRUE(finish(digest));                                         // the answer was lost, asked again
  EXPECT_TRUE(begin(digest, 5000)->complete);
  EXPECT_TRUE(append(digest, 0, "x")->complete);
}

TEST_F(BlobStory, bytes_that_hash_to_something_else_are_refused_and_leave_nothing) {
  const BlobDigest digest = store::digest_of("what was promised");
  begin(digest, 4);
  append(digest, 0, "lies");
  const auto refused = finish(digest);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::bad_input);
  EXPECT_FALSE(blobs->contains(digest));
  EXPECT_EQ(files(), std::vector<std::string>{});
  EXPECT_EQ(blobs->statistics().digest_mismatches, 1U);
  EXPECT_EQ(blobs->statistics().upload_bytes, 0U);
  EXPECT_EQ(append(digest, 0, "x").error().code, Errc::not_found);
}

TEST_F(BlobStory, more_than_was_announced_is_refused) {
  const BlobDigest digest = store::digest_of("x");
  begin(digest, 10);
  EXPECT_EQ(append(digest, 0, std::string(11, 'x')).error().code, Errc::bad_message);
  EXPECT_EQ(append(digest, UINT64_MAX, "x").error().code, Errc::bad_message);
  EXPECT_EQ(begin(digest, 11).error().code, Errc::bad_message);
}

TEST_F(BlobStory, no_text_from_outside_becomes_a_path) {
  for (const char* name : {"../../etc/passwd", "", "..", "a/b", "AB", "con", "\0x", "%2e%2e"}) EXPECT_FALSE(parse_blob_digest(name)) << name;
  EXPECT_FALSE(parse_blob_digest(std::string(63, 'a') + "/"));
  EXPECT_FALSE(parse_blob_digest("../" + std::string(61, 'a')));
  const auto path = fs::relative(blobs->path_of(store::digest_of("x")), options.dir).string();
  EXPECT_EQ(path.find(".."), std::string::npos);
}

TEST_F(BlobStory, a_symbolic_link_in_tmp_is_not_followed) {
  const BlobDigest digest = store::digest_of("x");
  std::ofstream(folder.path() / "victim") << "precious";
  fs::create_symlink(folder.path() / "victim", options.dir / "tmp" / to_string(digest));
  EXPECT_FALSE(begin(digest, 1));
  EXPECT_EQ(fs::file_size(folder.path() / "victim"), 8U);
}

TEST_F(BlobStory, the_quota_counts_uploads_under_way_and_says_the_figures) {
  options.quota_bytes = 3U << 20U;
  options.blob_bytes_max = 4U << 20U;
  reopen();
  const BlobDigest a = store::digest_of("a"), b = store::digest_of("b");
  ASSERT_TRUE(begin(a, 2U << 20U));
  const auto full = begin(b, 2U << 20U);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Errc::storage_full);
  EXPECT_EQ(full.error().what, "the blob store is full: 2.0 MiB of 3.0 MiB used, 2.0 MiB asked");
  EXPECT_EQ(begin(b, 5U << 20U).error().code, Errc::too_large);
  blobs->abandon(a);
  EXPECT_TRUE(begin(b, 2U << 20U));
}

// ---- those that need not be on disk

TEST_F(BlobStory, what_is_needed_only_briefly_is_read_like_others_and_gone_with_the_broker) {
  const std::string bytes(3000, 'z');
  const BlobDigest digest = store::digest_of(bytes);
  put_briefly(bytes);
  EXPECT_TRUE(blobs->holds(digest));
  EXPECT_FALSE(blobs->contains(digest)) << "a durable job may not name it";
  EXPECT_EQ(read(digest, 2990, 100)->bytes, bytes.substr(2990));
  EXPECT_EQ(files(), std::vector<std::string>{"brief/" + to_string(digest)});
  EXPECT_EQ(blobs->path_of(digest), options.dir / "brief" / to_string(digest));
  reopen();
  EXPECT_FALSE(blobs->holds(digest));
  EXPECT_EQ(files(), std::vector<std::string>{});
}

TEST_F(BlobStory, who_needs_it_durable_gets_it_there_without_sending_it_again) {
  const std::string bytes(3000, 'y');
  const BlobDigest digest = store::digest_of(bytes);
  put_briefly(bytes);
  EXPECT_EQ(append(digest, 0, bytes).error().code, Errc::not_found) << "told to begin";
  EXPECT_TRUE(begin(digest, 3000)->complete);
  EXPECT_TRUE(blobs->contains(digest));
  put_briefly(bytes);   // takes nothing back
  EXPECT_TRUE(blobs->contains(digest));
  const std::string hex = to_string(digest);
  EXPECT_EQ(files(), std::vector<std::string>{hex.substr(0, 2) + "/" + hex.substr(2, 2) + "/" + hex});
  reopen();
  EXPECT_EQ(read(digest, 0, 3000)->bytes, bytes);
}

TEST_F(BlobStory, of_two_who_send_the_same_one_the_more_careful_decides) {
  const std::string bytes(3000, 'w');
  const BlobDigest digest = store::digest_of(bytes);
  EXPECT_EQ(wait<Result<UploadState>>([&](auto done) { blobs->begin_upload(digest, 3000, done, true); })->offset, 0U);
  EXPECT_EQ(wait<Result<UploadState>>([&](auto done) { blobs->append(digest, 0, bytes.substr(0, 1000), done, true); })->offset, 1000U);
  EXPECT_EQ(begin(digest, 3000)->offset, 1000U);
  EXPECT_EQ(append(digest, 1000, bytes.substr(1000))->offset, 3000U);
  EXPECT_TRUE(wait<Result<void>>([&](auto done) { blobs->finish(digest, done, true); }));
  EXPECT_TRUE(blobs->contains(digest));
}

struct NearBlobs : BlobStory {
  static BlobDigest name(std::uint8_t n) {
    BlobDigest made;
    std::copy(kBriefName.begin(), kBriefName.end(), made.bytes.begin());
    made.bytes[31] = n;
    return made;
  }
  void put_near(const std::string& file, const std::string& bytes) { std::ofstream(blobs->near_folder() / file) << bytes; }
  Result<void> adopt(BlobDigest digest, std::uint64_t size, const std::string& file) {
    return wait<Result<void>>([&](auto done) { blobs->adopt(digest, size, file, done); });
  }
};

TEST_F(NearBlobs, a_file_put_near_becomes_a_brief_blob_that_nobody_hashes) {
  put_near("abc0", "content");
  ASSERT_TRUE(adopt(name(1), 7, "abc0"));
  EXPECT_TRUE(adopt(name(1), 7, "abc0")) << "the answer was lost, asked again";
  EXPECT_TRUE(blobs->holds(name(1)));
  EXPECT_FALSE(blobs->contains(name(1)));
  EXPECT_EQ(read(name(1), 0, 100)->bytes, "content");
  EXPECT_EQ(files(), std::vector<std::string>{"brief/" + to_string(name(1))});
  EXPECT_EQ(blobs->statistics().bytes, 7U);
  now += 11s;
  EXPECT_EQ(collect(), 1U);
  EXPECT_EQ(blobs->statistics().bytes, 0U);
}

TEST_F(NearBlobs, what_is_no_file_of_that_size_in_that_folder_is_not_taken) {
  put_near("aa", "seven..");
  EXPECT_EQ(adopt(name(1), 8, "aa").error().code, Errc::not_found) << "another size";
  EXPECT_EQ(adopt(name(1), 8, "bb").error().code, Errc::not_found);
  std::ofstream(options.dir / "0secret") << "secret!";
  for (const char* bad : {"", ".", "..", "../0secret", "a/b", "A", "a.b", "/etc/passwd"}) EXPECT_EQ(adopt(name(1), 7, bad).error().code, Errc::bad_message) << bad;
  EXPECT_EQ(adopt(name(1), 7, std::string(65, 'a')).error().code, Errc::bad_message);
  std::filesystem::create_symlink(options.dir / "0secret", blobs->near_folder() / "cc");
  EXPECT_EQ(adopt(name(1), 7, "cc").error().code, Errc::not_found) << "no link is followed";
  std::filesystem::create_hard_link(options.dir / "0secret", blobs->near_folder() / "dd");
  EXPECT_EQ(adopt(name(1), 7, "dd").error().code, Errc::not_found) << "whose other name could still be written to";
  put_near("ee", "seven..");
  EXPECT_EQ(adopt(store::digest_of("seven.."), 7, "ee").error().code, Errc::bad_message) << "a digest has to be verified";
  EXPECT_EQ(adopt(name(1), 9ULL << 30U, "ff").error().code, Errc::too_large);
  EXPECT_FALSE(blobs->holds(name(1)));
  EXPECT_EQ(blobs->statistics().upload_bytes, 0U);
  reopen();
  EXPECT_EQ(files(), std::vector<std::string>{"0secret"}) << "what was left there is swept";
}

TEST_F(BlobStory, a_name_needs_no_digest_of_what_it_names) {
  const std::string bytes(3000, 'n');
  EXPECT_EQ(wait<Result<UploadState>>([&](auto done) { blobs->begin_upload(NearBlobs::name(2), 3000, done, true); })->offset, 0U);
  EXPECT_EQ(wait<Result<UploadState>>([&](auto done) { blobs->append(NearBlobs::name(2), 0, bytes, done, true); })->offset, 3000U);
  EXPECT_TRUE(wait<Result<void>>([&](auto done) { blobs->finish(NearBlobs::name(2), done, true); }));
  EXPECT_EQ(read(NearBlobs::name(2), 0, 3000)->bytes, bytes);
}

TEST_F(BlobStory, what_no_job_names_any_more_goes_after_a_short_grace) {
  const BlobDigest digest = store::digest_of("brief");
  put_briefly("brief");
  auto job = a_job(1);
  job.fixed.durable = false;
  job.fixed.blobs = {digest};
  blobs->observe(core::JobCreated{job, 0, {}});
  now += 10min;
  EXPECT_EQ(collect(), 0U);
  blobs->observe(core::JobForgotten{job.fixed.id, JobState::succeeded, false, {}, {}});
  now += 5s;
  EXPECT_EQ(collect(), 0U);
  now += 6s;
  EXPECT_EQ(collect(), 1U);
  EXPECT_EQ(files(), std::vector<std::string>{});
}

TEST_F(BlobStory, what_a_record_names_stays_and_what_none_names_goes_after_the_grace) {
  const BlobDigest input = *put("input"), result = *put("result"), model = *put("model"), orphan = *put("orphan"), later = *put("later");
  auto job = a_job(1);
  job.fixed.blobs = {input, input};
  blobs->observe(core::JobCreated{job, 0, {}});
  job.dynamic.state = JobState::running;
  job.dynamic.checkpoint.blob = later;
  blobs->observe(core::JobChanged{job.fixed.id, JobState::ready, job.dynamic, 1, JobClass::inference});
  job.dynamic.result_blobs = {result};
  job.dynamic.checkpoint = {};
  blobs->observe(core::JobChanged{job.fixed.id, JobState::running, job.dynamic, 1, JobClass::inference});
  core::ModelRecord record;
  record.name = "m", record.version = "1", record.blob = model;
  blobs->observe(core::ModelStored{record});
  blobs->observe(core::ModelStored{record});
  EXPECT_EQ(blobs->references(input), 2U);
  EXPECT_EQ(blobs->references(model), 1U);
  EXPECT_EQ(blobs->references(later), 0U);

  EXPECT_EQ(collect(), 0U);          // the grace
  now += 61min;
  EXPECT_EQ(collect(), 2U);          // orphan, and the checkpoint that was replaced
  EXPECT_FALSE(blobs->contains(orphan));
  EXPECT_FALSE(blobs->contains(later));
  EXPECT_EQ(read(orphan, 0, 1).error().code, Errc::unknown_blob);
  EXPECT_EQ(blobs->statistics().referenced, 3U);

  blobs->observe(core::JobForgotten{job.fixed.id, JobState::succeeded, false, {}, {}});
  blobs->observe(core::ModelRemoved{"m", "1"});
  EXPECT_EQ(collect(), 0U);          // counted from the last unreference
  now += 61min;
  EXPECT_EQ(collect(), 3U);
  EXPECT_EQ(files(), std::vector<std::string>{});
  EXPECT_EQ(blobs->statistics().bytes, 0U);
}

TEST_F(BlobStory, references_come_back_with_the_image) {
  const BlobDigest digest = *put("named");
  auto job = a_job(1);
  job.fixed.blobs = {digest};
  reopen();
  blobs->load({.jobs = {job}, .models = {}, .tombstones = {}});
  now += 61min;
  EXPECT_EQ(collect(), 0U);
  EXPECT_EQ(read(digest, 0, 10)->bytes, "named");
  blobs->load({});
  EXPECT_EQ(blobs->references(digest), 0U);
}

TEST_F(BlobStory, whoever_uploads_a_known_blob_again_renews_its_grace) {
  const BlobDigest digest = *put("known");
  now += 59min;
  EXPECT_TRUE(begin(digest, 5)->complete);
  now += 59min;
  EXPECT_EQ(collect(), 0U);
}

TEST_F(BlobStory, an_upload_nobody_goes_on_with_is_dropped) {
  const BlobDigest digest = store::digest_of("never");
  begin(digest, 100);
  now += 61min;
  collect();
  EXPECT_EQ(blobs->statistics().uploads, 0U);
  EXPECT_EQ(files(), std::vector<std::string>{});
}

TEST_F(BlobStory, a_crash_between_write_and_rename_leaves_no_blob_and_no_litter) {
  const BlobDigest whole = *put("whole"), half = store::digest_of("half");
  begin(half, 4);
  append(half, 0, "half");
  blobs.reset();                      // all bytes written, finish() never ran
  EXPECT_EQ(files().size(), 2U);
  reopen();
  EXPECT_TRUE(blobs->contains(whole));
  EXPECT_FALSE(blobs->contains(half));
  EXPECT_EQ(files().size(), 1U);
  EXPECT_EQ(blobs->size_of(whole), 5U);
  EXPECT_EQ(begin(half, 4)->offset, 0U);
}

TEST_F(BlobStory, foreign_files_in_the_folder_are_left_alone_and_never_served) {
  fs::create_directories(options.dir / "ab" / "cd");
  std::ofstream(options.dir / "ab" / "cd" / "README") << "x";
  std::ofstream(options.dir / "ab" / to_string(store::digest_of("misplaced"))) << "misplaced";
  reopen();
  EXPECT_EQ(blobs->statistics().blobs, 0U);
  EXPECT_FALSE(blobs->contains(store::digest_of("misplaced")));
  EXPECT_EQ(files().size(), 2U);
}

TEST_F(BlobStory, two_senders_of_one_blob_write_it_once) {
  const std::string bytes(100'000, 'z');
  const BlobDigest digest = store::digest_of(bytes);
  int done = 0;
  for (int sender = 0; sender < 2; ++sender)
    blobs->begin_upload(digest, bytes.size(), [&](Result<UploadState> state) {
      ASSERT_TRUE(state);
      blobs->append(digest, 0, bytes, [&](Result<UploadState> appended) {
        ASSERT_TRUE(appended) << appended.error().what;
        blobs->finish(digest, [&](Result<void> finished) {
          EXPECT_TRUE(finished) << finished.error().what;
          ++done;
        });
      });
    });
  EXPECT_TRUE(run_until(io, [&] { return done == 2; }));
  EXPECT_EQ(blobs->statistics().blobs, 1U);
  EXPECT_EQ(blobs->statistics().bytes, bytes.size());
}

TEST_F(BlobStory, an_empty_blob_is_a_blob) {
  const BlobDigest digest = *put("");
  EXPECT_TRUE(blobs->contains(digest));
  EXPECT_EQ(read(digest, 0, 10)->total, 0U);
}

}  // namespace
}  // namespace gq::test
