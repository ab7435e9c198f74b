#include "worker/executors/trainer.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include "worker/child/frame.h"
#include "worker/executors/conversation.h"
#include "worker/executors/json.h"
#include "worker/executors/process.h"
#include "worker/executors/training.h"

namespace gq::exec {
namespace {

using child::Frame;
using child::Type;

constexpr auto kHeldLook = std::chrono::milliseconds(50);

class TrainerChild {
 public:
  explicit TrainerChild(int fd) : channel_(fd) {}

  int run() {
    const auto backend = greet(channel_, {"train.detector"}, scratch_);
    if (!backend) return 1;
    std::thread([this] { read(); }).detach();   // ends with the process
    std::optional<Frame> job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return job_.has_value() || stopped_; });
      job = std::move(job_);
    }
    if (job) train(*job, *backend);
    return 0;
  }

 private:
  void read() {
    std::string error;
    for (Frame frame;;) {
      switch (channel_.receive(frame, error)) {
        case child::Channel::Got::closed: ::_exit(0);
        case child::Channel::Got::malformed: std::fprintf(stderr, "trainer: bad frame: %s\n", error.c_str()); ::_exit(1);
        case child::Channel::Got::nothing: continue;
        case child::Channel::Got::frame: break;
      }
      switch (frame.type) {
        case Type::ping: channel_.send({.type = Type::pong, .id = frame.id, .fields = {}}); break;
        case Type::preempt: asked_to_leave = true; break;
        case Type::cancel: cancelled_ = true; break;
        case Type::hold: held_ = true; break;
        case Type::go: held_ = false; break;
        case Type::run: take(std::move(frame)); break;
        case Type::stop: {
          const std::lock_guard lock(mutex_);
          stopped_ = true;
          changed_.notify_all();
          break;
        }
        default: break;
      }
      changed_.notify_all();
      frame = {};
    }
  }

  void take(Frame frame) {
    const std::lock_guard lock(mutex_);
    if (taken_) return fail(frame.id, {"INTERNAL", "a trainer runs one job", {}});
    taken_ = true;
    job_ = std::move(frame);
    changed_.notify_all();
  }

  void train(const Frame& job, const Backend& backend) {
    if (const auto kind = job.text("kind"); kind != "train.detector")
      return fail(job.id, {"UNKNOWN_KIND", "this trainer knows train.detector, not '" + std::string(kind) + "'", {}});
    const auto params = job.with_prefix("param.");
    auto parsed = parse_train_params(params);
    if (!parsed) return fail(job.id, parsed.failure());
    if (const auto model = job.text("file.init_model"); !model.empty()) parsed->init_model = model;
    TrainRequest request{.params = std::move(*parsed), .dataset = {}, .checkpoint_dir = std::string(job.text("checkpoint_dir")),
                         .output_dir = std::string(job.text("output_dir")), .resume = std::string(job.text("resume")),
                         .job = std::string(job.text("job")), .attempt = job.number("attempt")};
    if (request.output_dir.empty()) request.output_dir = scratch_;
    auto dataset = find_dataset(job, params);
    if (!dataset) return fail(job.id, dataset.failure());
    request.dataset = *dataset;

    channel_.send({.type = Type::started, .id = job.id, .fields = {}});
    const auto result = train_detector(request, backend, hooks(job.id));
    if (!result) {
      if (result.failure().code == "DEVICE_LOST") {
        log(job.id, "the device is unusable in this process: " + result.failure().what);
        ::_exit(kExitDevice);
      }
      return fail(job.id, result.failure());
    }
    switch (result->end) {
      case TrainEnd::cancelled: return fail(job.id, {"CANCELLED", "cancelled at step " + std::to_string(result->step), {}});
      case TrainEnd::yielded: {
        Frame yielded{.type = Type::yielded, .id = job.id, .fields = {}};
        yielded.add("step", result->step);
        channel_.send(yielded);
        return;
      }
      case TrainEnd::finished: return report(job.id, *result);
    }
  }

  /// The data set's place: a folder named by parameter, a file that the worker fetched, or bytes that came along.
  Expected<std::string> find_dataset(const Frame& job, const std::map<std::string, std::string>& params) const {
    if (const auto it = params.find("data_dir"); it != params.end()) return it->second;
    if (const auto file = job.text("file.dataset"); !file.empty()) return std::string(file);
    auto files = job.with_prefix("file.");
    files.erase("init_model");
    if (files.size() == 1) return files.begin()->second;
    auto parts = job.with_prefix("part.");
    if (parts.size() == 1) {
      const std::string path = (std::filesystem::path(scratch_) / "dataset.tar").string();
      std::ofstream out(path, std::ios::binary);
      out << parts.begin()->second;
      out.close();
      if (!out) return Failure{"STORAGE_FULL", "cannot write " + path, {}};
      return path;
    }
    return bad_input("the job brings no data set", "--part dataset=boards.tar (tar -cf boards.tar -C FOLDER .), or --set data_dir=FOLDER on the worker");
  }

  TrainHooks hooks(std::uint64_t id) {
    TrainHooks out;
    out.progress = [this, id](const TrainProgress& p) {
      Frame f{.type = Type::progress, .id = id, .fields = {}};
      f.add("step", p.step).add("total", p.total);
      for (const auto& [name, value] : p.metrics) f.add("metric." + name, value);
      channel_.send(f);
    };
    out.log = [this, id](const std::string& text) { log(id, text); };
    out.should_yield = [] { return asked_to_leave.load(); };
    out.stand_while_held = [this] {
      std::unique_lock lock(mutex_);
      // A signal handler notifies nobody, so what it sets is looked at now and then.
      while (held_ && !cancelled_ && !stopped_ && !asked_to_leave) changed_.wait_for(lock, kHeldLook);
    };
    out.should_cancel = [this] { return cancelled_.load(); };
    out.should_save = [] { return asked_to_save.exchange(false); };
    out.released = [this, id](std::int64_t step) {
      Frame f{.type = Type::released, .id = id, .fields = {}};
      f.add("step", step);
      channel_.send(f);
    };
    out.checkpointed = [this, id](std::int64_t step, const std::string& path) {
      Frame f{.type = Type::checkpoint, .id = id, .fields = {}};
      f.add("step", step).add("path", path);
      channel_.send(f);
    };
    return out;
  }

  void report(std::uint64_t id, const TrainResult& result) {
    Json::Array names;
    for (const auto& n : result.names) names.emplace_back(n);
    const auto metrics = parse_json(result.metrics_json);
    const Json metadata(Json::Object{{"runtime", "gpuq-detector"}, {"names", std::move(names)}, {"metrics", metrics ? *metrics : Json()}});
    Frame done{.type = Type::done, .id = id, .fields = {}};
    done.add("out_file.model", result.model_path).add("out_media.model", std::string_view("application/x-gpuq-detector"));
    done.add_bytes("out.metrics", result.metrics_json).add("out_media.metrics", std::string_view("application/json"));
    done.add("value.runtime", std::string_view("gpuq-detector")).add("value.metadata", metadata.dump());
    done.add("value.steps", result.step).add("value.weights_hash", std::to_string(result.weights_hash));
    channel_.send(done);
  }

  void log(std::uint64_t id, const std::string& text) { say_log(channel_, id, text); }
  void fail(std::uint64_t id, const Failure& failure) { say_failed(channel_, id, failure); }

  child::Channel channel_;
  std::string scratch_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Frame> job_;
  bool taken_{}, stopped_{};
  std::atomic<bool> cancelled_{}, held_{};
};

}  // namespace

int run_trainer(int fd) {
  handle_signals();
  // The reader thread still uses the channel when the job is over: it lives until the process ends.
  return (new TrainerChild(fd))->run();   // NOLINT
}

}  // namespace gq::exec
