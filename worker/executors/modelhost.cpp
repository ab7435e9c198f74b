#include "worker/executors/modelhost.h"

#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "worker/child/frame.h"
#include "worker/executors/batcher.h"
#include "worker/executors/conversation.h"
#include "worker/executors/json.h"
#include "worker/executors/model.h"
#include "worker/executors/modelhost_work.h"
#include "worker/executors/process.h"
#include "worker/executors/tensor_part.h"

namespace gq::exec {
namespace {

using child::Frame;
using child::Type;
class ModelHost {
 public:
  explicit ModelHost(int fd) : channel_(fd) {}

  int run() {
    std::string scratch;
    backend_ = greet(channel_, {"detect", "infer"}, scratch);
    if (!backend_) return 1;
    on_device_lost = [this](const std::string& why) {
      log(0, "the device is unusable in this process: " + why);
      ::_exit(kExitDevice);
    };
    start_threads();
    const int code = read();
    requests_.close();
    loads_.close();
    batcher_.close();
    for (auto& t : threads_) t.join();
    return code;
  }

 private:
  void start_threads() {
    const bool gpu = backend_->kind() == DeviceKind::cuda;
    const auto decoders = std::clamp(std::thread::hardware_concurrency() / 2, 1U, gpu ? 8U : 2U);
    threads_.emplace_back([this] { load_loop(); });
    for (unsigned i = 0; i < decoders; ++i) threads_.emplace_back([this] { decode_loop(); });
    for (int i = 0; i < (gpu ? 2 : 1); ++i) threads_.emplace_back([this] { device_loop(); });
  }

  int read() {
    std::string error;
    for (Frame frame;;) {
      switch (channel_.receive(frame, error)) {
        case child::Channel::Got::closed: ::_exit(0);   // the supervisor is gone: nobody is left to answer
        case child::Channel::Got::malformed: std::fprintf(stderr, "modelhost: bad frame: %s\n", error.c_str()); ::_exit(1);
        case child::Channel::Got::nothing: continue;
        case child::Channel::Got::frame: break;
      }
      switch (frame.type) {
        case Type::load: begin_load(std::move(frame)); break;
        case Type::unload: loads_.push(std::move(frame)); break;   // after the loads before it, and before those behind it
        case Type::run: begin_run(std::move(frame)); break;
        case Type::cancel: cancel(frame.id); break;
        case Type::ping: channel_.send({.type = Type::pong, .id = frame.id, .fields = {}}); break;
        case Type::stop: drain(); return 0;
        default: break;                                 // a newer supervisor's words
      }
      frame = {};
    }
  }

  // ---- models

  void begin_load(Frame frame) {
    {
      const std::lock_guard lock(models_mutex_);
      loading_[std::string(frame.text("model"))];       // runs that come before `loaded` wait here
    }
    loads_.push(std::move(frame));
  }

  void load_loop() {
    backend_->enter_thread();
    for (Frame frame; loads_.take(frame);) {
      const std::string name(frame.text("model"));
      if (frame.type == Type::unload) {
        unload(frame.id, name);
        continue;
      }
      budgets_[name] = frame.number("budget_mib");
      hold_to_budgets();
      auto model = Model::load({.name = name, .path = std::string(frame.text("path")), .runtime = std::string(frame.text("runtime")),
                                .metadata = std::string(frame.text("metadata")), .batch_max = static_cast<int>(frame.number("batch_max")),
                                .budget_mib = frame.number("budget_mib")}, *backend_);
      std::vector<WorkPtr> waiting;
      {
        const std::lock_guard lock(models_mutex_);
        waiting = std::move(loading_[name]);
        loading_.erase(name);
        if (model) models_[name] = *model;
      }
      if (!model) {
        budgets_.erase(name);
        hold_to_budgets();
        fail(frame.id, model.failure());
        for (const auto& w : waiting) finish_failed(*w, model.failure());
        continue;
      }
      const ModelInfo& info = (*model)->info();
      Json::Array names;
      for (const auto& n : info.names) names.emplace_back(n);
      Frame loaded{.type = Type::loaded, .id = frame.id, .fields = {}};
      loaded.add("model", name).add("used_mib", info.used_mib).add("batch_max", std::int64_t{info.batch_max});
      loaded.add("metadata", Json(Json::Object{{"runtime", info.runtime}, {"names", std::move(names)}, {"imgsz", Json::Array{Json(info.height), Json(info.width)}},
                                               {"stride", info.multiple}, {"detects", info.detects}}).dump());
      channel_.send(loaded);
      for (auto& w : waiting) {
        w->model = *model;
        requests_.push(std::move(w));
      }
    }
  }

