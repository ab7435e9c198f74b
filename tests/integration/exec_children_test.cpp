// gpuq-modelhost and gpuq-trainer as processes, over a real socketpair, as the worker runs them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>

#include "common/image/board.h"
#include "common/image/image.h"
#include "tests/unit/exec_scripts.h"
#include "worker/child/frame.h"
#include "worker/executors/json.h"
#include "worker/executors/tensor_part.h"

extern char** environ;

namespace gq::exec {
namespace {

namespace fs = std::filesystem;
using child::Frame;
using child::Type;
constexpr int kPatienceMs = 90'000;   // a deadline against hanging, not a speed

class Child {
 public:
  explicit Child(const std::string& program) : channel_(-1) {
    const auto [ours, theirs] = child::Channel::make_pair();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (theirs == 3) ::fcntl(theirs, F_SETFD, 0);
    posix_spawn_file_actions_adddup2(&actions, theirs, 3);
    const std::string path = std::string(GPUQ_BIN_DIR) + "/" + program;
    std::string name = program;
    char* argv[]{name.data(), nullptr};
    EXPECT_EQ(::posix_spawn(&pid_, path.c_str(), &actions, nullptr, argv, environ), 0) << path;
    posix_spawn_file_actions_destroy(&actions);
    ::close(theirs);
    channel_ = child::Channel(ours);
  }
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void send(const Frame& frame) { ASSERT_TRUE(channel_.send(frame)); }
  /// The next frame; nullopt: the child closed its end, or nothing came for a long time.
  std::optional<Frame> next() {
    pollfd ready{channel_.fd(), POLLIN, 0};
    if (::poll(&ready, 1, kPatienceMs) <= 0) return std::nullopt;
    Frame frame;
    std::string error;
    if (channel_.receive(frame, error) != child::Channel::Got::frame) return std::nullopt;
    return frame;
  }
  /// The next frame of one of these types; others are counted and passed over.
  std::optional<Frame> next(std::initializer_list<Type> types) {
    while (auto frame = next()) {
      if (std::find(types.begin(), types.end(), frame->type) != types.end()) return frame;
      ++passed[frame->type];
    }
    return std::nullopt;
  }
  std::optional<Frame> greet(const std::string& role, const std::string& scratch) {
    Frame hello{.type = Type::hello, .id = 0, .fields = {}};
    hello.add("role", role).add("device", std::string_view("cpu")).add("device_kind", std::string_view("cpu")).add("vram_mib", std::int64_t{0});
    hello.add("threads", std::int64_t{1}).add("scratch", scratch);
    send(hello);
    return next({Type::ready});
  }
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }
  void close() { channel_ = child::Channel(-1); }
  [[nodiscard]] pid_t pid() const { return pid_; }
  std::map<Type, int> passed;

 private:
  pid_t pid_{-1};
  child::Channel channel_;
};

class Children : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "gpuq-children-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder = pattern;
  }
  void TearDown() override { fs::remove_all(folder); }
  [[nodiscard]] std::string path(const std::string& name) const { return (folder / name).string(); }

  static Frame load(std::uint64_t id, const std::string& model, const std::string& file) {
    Frame f{.type = Type::load, .id = id, .fields = {}};
    f.add("model", model).add("path", file).add("runtime", std::string_view(""));
    return f;
  }
  static Frame detect(std::uint64_t id, const std::string& model, const std::string& image) {
    Frame f{.type = Type::run, .id = id, .fields = {}};
    f.add("kind", std::string_view("detect")).add("model", model).add_bytes("part.image", image);
    return f;
  }
  Frame train(std::uint64_t id, const std::string& name, int steps) const {
    Frame f{.type = Type::run, .id = id, .fields = {}};
    f.add("kind", std::string_view("train.detector")).add("param.data_dir", path("boards")).add("param.steps", std::to_string(steps));
    f.add("param.batch", std::string_view("2")).add("param.imgsz", std::string_view("64")).add("param.val_fraction", std::string_view("0"));
    f.add("checkpoint_dir", path(name + "/checkpoints")).add("output_dir", path(name + "/out"));
    return f;
  }
  void draw_boards() const {
    std::string error;
    fs::create_directories(folder / "boards");
    for (int i = 0; i < 4; ++i)
      ASSERT_TRUE(image::write_board(path("boards"), "b" + std::to_string(i), image::draw_board(static_cast<std::uint64_t>(i), 256, 5), error)) << error;
  }
  fs::path folder;
};

