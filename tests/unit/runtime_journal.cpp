// runtime_journal.cpp - the journal of ends on disk: what is written comes back, what is torn does not.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "worker/runtime/journal.h"

namespace gq::worker {
namespace {

struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "gpuq-journal-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

Journal::Entry entry(std::uint64_t n, std::int64_t written_ms = 1'000'000) {
  Journal::Entry out;
  out.what.end.grant = {JobId{7, n}, 2, 0xABC};
  out.what.end.outcome = static_cast<std::uint8_t>(Outcome::succeeded);
  out.what.end.started = true;
  out.what.end.blobs = {BlobDigest{{1}}};
  out.what.end.checkpoint = BlobDigest{{2}};
  out.what.end.checkpoint_step = 120;
  out.what.body = std::string("we\0ights", 8);
  out.what.here = {BlobDigest{{1}}, BlobDigest{{2}}};
  out.written.ms = written_ms;
  return out;
}
bool same(const Journal::Entry& a, const Journal::Entry& b) {
  return a.what.end == b.what.end && a.what.body == b.what.body && a.what.here == b.what.here && a.written == b.written;
}

TEST(JournalEntries, come_back_as_they_were) {
  const auto back = decode_entry(encode_entry(entry(1)));
  ASSERT_TRUE(back.has_value());
  EXPECT_TRUE(same(*back, entry(1)));
}

TEST(JournalEntries, every_cut_and_every_flipped_byte_is_refused) {
  const std::string bytes = encode_entry(entry(1));
  for (std::size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode_entry(bytes.substr(0, n)).has_value()) << n;
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    std::string damaged = bytes;
    damaged[n] = static_cast<char>(damaged[n] ^ 0x20);
    EXPECT_FALSE(decode_entry(damaged).has_value()) << n;
  }
  EXPECT_FALSE(decode_entry(bytes + "x").has_value());
}

TEST(Journals, keep_what_has_no_verdict_and_drop_what_is_damaged_or_too_old) {
  const Folder folder;
  const std::string where = (folder.path / "journal").string();
  asio::io_context io;
  asio::thread_pool disk(1);
  {
    Journal journal(io, disk, where);
    int written = 0;
    for (const auto& [n, ms] : {std::pair<std::uint64_t, std::int64_t>{1, 5'000}, {2, 900'000}, {3, 800'000}, {4, 850'000}})
      journal.write(entry(n, ms), [&](Result<void> result) {
        EXPECT_TRUE(result.has_value());
        ++written;
      });
    const auto work = asio::make_work_guard(io);
    while (written < 4) io.run_one();
    journal.forget(entry(4).what.end.grant);
  }
  disk.join();
  std::ofstream(where + "/half.tmp") << "torn";
  std::ofstream(where + "/whole") << "but not ours";
  asio::thread_pool again(1);
  Journal journal(io, again, where);
  const auto left = journal.read(WallTime{1'000'000}, 15min);
  ASSERT_EQ(left.size(), 2U) << "the first was written more than a quarter of an hour ago, the fourth has its verdict";
  EXPECT_TRUE(same(left[0], entry(3, 800'000)));
  EXPECT_TRUE(same(left[1], entry(2, 900'000)));
  std::size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(where)) files += file.is_regular_file() ? 1 : 0;
  EXPECT_EQ(files, 2U) << "what is of no use is removed";
}

TEST(Journals, a_disk_that_takes_nothing_is_an_answer_not_a_crash) {
  const Folder folder;
  asio::io_context io;
  asio::thread_pool disk(1);
  Journal journal(io, disk, (folder.path / "no" / "such" / "place").string());
  std::optional<Result<void>> result;
  journal.write(entry(1), [&](Result<void> r) { result = std::move(r); });
  const auto work = asio::make_work_guard(io);
  while (!result) io.run_one();
  EXPECT_FALSE(result->has_value());
  disk.join();
}

}  // namespace
}  // namespace gq::worker
