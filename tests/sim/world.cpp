// world.cpp - time passes, packets travel, and at the end the checkers have the last word.
#include <chrono>
#include <cstdio>
#include <ctime>

#include "tests/sim/play.h"
#include "tests/sim/sim.h"

namespace gq::sim {

namespace {
constexpr std::uint32_t kEvictionsMax = 10;  ///< of any policy here
constexpr std::int64_t kOverdueUs = 1'000'000;   ///< as the design promises: grace + 1 s
}

World::~World() = default;

World::World(const Options& given, const Scenario* scenario)
    : options(given), rng(given.seed), dice_key(checker::mix64(given.seed ^ 0xD1CEULL)), findings(given.seed, given.jobs > 100'000 ? 1U << 15U : 1U << 18U),
      numbers(given.seed), store(numbers, findings), history(numbers, findings) {
  next_extra = options.jobs;
  job_done.assign(options.jobs + options.jobs / 4 + 64, false);
  extra_retries.assign(options.jobs, 0);
  core_config.restarted = false;
  const std::uint32_t client_count = std::max<std::uint32_t>(2, std::min<std::uint32_t>(32, options.jobs / 2000));
  clients.resize(client_count);
  if (scenario) scenario_fleet(*scenario);
  else random_fleet();
  broker_start(0);
  for (std::uint32_t i = 0; i < workers.size(); ++i) at_us(rng.between(0, 900'000), {What::worker_start, i, 0});
  for (std::uint32_t i = 0; i < client_count; ++i) at_us(rng.between(0, 200'000), {What::client_connect, i, 0});
  if (play) play->begin();
  else schedule_faults();
  if (options.verbose && !play) in_us(1'000'000, {What::progress, 0, 0});
}

void World::random_fleet() {
  workers.resize(options.workers);
  for (std::uint32_t i = 0; i < options.workers; ++i) {
    WorkerRow& w = workers[i];
    w.name = "w" + std::to_string(i);
    w.host = "h" + std::to_string(i);
    for (std::size_t k = 0; k < kKinds.size(); ++k) w.kinds.push_back(static_cast<KindIndex>(k));
    w.labels = {i % 2 == 0 ? "zone=a" : "zone=b"};
    if (options.operators && i % 8 == 5) w.labels.insert(w.labels.begin(), "cloud=rent");
    const bool shares = i % 16 == 9 && options.devices_per_worker > 0;  // a second container on its neighbour's host
    for (std::uint32_t d = 0; d < options.devices_per_worker; ++d) {
      WorkerDevice device;
      device.total = Mib{(i + d) % 3 == 0 ? 24576 : (i + d) % 3 == 1 ? 12288 : 8192};
      if (options.operators) device.total = Mib{(i + d) % 2 == 0 ? 12288 : 8192};  // tight: who is higher has to ask others to leave
      if (i < 2) device.total = Mib{24576};
      device.driver = Mib{300};
      if (shares) {
        device = workers[i - 1].devices[d];
      } else {
        device.global = static_cast<std::uint32_t>(physical.size());
        device.uuid = "GPU-" + std::to_string(device.global);
        physical.push_back({{}, device.total, device.driver, foreign_at_rest(device.global), {}});
        history.device(device.global, device.total - device.driver);
      }
      physical[device.global].offered_by.push_back(i);
      w.devices.push_back(device);
    }
  }
  if (!options.operators) return;
  core_config.policy = random_policy();
  model_idle_us = 30'000'000;  // long enough for the broker to want one out
}

void World::scenario_fleet(const Scenario& scenario) {
  wall_zero_ms = scenario.start_ms;
  model_idle_us = 600'000'000;
  core_config.policy = scenario.policy;
  play = std::make_unique<Play>(*this, scenario);
  for (const Host& host : scenario.hosts) {
    WorkerRow& w = workers.emplace_back();
    w.name = w.host = host.name;
    for (std::size_t k = 0; k < kKinds.size(); ++k) w.kinds.push_back(static_cast<KindIndex>(k));
    w.labels = host.labels;
    for (const Mib total : host.gpus) {
      const auto global = static_cast<std::uint32_t>(physical.size());
      w.devices.push_back({global, "GPU-" + std::to_string(global), total, host.driver});
      physical.push_back({{static_cast<std::uint32_t>(workers.size() - 1)}, total, host.driver, host.foreign, {}});
      history.device(global, total - host.driver - host.foreign);
    }
  }
}

Report World::run() {
  const auto begun = std::chrono::steady_clock::now();
  const std::clock_t cpu_begun = std::clock();
  while (play ? now_us() < play->length_us() : !finished() && !out_of_time()) {
    skip_ahead();
    const auto& slot = wheel.advance();
    if (!slot.empty() || stepped || !client_inbox.empty() || flying) findings.at(now_us());
    for (const Happening& what : slot) happen(what);
    report.happenings += slot.size();
    end_of_tick();
  }
  final_checks();
  report.options = options;
  report.simulated_s = static_cast<double>(now_us()) / 1e6;
  report.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  report.cpu_s = static_cast<double>(std::clock() - cpu_begun) / CLOCKS_PER_SEC;
  report.attempts = history.counts().starts;
  report.stale = history.counts().stale;
  report.violations = findings.violations();
  report.trace_hash = findings.hash();
  for (const std::string& text : findings.kept()) report.findings += text + "\n";
  return report;
}

/// Nobody waits for the next tick unless something happens in it, or the shell has to say something by itself.
void World::skip_ahead() {
  if (stepped || !client_inbox.empty() || (core && !frozen && !flying && (!gathering.mutations.empty() || !gathering.sends.empty()))) return;
  Tick limit = wheel.now() + 5'000'000 / kTickUs;
  if (core && !frozen && !flying) limit = std::min(limit, last_batch + 500'000 / kTickUs);
  wheel.skip_to(wheel.next(std::max(limit, wheel.now() + 1)));
}

void World::happen(const Happening& h) {
  switch (h.what) {
    case What::up: arrive_up(h.a); break;
    case What::down: arrive_down(h.a); break;
    case What::worker_flush: worker_flush(h.a); break;
    case What::worker_beat: worker_beat(h.a); break;
    case What::worker_connect: if (h.b == workers[h.a].link.epoch) worker_connected(h.a); break;
    case What::worker_start: worker_boot(h.a); break;
    case What::worker_thaw: worker_thaw(h.a); break;
    case What::worker_yield: worker_yield(h.a, h.b); break;
    case What::run_started: run_started(h.a, h.b); break;
    case What::run_ended: run_ended(h.a, h.b); break;
    case What::client_turn: client_turn(h.a); break;
    case What::client_connect: if (h.b == clients[h.a].link.epoch) client_connected(h.a); break;
    case What::client_resend: client_resend(h.a); break;
    case What::client_cancel: client_cancel(h.a, h.b); break;
    case What::batch_apply: batch_apply(h.a); break;
    case What::batch_reply: batch_reply(h.a); break;
    case What::store_up: store_back(); break;
    case What::store_down_seen:
      if (core && !frozen && !store_is_up && h.a == generation) {
        core_knows_down = true;
        step(core::StoreDown{});
      }
      break;
    case What::broker_start: broker_start(h.a); break;
    case What::broker_wake:
      if (core && !frozen && h.a == generation && wheel.now() >= wake_at && wake_at != 0) {
        wake_at = 0;
        step(core::TimerFired{});
      }
      break;
    case What::broker_thaw: if (h.a == freeze_serial) broker_thaw(); break;
    case What::links_gone:
      gone_asked = false;
      if (core && !frozen && !gone_links.empty()) step(core::LinksGone{std::move(gone_links)});
      gone_links.clear();
      break;
    case What::fault: fault(); break;
    case What::heal: heal(); break;
    case What::sample:
      if (core && stepped_since_load && !play) core->check_invariants();
      if (physical.size() <= 200) watch_overdue();
      in_us(play ? 5'000'000 : options.workers > 1000 ? 60'000'000 : 250'000, {What::sample, 0, 0});
      break;
    case What::progress: print_progress(); break;
    case What::run_checkpoint: run_checkpoint(h.a, h.b); break;
    case What::model_out: model_out(h.a, h.b); break;
    case What::operate: h.a == 0 ? operate() : tidy_up(); break;
    case What::play: play->happen(h.a, h.b); break;
  }
}

void World::print_progress() {
  in_us(1'000'000, {What::progress, 0, 0});
  if (!core) return;
  const core::Totals t = core->totals();
  std::fprintf(stderr, "%6.1f s  submitted %u  done %llu  batches %llu", static_cast<double>(now_us()) / 1e6, next_job,
               static_cast<unsigned long long>(jobs_done), static_cast<unsigned long long>(report.batches));
  for (std::size_t c = 0; c < kJobClasses; ++c)
    std::fprintf(stderr, "  %s waiting %llu ready %llu running %llu", std::string(gq::to_string(static_cast<JobClass>(c))).c_str(),
                 static_cast<unsigned long long>(t.by_class_and_state[c][1]), static_cast<unsigned long long>(t.by_class_and_state[c][2]),
                 static_cast<unsigned long long>(t.by_class_and_state[c][3]));
  std::fprintf(stderr, "\n");
}

// ---- network

std::optional<std::pair<Side, std::uint32_t>> World::who(PeerId peer_id) {
  const Side side = (peer_id.value & 1U) != 0 ? Side::client : Side::worker;
  const auto index = static_cast<std::uint32_t>((peer_id.value & 0xFFFF'FFFFU) >> 1U);
  if (index >= (side == Side::worker ? workers.size() : clients.size())) return std::nullopt;
  const Link& l = link(side, index);
  if (!l.open || l.epoch != peer_id.value >> 32U) return std::nullopt;
  return std::pair{side, index};
}

void World::up(Side side, std::uint32_t index, core::Event&& event) {
  Link& l = link(side, index);
  if (!l.open) return;
  // What is said once per connection is not doubled: the transport never does it, and nobody says it again on the same connection.
  const bool once = std::holds_alternative<core::WorkerHello>(event);
  const int copies = lossy && !once && rng.chance_ppm(double_ppm) ? 2 : 1;
  if (copies == 2) ++report.duplicates;
  // A connection that stands loses nothing; what is dropped here all the same is what the protocol repeats or repairs. A lane that
  // opens is said once and nothing stands in for it: its model would sit on the card unknown to the ledger.
  const auto* pulled = std::get_if<core::WorkerPulled>(&event);
  if (lossy && !(pulled != nullptr && !pulled->opened.empty()) && rng.chance_ppm(drop_ppm)) {
    findings.note(Note::dropped, kNoJob, index, static_cast<std::uint32_t>(event.index()));
    if (pulled != nullptr && !pulled->closed.empty()) closings_dropped = true;
    return;
  }
  for (int copy = 0; copy < copies; ++copy) {
    std::uint32_t packet;
    if (up_free.empty()) {
      packet = static_cast<std::uint32_t>(up_packets.size());
      up_packets.emplace_back();
    } else {
      packet = up_free.back();
      up_free.pop_back();
    }
    UpPacket& p = up_packets[packet];
    p.index = index;
    p.side = side;
    p.epoch = l.epoch;
    if (copy + 1 < copies) p.event = event;
    else p.event = std::move(event);
    const Tick arrival = std::max({l.up_last, l.up_cut_until, (now_us() + rng.between(60, 500) + l.slow_us) / kTickUs + 1});
    l.up_last = arrival;
    wheel.at(arrival, {What::up, packet, 0});
  }
}

void World::arrive_up(std::uint32_t packet) {
  UpPacket& p = up_packets[packet];
  Link& l = link(p.side, p.index);
  if (!core || !l.open || l.epoch != p.epoch) {
    up_free.push_back(packet);
    return;
  }
  if (frozen) {
    frozen_inbox.push_back(packet);
    return;
  }
  if (p.side == Side::client && !draining_inbox && (gathering.jobs >= kBatchJobs || !client_inbox.empty())) {
    client_inbox.push_back(packet);  // the batch is full: clients wait, in order
    return;
  }
  const PeerId from = peer(p.side, p.index);
  std::visit([from](auto& e) { if constexpr (requires { e.peer; }) e.peer = from; }, p.event);
  if (std::holds_alternative<core::WorkerBeat>(p.event) || std::holds_alternative<core::WorkerHello>(p.event))
    workers[p.index].judged = wheel.now();  // only beats renew leases
  if (core_knows_down && (std::holds_alternative<core::JobCommand>(p.event) || std::holds_alternative<core::UpdateReceived>(p.event) ||
                          std::holds_alternative<core::FleetCommand>(p.event))) {
    up_free.push_back(packet);  // answered UNAVAILABLE; whoever asked asks again
    return;
  }
  if (core_knows_down && p.side == Side::client &&
      (std::holds_alternative<core::SubmitReceived>(p.event) || std::holds_alternative<core::RetryReceived>(p.event))) {
    say_unavailable(from, p.event);
    up_free.push_back(packet);
    return;
  }
  step(std::move(p.event));  // sends nothing upwards, so the packet stays where it is
  up_free.push_back(packet);
}

void World::down(PeerId to, core::Message&& message) {
  const auto end = who(to);
  if (!end) return;  // that connection is over
  Link& l = link(end->first, end->second);
  const int copies = lossy && rng.chance_ppm(double_ppm) ? 2 : 1;
  if (copies == 2) ++report.duplicates;
  if (lossy && rng.chance_ppm(drop_ppm)) {
    findings.note(Note::dropped, kNoJob, end->second, 100 + static_cast<std::uint32_t>(message.index()));
    return;
  }
  for (int copy = 0; copy < copies; ++copy) {
    std::uint32_t packet;
    if (down_free.empty()) {
      packet = static_cast<std::uint32_t>(down_packets.size());
      down_packets.emplace_back();
    } else {
      packet = down_free.back();
      down_free.pop_back();
    }
    DownPacket& p = down_packets[packet];
    p.index = end->second;
    p.side = end->first;
    p.epoch = l.epoch;
    if (copy + 1 < copies) p.message = message;
    else p.message = std::move(message);
    const Tick arrival = std::max({l.down_last, l.down_cut_until, (now_us() + rng.between(60, 500) + l.slow_us) / kTickUs + 1});
    l.down_last = arrival;
    wheel.at(arrival, {What::down, packet, 0});
  }
}

void World::arrive_down(std::uint32_t packet) {
  DownPacket& p = down_packets[packet];
  const Link& l = link(p.side, p.index);
  const bool stands = l.open && l.epoch == p.epoch;
  if (stands) {  // whoever hears it sends nothing downwards, so the packet stays where it is
    if (p.side == Side::worker) worker_hears(p.index, std::move(p.message));
    else client_hears(p.index, std::move(p.message));
  }
  down_free.push_back(packet);
}

/// The connection is over: everything on it is lost. The other end learns it from its monitor, workers dial again.
void World::tear(Side side, std::uint32_t index, std::int64_t redial_us) {
  Link& l = link(side, index);
  if (l.open) {
    ++report.torn;
    findings.note(Note::link_torn, kNoJob, index, static_cast<std::uint32_t>(side));
    if (core && !frozen) {
      if (side == Side::worker) {
        gone_links.push_back(peer(side, index));
        if (!gone_asked) in_us(rng.between(1'000, 5'000), {What::links_gone, 0, 0});
        gone_asked = true;
      } else {
        step(core::ClientGone{peer(side, index)});
      }
    }
  }
  l.open = l.dialling = false;
  ++l.epoch;
  dial(side, index, redial_us);
}

void World::dial(Side side, std::uint32_t index, std::int64_t us) {
  if (side == Side::worker && !workers[index].alive) return;
  Link& l = link(side, index);
  l.dialling = true;
  const std::int64_t cut = std::max(l.up_cut_until, l.down_cut_until) * kTickUs;
  at_us(std::max(now_us() + us, cut + 1000), {side == Side::worker ? What::worker_connect : What::client_connect, index, l.epoch});
}

/// No lower class runs on while a higher one that its leaving would help waits: somebody is asked to leave soon, and is gone when its
/// grace is over. Plans are made twice a second, sooner when one turned out impossible.
void World::watch_overdue() {
  if (!core || frozen || !stepped_since_load || core_knows_down || !store_is_up) return overdue_since_us.clear();
  std::map<JobId, std::int64_t> still;
  for (const JobId& id : core->overdue(moment())) {
    const auto known = overdue_since_us.find(id);
    const std::int64_t since = known == overdue_since_us.end() ? now_us() : known->second;
    still[id] = since;
    if (since != INT64_MAX && now_us() - since > kOverdueUs) {
      findings.violation("preemption", numbers.number(id), "waits for " + std::to_string((now_us() - since) / 1000) + " ms for room that a lower class could give, and nobody has been asked to leave");
      still[id] = INT64_MAX;  // once is enough
    }
  }
  overdue_since_us.swap(still);
}

// ---- the end

bool World::all_done() const {
  if (next_job < options.jobs || jobs_done < next_job) return false;
  if (store.not_final() != 0 || flying || !core || !gathering.mutations.empty()) return false;
  return options.operators || options.faults.crashes || options.faults.network || options.faults.store ? healing : true;
}

/// When the last job is final, what is on the cards has a while to leave them: then nothing may be charged any more.
bool World::finished() {
  if (!all_done()) return false;
  if (done_at == 0) done_at = wheel.now();
  return options.light || wheel.now() - done_at > 12'000'000 / kTickUs;
}

/// Liveness: once everything has healed, what is left drains within ten minutes (and what the wall clock was set back by).
bool World::out_of_time() const {
  const std::int64_t since_us = healing ? healed_at * kTickUs : std::int64_t{1'200'000'000} + std::int64_t{options.jobs} * 2'000;
  return now_us() > since_us + 600'000'000 + wall_jump_back_ms * 1000;
}

void World::final_checks() {
  if (core) core->check_invariants();
  if (play) return history.finish(store, next_extra, false);
  if (!all_done() && next_job >= options.jobs && store.not_final() == 0 && core)
    findings.violation("liveness", kNoJob, std::to_string(next_job - jobs_done) + " jobs are final, but their clients were never told");
  if (next_job < options.jobs) findings.violation("liveness", kNoJob, "only " + std::to_string(next_job) + " jobs were ever submitted");
  for (JobNumber job = 0; core && job < next_extra; ++job) {
    const core::JobRecord* record = store.find(job);
    if (!record || is_terminal(record->dynamic.state) || findings.kept().size() >= 3) continue;
    if (const auto view = core->find(record->fixed.id, moment()))
      findings.violation("liveness", job, "the core says of it: " + std::string(gq::to_string(view->record.dynamic.state)) + ", '" + view->reason +
                         "', kind " + std::string(kKinds[record->fixed.needs.kind].name) + ", model '" + record->fixed.needs.model + "', " +
                         std::to_string(record->fixed.needs.budget_min.value) + " MiB on " + std::to_string(record->fixed.needs.devices) + " devices");
    else findings.violation("lost", job, "in the store, unknown to the core");
  }
  history.finish(store, next_extra);
  if (core && done_at != 0 && !options.light && !closings_dropped)  // a lane closed in a lost word is repaired when it is next assigned to
    for (const core::WorkerView& w : core->workers(moment()))
      for (const core::DeviceView& d : w.devices)
        if (w.state == "live" && d.granted.value != 0 && physical[std::stoul(d.report.uuid.substr(4))].used.value == 0)
          findings.violation("conservation", kNoJob, "nothing runs and no model is loaded, yet " + d.report.uuid + " has " + std::to_string(d.granted.value) + " MiB granted" + (d.holders.empty() ? "" : ", to " + d.holders.front()));
  for (JobNumber job = 0; job < next_extra; ++job) {
    const core::JobRecord* record = store.find(job);
    if (!record) continue;
    if (record->dynamic.evictions > kEvictionsMax) findings.violation("eviction cap", job, "made way " + std::to_string(record->dynamic.evictions) + " times");
    report.losses += record->dynamic.losses;
    report.preemptions += record->dynamic.preemptions;
    report.final_jobs += is_terminal(record->dynamic.state) ? 1 : 0;
    switch (record->dynamic.state) {
      case JobState::succeeded: ++report.succeeded; break;
      case JobState::failed: ++report.failed; break;
      case JobState::cancelled: ++report.cancelled; break;
      case JobState::expired: ++report.expired; break;
      case JobState::quarantined: ++report.quarantined; break;
      default: break;
    }
  }
}

Report simulate(const Options& options) { return World(options).run(); }

Played play(const Scenario& scenario, bool verbose) {
  Options options;
  options.workers = static_cast<std::uint32_t>(scenario.hosts.size());
  options.jobs = static_cast<std::uint32_t>(Play::plan(scenario).size());
  options.seed = scenario.seed;
  options.light = true;
  options.verbose = verbose;
  World world(options, &scenario);
  Played played;
  played.report = world.run();
  played.record = std::move(world.play->finish());
  played.figures = figure_out(scenario, played.record, played.report.violations);
  return played;
}

}  // namespace gq::sim
