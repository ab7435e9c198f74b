// faults.cpp - the nemesis: random faults of the chosen kinds with quiet spells between them, then everything heals.
#include <algorithm>
#include <sstream>

#include "tests/sim/sim.h"

namespace gq::sim {

void World::schedule_faults() {
  in_us(options.workers > 1000 ? 60'000'000 : 250'000, {What::sample, 0, 0});
  const Faults& f = options.faults;
  if (options.operators || f.crashes || f.network || f.store) in_us(500'000, {What::fault, 0, 0});
  if (options.operators) in_us(300'000, {What::operate, 0, 0});
}

void World::fault() {
  if (healing) return;
  // Faults go on until the work is nearly done, so that they meet every stage of it.
  const bool enough = next_job >= options.jobs && (jobs_done * 100 >= std::uint64_t{options.jobs} * 85 || now_us() > 300'000'000);
  if (enough) {
    in_us(0, {What::heal, 0, 0});
    return;
  }
  in_us(options.light ? rng.between(20'000, 200'000) : rng.between(50'000, 1'500'000), {What::fault, 0, 0});
  if (core && !frozen && rng.one_in(3)) {  // a policy or a person asks something running to leave
    const WorkerRow& w = workers[rng.below(workers.size())];
    if (!w.runs.empty()) step(core::PreemptAsked{w.runs[rng.below(w.runs.size())].grant.job, "simulated", 5s});
  }
  if (rng.one_in(4)) return;  // quiet
  const Faults& f = options.faults;
  const std::uint32_t any_worker = static_cast<std::uint32_t>(rng.below(workers.size()));
  const std::uint32_t any_client = static_cast<std::uint32_t>(rng.below(clients.size()));
  const auto weight = [&](std::uint64_t one_in) { return !options.light && rng.one_in(one_in); };
  switch (rng.below(3)) {
    case 0:
      if (!f.crashes) break;
      if (weight(12)) broker_stop(rng.one_in(2), rng.between(50'000, 3'000'000));
      else if (weight(15)) broker_freeze(rng.between(100'000, 6'000'000));
      else if (rng.one_in(3)) worker_freeze(any_worker, rng.between(200'000, 25'000'000));
      else worker_kill(any_worker, rng.between(100'000, 15'000'000));
      break;
    case 1: {
      if (!f.network) break;
      Link& l = rng.one_in(3) ? clients[any_client].link : workers[any_worker].link;
      const Tick until = wheel.now() + rng.between(100'000, 20'000'000) / kTickUs;
      switch (rng.below(6)) {
        case 0: tear(Side::worker, any_worker, rng.between(1'000, 3'000'000)); break;
        case 1: tear(Side::client, any_client, rng.between(1'000, 3'000'000)); break;
        case 2: l.up_cut_until = until; break;
        case 3: l.down_cut_until = until; break;
        case 4: l.slow_us = rng.between(0, 300'000); break;
        case 5:
          if (options.light) break;
          lossy = !lossy;
          drop_ppm = rng.below(20'000);
          double_ppm = rng.below(50'000);
          if (rng.one_in(8))  // a switch resets: half the fleet at once
            for (std::uint32_t i = 0; i < workers.size(); ++i)
              if (rng.one_in(2)) tear(Side::worker, i, rng.between(1'000, 2'000'000));
          break;
        default: break;
      }
      break;
    }
    default:
      if (!f.store) break;
      if (options.light && !rng.one_in(20)) break;
      if (weight(6)) broker_stop(rng.one_in(2), 10'000);  // the shell reloads: its store refused for too long
      else if (rng.one_in(3)) store_outage(rng.between(50'000, options.light ? 500'000 : 6'000'000));
      else if (weight(10)) {
        const std::int64_t jump = rng.between(-20'000, 40'000);
        wall_jump_ms += jump;
        wall_jump_back_ms -= std::min<std::int64_t>(jump, 0);
      }
      break;
  }
}

void World::heal() {
  healing = true;
  healed_at = wheel.now();
  lossy = false;
  for (WorkerRow& w : workers) {
    w.link.slow_us = 0;
    w.link.up_cut_until = w.link.down_cut_until = 0;
  }
  for (ClientRow& c : clients) {
    c.link.slow_us = 0;
    c.link.up_cut_until = c.link.down_cut_until = 0;
  }
  for (std::uint32_t d = 0; d < physical.size(); ++d) {
    physical[d].foreign = foreign_at_rest(d);
    physical[d].temperature_c = 50;
    physical[d].broken = false;
  }
  model_idle_us = 3'000'000;
  if (options.operators) tidy_up();
}

bool parse_faults(const std::string& text, Faults& faults) {
  std::istringstream words(text);
  std::string word;
  faults = {};
  while (std::getline(words, word, ',')) {
    if (word == "crashes") faults.crashes = true;
    else if (word == "network") faults.network = true;
    else if (word == "store") faults.store = true;
    else if (word == "all") faults = {true, true, true};
    else if (word != "none") return false;
  }
  return true;
}

std::string to_string(const Faults& f) {
  if (f.crashes && f.network && f.store) return "all";
  std::string text;
  if (f.crashes) text += "crashes,";
  if (f.network) text += "network,";
  if (f.store) text += "store,";
  if (text.empty()) return "none";
  text.pop_back();
  return text;
}

// ---- options in words

std::string describe(const Options& o) {
  return "--workers " + std::to_string(o.workers) + " --jobs " + std::to_string(o.jobs) + " --seed " + std::to_string(o.seed) + " --faults " +
         to_string(o.faults) + (o.light ? " --light" : "") + " --devices-per-worker " + std::to_string(o.devices_per_worker) + " --mix " +
         (o.mix == Mix::echo ? "echo" : "mixed") + (o.operators ? " --operators" : "") + (o.reload_every ? " --reload-every " + std::to_string(o.reload_every) : std::string()) +
         (o.stop_at_batch ? " --stop-at-batch " + std::to_string(o.stop_at_batch) : std::string());
}

}  // namespace gq::sim