  /// Answers when the memory is really free: jobs that hold the model still finish first.
  void unload(std::uint64_t id, const std::string& name) {
    std::shared_ptr<Model> model;
    {
      const std::lock_guard lock(models_mutex_);
      if (const auto it = models_.find(name); it != models_.end()) {
        model = std::move(it->second);
        models_.erase(it);
      }
    }
    if (model) {
      std::unique_lock lock(jobs_mutex_);
      while (!idle_.wait_for(lock, std::chrono::milliseconds(100), [&] { return model.use_count() == 1; })) {}   // a withdrawn job tells nobody
    }
    model.reset();
    backend_->empty_cache();
    budgets_.erase(name);
    hold_to_budgets();
    ::malloc_trim(0);
    channel_.send({.type = Type::unloaded, .id = id, .fields = {}});
  }
  /// The process as a whole never holds more than its models were granted together, its context included: so one that needs less leaves
  /// room for another's larger batch, and nobody else on the card is short of a byte.
  void hold_to_budgets() { backend_->limit_memory(joint_budget(budgets_)); }

  /// After the last hold on some works was given up: whoever waits to unload their model looks again.
  void let_go() {
    const std::lock_guard lock(jobs_mutex_);
    idle_.notify_all();
  }

  // ---- jobs

  void begin_run(Frame frame) {
    auto work = std::make_shared<Work>();
    work->id = frame.id;
    const std::string kind(frame.text("kind")), name(frame.text("model"));
    work->infers = kind == "infer";
    work->frame = std::move(frame);
    {
      const std::lock_guard lock(jobs_mutex_);
      jobs_.insert(work->id);
    }
    if (kind != "detect" && kind != "infer") return finish_failed(*work, {"UNKNOWN_KIND", "a modelhost runs detect and infer, not '" + kind + "'", {}});
    {
      const std::lock_guard lock(models_mutex_);
      if (const auto it = models_.find(name); it != models_.end()) {
        work->model = it->second;
      } else if (const auto waiting = loading_.find(name); waiting != loading_.end()) {
        waiting->second.push_back(std::move(work));
        return;
      }
    }
    if (!work->model) return finish_failed(*work, {"NOT_HERE", "model " + name + " is not loaded here", {}});
    requests_.push(std::move(work));
  }

  void cancel(std::uint64_t id) {
    if (auto work = batcher_.withdraw(id)) return finish_failed(**work, {"CANCELLED", "cancelled while it waited", {}});
    const std::lock_guard lock(jobs_mutex_);
    if (jobs_.contains(id)) cancelled_.insert(id);      // seen before it is batched; a batch that runs already is let finish
  }
  bool is_cancelled(std::uint64_t id) {
    const std::lock_guard lock(jobs_mutex_);
    return cancelled_.contains(id);
  }

  void decode_loop() {
    for (WorkPtr work; requests_.take(work);) {
      decode(std::move(work));
      work.reset();                                     // an idle thread keeps no model alive
      let_go();
    }
  }

  void decode(WorkPtr work) {
    const auto began = Clock::now();
    if (is_cancelled(work->id)) return finish_failed(*work, {"CANCELLED", "cancelled while it waited", {}});
    try {
      const auto ready = read_inputs(*work);
      if (!ready) return finish_failed(*work, ready.failure());
    } catch (const std::exception& e) {                 // bad_alloc on an absurd input: this job's trouble only
      return finish_failed(*work, {"OOM", std::string("reading the input failed: ") + e.what(), {}});
    }
    work->ready = Clock::now();
    work->decode_ms = ms_between(began, work->ready);
    std::string key = work->model->info().name;
    key += work->infers ? "|infer" : "|" + std::to_string(work->image.plan.width) + "x" + std::to_string(work->image.plan.height);
    const std::uint64_t id = work->id;
    const auto priority = static_cast<int>(work->frame.number("priority", 5));
    const std::int64_t deadline_ms = work->frame.number("deadline_ms", INT64_MAX);
    batcher_.push({.id = id, .key = std::move(key), .priority = priority, .deadline_ms = deadline_ms, .work = std::move(work)});
  }

  // ---- the device

