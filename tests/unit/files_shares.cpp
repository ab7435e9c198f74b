// files_shares.cpp - nothing but what lies beneath a share is ever opened or written, whatever its name says and whoever put links there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "common/files/shares.h"

namespace gq::files {
namespace {

namespace fs = std::filesystem;

struct SharesTest : testing::Test {
  std::string dir;
  Shares shares;
  void SetUp() override {
    std::string text = (fs::temp_directory_path() / "gpuq-shares-XXXXXX").string();
    ASSERT_NE(::mkdtemp(text.data()), nullptr);
    dir = text;
    fs::create_directories(dir + "/boards/run1");
    fs::create_directories(dir + "/outside");
    write("boards/a.png", "pixels");
    write("boards/run1/b.png", "more pixels");
    write("outside/secret", "s3cret");
    auto open = Shares::open({"boards=" + dir + "/boards"});
    ASSERT_TRUE(open.has_value()) << open.error().what;
    shares = std::move(*open);
  }
  void TearDown() override { fs::remove_all(dir); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(dir + "/" + name) << text; }
  static std::string slurp(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  Errc error_of(const std::string& reference) const {
    auto found = shares.find(reference);
    EXPECT_FALSE(found.has_value()) << reference;
    return found ? Errc::internal : found.error().code;
  }
};

TEST_F(SharesTest, a_file_is_found_and_its_path_names_the_open_file_itself) {
  auto file = shares.find("boards/run1/b.png");
  ASSERT_TRUE(file.has_value());
  EXPECT_EQ((*file)->bytes, 11U);
  EXPECT_FALSE((*file)->is_folder);
  fs::rename(dir + "/boards/run1", dir + "/boards/gone");        // whoever swaps the folder afterwards changes nothing
  fs::create_directory_symlink(dir + "/outside", dir + "/boards/run1");
  EXPECT_EQ(slurp((*file)->path), "more pixels");
  std::array<char, 64> said{};
  FILE* other = ::popen(("cat " + (*file)->path).c_str(), "r");  // another process of ours reads it by that path, too
  ASSERT_NE(other, nullptr);
  EXPECT_EQ(std::fread(said.data(), 1, said.size(), other), 11U);
  EXPECT_EQ(::pclose(other), 0);
}

TEST_F(SharesTest, a_folder_is_found_and_listed_through_its_path) {
  auto folder = shares.find("boards/run1");
  ASSERT_TRUE(folder.has_value());
  EXPECT_TRUE((*folder)->is_folder);
  EXPECT_TRUE(fs::exists((*folder)->path + "/b.png"));
}

TEST_F(SharesTest, no_name_leads_out) {
  for (const char* name : {"boards/../outside/secret", "boards//a.png", "boards/./a.png", "boards/", "boards", "/etc/passwd", "boards/run1/../../outside/secret", "", "../x", "bo ards/a.png"})
    EXPECT_EQ(error_of(name), Errc::bad_input) << name;
  EXPECT_EQ(error_of("photos/a.png"), Errc::not_here);
  EXPECT_EQ(error_of("boards/none.png"), Errc::bad_input);
}

TEST_F(SharesTest, no_symbolic_link_is_followed_neither_at_the_end_nor_on_the_way) {
  fs::create_symlink(dir + "/outside/secret", dir + "/boards/link.png");
  fs::create_directory_symlink(dir + "/outside", dir + "/boards/out");
  fs::create_directory_symlink("run1", dir + "/boards/inner");
  fs::create_directory_symlink("loop", dir + "/boards/loop");
  for (const char* name : {"boards/link.png", "boards/out/secret", "boards/inner/b.png", "boards/loop/x"}) EXPECT_EQ(error_of(name), Errc::bad_input) << name;
}

TEST_F(SharesTest, a_fifo_is_refused_and_holds_nobody_up) {
  ASSERT_EQ(::mkfifo((dir + "/boards/pipe").c_str(), 0600), 0);
  EXPECT_EQ(error_of("boards/pipe"), Errc::bad_input);
}

TEST_F(SharesTest, what_is_put_appears_whole_and_in_folders_made_for_it) {
  ASSERT_TRUE(shares.put("boards/results/7/mask.bin", dir + "/outside/secret").has_value());
  EXPECT_EQ(slurp(dir + "/boards/results/7/mask.bin"), "s3cret");
  write("outside/second", "newer");
  ASSERT_TRUE(shares.put("boards/results/7/mask.bin", dir + "/outside/second").has_value());
  EXPECT_EQ(slurp(dir + "/boards/results/7/mask.bin"), "newer");
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(dir + "/boards/results/7")) files += entry.exists() ? 1U : 0U;
  EXPECT_EQ(files, 1U) << "nothing half written is left";
}

TEST_F(SharesTest, nothing_is_written_through_a_link_or_over_a_folder) {
  fs::create_directory_symlink(dir + "/outside", dir + "/boards/out");
  EXPECT_EQ(shares.put("boards/out/x", dir + "/boards/a.png").error().code, Errc::bad_input);
  EXPECT_FALSE(fs::exists(dir + "/outside/x"));
  EXPECT_FALSE(shares.put("boards/run1", dir + "/boards/a.png").has_value());
  EXPECT_FALSE(shares.put("boards/a.png/x", dir + "/boards/a.png").has_value());
  fs::create_symlink(dir + "/outside/secret", dir + "/boards/final");
  ASSERT_TRUE(shares.put("boards/final", dir + "/boards/a.png").has_value());   // the link itself is replaced, what it named is untouched
  EXPECT_EQ(slurp(dir + "/outside/secret"), "s3cret");
  EXPECT_FALSE(fs::is_symlink(dir + "/boards/final"));
}

TEST_F(SharesTest, a_path_on_this_host_is_named_by_the_deepest_share_above_it) {
  auto two = Shares::open({"boards=" + dir + "/boards", "runs=" + dir + "/boards/run1"});
  ASSERT_TRUE(two.has_value());
  EXPECT_EQ(two->reference_to(dir + "/boards/run1/b.png"), "runs/b.png");
  EXPECT_EQ(two->reference_to(dir + "/boards/a.png"), "boards/a.png");
  EXPECT_EQ(two->reference_to(dir + "/boards/run1/../a.png"), "boards/a.png");
  EXPECT_EQ(two->reference_to(dir + "/outside/secret"), std::nullopt);
  EXPECT_EQ(two->reference_to(dir + "/boards"), std::nullopt) << "the root itself has no name below it";
  fs::create_symlink(dir + "/outside/secret", dir + "/boards/link");
  EXPECT_EQ(two->reference_to(dir + "/boards/link"), std::nullopt) << "it is not on the share: its bytes have to travel";
}

TEST_F(SharesTest, a_wrong_declaration_says_what_is_wrong) {
  for (const std::string& text : {std::string("boards"), std::string("=/tmp"), std::string("boards="), std::string("a b=/tmp"), "x=" + dir + "/none", "x=" + dir + "/boards/a.png"}) {
    const auto open = Shares::open({text});
    ASSERT_FALSE(open.has_value()) << text;
    EXPECT_EQ(open.error().code, Errc::usage);
    EXPECT_NE(open.error().what.find(text), std::string::npos);
  }
  EXPECT_FALSE(Shares::open({"x=/tmp", "x=/tmp"}).has_value());
  EXPECT_EQ(Shares::open(std::vector<std::string>(17, "x=/tmp")).error().code, Errc::over_limit);
}

}  // namespace
}  // namespace gq::files
