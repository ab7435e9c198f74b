// Everything executors read from disk or from a stranger: tensor files and parts, archives, data sets, checkpoints.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/image/board.h"
#include "worker/executors/checkpoint.h"
#include "worker/executors/dataset.h"
#include "worker/executors/tar.h"
#include "worker/executors/tensor_file.h"
#include "worker/executors/tensor_part.h"

namespace gq::exec {
namespace {

namespace fs = std::filesystem;

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "gpuq-files-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder = pattern;
  }
  void TearDown() override { fs::remove_all(folder); }
  void write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((folder / name).parent_path());
    std::ofstream(folder / name, std::ios::binary) << bytes;
  }
  [[nodiscard]] std::string path(const std::string& name) const { return (folder / name).string(); }
  fs::path folder;
};

TensorFile sample_tensors() {
  return {.metadata = {{"format", "test"}, {"note", "line\n\"quoted\""}},
          .tensors = {{.name = "a", .dtype = "F32", .shape = {2, 3}, .bytes = std::string(24, 'x')}, {.name = "empty", .dtype = "I64", .shape = {0}, .bytes = ""},
                      {.name = "scalar", .dtype = "I64", .shape = {}, .bytes = std::string(8, '\1')}}};
}

TEST_F(Files, tensors_come_back_as_they_went) {
  const auto again = decode_tensors(encode_tensors(sample_tensors()));
  ASSERT_TRUE(again) << again.failure().what;
  EXPECT_EQ(*again, sample_tensors());
}

TEST_F(Files, a_tensor_file_cut_anywhere_is_refused) {
  const std::string whole = encode_tensors(sample_tensors());
  for (std::size_t n = 0; n < whole.size(); ++n) {
    const auto got = decode_tensors(std::string_view(whole).substr(0, n));
    ASSERT_FALSE(got) << n;
    ASSERT_EQ(got.failure().code, "BAD_MODEL");
  }
  EXPECT_FALSE(decode_tensors(whole + "x"));
  std::string absurd = whole;
  std::memset(absurd.data(), 0xff, 8);   // a header of 2^64 bytes
  EXPECT_FALSE(decode_tensors(absurd));
}

TEST_F(Files, a_tensor_part_says_exactly_what_is_wrong_with_it) {
  const NamedTensor tensor{.name = "x", .dtype = "F32", .shape = {2, 2}, .bytes = std::string(16, 'b')};
  const std::string whole = encode_tensor_part(tensor);
  ASSERT_EQ(whole.size(), 8U + 16 + 16);
  EXPECT_EQ(*decode_tensor_part("x", whole), tensor);
  for (std::size_t n = 0; n < whole.size(); ++n) ASSERT_FALSE(decode_tensor_part("x", std::string_view(whole).substr(0, n))) << n;
  EXPECT_NE(decode_tensor_part("x", whole + "z").failure().what.find("17 bytes"), std::string::npos);
  std::string huge = whole;
  std::memset(huge.data() + 8, 0x7f, 8);
  EXPECT_EQ(decode_tensor_part("x", huge).failure().code, "BAD_INPUT");
}

/// One ustar entry; the checksum is computed.
std::string tar_entry(const std::string& name, const std::string& content, char kind = '0') {
  std::string h(512, '\0');
  h.replace(0, name.size(), name);
  h.replace(100, 7, "0000644");
  char size[13];
  std::snprintf(size, sizeof size, "%011zo", content.size());
  h.replace(124, 11, size, 11);
  h.replace(148, 8, "        ");
  h[156] = kind;
  h.replace(257, 8, std::string("ustar\00000", 8));
  unsigned sum = 0;
  for (const char c : h) sum += static_cast<unsigned char>(c);
  char text[9];
  std::snprintf(text, sizeof text, "%06o", sum);
  h.replace(148, 7, std::string(text, 6) + '\0');
  std::string out = h + content;
  out.resize((out.size() + 511) / 512 * 512);
  return out;
}

TEST_F(Files, an_archive_lists_its_files_and_only_honest_names) {
  const std::string long_name = "images/" + std::string(120, 'n') + ".png";
  write("good.tar", tar_entry("./labels/a.txt", "1 2 3") + tar_entry("dir", "", '5') + tar_entry("././@LongLink", long_name + '\0', 'L') +
                        tar_entry("cut", "pixels") + std::string(1024, '\0'));
  const auto files = list_tar(path("good.tar"));
  ASSERT_TRUE(files) << files.failure().what;
  ASSERT_EQ(files->size(), 2U);
  EXPECT_EQ((*files)[0].path, "labels/a.txt");
  EXPECT_EQ((*files)[1].path, long_name);
  EXPECT_EQ(*read_stored((*files)[1]), "pixels");

  for (const char* name : {"../escape", "/etc/passwd", "a/../../b"}) {
    write("bad.tar", tar_entry(name, "x") + std::string(1024, '\0'));
    EXPECT_EQ(list_tar(path("bad.tar")).failure().code, "BAD_INPUT") << name;
  }
  write("cut.tar", tar_entry("a", std::string(5000, 'x')).substr(0, 2000));
  EXPECT_FALSE(list_tar(path("cut.tar")));
  write("noise.tar", std::string(4096, 'n'));
  EXPECT_FALSE(list_tar(path("noise.tar")));
}