  void device_loop() {
    backend_->enter_thread();
    while (run_batch(batcher_.take([this](const std::string& key) { return cap_of(key); }))) let_go();
  }

  bool run_batch(std::vector<Batcher<WorkPtr>::Request> batch) {
    if (batch.empty()) return false;
    std::vector<WorkPtr> works;
    for (auto& r : batch) {
      if (is_cancelled(r.id)) {
        finish_failed(*r.work, {"CANCELLED", "cancelled while it waited", {}});
        continue;
      }
      channel_.send({.type = Type::started, .id = r.id, .fields = {}});
      works.push_back(std::move(r.work));
    }
    if (works.empty()) return true;
    if (works[0]->infers) {
      for (const auto& w : works) infer(*w);
    } else {
      detect(works);
    }
    return true;
  }

  int cap_of(const std::string& key) {
    if (key.ends_with("|infer")) return 1;              // tensors of any shape do not stack
    const std::lock_guard lock(models_mutex_);
    const auto it = models_.find(key.substr(0, key.rfind('|')));
    return it == models_.end() ? 1 : it->second->cap();
  }

  void detect(const std::vector<WorkPtr>& works) {
    std::vector<DetectItem> items;
    for (const auto& w : works) items.push_back({&w->image, w->params});
    const auto began = Clock::now();
    const auto answers = works[0]->model->detect(items);
    const double infer_ms = ms_between(began, Clock::now());
    for (std::size_t i = 0; i < works.size(); ++i) {
      const Work& w = *works[i];
      if (!answers[i]) {
        finish_failed(w, answers[i].failure());
        continue;
      }
      const ModelInfo& info = w.model->info();
      Frame done{.type = Type::done, .id = w.id, .fields = {}};
      done.add_bytes("out.detections", detections_json(*answers[i], info.names, w.image.plan.source_width, w.image.plan.source_height, info.name,
                                                       {.queue_ms = ms_between(w.ready, began), .decode_ms = w.decode_ms, .infer_ms = infer_ms}));
      done.add("out_media.detections", std::string_view("application/json")).add("value.boxes", static_cast<std::int64_t>(answers[i]->size()));
      done.add("value.model", info.name).add("value.batch", static_cast<std::int64_t>(works.size()));
      finish(w.id, done);
    }
  }

  void infer(const Work& w) {
    const auto answer = w.model->infer(w.tensors);
    if (!answer) return finish_failed(w, answer.failure());
    Frame done{.type = Type::done, .id = w.id, .fields = {}};
    for (const auto& t : *answer) done.add_bytes("out." + t.name, encode_tensor_part(t)).add("out_media." + t.name, kTensorMedia);
    done.add("value.model", w.model->info().name);
    finish(w.id, done);
  }

  // ---- answers

  void log(std::uint64_t id, const std::string& text) { say_log(channel_, id, text); }
  void fail(std::uint64_t id, const Failure& failure) { say_failed(channel_, id, failure); }
  void finish_failed(const Work& work, const Failure& failure) {
    fail(work.id, failure);
    forget(work.id);
  }
  void finish(std::uint64_t id, const Frame& done) {
    if (!channel_.send(done)) fail(id, {"TOO_LARGE", "the answer does not fit a frame", {}});
    forget(id);
  }
  void forget(std::uint64_t id) {
    {
      const std::lock_guard lock(jobs_mutex_);
      jobs_.erase(id);
      cancelled_.erase(id);
    }
    idle_.notify_all();
  }
  void drain() {
    std::unique_lock lock(jobs_mutex_);
    idle_.wait(lock, [&] { return jobs_.empty(); });
  }

  child::Channel channel_;
  std::unique_ptr<Backend> backend_;
  std::mutex models_mutex_;
  std::map<std::string, std::shared_ptr<Model>> models_;
  std::map<std::string, std::vector<WorkPtr>> loading_;
  std::map<std::string, std::int64_t> budgets_;   ///< of the models here and of the one that is being loaded; of the loading thread alone
  std::mutex jobs_mutex_;
  std::condition_variable idle_;
  std::set<std::uint64_t> jobs_, cancelled_;
  Queue<Frame> loads_;
  Queue<WorkPtr> requests_;
  Batcher<WorkPtr> batcher_;
  std::vector<std::thread> threads_;
};

}  // namespace

int run_modelhost(int fd) { return ModelHost(fd).run(); }

}  // namespace gq::exec
