// Models on the CPU backend: both output layouts, what is refused and how, batches, and any script by `infer`.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/unit/exec_scripts.h"
#include "worker/executors/backend.h"
#include "worker/executors/model.h"
#include "worker/executors/modelhost_work.h"

namespace gq::exec {
namespace {

namespace fs = std::filesystem;
using testing::end_to_end_detector;
using testing::raw_detector;
using testing::write_script;

const Backend& cpu() {
  static const auto backend = [] {
    std::vector<std::string> notes;
    return std::move(*Backend::open({.kind = "cpu", .vram_mib = 0, .threads = 1, .plugin = {}}, notes));
  }();
  return *backend;
}

class Models : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "gpuq-models-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder = pattern;
  }
  void TearDown() override { fs::remove_all(folder); }
  [[nodiscard]] std::string path(const std::string& name) const { return (folder / name).string(); }

  Expected<std::shared_ptr<Model>> script(const std::string& source, const std::string& metadata = {}) const {
    write_script(path("m.pt"), source, metadata);
    return Model::load({.name = "m@1", .path = path("m.pt"), .runtime = "torchscript", .metadata = {}}, cpu());
  }
  static std::vector<DetectAnswer> detect(Model& model, const std::vector<image::Image>& images, const DetectParams& params = {}) {
    std::vector<Prepared> prepared;
    for (const auto& i : images) prepared.push_back(*model.prepare(i, params.imgsz));
    std::vector<DetectItem> items;
    for (const auto& p : prepared) items.push_back({&p, params});
    return model.detect(items);
  }
  fs::path folder;
};

constexpr const char* kTwoClasses = R"({"imgsz": [64, 64], "stride": 32, "names": {"0": "cat", "1": "dog"}, "dynamic": true})";

TEST_F(Models, the_raw_layout_gives_boxes_in_pixels_of_the_submitted_image) {
  // two boxes of one object, one of the other class on top, one below the threshold; network input 64x64
  auto model = script(raw_detector({{32, 32, 20, 10, 0.9F, 0.1F}, {33, 32, 20, 10, 0.8F, 0.2F}, {32, 32, 20, 10, 0.2F, 0.7F}, {10, 40, 8, 8, 0.3F, 0.1F}}), kTwoClasses);
  ASSERT_TRUE(model) << model.failure().what;
  EXPECT_TRUE((*model)->info().detects);
  EXPECT_EQ((*model)->info().names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ((*model)->info().batch_max, 4);
  // 128x64: scale 0.5, 16 rows above; the middle (32,32) is (64,32) of the image, 20x10 becomes 40x20
  const auto answers = detect(**model, {image::Image(128, 64, 3, 50)});
  ASSERT_TRUE(answers[0]) << answers[0].failure().what;
  const std::vector<Box> want{{44, 22, 84, 42, 0.9F, 0}, {44, 22, 84, 42, 0.7F, 1}};
  EXPECT_EQ(*answers[0], want);
  EXPECT_EQ(detect(**model, {image::Image(128, 64, 3, 50)}, {.conf = 0.25})[0]->size(), 3U);
  EXPECT_EQ(detect(**model, {image::Image(128, 64, 3, 50)}, {.conf = 0.25, .iou = 1.0})[0]->size(), 4U);
  EXPECT_EQ(detect(**model, {image::Image(128, 64, 3, 50)}, {.max_det = 1})[0]->size(), 1U);
}

TEST_F(Models, an_end_to_end_head_is_taken_as_it_is_and_clipped_to_the_image) {
  auto model = script(end_to_end_detector({{10, 20, 30, 40, 0.5F, 1}, {-5, 0, 70, 64, 0.9F, 0}, {1, 1, 2, 2, 0.1F, 0}, {10, 20, 30, 40, 0.45F, 1}}), kTwoClasses);
  ASSERT_TRUE(model) << model.failure().what;
  const auto answers = detect(**model, {image::Image(64, 64, 1, 9)});
  ASSERT_TRUE(answers[0]);
  const std::vector<Box> want{{0, 0, 64, 64, 0.9F, 0}, {10, 20, 30, 40, 0.5F, 1}, {10, 20, 30, 40, 0.45F, 1}};
  EXPECT_EQ(*answers[0], want);
}

TEST_F(Models, an_unexpected_output_is_refused_at_loading_with_its_shape) {
  const auto wrong = script("def forward(self, x):\n    return torch.zeros([x.size(0), 3, 5])\n", kTwoClasses);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.failure().code, "BAD_MODEL");
  EXPECT_NE(wrong.failure().what.find("[1, 3, 5]"), std::string::npos) << wrong.failure().what;
  EXPECT_NE(wrong.failure().next.find("[N, 4 + 2, cells]"), std::string::npos) << wrong.failure().next;
}

