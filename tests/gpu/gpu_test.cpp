// gpu_test.cpp - detection and training on the card against the CPU, and the figures an operator needs: context, rates, fraction kept.
//
// One process has one backend (CUDA's hooks are looked up once), so the program runs itself twice: --half cpu leaves its answers in a
// file, --half cuda compares with them. `--half kernels x 0` runs our kernels alone: what compute-sanitizer can watch in seconds.
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "common/image/board.h"
#include "tests/gpu/checks.h"
#include "worker/executors/backend.h"
#include "worker/executors/json.h"
#include "worker/executors/model.h"
#include "worker/executors/training.h"

namespace gq::exec {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using gpu::failures;
constexpr const char* kNoCard = "gpu-test: no CUDA device can be used here (%s); the CPU half ran, the GPU half was skipped.\n";
constexpr int kBoards = 48, kHeld = 12;
constexpr std::int64_t kBudgetMib = 4096;

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }
double metric(const TrainResult& result, const char* name) {
  const auto json = parse_json(result.metrics_json);
  const Json* value = json ? json->find(name) : nullptr;
  return value != nullptr && value->number() ? *value->number() : 0;
}

void draw(const fs::path& folder, int from, int count) {
  fs::create_directories(folder);
  std::string error;
  for (int i = 0; i < count; ++i) CHECK_THAT(image::write_board(folder.string(), "b" + std::to_string(i), image::draw_board(static_cast<std::uint64_t>(from + i)), error), "%s", error.c_str());
}

TrainRequest training(const fs::path& work, const std::string& name, int steps) {
  TrainRequest r;
  r.params.steps = steps;
  r.params.val_fraction = 0.2;
  r.dataset = (work / "boards").string();
  r.checkpoint_dir = (work / name / "checkpoints").string();
  r.output_dir = (work / name / "out").string();
  r.job = name;
  return r;
}

struct Rates {
  double train_images_s{}, train_steps_s{}, recall{}, precision{}, released_s{}, durable_s{};
};
Rates train(const Backend& backend, const fs::path& work, const std::string& name, int steps) {
  Rates out;
  const auto done = train_detector(training(work, name, steps), backend, {});
  CHECK_THAT(static_cast<bool>(done), "%s", done ? "" : done.failure().what.c_str());
  if (!done) return out;
  out.train_images_s = metric(*done, "images_per_s");
  out.train_steps_s = out.train_images_s / 16;
  out.precision = metric(*done, "precision");
  out.recall = metric(*done, "recall");

  // Leave after 10 steps, come back, finish: the loss of work is zero steps.
  TrainHooks hooks;
  int asked = 0;
  Clock::time_point at{};
  hooks.should_yield = [&] {
    if (++asked != 11) return false;
    at = Clock::now();
    return true;
  };
  hooks.released = [&](auto) { out.released_s = seconds_since(at); };
  hooks.checkpointed = [&](auto, const auto&) { out.durable_s = seconds_since(at); };
  auto request = training(work, name + "-yield", 20);
  request.params.val_fraction = 0;
  const auto left = train_detector(request, backend, hooks);
  CHECK_THAT(left && left->end == TrainEnd::yielded && left->step == 10, "a preempted training yields at once");
  const auto back = train_detector(request, backend, {});
  CHECK_THAT(back && back->end == TrainEnd::finished && back->step == 20, "and goes on where it stopped");
  return out;
}

/// Every held-out board through the model, in batches; the answers in a form that both halves can compare.
std::vector<std::vector<Box>> detect_all(Model& model, double& images_s) {
  std::vector<Prepared> prepared;
  for (int i = 0; i < kHeld; ++i) prepared.push_back(*model.prepare(image::draw_board(static_cast<std::uint64_t>(5000 + i)).test, 0));
  std::vector<std::vector<Box>> out;
  const auto began = Clock::now();
  int images = 0;
  while (images == 0 || (seconds_since(began) < 3 && images < 2000)) {
    out.clear();
    for (std::size_t at = 0; at < prepared.size();) {
      const std::size_t n = std::min<std::size_t>(prepared.size() - at, static_cast<std::size_t>(model.cap()));
      std::vector<DetectItem> items;
      for (std::size_t i = 0; i < n; ++i) items.push_back({&prepared[at + i], {}});
      for (auto& answer : model.detect(items)) {
        CHECK_THAT(static_cast<bool>(answer), "%s", answer ? "" : answer.failure().what.c_str());
        out.push_back(answer ? *answer : std::vector<Box>{});
      }
      at += n;
      images += static_cast<int>(n);
    }
  }
  images_s = images / seconds_since(began);
  return out;
}