constexpr const char* kMetadata = R"({"imgsz": [64, 64], "names": ["cat", "dog"]})";

TEST_F(Children, a_modelhost_loads_detects_and_stops) {
  testing::write_script(path("m.pt"), testing::raw_detector({{32, 32, 20, 10, 0.9F, 0.1F}}), kMetadata);
  Child host("gpuq-modelhost");
  const auto ready = host.greet("modelhost", folder.string());
  ASSERT_TRUE(ready);
  EXPECT_EQ(ready->number("protocol"), 1);
  EXPECT_EQ(ready->number("pid"), host.pid());
  EXPECT_EQ(ready->text("device_kind"), "cpu");

  host.send(load(7, "m@1", path("m.pt")));
  const auto loaded = host.next({Type::loaded, Type::failed});
  ASSERT_TRUE(loaded);
  ASSERT_EQ(loaded->type, Type::loaded) << loaded->text("what");
  EXPECT_EQ(loaded->id, 7U);
  EXPECT_EQ(loaded->number("batch_max"), 4);
  EXPECT_GE(loaded->number("used_mib"), 1);

  // a large image travels in a memfd, small ones inline; many in flight; one of them is broken and only that one fails
  const std::string good = image::encode_png(image::Image(128, 64, 3, 50));
  image::Image noisy(400, 400, 3);
  std::mt19937 random(1);
  for (auto& pixel : noisy.pixels) pixel = static_cast<std::uint8_t>(random());
  const std::string large = image::encode_png(noisy);
  ASSERT_GT(large.size(), 100'000U);
  for (std::uint64_t id = 100; id < 120; ++id) host.send(detect(id, "m@1", id == 105 ? good.substr(0, good.size() / 2) : id == 106 ? large : good));
  Frame typo = detect(120, "m@1", good);
  typo.add("param.conf", std::string_view("high"));
  host.send(typo);
  host.send(detect(121, "other@1", good));
  std::map<std::uint64_t, Frame> answers;
  std::map<std::uint64_t, int> started;
  while (answers.size() < 22) {
    const auto frame = host.next({Type::done, Type::failed, Type::started});
    ASSERT_TRUE(frame);
    if (frame->type == Type::started) {
      ++started[frame->id];
      ASSERT_FALSE(answers.contains(frame->id)) << "started after its end";
    } else {
      ASSERT_TRUE(answers.emplace(frame->id, *frame).second) << "two answers to " << frame->id;
    }
  }
  for (const auto& [id, frame] : answers) {
    if (id == 105) {
      EXPECT_EQ(frame.text("code"), "BAD_IMAGE");
    } else if (id == 120) {
      EXPECT_EQ(frame.text("code"), "BAD_INPUT");
    } else if (id == 121) {
      EXPECT_EQ(frame.text("code"), "NOT_HERE");
    } else {
      ASSERT_EQ(frame.type, Type::done) << id << ": " << frame.text("what");
      EXPECT_EQ(started[id], 1);
      const auto json = parse_json(frame.text("out.detections"));
      ASSERT_TRUE(json);
      ASSERT_EQ(json->find("boxes")->array()->size(), 1U);
      EXPECT_EQ(json->find("width")->number(), id == 106 ? 400 : 128);
      EXPECT_EQ(*json->find("boxes")->array()->front().find("name")->text(), "cat");
    }
  }
  EXPECT_FALSE(started.contains(105));   // a job that never ran cannot be blamed for a crash

  host.send({.type = Type::ping, .id = 55, .fields = {}});
  const auto pong = host.next({Type::pong});
  ASSERT_TRUE(pong);
  EXPECT_EQ(pong->id, 55U);
  host.send({.type = Type::stop, .id = 0, .fields = {}});
  EXPECT_EQ(host.wait(), 0);
}

TEST_F(Children, a_modelhost_answers_a_bad_model_and_infers_by_names) {
  std::ofstream(path("pickle.pt"), std::ios::binary) << "\x80\x02}.";
  testing::write_script(path("sum.pt"), "def forward(self, a, b):\n    return a + b\n");
  Child host("gpuq-modelhost");
  ASSERT_TRUE(host.greet("modelhost", folder.string()));
  host.send(load(1, "pickle@1", path("pickle.pt")));
  const auto refused = host.next({Type::loaded, Type::failed});
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->text("code"), "BAD_MODEL");
  host.send(load(2, "sum@1", path("sum.pt")));
  const NamedTensor tensor{.name = "a", .dtype = "I64", .shape = {1}, .bytes = std::string("\x05\0\0\0\0\0\0\0", 8)};
  Frame run{.type = Type::run, .id = 3, .fields = {}};   // sent while the model loads: it waits for it
  run.add("kind", std::string_view("infer")).add("model", std::string_view("sum@1")).add_bytes("part.a", encode_tensor_part(tensor)).add_bytes("part.b", encode_tensor_part(tensor));
  host.send(run);
  const auto done = host.next({Type::done, Type::failed});
  ASSERT_TRUE(done);
  ASSERT_EQ(done->type, Type::done) << done->text("what");
  EXPECT_EQ(done->text("out_media.output"), kTensorMedia);
  EXPECT_EQ(decode_tensor_part("output", done->text("out.output"))->bytes[0], 10);
  Frame wrong{.type = Type::run, .id = 4, .fields = {}};
  wrong.add("kind", std::string_view("infer")).add("model", std::string_view("sum@1")).add_bytes("part.a", "no tensor");
  host.send(wrong);
  EXPECT_EQ(host.next({Type::done, Type::failed})->text("code"), "BAD_INPUT");
}

