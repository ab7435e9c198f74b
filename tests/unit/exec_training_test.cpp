// The training loop: the same seed gives the same bits, however often it is interrupted; what it saves can be trusted or is not used.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "common/image/board.h"
#include "worker/executors/model.h"
#include "worker/executors/training.h"

namespace gq::exec {
namespace {

namespace fs = std::filesystem;

const Backend& cpu() {
  static const auto backend = [] {
    std::vector<std::string> notes;
    return std::move(*Backend::open({.kind = "cpu", .vram_mib = 0, .threads = 1, .plugin = {}}, notes));
  }();
  return *backend;
}

class Training : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "gpuq-train-XXXXXX").string(), error;
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder = pattern;
    fs::create_directories(folder / "boards");
    for (int i = 0; i < 6; ++i)
      ASSERT_TRUE(image::write_board((folder / "boards").string(), "b" + std::to_string(i), image::draw_board(static_cast<std::uint64_t>(100 + i), 256, 5), error)) << error;
  }
  void TearDown() override { fs::remove_all(folder); }

  [[nodiscard]] TrainRequest request(const std::string& name, const std::string& amp = "off") const {
    TrainRequest r;
    r.params = {.steps = 12, .batch = 2, .imgsz = 64, .seed = 5, .checkpoint_every = 5, .val_fraction = 0, .amp = amp, .init_model = {}};
    r.dataset = (folder / "boards").string();
    r.checkpoint_dir = (folder / name / "checkpoints").string();
    r.output_dir = (folder / name / "out").string();
    r.job = "job-7";
    return r;
  }
  /// Trains until the end, asked to leave after the given numbers of steps, each life resuming from the last.
  TrainResult train(TrainRequest r, const std::vector<std::int64_t>& leave_after = {}) {
    for (const std::int64_t steps : leave_after) {
      std::int64_t asked = 0;
      TrainHooks hooks;
      hooks.should_yield = [&] { return asked++ >= steps; };
      hooks.log = [&](const std::string& line) { logs.push_back(line); };
      const auto end = train_detector(r, cpu(), hooks);
      EXPECT_TRUE(end) << end.failure().what;
      EXPECT_EQ(end->end, TrainEnd::yielded);
      ++r.attempt;
    }
    TrainHooks hooks;
    hooks.log = [&](const std::string& line) { logs.push_back(line); };
    auto end = train_detector(r, cpu(), hooks);
    EXPECT_TRUE(end) << end.failure().what;
    EXPECT_EQ(end->end, TrainEnd::finished);
    return *end;
  }
  [[nodiscard]] bool logged(const std::string& part) const {
    return std::any_of(logs.begin(), logs.end(), [&](const auto& l) { return l.find(part) != std::string::npos; });
  }
  fs::path folder;
  std::vector<std::string> logs;
};

TEST_F(Training, interrupted_three_times_it_ends_bit_equal) {
  const auto straight = train(request("straight"));
  const auto again = train(request("again"));
  const auto interrupted = train(request("interrupted"), {3, 4, 2});
  EXPECT_EQ(straight.weights_hash, again.weights_hash);
  EXPECT_EQ(straight.weights_hash, interrupted.weights_hash);
  EXPECT_TRUE(logged("resumed at step 3"));
  EXPECT_TRUE(logged("resumed at step 7"));
  EXPECT_TRUE(logged("resumed at step 9"));
  auto other = request("other");
  other.params.seed = 6;
  EXPECT_NE(train(other).weights_hash, straight.weights_hash);
}

TEST_F(Training, bf16_resumes_bit_equal_too) {
  EXPECT_EQ(train(request("straight", "on")).weights_hash, train(request("interrupted", "on"), {5, 3, 1}).weights_hash);
}

TEST_F(Training, leaving_frees_memory_first_and_then_saves) {
  std::vector<std::string> order;
  TrainHooks hooks;
  std::int64_t asked = 0;
  hooks.should_yield = [&] { return asked++ >= 4; };
  hooks.released = [&](std::int64_t step) {
    EXPECT_FALSE(fs::exists(folder / "run" / "checkpoints" / "step-000000000004.gpuqckpt"));
    order.push_back("released " + std::to_string(step));
  };
  hooks.checkpointed = [&](std::int64_t step, const std::string& path) {
    EXPECT_TRUE(fs::exists(path));
    order.push_back("durable " + std::to_string(step));
  };
  const auto end = train_detector(request("run"), cpu(), hooks);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end, TrainEnd::yielded);
  EXPECT_EQ(end->step, 4);
  EXPECT_EQ(order, (std::vector<std::string>{"released 4", "durable 4"}));
}

TEST_F(Training, after_a_kill_it_goes_on_from_the_last_whole_checkpoint) {
  const auto straight = train(request("straight"));
  // a first life that is killed after step 11: checkpoints 5 and 10 are on disk, and the newer one is damaged
  TrainHooks hooks;
  std::int64_t asked = 0;
  hooks.should_cancel = [&] { return asked++ >= 11; };
  ASSERT_EQ(train_detector(request("killed"), cpu(), hooks)->end, TrainEnd::cancelled);
  const fs::path newest = folder / "killed" / "checkpoints" / "step-000000000010.gpuqckpt";
  ASSERT_TRUE(fs::exists(newest));
  fs::resize_file(newest, fs::file_size(newest) / 2);
  EXPECT_EQ(train(request("killed")).weights_hash, straight.weights_hash);
  EXPECT_TRUE(logged("step-000000000010.gpuqckpt is not used"));
  EXPECT_TRUE(logged("resumed at step 5"));
}

