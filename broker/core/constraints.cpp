// constraints.cpp - every reason why a job may not start at a place, by name, in the order in which they are asked.
//
// What no waiting at this place can change comes first, what changes with every job comes last: so the latest no is the closest to
// yes, and it is what `reason` and `explain` show. `without` lets a preemption plan ask about the place as if some had left.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

std::string utc_text(std::int64_t ms) {
  using namespace std::chrono;
  const auto at = floor<minutes>(sys_time<milliseconds>{milliseconds{ms}});
  const auto day = floor<days>(at);
  const year_month_day date{day};
  const auto of_day = (at - day).count();
  const auto two = [](std::int64_t n) { return (n < 10 ? "0" : "") + std::to_string(n); };
  return std::to_string(static_cast<int>(date.year())) + '-' + two(static_cast<unsigned>(date.month())) + '-' + two(static_cast<unsigned>(date.day())) + ' ' +
         two(of_day / 60) + ':' + two(of_day % 60) + " UTC";
}

namespace {

std::uint64_t backoff_key(Index shape, Index place) { return std::uint64_t{shape} << 32U | place; }
std::string name_of(JobClass c) { return std::string(to_string(c)); }

std::string by_whom(const OperatorSetting& s) { return (s.by.empty() ? "" : " by " + s.by) + (s.reason.empty() ? "" : ": " + s.reason); }

}  // namespace

struct Core::Constraints {
  static const ClassNow& class_now(const Place& p) { return p.state.classes[static_cast<std::size_t>(p.shape.needs.job_class)]; }
  static const OperatorSetting* setting(const Place& p, OperatorSetting::Kind kind, const std::string& target) {
    const auto it = p.state.settings.find({kind, target});
    return it == p.state.settings.end() ? nullptr : &it->second;
  }
  /// Classes whose attempts run here and would still run without those who leave.
  static std::uint8_t running_here(const Place& p) {
    std::uint8_t mask = 0;
    for (std::size_t c = 0; c < kJobClasses; ++c) {
      Index n = p.device->running[c];
      if (p.without != nullptr)
        for (const Index h : p.without->holds) {
          const Hold& hold = p.state.holds[h];
          const bool here = std::find(hold.devices.begin(), hold.devices.end(), p.lane.device) != hold.devices.end();
          if (n != 0 && hold.charged && here && static_cast<std::size_t>(p.state.needs_of(p.state.jobs[hold.job]).job_class) == c) --n;
        }
      if (n != 0) mask |= static_cast<std::uint8_t>(1U << c);
    }
    if (const Index plan = p.device->plan; plan != kNone) {  // for whom room is kept counts as being there: else those who left would be back
      const Index owner = p.state.plans[plan].shape;
      const auto c = static_cast<std::size_t>(p.state.shapes[owner].needs.job_class);
      if (owner != p.shape_index && p.state.classes[c].rank < class_now(p).rank) mask |= static_cast<std::uint8_t>(1U << c);
    }
    return mask;
  }
  static std::uint64_t backoff_of(const Place& p) {
    return backoff_key(p.shape_index, p.device != nullptr ? p.lane.device : (p.lane.worker | 1U << 31U));
  }
  static bool loads(const Place& p) { return p.device != nullptr && p.lane.kind != LaneKind::warm && uses_model(p.shape); }

  static bool allowed_on_device(const Place& p) {
    return p.device == nullptr || (p.device->rules.classes >> static_cast<unsigned>(p.shape.needs.job_class) & 1U) != 0;
  }
  static Detail allowed_on_device_detail(const Place& p) {
    std::string devices;
    for (const DeviceSelector& s : p.state.config.policy.of(p.shape.needs.job_class).devices) devices += (devices.empty() ? "" : ", ") + to_string(s);
    return {"class " + name_of(p.shape.needs.job_class) + " runs on " + devices + " only", {}, 0};
  }

  static bool takes_such_starts(const Place& p) {
    if (p.device == nullptr) return !State::on_device(p.shape);
    return State::on_device(p.shape) && (p.lane.kind == LaneKind::start || (p.version != kNone && p.lane.version == p.version && !p.lane.evicting));
  }

  static bool not_draining(const Place& p) { return !p.worker.draining && (p.device == nullptr || !p.device->draining); }
  static Detail not_draining_detail(const Place& p) {
    using Kind = OperatorSetting::Kind;
    const bool whole = p.worker.draining;
    const std::string& target = p.state.texts[whole ? p.worker.name : p.device->uuid];
    const OperatorSetting* s = setting(p, whole ? Kind::drain_worker : Kind::drain_device, target);
    return {(whole ? "worker " : "device ") + target + " is draining" + (s == nullptr ? "" : by_whom(*s)), {}, 0};
  }

  static Detail cool_detail(const Place& p) {
    const std::int16_t t = p.device->reporters.empty() ? std::int16_t{0} : p.device->reporters.back().report.temperature_c;
    return {"the device is at " + std::to_string(t) + " C: it takes jobs again at " + std::to_string(p.device->rules.resume_at_c) + " C", {}, 0};
  }