TEST_F(Files, a_data_set_reads_the_same_from_a_folder_and_from_its_tar) {
  std::string error, tar;
  for (int i = 0; i < 3; ++i) {
    const std::string name = "b" + std::to_string(i);
    ASSERT_TRUE(image::write_board(folder.string(), name, image::draw_board(static_cast<std::uint64_t>(i), 256, 4), error)) << error;
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string bytes;
    ASSERT_TRUE(image::read_file(entry.path().string(), bytes, error)) << error;
    tar += tar_entry(entry.path().filename().string(), bytes);
  }
  const auto from_folder = read_dataset(folder.string());
  ASSERT_TRUE(from_folder) << from_folder.failure().what;
  fs::create_directories(folder / "other");
  write("other/set.tar", tar + std::string(1024, '\0'));
  const auto from_tar = read_dataset(path("other/set.tar"));
  ASSERT_TRUE(from_tar) << from_tar.failure().what;
  ASSERT_EQ(from_folder->samples.size(), 3U);
  EXPECT_EQ(from_folder->names.size(), 6U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(from_folder->samples[i].image.pixels, from_tar->samples[i].image.pixels);
    EXPECT_EQ(from_folder->samples[i].labels, from_tar->samples[i].labels);
    EXPECT_FALSE(from_folder->samples[i].labels.empty());
  }
}

TEST_F(Files, the_pairs_layout_takes_pixels_or_fractions_and_class_names) {
  write("images/a.png", image::encode_png(image::Image(100, 50, 3, 9)));
  write("images/b.png", image::encode_png(image::Image(100, 50, 1, 9)));
  write("labels/a.txt", "10,20,30,40,2\n");
  write("labels/b.txt", "1 0.2 0.6 0.2 0.4\n\n");
  write("classes.txt", "crack\ndent\n");
  const auto data = read_dataset(folder.string());
  ASSERT_TRUE(data) << data.failure().what;
  EXPECT_EQ(data->names, (std::vector<std::string>{"crack", "dent"}));
  const Box want{10, 20, 30, 40, 0, 1};
  EXPECT_EQ(data->samples[0].labels, (std::vector<Box>{want}));
  const Box& b = data->samples[1].labels.at(0);
  EXPECT_NEAR(b.x1, 10, 1e-4);
  EXPECT_NEAR(b.y2, 40, 1e-4);
  EXPECT_EQ(b.label, 1);
}

TEST_F(Files, a_data_set_without_images_or_with_bad_labels_says_so) {
  EXPECT_EQ(read_dataset(folder.string()).failure().code, "BAD_INPUT");
  EXPECT_EQ(read_dataset(path("nowhere")).failure().code, "BAD_INPUT");
  write("images/a.png", image::encode_png(image::Image(32, 32, 1)));
  for (const char* wrong : {"1 2 3\n", "a b c d e\n", "5 5 5 5 1\n", "1 1 9 9 1 7\n", "3 3 9 9 0\n"}) {
    write("labels/a.txt", wrong);
    EXPECT_FALSE(read_dataset(folder.string())) << wrong;
  }
  write("labels/a.txt", "3 3 9 9 1\n");
  ASSERT_TRUE(read_dataset(folder.string()));
  write("images/a.png", "not a picture");
  EXPECT_EQ(read_dataset(folder.string()).failure().code, "BAD_IMAGE");
}

// ---- checkpoints

TEST_F(Files, the_last_two_checkpoints_are_kept_and_the_newest_is_found) {
  for (const std::int64_t step : {10, 20, 30}) {
    const auto written = write_checkpoint(folder.string(), {"job-1", 1, step}, "payload " + std::to_string(step));
    ASSERT_TRUE(written) << written.failure().what;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator{}), 2);
  std::vector<std::string> warnings;
  const auto found = find_checkpoint(folder.string(), "", "job-1", warnings);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->header, (CheckpointHeader{"job-1", 1, 30}));
  EXPECT_EQ(found->payload, "payload 30");
  EXPECT_TRUE(warnings.empty());
}

TEST_F(Files, a_checkpoint_cut_or_changed_anywhere_gives_way_to_the_one_before) {
  std::string payload(20'000, '\0');
  for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<char>(i * 31);
  ASSERT_TRUE(write_checkpoint(folder.string(), {"job", 1, 1}, payload));
  const auto newest = write_checkpoint(folder.string(), {"job", 2, 2}, payload);
  ASSERT_TRUE(newest);
  const std::string whole = encode_checkpoint({"job", 2, 2}, payload);
  const auto step_found = [&](const std::string& bytes) {
    std::ofstream(*newest, std::ios::binary | std::ios::trunc) << bytes;
    std::vector<std::string> warnings;
    const auto found = find_checkpoint(folder.string(), "", "job", warnings);
    if (found && found->header.step == 1) {
      EXPECT_EQ(warnings.size(), 1U);
    }
    return found ? found->header.step : 0;
  };
  EXPECT_EQ(step_found(whole), 2);
  for (std::size_t n = 0; n < whole.size(); n += 1024) ASSERT_EQ(step_found(whole.substr(0, n)), 1) << "cut at " << n;
  for (std::size_t at = 0; at < whole.size(); at += at < 128 ? 1 : 997) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0x10);
    ASSERT_EQ(step_found(changed), 1) << "changed at " << at;
  }
  ASSERT_EQ(step_found(whole + "tail"), 1);
}

TEST_F(Files, a_checkpoint_of_another_job_is_never_used) {
  const auto other = write_checkpoint(folder.string(), {"theirs", 1, 5}, "x");
  ASSERT_TRUE(other);
  std::vector<std::string> warnings;
  EXPECT_FALSE(find_checkpoint("", *other, "mine", warnings));
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("theirs"), std::string::npos);
  warnings.clear();
  EXPECT_FALSE(find_checkpoint("", path("missing.gpuqckpt"), "mine", warnings));
  EXPECT_EQ(warnings.size(), 1U);
}

}  // namespace
}  // namespace gq::exec
