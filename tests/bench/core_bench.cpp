// core_bench.cpp - how long the core takes per job life, alone: no sockets, no store, no simulator. Run by hand.
//
//   core_bench [workers] [jobs] [shapes]      submits all jobs first, then serves them to idle workers one credit at a time
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "broker/core/core.h"

using namespace gq;
using namespace gq::core;

int main(int argc, char** argv) {
  const std::uint64_t workers = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 10'000;
  const std::uint64_t jobs = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1'000'000;
  const std::uint64_t shapes = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 50;
  const bool on_device = argc > 4;
  CoreConfig config;
  config.restarted = false;
  config.final_bytes_max = 64U << 20U;
  Core core(config);
  Moment now{Instant{1000s}, WallTime{1'700'000'000'000}};
  Effects out;
  std::uint64_t entropy = 1, events = 0, assigned = 0, ended = 0, batch = 0;
  std::vector<std::uint64_t> used(workers + 1);
  std::deque<std::pair<std::uint64_t, Grant>> running;
  const auto started_at = std::chrono::steady_clock::now();
  auto lap_at = started_at;
  const auto lap = [&](const char* what, std::uint64_t n) {
    const auto t = std::chrono::steady_clock::now();
    const double s = std::chrono::duration<double>(t - lap_at).count();
    std::printf("%-28s %8.3f s %9.3f us each\n", what, s, s * 1e6 / static_cast<double>(n));
    lap_at = t;
  };
  double slowest = 0;
  const auto step = [&](Event event) {
    now.steady += 1us;
    now.wall.ms = 1'700'000'000'000 + now.steady.time_since_epoch().count() / 1000;
    out.clear();
    const auto t = std::chrono::steady_clock::now();
    core.step(now, ++entropy, std::move(event), out);
    slowest = std::max(slowest, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - t).count());
    ++events;
    for (const Effect& e : out)
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* a = std::get_if<Assign>(&s->message)) {
          ++assigned;
          running.emplace_back(a->peer.value - 100, a->grant);
        }
  };

  for (std::uint64_t j = 0; j < jobs; j += 64) {
    SubmitReceived e{{1}, j + 1, "ann", {}};
    for (std::uint64_t k = j; k < std::min(j + 64, jobs); ++k) {
      SubmitItem i;
      i.fixed.id = {0x190'0000'0000ULL + k / 1000, k * 0x9E3779B97F4A7C15ULL};
      i.fixed.digest = {1, k};
      i.fixed.needs.kind = *kind_index(on_device ? "command" : "echo");
      i.fixed.needs.budget_min = {static_cast<std::int64_t>(512 + k % shapes)};
      i.fixed.body_bytes = 200;
      i.body = k + 1;
      i.watch = true;
      e.items.push_back(std::move(i));
    }
    step(std::move(e));
  }
  lap("submit", jobs);
  std::printf("memory per queued job        %8.1f B\n", static_cast<double>(core.memory_bytes()) / static_cast<double>(jobs));
  for (std::uint64_t w = 1; w <= workers; ++w) {
    WorkerHello h;
    h.peer = {100 + w};
    h.worker = "worker-" + std::to_string(w);
    h.instance = w;
    for (KindIndex k = 0; k < kKinds.size(); ++k) h.kinds.push_back(k);
    DeviceReport d;
    d.uuid = "GPU-" + std::to_string(w);
    d.kind = DeviceKind::simulated;
    d.total = {24'000};
    h.devices.push_back(d);
    h.lanes = {{1, LaneKind::slots, "", ""}, {2, LaneKind::start, d.uuid, ""}};
    used[w] = 4;
    h.credit = {{1, 4}, {2, 4}};
    step(std::move(h));
  }
  lap("hello", workers);
  std::uint64_t beats = 0;
  while (!running.empty()) {
    const auto [w, grant] = running.front();
    running.pop_front();
    step(AttemptsStarted{{100 + w}, {grant}});
    AttemptsEnded e{{100 + w}, 1, {}};
    e.ends.resize(1);
    e.ends[0].grant = grant;
    step(std::move(e));
    step(WorkerPulled{{100 + w}, {}, {}, {{static_cast<std::uint16_t>(on_device ? 2 : 1), ++used[w]}}});
    if (++ended % 64 == 0) {
      step(BatchCut{++batch});
      step(BatchCommitted{batch});
    }
    if (ended % 4 == 0) {
      ++beats;
      step(WorkerBeat{{100 + 1 + (beats % workers)}, 0, {}, {}});
    }
  }
  lap("start, end, pull, commit", ended);
  const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_at).count();
  std::printf("all: %llu jobs, %llu events, %.3f s, %.3f us per event, slowest step %.0f us\n", static_cast<unsigned long long>(ended),
              static_cast<unsigned long long>(events), all, all * 1e6 / static_cast<double>(events), slowest);
  return ended == jobs ? 0 : 1;
}