  static Detail paused_detail(const Place& p) {
    const std::string c = name_of(p.shape.needs.job_class);
    const OperatorSetting* s = setting(p, OperatorSetting::Kind::pause_class, c);
    return {"class " + c + " is paused" + (s == nullptr ? "" : by_whom(*s)), {}, 0};
  }

  static Detail window_detail(const Place& p) {
    const ClassNow& c = class_now(p);
    std::string text = "the window of class " + name_of(p.shape.needs.job_class);
    if (c.closes_ms != 0) text += " closes at " + utc_text(c.closes_ms) + ", too soon for a start; it";
    text += c.opens_ms != 0 ? " opens at " + utc_text(c.opens_ms) : " does not open again, as far as known";
    return {std::move(text), {}, c.opens_ms};
  }

  static bool running_cap(const Place& p) {
    const std::uint32_t cap = p.state.config.policy.of(p.shape.needs.job_class).running_max;
    return cap == 0 || p.state.running_of(p.shape.needs.job_class) < cap;
  }
  static Detail running_cap_detail(const Place& p) {
    const JobClass c = p.shape.needs.job_class;
    return {std::to_string(p.state.running_of(c)) + " jobs of class " + name_of(c) + " run, at most " + std::to_string(p.state.config.policy.of(c).running_max) + " may", {}, 0};
  }

  static bool tenant_running_cap(const Place& p) { return p.state.tenant_may_start(p.shape.tenant); }
  static Detail tenant_running_cap_detail(const Place& p) {
    const std::string& name = p.state.texts[p.shape.tenant];
    const Tenant& t = p.state.tenants.at(p.shape.tenant);
    return {std::to_string(t.running) + " jobs of " + name + " run, and tenant.\"" + p.state.tenant_policy(name)->name + "\".running_max is " + std::to_string(t.running_max), {}, 0};
  }

  static bool allowed_in_cloud(const Place& p) { return !p.worker.rented || p.state.config.policy.of(p.shape.needs.job_class).cloud; }
  static Detail allowed_in_cloud_detail(const Place& p) {
    return {"class " + name_of(p.shape.needs.job_class) + " starts on no rented device, and worker " + p.state.texts[p.worker.name] + " is rented", {}, 0};
  }

  static Detail backing_off_detail(const Place& p) {
    const auto it = p.state.backoffs.find(backoff_of(p));
    if (it == p.state.backoffs.end()) return {"backing off after a refusal", {}, 0};
    const std::int64_t wait_us = it->second - p.state.lease_now().time_since_epoch().count();
    return {"backing off after a refusal", {}, p.state.now.wall.ms + std::max<std::int64_t>(0, wait_us) / 1000};
  }

  static bool not_beside(const Place& p) {
    const std::uint8_t refused = class_now(p).not_beside;
    return refused == 0 || p.device == nullptr || (running_here(p) & refused) == 0;
  }
  static Detail not_beside_detail(const Place& p) {
    const std::uint8_t here = running_here(p) & class_now(p).not_beside;
    for (std::size_t c = 0; c < kJobClasses; ++c)
      if ((here >> c & 1U) != 0)
        return {"a job of class " + name_of(static_cast<JobClass>(c)) + " runs on the device, and class " + name_of(p.shape.needs.job_class) + " does not run beside it", {}, 0};
    return {"another class runs on the device", {}, 0};
  }

  static bool runs_alone(const Place& p) {
    if (p.device == nullptr || !uses_model(p.shape)) return true;
    Index others = p.device->model_holds;
    Index suspects = p.device->suspects;
    if (p.without != nullptr)
      for (const Index h : p.without->holds) {
        const Hold& hold = p.state.holds[h];
        if (!hold.charged || !hold.is_model || std::find(hold.devices.begin(), hold.devices.end(), p.lane.device) == hold.devices.end()) continue;
        --others;
        if (hold.is_suspect) --suspects;
      }
    if (!p.shape.suspect) return suspects == 0 && p.device->awaits == kNone;
    return others == 0 && (p.device->awaits == kNone || p.device->awaits == p.shape_index);
  }

  static bool worth_a_load(const Place& p) { return !loads(p) || p.shape.ready > p.state.content_with(p.shape, p.version); }

