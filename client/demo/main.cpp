// main.cpp - gpuq-demo: the whole system once, on this machine, with whatever device it has. Each step says what it does.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <thread>

#include "client/demo/dataset.h"
#include "client/demo/process.h"
#include "common/net/keys.h"
#include "gpuq/client.h"

namespace fs = std::filesystem;

namespace gpuq::demo {
namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string images;              ///< folder in the DeepPCB layout; empty = draw
  std::string output = "gpuq-demo-pictures";
  int train_boards = 64;
  int detect_jobs = 64;
  int board_size = 640;
  std::uint64_t seed = 20;
  std::string train_steps;         ///< empty = the trainer's budget below
  bool keep = false;
};

std::atomic<bool> interrupted{false};
void on_signal(int) { interrupted = true; }
void stop_if_interrupted() {
  if (interrupted) throw std::runtime_error("interrupted");
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void step(const char* title) {
  static int number = 0;
  std::printf("\n[%d] %s\n", ++number, title);
  std::fflush(stdout);
}

/// A broker with its managed Redis and one worker, CURVE on, in a folder that is gone afterwards.
class System {
 public:
  explicit System(const std::string& bin) : bin_(bin) {
    char path[] = "/tmp/gpuq-demo-XXXXXX";
    if (::mkdtemp(path) == nullptr) throw std::runtime_error("cannot make a folder in /tmp");
    folder_ = path;
    const auto now = gq::WallTime{std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count()};
    need(gq::net::keys_init(folder_ + "/keys"));
    broker_ = Process::start({bin + "/gpuq-broker", "--data-dir", folder_ + "/data", "--keys", folder_ + "/keys", "--listen-clients", "tcp://127.0.0.1:0",
                              "--listen-workers", "tcp://127.0.0.1:0", "--listen-http", "none", "--ready-fd", "{ready}"},
                             folder_ + "/broker.log");
    const std::string ready = broker_.wait_ready(std::chrono::seconds(20));
    clients_ = json_field(ready, "clients");
    workers_ = json_field(ready, "workers");
    issue("demo-admin", gq::net::Role::admin, clients_, access(), now);
    issue("demo-worker", gq::net::Role::worker, workers_, folder_ + "/worker.json", now);
    worker_ = Process::start({bin + "/gpuq-worker", "--broker", workers_, "--access-file", folder_ + "/worker.json", "--devices", "auto", "--scratch",
                              folder_ + "/scratch", "--ready-fd", "{ready}"},
                             folder_ + "/worker.log");
    worker_.wait_ready(std::chrono::seconds(20));
  }
  ~System() {
    worker_.stop();
    broker_.stop();
    std::error_code ec;
    if (!keep) fs::remove_all(folder_, ec);
  }
  System(const System&) = delete;
  System& operator=(const System&) = delete;

  [[nodiscard]] std::string access() const { return folder_ + "/admin.json"; }
  [[nodiscard]] const std::string& clients() const { return clients_; }
  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] std::string describe() const {
    return "broker " + clients_ + " (pid " + std::to_string(broker_.pid()) + "), worker on " + workers_ + " (pid " + std::to_string(worker_.pid()) + ")";
  }
  bool keep = false;

 private:
  template <class T>
  static void need(const gq::Result<T>& result) {
    if (!result) throw std::runtime_error(result.error().what);
  }
  void issue(const std::string& name, gq::net::Role role, const std::string& endpoint, const std::string& path, gq::WallTime now) const {
    const auto key = gq::net::keys_issue(folder_ + "/keys", name, role, endpoint, now);
    need(key);
    need(gq::net::write_access_file(path, *key));
  }
  std::string bin_, folder_, clients_, workers_;
  Process broker_, worker_;
};

JobSpec training(const std::string& tar, const Settings& settings, const std::string& label, const std::string& steps, int seed) {
  JobSpec job;
  job.kind = "train.detector";
  job.label = label;
  job.params = {{"steps", steps}, {"seed", std::to_string(seed)}};
  job.vram_min_mib = job.vram_max_mib = 2048;   // a job that names nothing gets as much as its class may have: here the model runs beside it
  job.parts = {Part{"dataset", "application/x-tar", tar, {}, 0}};
  (void)settings;
  return job;
}

