// snapshot.cpp - a working directory as the command line packs it and as the worker unpacks it.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

#include "client/cli/ignore.h"
#include "client/cli/pack.h"
#include "client/cli/snapshot.h"
#include "common/config/folder_identity.h"
#include "common/vocabulary/limits.h"
#include "worker/runtime/archive.h"

namespace gq::cli {
namespace {

namespace fs = std::filesystem;

class Snapshot : public testing::Test {
 protected:
  Snapshot() {
    std::string pattern = (fs::temp_directory_path() / "gpuq-snapshot-XXXXXX").string();
    root = ::mkdtemp(pattern.data());
    fs::create_directories(folder());
  }
  ~Snapshot() override { fs::remove_all(root); }

  [[nodiscard]] std::string folder() const { return (root / "work").string(); }
  void write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((fs::path(folder()) / name).parent_path());
    std::ofstream(fs::path(folder()) / name, std::ios::binary) << bytes;
  }
  [[nodiscard]] SnapshotList listed() const {
    auto list = list_snapshot(folder());
    EXPECT_TRUE(list.has_value()) << list.error().what;
    return list ? *list : SnapshotList{};
  }
  [[nodiscard]] std::set<std::string> names() const {
    std::set<std::string> out;
    for (const SnapshotEntry& entry : listed().entries) out.insert(entry.name + (entry.is_folder ? "/" : ""));
    return out;
  }
  [[nodiscard]] std::vector<std::string> packs() const {
    std::vector<std::string> out;
    const auto packed = pack_snapshot(folder(), listed(), [&](std::string&& pack) -> Result<void> { return out.push_back(std::move(pack)), Result<void>{}; });
    EXPECT_TRUE(packed.has_value()) << packed.error().what;
    return out;
  }
  [[nodiscard]] std::string unpacked(const std::vector<std::string>& all) const {
    const fs::path target = root / "unpacked";
    fs::remove_all(target);
    fs::create_directories(target);
    for (const std::string& pack : all) {
      std::ofstream(root / "pack", std::ios::binary) << pack;
      const auto done = worker::unpack_folder((root / "pack").string(), target.string());
      EXPECT_TRUE(done.has_value()) << done.error().what;
    }
    return target.string();
  }
  [[nodiscard]] static std::string read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  fs::path root;
};

TEST_F(Snapshot, what_the_worker_unpacks_is_what_was_packed) {
  write("train.py", "print(1)\n");
  write("run.sh", "#!/bin/sh\n");
  fs::permissions(fs::path(folder()) / "run.sh", fs::perms::owner_exec, fs::perm_options::add);
  write("empty", "");
  const std::string deep = std::string(90, 'a') + "/" + std::string(90, 'b') + "/" + std::string(200, 'c') + ".txt";
  write(deep, "deep");
  write("weights.bin", std::string(3U << 20U, 'w'));
  fs::create_directories(fs::path(folder()) / "runs");
  const fs::path out = unpacked(packs());
  EXPECT_EQ(read(out / "train.py"), "print(1)\n");
  EXPECT_EQ(read(out / deep), "deep");
  EXPECT_EQ(read(out / "weights.bin"), std::string(3U << 20U, 'w'));
  EXPECT_TRUE(fs::exists(out / "empty"));
  EXPECT_TRUE(fs::is_directory(out / "runs"));
  EXPECT_EQ(::access((out / "run.sh").c_str(), X_OK), 0) << "a program stays one";
  EXPECT_EQ(fs::status(out / "train.py").permissions() & fs::perms::owner_exec, fs::perms::none);
}

TEST_F(Snapshot, equal_folders_are_equal_packs_and_a_change_touches_few_of_them) {
  for (int i = 0; i < 600; ++i) write("src/file" + std::to_string(i), std::string(10'000, static_cast<char>('a' + i % 26)));
  write("model.bin", std::string(5U << 20U, 'm'));
  const auto before = packs();
  EXPECT_GT(before.size(), 4U);
  fs::last_write_time(fs::path(folder()) / "model.bin", fs::file_time_type::clock::now());
  EXPECT_EQ(packs(), before) << "times are no content";
  write("src/file300", "changed");
  write("src/file", "new, in front of all");
  const auto after = packs();
  const std::set<std::string> had(before.begin(), before.end());
  const auto sent = std::count_if(after.begin(), after.end(), [&](const std::string& pack) { return !had.contains(pack); });
  EXPECT_GE(sent, 1);
  EXPECT_LE(sent, 4) << "of " << after.size();
  EXPECT_TRUE(std::any_of(after.begin(), after.end(), [&](const std::string& pack) { return pack.size() > (5U << 20U) && had.contains(pack); })) << "the large file is a pack of its own";
}

TEST_F(Snapshot, an_empty_folder_is_one_too) { EXPECT_EQ(packs(), std::vector<std::string>{std::string(1024, '\0')}); }

TEST_F(Snapshot, what_gpuqignore_and_habit_leave_out_stays_behind) {
  write("train.py", "");
  write("data/a.bin", "");
  write("data/keep.txt", "");
  write("notes.log", "");
  write(".git/config", "");
  write("lib/__pycache__/x.pyc", "");
  write("env/pyvenv.cfg", "home = /usr/bin");
  write("env/bin/python", "");
  write(".venv/lib/x", "");
  EXPECT_EQ(names(), (std::set<std::string>{"train.py", "data/", "data/a.bin", "data/keep.txt", "notes.log", "lib/"}));
  write(".gpuqignore", "# large\n/data/*\n!/data/keep.txt\n*.log\n!.git/\n");
  EXPECT_EQ(names(), (std::set<std::string>{"train.py", "data/", "data/keep.txt", "lib/", ".gpuqignore", ".git/", ".git/config"})) << "the file may take back what is left out by habit";
}

TEST_F(Snapshot, links_that_loop_or_lead_out_do_no_harm) {
  write("real.txt", "inside");
  fs::create_symlink("real.txt", fs::path(folder()) / "alias.txt");
  fs::create_symlink("..", fs::path(folder()) / "up");
  fs::create_symlink("loop", fs::path(folder()) / "loop");
  fs::create_directory(fs::path(folder()) / "sub");
  fs::create_symlink("../sub", fs::path(folder()) / "sub/again");
  fs::create_symlink("/etc/passwd", fs::path(folder()) / "secrets");
  ::mkfifo((fs::path(folder()) / "pipe").c_str(), 0600);
  const SnapshotList list = listed();
  EXPECT_EQ(std::set<std::string>(list.links.begin(), list.links.end()), (std::set<std::string>{"up", "loop", "sub/again", "secrets", "pipe"}));
  const fs::path out = unpacked(packs());
  EXPECT_EQ(read(out / "alias.txt"), "inside");
  EXPECT_FALSE(fs::is_symlink(out / "alias.txt"));
}

TEST_F(Snapshot, a_folder_of_10_gb_is_refused_with_the_biggest_named_before_anything_is_read) {
  write("train.py", "print(1)");
  for (const auto& [name, gib] : {std::pair{"data/train.bin", 6}, {"data/test.bin", 3}, {"runs/last.bin", 1}}) {
    write(name, "");
    fs::resize_file(fs::path(folder()) / name, std::uintmax_t(gib) << 30U);   // a hole: it lies nowhere, reading it would take long
    ::chmod((fs::path(folder()) / name).c_str(), 0);
  }
  const auto list = list_snapshot(folder());
  ASSERT_FALSE(list.has_value());
  EXPECT_EQ(list.error().code, Errc::too_large);
  EXPECT_NE(list.error().what.find("holds 10.0 GiB, a copy that travels with a job may have 1024 MiB; the biggest: data/ 9216 MiB, runs/ 1024 MiB, train.py"), std::string::npos) << list.error().what;
  EXPECT_NE(list.error().next.find(".gpuqignore"), std::string::npos);
  write(".gpuqignore", "data/\nruns/\n");
  EXPECT_EQ(listed().files, 2U);
}

TEST_F(Snapshot, too_many_files_are_refused_by_their_number) {
  for (std::size_t i = 0; i <= kLimits.snapshot_files_max; ++i) write("many/" + std::to_string(i), "");
  const auto list = list_snapshot(folder());
  ASSERT_FALSE(list.has_value());
  EXPECT_EQ(list.error().code, Errc::too_large);
  EXPECT_NE(list.error().what.find("20001 files"), std::string::npos) << list.error().what;
  EXPECT_NE(list.error().what.find("many/ 20001"), std::string::npos) << list.error().what;
}

TEST_F(Snapshot, a_file_that_cannot_be_read_is_named) {
  write("ok.txt", "");
  write("secret.key", "x");
  const fs::path secret = fs::path(folder()) / "secret.key";
  fs::permissions(secret, fs::perms::none);
  fs::permissions(root, fs::perms::all);
  const SnapshotList list = listed();
  const bool is_root = ::geteuid() == 0;
  if (is_root) { ASSERT_EQ(::seteuid(65534), 0); }   // root reads everything
  const auto packed = pack_snapshot(folder(), list, [](std::string&&) { return Result<void>{}; });
  if (is_root) { ASSERT_EQ(::seteuid(0), 0); }
  ASSERT_FALSE(packed.has_value());
  EXPECT_EQ(packed.error().code, Errc::bad_input);
  EXPECT_NE(packed.error().what.find("secret.key: Permission denied"), std::string::npos) << packed.error().what;
}

TEST_F(Snapshot, a_folder_that_is_none_says_so) {
  EXPECT_EQ(list_snapshot(folder() + "/nowhere").error().code, Errc::not_found);
  write("file", "");
  EXPECT_EQ(list_snapshot(folder() + "/file").error().code, Errc::bad_input);
}

TEST_F(Snapshot, names_that_would_leave_the_folder_are_refused_by_the_worker) {
  for (const std::string& name : {std::string("../evil"), std::string("/tmp/evil"), std::string("a/../../evil"), std::string("a//b"), std::string("./x"), std::string(300, 'x') + "/../evil"}) {
    std::string pack;
    append_tar(pack, name, "evil");
    pack.append(1024, '\0');
    std::ofstream(root / "pack", std::ios::binary) << pack;
    const auto done = worker::unpack_folder((root / "pack").string(), folder(), {.what = "a pack", .damaged = Errc::bad_input});
    ASSERT_FALSE(done.has_value()) << name;
    EXPECT_EQ(done.error().code, Errc::bad_input) << name;
    EXPECT_TRUE(fs::is_empty(folder())) << name;
  }
}

TEST_F(Snapshot, a_pack_cut_anywhere_or_with_one_byte_changed_in_a_header_is_refused) {
  std::string whole;
  append_tar(whole, std::string(150, 'n'), "content");
  append_tar(whole, "b", std::string(700, 'b'));
  whole.append(1024, '\0');
  const auto unpack = [&](const std::string& pack) {
    std::ofstream(root / "pack", std::ios::binary) << pack;
    return worker::unpack_folder((root / "pack").string(), folder()).has_value();
  };
  ASSERT_TRUE(unpack(whole));
  for (std::size_t cut = 0; cut + 1024 < whole.size(); cut += 100) EXPECT_FALSE(unpack(whole.substr(0, cut))) << cut;
  for (std::size_t at = 0; at < 500; at += 7) {
    std::string broken = whole;
    broken[at] = static_cast<char>(broken[at] ^ 1);
    EXPECT_FALSE(unpack(broken)) << at;
  }
}

TEST(Ignore, patterns_mean_what_they_mean_to_git) {
  struct Case { const char* pattern; const char* path; bool matches; };
  for (const Case& c : {Case{"*.log", "a.log", true}, {"*.log", "a.log/b", false}, {"a?c", "abc", true}, {"a?c", "a/c", false}, {"[a-c]x", "bx", true}, {"[a-c]x", "dx", false},
                        {"[!a-c]x", "dx", true}, {"[]]x", "]x", true}, {"[x", "[x", true}, {"**/logs", "logs", true}, {"**/logs", "a/b/logs", true}, {"**/logs", "a/blogs", false},
                        {"logs/**", "logs/a/b", true}, {"a/**/b", "a/b", true}, {"a/**/b", "a/x/y/b", true}, {"a/**/b", "a/xb", false}, {"\\*", "*", true}, {"\\*", "a", false},
                        {"a*", "a", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "aXbY", false}, {"", "", true}, {"", "a", false}})
    EXPECT_EQ(matches_glob(c.pattern, c.path), c.matches) << c.pattern << " / " << c.path;
  const Ignore ignore("data\n/top.txt\nbuild/\nsub/dir/x\n  \r\n#c\n!\n/\n");
  EXPECT_TRUE(ignore.leaves_out("data", false) && ignore.leaves_out("deep/data", true));
  EXPECT_TRUE(ignore.leaves_out("top.txt", false) && !ignore.leaves_out("deep/top.txt", false));
  EXPECT_TRUE(ignore.leaves_out("deep/build", true) && !ignore.leaves_out("deep/build", false));
  EXPECT_TRUE(ignore.leaves_out("sub/dir/x", false) && !ignore.leaves_out("a/sub/dir/x", false));
  EXPECT_FALSE(ignore.leaves_out("train.py", false));
}

TEST_F(Snapshot, a_folder_is_known_again_and_not_mistaken_for_another_at_its_path) {
  const std::string seen = config::folder_identity(folder());
  ASSERT_FALSE(seen.empty());
  EXPECT_TRUE(config::is_same_folder(folder(), seen));
  write("more", "files do not make it another one");
  EXPECT_TRUE(config::is_same_folder(folder(), seen));
  fs::create_symlink(folder(), root / "by-another-name");
  EXPECT_TRUE(config::is_same_folder((root / "by-another-name").string(), seen));
  fs::rename(folder(), root / "old");
  EXPECT_FALSE(config::is_same_folder(folder(), seen)) << "it is gone";
  fs::create_directories(folder());
  EXPECT_FALSE(config::is_same_folder(folder(), seen)) << "another one";
  EXPECT_TRUE(config::is_same_folder((root / "old").string(), seen)) << "wherever it is mounted";
  for (const char* text : {"", " ", "x", "- - - -", "1 2"}) EXPECT_FALSE(config::is_same_folder(folder(), text)) << text;
  EXPECT_EQ(config::folder_identity((root / "nowhere").string()), "");
  const auto field = [&](int n) { std::istringstream in(seen); std::string word; for (int i = 0; i <= n; ++i) in >> word; return word; };
  if (field(1) != "-") {
    EXPECT_TRUE(config::is_same_folder((root / "old").string(), field(0) + " " + field(1) + " another-boot 0:0")) << "after a reboot, over a network";
  }
  EXPECT_FALSE(config::is_same_folder((root / "old").string(), field(0) + " 1.1 " + field(2) + " " + field(3))) << "an inode used again";
}

}  // namespace
}  // namespace gq::cli