std::string to_text(const std::vector<std::vector<Box>>& all) {
  Json::Array images;
  for (const auto& boxes : all) {
    Json::Array list;
    for (const Box& b : boxes) list.emplace_back(Json::Array{Json(static_cast<double>(b.x1)), Json(static_cast<double>(b.y1)), Json(static_cast<double>(b.x2)),
                                                             Json(static_cast<double>(b.y2)), Json(static_cast<double>(b.score)), Json(b.label)});
    images.emplace_back(std::move(list));
  }
  return Json(std::move(images)).dump();
}
std::vector<std::vector<Box>> from_text(const std::string& text) {
  std::vector<std::vector<Box>> out;
  const auto json = parse_json(text);
  if (!json || json->array() == nullptr) return out;
  for (const Json& image : *json->array()) {
    out.emplace_back();
    for (const Json& b : *image.array()) {
      const auto& v = *b.array();
      const auto f = [&](std::size_t i) { return static_cast<float>(*v[i].number()); };
      out.back().push_back({f(0), f(1), f(2), f(3), f(4), static_cast<int>(*v[5].number())});
    }
  }
  return out;
}

std::vector<Box> labels_of(int board) {
  std::vector<Box> out;
  for (const auto& l : image::draw_board(static_cast<std::uint64_t>(5000 + board)).labels) out.push_back({l.x1, l.y1, l.x2, l.y2, 0, l.type});
  return out;
}
Agreement against_labels(const std::vector<std::vector<Box>>& all) {
  Agreement out;
  for (std::size_t i = 0; i < all.size(); ++i) out += compare(all[i], labels_of(static_cast<int>(i)), 0.33);
  return out;
}

void print_rows(const std::string& device, const Rates& r, double detect_s, const Agreement& a) {
  std::printf("  %-6s training   %8.1f images/s  %6.1f steps/s  released %.3f s, durable %.3f s after the request\n", device.c_str(), r.train_images_s, r.train_steps_s, r.released_s, r.durable_s);
  std::printf("  %-6s detection  %8.1f images/s  precision %.3f  recall %.3f (held-out boards, IoU 0.33)\n", device.c_str(), detect_s, a.precision(), a.recall());
}

int cpu_half(const fs::path& work, int steps) {
  std::vector<std::string> notes;
  auto backend = Backend::open({.kind = "cpu", .vram_mib = 0, .threads = 0, .plugin = {}}, notes);
  std::printf("%s\n", (*backend)->name().c_str());
  const Rates rates = train(**backend, work, "cpu", steps);
  auto model = Model::load({.name = "cpu@1", .path = (work / "cpu/out/detector.safetensors").string(), .runtime = {}, .metadata = {}}, **backend);
  CHECK_THAT(static_cast<bool>(model), "%s", model ? "" : model.failure().what.c_str());
  if (!model) return 1;
  double images_s = 0;
  const auto found = detect_all(**model, images_s);
  const auto agreement = against_labels(found);
  print_rows("cpu", rates, images_s, agreement);
  CHECK_THAT(agreement.recall() > 0.3, "a trained detector finds defects (recall %.3f)", agreement.recall());
  std::string error;
  CHECK_THAT(image::write_file((work / "cpu-answers.json").string(), to_text(found), error), "%s", error.c_str());
  return failures == 0 ? 0 : 1;
}

/// What a modelhost does whose model was granted so much: the whole process stays within it, and a larger budget buys larger batches.
void within_budgets(const Backend& cuda, const fs::path& work) {
  for (const std::int64_t budget : {1024, 1536, 4096}) {
    cuda.empty_cache();
    cuda.limit_memory(budget);
    auto model = Model::load({.name = "small@1", .path = (work / "cpu/out/detector.safetensors").string(), .runtime = {}, .metadata = {}}, cuda);
    CHECK_THAT(static_cast<bool>(model), "%lld MiB: %s", static_cast<long long>(budget), model ? "" : model.failure().what.c_str());
    if (!model) continue;
    double images_s = 0;
    detect_all(**model, images_s);
    const std::int64_t held = cuda.process_mib();
    std::printf("  budget %4lld MiB     batches of %2d (%d after work), %8.1f images/s, the process holds %lld MiB\n", static_cast<long long>(budget), (*model)->info().batch_max,
                (*model)->cap(), images_s, static_cast<long long>(held));
    CHECK_THAT(held <= budget, "the process as a whole stays within what was granted");
  }
  cuda.limit_memory(kBudgetMib);
}