/// Prints a line whenever the training has moved on, until it is final.
JobResult follow_training(Client& client, const std::string& id) {
  auto future = client.result_async(id);
  std::uint64_t printed = 0;
  std::string state;
  while (future.wait_for(std::chrono::milliseconds(500)) != std::future_status::ready) {
    stop_if_interrupted();
    const JobStatus s = client.status({id}).at(0);
    if (s.state != state) std::printf("    %s%s%s\n", (state = s.state).c_str(), s.worker.empty() ? "" : (" on " + s.worker + " " + s.device).c_str(), s.reason.empty() ? "" : (" (" + s.reason + ")").c_str());
    if (s.progress_total == 0 || s.progress_step < printed + std::max<std::uint64_t>(1, s.progress_total / 12)) continue;
    printed = s.progress_step;
    std::printf("    step %4llu/%llu", static_cast<unsigned long long>(s.progress_step), static_cast<unsigned long long>(s.progress_total));
    for (const auto& [name, value] : s.metrics) std::printf("  %s %.4g", name.c_str(), value);
    std::printf("\n");
    std::fflush(stdout);
  }
  JobResult result = future.get();
  if (!result.ok()) throw std::runtime_error("training ended " + result.state + ": " + result.code + " " + result.what);
  return result;
}

void print_scores(const std::map<int, Score>& by_type, const Score& total) {
  std::printf("    %-12s %6s %6s %6s %10s %8s\n", "defect", "found", "wrong", "missed", "precision", "recall");
  const auto row = [](const char* name, const Score& s) {
    std::printf("    %-12s %6d %6d %6d %10.3f %8.3f\n", name, s.found, s.wrong, s.missed, s.precision(), s.recall());
  };
  for (const auto& [type, s] : by_type)
    if (type >= 0 && type < static_cast<int>(gq::image::kDefectNames.size())) row(std::string(gq::image::kDefectNames[static_cast<std::size_t>(type)]).c_str(), s);
  row("all", total);
}