TEST_F(Models, a_pickle_or_noise_is_refused_with_the_way_out) {
  const auto load = [&](const std::string& bytes) {
    std::ofstream(path("x.pt"), std::ios::binary) << bytes;
    return Model::load({.name = "x@1", .path = path("x.pt"), .runtime = {}, .metadata = {}}, cpu()).failure();
  };
  const auto pickle = load("\x80\x02}q\x01.");
  EXPECT_EQ(pickle.code, "BAD_MODEL");
  EXPECT_NE(pickle.what.find("pickle"), std::string::npos);
  EXPECT_NE(pickle.next.find("torchscript"), std::string::npos);
  EXPECT_NE(load(std::string("PK\3\4", 4) + "archive/data.pkl").what.find("pickle"), std::string::npos);
  EXPECT_EQ(load("hello").code, "BAD_MODEL");
  EXPECT_EQ(load("").code, "BAD_MODEL");
  write_script(path("whole.pt"), raw_detector({{1, 1, 1, 1, 1, 1}}), kTwoClasses);
  std::string bytes, why;
  ASSERT_TRUE(image::read_file(path("whole.pt"), bytes, why));
  EXPECT_EQ(load(bytes.substr(0, bytes.size() / 2)).code, "BAD_MODEL");
  EXPECT_EQ(Model::load({.name = "gone@1", .path = path("gone.pt"), .runtime = {}, .metadata = {}}, cpu()).failure().code, "UNKNOWN_MODEL");
  EXPECT_EQ(Model::load({.name = "m@1", .path = path("whole.pt"), .runtime = "tensorflow", .metadata = {}}, cpu()).failure().code, "BAD_MODEL");
}

TEST_F(Models, a_model_of_fixed_size_and_batch_keeps_to_them) {
  auto model = script("def forward(self, x):\n    y = x.reshape([1, 3, 64, 64])\n    return torch.ones([1, 6, 9]) * 20.0 * y[0, 0, 0, 0] + 0.5 * (1.0 - y[0, 0, 0, 0])\n",
                      R"({"imgsz": [64, 64], "names": ["a", "b"]})");
  ASSERT_TRUE(model) << model.failure().what;
  EXPECT_EQ((*model)->info().batch_max, 1);
  const auto other = (*model)->prepare(image::Image(64, 64, 1), 128);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.failure().code, "BAD_INPUT");
  EXPECT_NE(other.failure().what.find("64x64"), std::string::npos);
}

TEST_F(Models, in_a_batch_only_the_image_that_fails_fails) {
  // fails when any pixel is white, as a script with a bug would
  auto model = script("def forward(self, x):\n    assert bool((x < 0.99).all()), 'white'\n    return torch.tensor([[32.0, 32.0, 10.0, 10.0, 0.9, 0.0]]).t().unsqueeze(0).repeat([x.size(0), 1, 1])\n", kTwoClasses);
  ASSERT_TRUE(model) << model.failure().what;
  const image::Image fine(64, 64, 1, 100), poison(64, 64, 1, 255);
  const auto answers = detect(**model, {fine, poison, fine});
  ASSERT_EQ(answers.size(), 3U);
  EXPECT_TRUE(answers[0]);
  ASSERT_FALSE(answers[1]);
  EXPECT_EQ(answers[1].failure().code, "BAD_MODEL");
  EXPECT_TRUE(answers[2]);
  EXPECT_EQ((*model)->cap(), 4);   // a bug in the script is no shortage of memory
}

TEST_F(Models, a_batch_gives_what_single_images_give) {
  // the box depends on the image: its middle follows the mean
  auto model = script("def forward(self, x):\n    m = x.mean([1, 2, 3]) * 50.0 + 5.0\n    o = torch.ones_like(m)\n    return torch.stack([m, m, o * 8.0, o * 8.0, o * 0.9, o * 0.1], 1).unsqueeze(2)\n", kTwoClasses);
  ASSERT_TRUE(model) << model.failure().what;
  std::vector<image::Image> images;
  for (int i = 0; i < 3; ++i) images.emplace_back(64, 64, 1, static_cast<std::uint8_t>(40 + 60 * i));
  const auto together = detect(**model, images);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto alone = detect(**model, {images[i]});
    ASSERT_TRUE(together[i] && alone[0]);
    EXPECT_EQ(*together[i], *alone[0]);
  }
}

NamedTensor floats(const std::string& name, const std::vector<float>& v, std::vector<std::int64_t> shape) {
  NamedTensor out{.name = name, .dtype = "F32", .shape = std::move(shape), .bytes = {}};
  out.bytes.resize(v.size() * 4);
  std::memcpy(out.bytes.data(), v.data(), out.bytes.size());
  return out;
}