  static bool fits_the_ledger(const Place& p) {
    if (p.device == nullptr || p.lane.kind == LaneKind::warm) return true;
    return p.device->capacity.value > 0 &&
           p.state.room_for(p.shape, p.shape_index, p.lane.device, p.without) >= p.state.budget_min(p.shape, *p.device).value;
  }
  static Detail fits_the_ledger_detail(const Place& p) {
    const Device& d = *p.device;
    const Mib need = p.state.budget_min(p.shape, d);
    const std::int64_t room = std::max<std::int64_t>(0, p.state.room_for(p.shape, p.shape_index, p.lane.device, p.without));
    const Mib lacking{need.value - room};
    if (d.capacity < need) return {"needs " + to_string(need) + ", the whole device offers " + to_string(d.capacity), lacking, 0};
    std::string text = "needs " + to_string(need) + ", " + to_string(Mib{room}) + " is free: " + to_string(lacking) + " short";
    std::string why;
    const auto add = [&](std::string part) { why += (why.empty() ? " (" : ", ") + std::move(part); };
    for (std::size_t c = 0; c < kJobClasses; ++c)
      if (const std::int64_t kept = d.rules.reserved[c] - d.used_by[c].value; kept > 0 && static_cast<JobClass>(c) != p.shape.needs.job_class)
        add("reserved for " + name_of(static_cast<JobClass>(c)) + ": " + to_string(Mib{kept}));
    if (d.plan != kNone && p.state.plans[d.plan].shape != p.shape_index && p.state.held_for_lower(p.shape.needs.job_class, d) == nullptr)
      for (const Charge& c : d.charges)
        if (c.kind == Charge::Kind::held) add("held for job " + to_string(p.state.plans[d.plan].job) + ": " + to_string(c.size));
    if (d.foreign.value > 0) add("used by others: " + to_string(d.foreign));
    return {text + why + (why.empty() ? "" : ")"), lacking, 0};
  }
};

const std::array<Core::HardConstraint, 21> Core::kHardConstraints{{
    {"worker_is_live", "no live worker", [](const Place& p) { return p.worker.usable(); }},
    {"offers_the_kind", "no worker offers this kind", [](const Place& p) { return has_kind(p.shape.needs, p.worker.kinds); }},
    {"has_the_labels", "no worker has these labels", [](const Place& p) { return has_labels(p.shape.needs, p.worker.labels); }},
    {"takes_such_starts", "no worker takes such starts", Constraints::takes_such_starts},
    {"class_allowed_in_cloud", "its class starts on no rented device", Constraints::allowed_in_cloud, Constraints::allowed_in_cloud_detail},
    {"class_allowed_on_device", "its class may not use the device", Constraints::allowed_on_device, Constraints::allowed_on_device_detail},
    {"model_is_registered", "its model has been removed", [](const Place& p) { return !uses_model(p.shape) || p.version != kNone; }},
    {"not_draining", "the worker or the device is draining", Constraints::not_draining, Constraints::not_draining_detail},
    {"device_is_healthy", "the device is not healthy", [](const Place& p) { return p.device == nullptr || p.device->healthy; }},
    {"device_is_cool", "the device is too hot", [](const Place& p) { return p.device == nullptr || !p.device->hot; }, Constraints::cool_detail},
    {"class_not_paused", "its class is paused", [](const Place& p) { return !Constraints::class_now(p).paused; }, Constraints::paused_detail},
    {"window_open", "the window of its class is closed", [](const Place& p) { return Constraints::class_now(p).starts; }, Constraints::window_detail},
    {"class_running_cap", "as many jobs of its class run as may", Constraints::running_cap, Constraints::running_cap_detail},
    {"tenant_running_cap", "as many jobs of its tenant run as may", Constraints::tenant_running_cap, Constraints::tenant_running_cap_detail},
    {"not_backing_off", "backing off after a refusal",
     [](const Place& p) { return p.shape.backoffs == 0 || !p.state.backoffs.contains(Constraints::backoff_of(p)); }, Constraints::backing_off_detail},
    {"not_beside", "a class that it may not run beside is on the device", Constraints::not_beside, Constraints::not_beside_detail},
    {"runs_alone", "a job that crashed its executor runs alone on the device", Constraints::runs_alone},
    {"not_loaded_here_already", "its model is being loaded",
     [](const Place& p) { return !Constraints::loads(p) || !p.state.has_model(p.lane.device, p.version); }},
    {"worth_a_load", "its model is loaded; waiting for a turn there", Constraints::worth_a_load},
    {"fits_the_ledger", "not enough free device memory", Constraints::fits_the_ledger, Constraints::fits_the_ledger_detail},
    {"has_credit", "all workers are busy", [](const Place& p) { return p.lane.has_credit(); }},
}};

/// What holds whatever the place: asked once, before any place is looked at.
bool Core::State::class_may_start(JobClass c) const {
  const ClassNow& is = classes[static_cast<std::size_t>(c)];
  if (is.paused || !is.starts) return false;
  const std::uint32_t cap = config.policy.of(c).running_max;
  return cap == 0 || running_of(c) < cap;
}

std::uint64_t Core::State::running_of(JobClass c) const {
  const auto& by_state = totals.by_class_and_state[static_cast<std::size_t>(c)];
  return by_state[static_cast<std::size_t>(JobState::running)] + by_state[static_cast<std::size_t>(JobState::yielding)];
}

}  // namespace gq::core