void run(const Settings& settings) {
  const auto begin = Clock::now();
  const std::string bin = own_folder();

  step("Pictures");
  std::vector<Sample> train, test;
  if (settings.images.empty()) {
    train = draw_samples(settings.seed * 1000, settings.train_boards, settings.board_size);
    test = draw_samples(settings.seed * 1000 + 500, std::min(settings.detect_jobs, 64), settings.board_size);
    std::printf("    drew %zu boards to learn from and %zu to be judged on (seed %llu), six defect types each\n", train.size(), test.size(), static_cast<unsigned long long>(settings.seed));
  } else {
    for (const Sample& s : read_samples(settings.images)) ((train.size() + test.size()) % 4 == 3 ? test : train).push_back(s);
    std::printf("    %s: %zu images to learn from, %zu held out\n", settings.images.c_str(), train.size(), test.size());
  }

  step("A broker with its own Redis, and a worker with whatever device this machine has");
  System system(bin);
  system.keep = settings.keep;
  std::printf("    %s\n", system.describe().c_str());
  Client client(Options{system.clients(), system.access(), false, "demo", std::chrono::seconds(60)});
  for (const WorkerStatus& w : client.workers())
    for (const DeviceStatus& d : w.devices) std::printf("    device %s %s (%s), %lld MiB\n", d.uuid.c_str(), d.name.c_str(), d.kind.c_str(), static_cast<long long>(d.total_mib));

  step("Train a detector (train.detector) and watch it");
  const std::string tar = to_tar(train);
  const auto trained_at = Clock::now();
  const Submitted job = client.submit(training(tar, settings, "demo detector", settings.train_steps, 1));
  std::printf("    job %s, %zu KiB of pictures\n", job.id.c_str(), tar.size() / 1024);
  const JobResult trained = follow_training(client, job.id);
  const double training_seconds = seconds_since(trained_at);
  for (const auto& [name, value] : trained.values) std::printf("    %s = %s\n", name.c_str(), value.c_str());
  std::printf("    trained in %.1f s\n", training_seconds);

  step("Register the model from the job's artefact");
  const Part* artefact = trained.part("model");
  if (artefact == nullptr) throw std::runtime_error("the training left no part named 'model'");
  const std::string blob = artefact->blob.empty() ? client.upload(artefact->bytes) : artefact->blob;
  const Model model = client.push_model_from_blob("boards", blob, artefact->size, "gpuq-detector");
  std::printf("    boards@%s, %.1f MiB\n", model.version.c_str(), static_cast<double>(model.bytes) / 1048576.0);

  step("Detect while a second training runs");
  const Submitted second = client.submit(training(tar, settings, "second training", "100000", 2));
  while (client.status({second.id}).at(0).state != "running") {
    stop_if_interrupted();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  std::vector<JobSpec> jobs(static_cast<std::size_t>(settings.detect_jobs));
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const Sample& sample = test[i % test.size()];
    jobs[i].kind = "detect";
    jobs[i].model = "boards";
    jobs[i].label = sample.name;
    jobs[i].parts = {Part{"image", sample.extension == "png" ? "image/png" : "image/jpeg", sample.file, {}, 0}};
  }
  const auto sent = Clock::now();
  const std::vector<Submitted> submitted = client.submit(std::move(jobs));
  std::vector<JobResult> results;
  for (const Submitted& s : submitted) {
    stop_if_interrupted();
    if (!s.ok) throw std::runtime_error("detect refused: " + s.code + " " + s.what);
    results.push_back(client.wait(s.id, std::chrono::seconds(120)));
    if (results.size() == 1) std::printf("    first answer after %.2f s (the model was loaded and warmed for it)\n", seconds_since(sent));
  }
  const double detect_seconds = seconds_since(sent);
  std::printf("    %zu detections in %.2f s: %.1f images/s beside the training, answered by %s\n", results.size(), detect_seconds,
              static_cast<double>(results.size()) / detect_seconds, results.front().model_version.c_str());

  step("What was found, against the labels (IoU >= 0.33)");
  fs::create_directories(settings.output);
  std::map<int, Score> by_type;
  Score total;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!results[i].ok()) throw std::runtime_error("detect " + results[i].id + " ended " + results[i].state + ": " + results[i].what);
    const std::vector<Detection> boxes = parse_detections(results[i]);
    const Sample& sample = test[i % test.size()];
    if (i >= test.size()) continue;   // the same picture again, for throughput
    const Score one = score(boxes, sample.labels, 0.33F, &by_type);
    total.found += one.found;
    total.wrong += one.wrong;
    total.missed += one.missed;
    std::string error;
    if (!gq::image::write_file(settings.output + "/" + sample.name + ".png", annotate(sample, boxes), error)) throw std::runtime_error(error);
  }
  print_scores(by_type, total);
  std::printf("    annotated pictures: %s/ (%zu files; labels green, detections red)\n", settings.output.c_str(), std::min(results.size(), test.size()));

  step("gpuq top");
  std::fflush(stdout);
  const std::string top = "'" + bin + "/gpuq' --broker " + system.clients() + " --access-file '" + system.access() + "' top --once";
  if (std::system(top.c_str()) != 0) std::printf("    gpuq top failed\n");   // NOLINT(cert-env33-c): our own program, our own arguments

  step("Stop");
  client.cancel({second.id});
  const JobResult cancelled = client.wait(second.id, std::chrono::seconds(60));
  std::printf("    second training: %s\n    demo took %.0f s; everything is stopped%s\n", cancelled.state.c_str(), seconds_since(begin),
              settings.keep ? (", kept " + system.folder()).c_str() : " and nothing is left but the pictures");
}

}  // namespace
}  // namespace gpuq::demo

int main(int argc, char** argv) {
  using namespace gpuq::demo;
  Settings settings;
  settings.train_steps = "auto";
  CLI::App app{"gpuq-demo: train a circuit-board detector and use it, through the whole of gpuq"};
  app.add_option("--images", settings.images, "folder of NAME_test.jpg|png and NAME.txt (DeepPCB layout) instead of drawn boards")->check(CLI::ExistingDirectory);
  app.add_option("--output", settings.output, "where the annotated pictures go")->capture_default_str();
  app.add_option("--detect-jobs", settings.detect_jobs, "how many detect jobs")->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_option("--seed", settings.seed, "of the drawn boards")->capture_default_str();
  app.add_option("--steps", settings.train_steps, "optimizer steps of the first training; auto = fits the demo's four minutes on two cores")->capture_default_str();
  app.add_flag("--keep", settings.keep, "keep the data folder and logs");
  CLI11_PARSE(app, argc, argv);
  if (settings.train_steps == "auto") settings.train_steps = "1200";   // about 85 s on two cores
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  try {
    run(settings);
    return 0;
  } catch (const gpuq::Error& error) {
    std::fprintf(stderr, "error[%s]: %s\n  try: %s\n", error.code().c_str(), error.what(), error.next().c_str());
    return interrupted ? 130 : error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return interrupted ? 130 : 1;
  }
}