TEST_F(Training, without_a_usable_checkpoint_it_starts_from_zero_and_says_so) {
  const auto straight = train(request("straight"));
  auto r = request("fresh");
  r.resume = (folder / "nothing.gpuqckpt").string();
  EXPECT_EQ(train(r).weights_hash, straight.weights_hash);
  EXPECT_TRUE(logged("starts from zero"));
  auto changed = request("straight");   // other parameters: the checkpoints there do not fit
  changed.params.lr = 1e-4;
  EXPECT_EQ(train(changed).step, 12);
  EXPECT_TRUE(logged("other parameters"));
}

TEST_F(Training, the_model_it_leaves_detects_and_can_be_trained_on) {
  auto validated = request("run");
  validated.params.val_fraction = 0.2;
  const auto done = train(validated);
  EXPECT_NE(done.metrics_json.find("recall"), std::string::npos);
  auto model = Model::load({.name = "pcb@1", .path = done.model_path, .runtime = {}, .metadata = {}}, cpu());
  ASSERT_TRUE(model) << model.failure().what;
  EXPECT_EQ((*model)->info().runtime, "gpuq-detector");
  EXPECT_EQ((*model)->info().names.size(), 6U);
  EXPECT_EQ((*model)->info().width, 256);
  const auto prepared = (*model)->prepare(image::draw_board(3, 256, 4).test, 0);
  ASSERT_TRUE(prepared);
  EXPECT_TRUE((*model)->detect({{&*prepared, {}}})[0]);
  auto next = request("next");
  next.params.init_model = done.model_path;
  EXPECT_NE(train(next).weights_hash, done.weights_hash);

  std::string bytes, why;
  ASSERT_TRUE(image::read_file(done.model_path, bytes, why));
  bytes[bytes.size() - 100] = static_cast<char>(bytes[bytes.size() - 100] ^ 1);
  std::ofstream(folder / "damaged", std::ios::binary) << bytes;
  const auto damaged = Model::load({.name = "d@1", .path = (folder / "damaged").string(), .runtime = {}, .metadata = {}}, cpu());
  EXPECT_EQ(damaged.failure().code, "BAD_MODEL");
  EXPECT_NE(damaged.failure().what.find("checksum"), std::string::npos);
}

TEST_F(Training, it_learns) {
  auto r = request("learns");
  r.params.steps = 40;
  r.params.batch = 4;
  r.params.imgsz = 96;
  double first = 0, last = 0;
  TrainHooks hooks;
  hooks.progress = [&](const TrainProgress& p) {
    for (const auto& [name, value] : p.metrics) {
      if (name != "loss") continue;
      if (first == 0) first = value;
      last = value;
    }
  };
  ASSERT_TRUE(train_detector(r, cpu(), hooks));
  EXPECT_LT(last, 0.6 * first);
}

TEST_F(Training, crops_turn_boxes_with_their_pixels) {
  Sample sample{.name = "one", .image = image::Image(200, 200, 1, 0), .labels = {{90, 100, 120, 110, 0, 2}}};
  for (int y = 100; y < 110; ++y)
    for (int x = 90; x < 120; ++x) sample.image.pixels[sample.image.at(x, y)] = 255;
  for (std::uint64_t random = 0; random < 64; ++random) {
    const Crop crop = make_crop(sample, &sample.labels[0], 96, random * 7919);
    ASSERT_EQ(crop.boxes.size(), 1U);
    if (crop.boxes[0].label < 0) continue;
    const Box& b = crop.boxes[0];
    ASSERT_EQ(b.label, 2);
    for (int y = 0; y < 96; ++y)
      for (int x = 0; x < 96; ++x) {
        const bool inside = static_cast<float>(x) >= b.x1 && static_cast<float>(x) < b.x2 && static_cast<float>(y) >= b.y1 && static_cast<float>(y) < b.y2;
        ASSERT_EQ(crop.image.pixels[crop.image.at(x, y)] == 255, inside) << random << ": " << x << "," << y;
      }
  }
}

TEST_F(Training, parameters_out_of_range_are_refused) {
  EXPECT_TRUE(parse_train_params({{"steps", "10"}, {"lr", "0.001"}, {"data_dir", "/x"}}));
  for (const auto& [key, value] : std::vector<std::pair<std::string, std::string>>{{"steps", "0"}, {"lr", "x"}, {"imgsz", "100"}, {"batch", "1000"}, {"val_fraction", "0.9"}, {"amp", "maybe"}, {"epoch", "3"}}) {
    const auto got = parse_train_params({{key, value}});
    ASSERT_FALSE(got) << key;
    EXPECT_EQ(got.failure().code, "BAD_INPUT");
  }
  auto r = request("none");
  r.dataset = (folder / "none").string();
  EXPECT_EQ(train_detector(r, cpu(), {}).failure().code, "BAD_INPUT");
}

}  // namespace
}  // namespace gq::exec