TEST_F(Children, a_model_that_is_to_leave_answers_its_last_jobs_and_then_says_that_its_memory_is_free) {
  testing::write_script(path("m.pt"), testing::raw_detector({{32, 32, 20, 10, 0.9F, 0.1F}}), kMetadata);
  Child host("gpuq-modelhost");
  ASSERT_TRUE(host.greet("modelhost", folder.string()));
  host.send(load(1, "m@1", path("m.pt")));
  ASSERT_EQ(host.next({Type::loaded, Type::failed})->type, Type::loaded);
  const std::string image = image::encode_png(image::Image(64, 64, 3, 50));
  for (std::uint64_t id = 10; id < 16; ++id) host.send(detect(id, "m@1", image));
  for (const std::uint64_t id : {20U, 21U}) {   // said twice: the second finds nothing to do, and says so
    Frame unload{.type = Type::unload, .id = id, .fields = {}};
    unload.add("model", std::string_view("m@1"));
    host.send(unload);
  }
  std::vector<std::uint64_t> ends;
  while (ends.size() < 8) {
    const auto frame = host.next({Type::done, Type::failed, Type::unloaded});
    ASSERT_TRUE(frame) << "an idle thread kept the model alive";
    EXPECT_NE(frame->type, Type::failed) << frame->text("what");
    ends.push_back(frame->id);
  }
  EXPECT_EQ((std::vector<std::uint64_t>{ends.end() - 2, ends.end()}), (std::vector<std::uint64_t>{20, 21})) << "after the jobs that held it";
  host.send(detect(30, "m@1", image));
  EXPECT_EQ(host.next({Type::done, Type::failed})->text("code"), "NOT_HERE");
  host.send(load(2, "m@1", path("m.pt")));
  EXPECT_EQ(host.next({Type::loaded, Type::failed})->type, Type::loaded) << "and it may come back";
}