TEST_F(Models, any_script_answers_infer_by_the_names_of_its_arguments) {
  auto model = script("def forward(self, left, right):\n    return left + right, left * right\n");
  ASSERT_TRUE(model) << model.failure().what;
  EXPECT_FALSE((*model)->info().detects);
  const auto sum = (*model)->infer({floats("right", {1, 2}, {2}), floats("left", {10, 20}, {2})});
  ASSERT_TRUE(sum) << sum.failure().what;
  const std::vector<NamedTensor> want{floats("output0", {11, 22}, {2}), floats("output1", {10, 40}, {2})};
  EXPECT_EQ(*sum, want);
  const auto missing = (*model)->infer({floats("left", {1}, {1})});
  EXPECT_EQ(missing.failure().code, "BAD_INPUT");
  EXPECT_NE(missing.failure().next.find("left, right"), std::string::npos);
  EXPECT_EQ((*model)->infer({floats("left", {1, 2}, {2}), floats("right", {1, 2, 3}, {3})}).failure().code, "BAD_INPUT");
  const auto refused = detect(**model, {image::Image(64, 64, 1)});
  EXPECT_EQ(refused[0].failure().code, "BAD_INPUT");
}

TEST(Budget, the_context_is_counted_once_inside_it) {
  EXPECT_DOUBLE_EQ(memory_fraction(0, 700, 24'000), 1.0);
  EXPECT_DOUBLE_EQ(memory_fraction(6'860, 700, 24'000), 0.25);
  EXPECT_DOUBLE_EQ(memory_fraction(1'024, 612, 143'155), 252.0 / 143'155) << "also a small budget on a large card is exact";
  EXPECT_DOUBLE_EQ(memory_fraction(500, 700, 24'000), 64.0 / 24'000) << "so little that it ends as out of memory";
  EXPECT_DOUBLE_EQ(memory_fraction(100'000, 700, 24'000), 1.0);
}

/// A pretend card by plug-in and NVML, whose processes are what a file says.
struct PretendCard : ::testing::Test {
  std::string says = ::testing::TempDir() + "gpuq-card-" + std::to_string(::getpid());
  void SetUp() override {
    ::setenv("GPUQ_NVML", GPUQ_FAKE_NVML, 1);
    ::setenv("NVML_FAKE_FILE", says.c_str(), 1);
  }
  void TearDown() override {
    for (const char* name : {"GPUQ_NVML", "NVML_FAKE_FILE"}) ::unsetenv(name);
    std::filesystem::remove(says);
  }
  void we_hold(std::int64_t mib) const { std::ofstream(says) << "0 pid=" << ::getpid() << " mib=" << mib << "\n"; }
  static std::unique_ptr<Backend> opened(std::int64_t budget) {
    std::vector<std::string> notes;
    auto backend = Backend::open({.kind = "cuda", .vram_mib = budget, .threads = 0, .plugin = GPUQ_FAKE_CUDA}, notes);
    EXPECT_TRUE(backend) << backend.failure().what;
    return std::move(*backend);
  }
};

TEST_F(PretendCard, the_context_is_what_the_driver_says_of_this_process_and_the_rest_of_the_budget_is_for_tensors) {
  we_hold(612);
  const auto card = opened(1024);
  EXPECT_EQ(card->context_mib(), 612);
  EXPECT_DOUBLE_EQ(card->fraction(), 252.0 / 24'564);
  card->limit_memory(4096);
  EXPECT_DOUBLE_EQ(card->fraction(), 3324.0 / 24'564);
  card->limit_memory(0);
  EXPECT_DOUBLE_EQ(card->fraction(), 252.0 / 24'564) << "as it was opened";
  we_hold(1010);
  EXPECT_EQ(card->process_mib(), 1010);
  EXPECT_EQ(card->context_mib(), 612) << "measured once, when nothing else was there";
}

TEST(JointBudget, is_the_sum_unless_somebody_has_none) {
  EXPECT_EQ(joint_budget({{"a@1", 600}, {"b@1", 3500}}), 4100);
  EXPECT_EQ(joint_budget({{"a@1", 600}, {"b@1", 0}}), 0);
  EXPECT_EQ(joint_budget({}), 0);
}

TEST_F(PretendCard, where_the_driver_knows_this_process_by_no_number_a_context_is_taken_to_be_large) {
  std::ofstream(says) << "0 pid=1 mib=5000\n";   // ids of another namespace
  EXPECT_EQ(opened(6956)->context_mib(), 700);
  ::setenv("GPUQ_NVML", "/no/such/library.so", 1);
  const auto card = opened(6956);
  EXPECT_EQ(card->context_mib(), 700);
  EXPECT_EQ(card->process_mib(), -1);
}

TEST(Devices, an_unknown_kind_or_an_absent_card_is_said) {
  std::vector<std::string> notes;
  EXPECT_EQ(Backend::open({.kind = "tpu", .vram_mib = 0, .threads = 1, .plugin = {}}, notes).failure().code, "NO_DEVICE");
  EXPECT_EQ(Backend::open({.kind = "cuda", .vram_mib = 0, .threads = 1, .plugin = "/nonexistent/libgpuq_cuda.so"}, notes).failure().code, "NO_DEVICE");
}

}  // namespace
}  // namespace gq::exec