int cuda_half(const fs::path& work, int steps) {
  std::vector<std::string> notes;
  auto backend = Backend::open({.kind = "cuda", .vram_mib = kBudgetMib, .threads = 0, .plugin = {}}, notes);
  if (!backend) {
    std::printf(kNoCard, backend.failure().what.c_str());
    return 0;
  }
  const Backend& cuda = **backend;
  const CudaApi& api = *cuda.cuda();
  std::int64_t free = 0, total = 0;
  api.memory(&free, &total);
  std::printf("%s, %lld MiB\n", cuda.name().c_str(), static_cast<long long>(total));
  std::printf("  context             %lld MiB by NVML, %lld MiB counted; all of this card: %lld MiB (total minus free)\n", static_cast<long long>(cuda.process_mib()),
              static_cast<long long>(cuda.context_mib()), static_cast<long long>(total - free));
  CHECK_THAT(cuda.context_mib() > 50 && cuda.context_mib() < 2048, "a context of that size is believable");
  const double want = memory_fraction(kBudgetMib, cuda.context_mib(), total);
  std::printf("  memory fraction     asked %.4f, kept %.4f\n", want, cuda.fraction());
  CHECK_THAT(std::fabs(want - cuda.fraction()) < 1e-3, "LibTorch keeps the fraction it was given");
  cuda.enter_thread();
  check_letterbox_kernel(cuda);
  check_suppression_kernel(cuda);

  // The CPU's model on the card must say what it said on the CPU.
  auto same = Model::load({.name = "cpu@1", .path = (work / "cpu/out/detector.safetensors").string(), .runtime = {}, .metadata = {}}, cuda);
  CHECK_THAT(static_cast<bool>(same), "%s", same ? "" : same.failure().what.c_str());
  if (!same) return 1;
  double images_s = 0;
  const auto found = detect_all(**same, images_s);
  std::string text, error;
  CHECK_THAT(image::read_file((work / "cpu-answers.json").string(), text, error), "%s", error.c_str());
  const auto reference = from_text(text);
  Agreement agreement;
  for (std::size_t i = 0; i < found.size() && i < reference.size(); ++i) agreement += compare(found[i], reference[i], 0.8);
  std::printf("  card against CPU    %zu boxes on the card, %zu on the CPU, %zu the same (IoU 0.8, same class)\n", agreement.predicted, agreement.labelled, agreement.matched);
  CHECK_THAT(agreement.precision() > 0.9 && agreement.recall() > 0.9, "card and CPU agree");

  within_budgets(cuda, work);

  const Rates rates = train(cuda, work, "cuda", steps);
  auto trained = Model::load({.name = "cuda@1", .path = (work / "cuda/out/detector.safetensors").string(), .runtime = {}, .metadata = {}}, cuda);
  CHECK_THAT(static_cast<bool>(trained), "%s", trained ? "" : trained.failure().what.c_str());
  if (!trained) return 1;
  print_rows("cuda", rates, images_s, against_labels(detect_all(**trained, images_s)));
  std::int64_t now = 0, peak = 0, ooms = 0;
  api.allocated(&now, &peak, &ooms);
  std::printf("  allocator           peak reserved %lld MiB of a budget of %lld MiB, out of memory %lld times\n", static_cast<long long>(peak), static_cast<long long>(kBudgetMib), static_cast<long long>(ooms));
  CHECK_THAT(peak <= kBudgetMib, "the budget holds");
  return failures == 0 ? 0 : 1;
}

int kernels_only() {
  std::vector<std::string> notes;
  auto backend = Backend::open({.kind = "cuda", .vram_mib = kBudgetMib, .threads = 0, .plugin = {}}, notes);
  if (!backend) {
    std::printf(kNoCard, backend.failure().what.c_str());
    return 0;
  }
  (*backend)->enter_thread();
  check_letterbox_kernel(**backend);
  check_suppression_kernel(**backend);
  return failures == 0 ? 0 : 1;
}

int run_both(const std::string& self, const std::string& steps) {
  std::string pattern = (fs::temp_directory_path() / "gpuq-gpu-test-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) return 1;
  const fs::path work = pattern;
  draw(work / "boards", 1000, kBoards);
  int code = failures;
  for (const char* half : {"cpu", "cuda"}) {
    const std::string command = "\"" + self + "\" --half " + half + " \"" + work.string() + "\" " + steps;
    std::fflush(stdout);
    if (std::system(command.c_str()) != 0) ++code;   // NOLINT: our own program and folder
  }
  fs::remove_all(work);
  std::printf(code == 0 ? "gpu-test: passed\n" : "gpu-test: FAILED\n");
  return code == 0 ? 0 : 1;
}

}  // namespace
}  // namespace gq::exec

int main(int argc, char** argv) {
  using namespace gq::exec;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  ::setenv("GOMP_SPINCOUNT", "10000", 0);   // for the halves: see process.cpp
  if (argc == 5 && std::strcmp(argv[1], "--half") == 0) {
    const int steps = std::atoi(argv[4]);
    if (std::strcmp(argv[2], "kernels") == 0) return kernels_only();
    return std::strcmp(argv[2], "cpu") == 0 ? cpu_half(argv[3], steps) : cuda_half(argv[3], steps);
  }
  return run_both(argv[0], argc == 2 ? argv[1] : "300");
}