TEST_F(Children, children_die_with_their_supervisor_and_a_killed_one_is_noticed) {
  Child left("gpuq-modelhost");
  ASSERT_TRUE(left.greet("modelhost", folder.string()));
  left.close();                     // what the kernel does when the supervisor dies
  EXPECT_EQ(left.wait(), 0);

  Child killed("gpuq-modelhost");
  ASSERT_TRUE(killed.greet("modelhost", folder.string()));
  ::kill(killed.pid(), SIGKILL);
  EXPECT_FALSE(killed.next());      // end of file, no frame
  EXPECT_TRUE(WIFSIGNALED(killed.wait()));

  draw_boards();
  Child trainer("gpuq-trainer");
  ASSERT_TRUE(trainer.greet("trainer", folder.string()));
  trainer.send(train(1, "orphan", 100'000));
  ASSERT_TRUE(trainer.next({Type::progress}));
  trainer.close();
  EXPECT_EQ(trainer.wait(), 0);
}

TEST_F(Children, a_preempted_training_goes_on_in_a_new_process_and_ends_bit_equal) {
  draw_boards();
  const auto finish = [&](Child& trainer) -> std::string {
    const auto done = trainer.next({Type::done, Type::failed});
    EXPECT_TRUE(done);
    if (!done || done->type != Type::done) return done ? std::string(done->text("what")) : "nothing";
    EXPECT_TRUE(fs::exists(done->text("out_file.model")));
    EXPECT_EQ(done->text("value.runtime"), "gpuq-detector");
    EXPECT_TRUE(parse_json(done->text("value.metadata")));
    EXPECT_EQ(trainer.wait(), 0);
    return std::string(done->text("value.weights_hash"));
  };
  Child straight("gpuq-trainer");
  ASSERT_TRUE(straight.greet("trainer", folder.string()));
  straight.send(train(1, "straight", 60));
  const std::string want = finish(straight);
  EXPECT_GE(straight.passed[Type::progress], 1);

  std::string resume;
  {
    Child first("gpuq-trainer");
    ASSERT_TRUE(first.greet("trainer", folder.string()));
    first.send(train(2, "first", 60));
    ASSERT_TRUE(first.next({Type::progress}));
    Frame preempt{.type = Type::preempt, .id = 2, .fields = {}};
    preempt.add("deadline_ms", std::int64_t{30'000});
    first.send(preempt);
    ASSERT_TRUE(first.next({Type::released}));
    const auto checkpoint = first.next({Type::checkpoint});
    ASSERT_TRUE(checkpoint);
    resume = checkpoint->text("path");
    const auto yielded = first.next({Type::yielded});
    ASSERT_TRUE(yielded);
    EXPECT_EQ(yielded->id, 2U);
    EXPECT_EQ(yielded->number("step"), checkpoint->number("step"));
    EXPECT_EQ(first.wait(), 0);
  }
  Child second("gpuq-trainer");
  ASSERT_TRUE(second.greet("trainer", folder.string()));
  Frame again = train(3, "second", 60);
  again.add("resume", resume);
  second.send(again);
  // SIGTERM means the same as preempt: a second life ends early as well
  ASSERT_TRUE(second.next({Type::progress}));
  ::kill(second.pid(), SIGTERM);
  const auto leave = second.next({Type::yielded, Type::done});
  ASSERT_TRUE(leave);
  if (leave->type == Type::done) {
    EXPECT_EQ(leave->text("value.weights_hash"), want);
    return;
  }
  EXPECT_EQ(second.wait(), 0);
  Child third("gpuq-trainer");
  ASSERT_TRUE(third.greet("trainer", folder.string()));
  third.send(train(4, "second", 60));   // finds its own folder's checkpoint
  EXPECT_EQ(finish(third), want);
}

TEST_F(Children, a_trainer_cancels_and_refuses_with_codes) {
  draw_boards();
  {
    Child trainer("gpuq-trainer");
    ASSERT_TRUE(trainer.greet("trainer", folder.string()));
    trainer.send(train(1, "cancelled", 100'000));
    ASSERT_TRUE(trainer.next({Type::progress}));
    trainer.send({.type = Type::cancel, .id = 1, .fields = {}});
    EXPECT_EQ(trainer.next({Type::failed, Type::done})->text("code"), "CANCELLED");
    EXPECT_EQ(trainer.wait(), 0);
  }
  Child trainer("gpuq-trainer");
  ASSERT_TRUE(trainer.greet("trainer", folder.string()));
  Frame wrong = train(2, "wrong", 10);
  wrong.add("param.learning_rate", std::string_view("1"));
  trainer.send(wrong);
  const auto failed = trainer.next({Type::failed, Type::done});
  ASSERT_TRUE(failed);
  EXPECT_EQ(failed->text("code"), "BAD_INPUT");
}

}  // namespace
}  // namespace gq::exec
