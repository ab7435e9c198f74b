#include "worker/runtime/devices.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "common/log.h"
#include "worker/runtime/nvml.h"

namespace gq::worker {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string item; std::getline(in, item, ',');)
    if (!item.empty()) out.push_back(item);
  return out;
}

void fill(wire::Device& device, const CardReading& card) {
  device.uuid = card.uuid;
  device.name = card.name.empty() ? "NVIDIA card" : card.name;
  device.kind = static_cast<std::uint8_t>(DeviceKind::cuda);
  device.index = static_cast<std::uint16_t>(card.index);
  device.total_mib = card.total_mib;
  device.driver_mib = card.reserved_mib;
  device.used_mib = card.used_mib;
  device.temperature_c = static_cast<std::int16_t>(card.temperature_c);
  device.utilization_pct = static_cast<std::int16_t>(card.utilization_pct);
  device.healthy = card.healthy;
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0) {
      const auto at = line.find(": ");
      if (at != std::string::npos) return line.substr(at + 2, 96);
    }
  return "CPU";
}

struct ProcessLine { pid_t pid, group; std::int64_t resident_pages; };

std::optional<ProcessLine> read_stat(const std::string& pid) {
  std::ifstream in("/proc/" + pid + "/stat");
  std::string text;
  if (!std::getline(in, text)) return std::nullopt;
  const auto close = text.rfind(')');   // the name may hold anything, also ')'
  if (close == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(close + 1));
  std::string state;
  std::int64_t parent{}, group{}, skip{};
  rest >> state >> parent >> group;
  for (int i = 0; i < 18; ++i) rest >> skip;   // fields 6..23
  std::int64_t resident{};
  rest >> resident;
  if (!rest) return std::nullopt;
  return ProcessLine{static_cast<pid_t>(std::strtol(pid.c_str(), nullptr, 10)), static_cast<pid_t>(group), resident};
}

std::vector<ProcessLine> all_processes() {
  std::vector<ProcessLine> out;
  DIR* folder = ::opendir("/proc");
  if (folder == nullptr) return out;
  while (const dirent* entry = ::readdir(folder))
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
      if (auto line = read_stat(entry->d_name)) out.push_back(*line);
  ::closedir(folder);
  return out;
}

}  // namespace

std::string_view to_string(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::cpu: return "cpu";
    case DeviceKind::cuda: return "cuda";
    case DeviceKind::mps: return "mps";
    case DeviceKind::simulated: return "simulated";
  }
  return "cpu";
}

Mib host_memory() {
  return {static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::int64_t>(::sysconf(_SC_PAGESIZE)) >> 20U};
}

std::map<pid_t, std::int64_t> resident_mib_by_group(const std::set<pid_t>& groups) {
  std::map<pid_t, std::int64_t> bytes;
  if (groups.empty()) return bytes;
  const std::int64_t page = ::sysconf(_SC_PAGESIZE);
  for (const ProcessLine& process : all_processes())
    if (groups.contains(process.group)) bytes[process.group] += process.resident_pages * page;
  for (auto& [group, value] : bytes) value >>= 20U;
  return bytes;
}

/// One line of $GPUQ_SIM_DEVICES applies to one pretend card.
void apply_pretence(std::vector<wire::Device>& devices) {
  const char* path = std::getenv("GPUQ_SIM_DEVICES");
  std::vector<std::string> lines(devices.size());
  if (path != nullptr) {
    std::ifstream in(path);
    std::size_t index = 0;
    for (std::string rest; in >> index && std::getline(in, rest);)
      if (index < lines.size()) lines[index] = rest;
  }
  for (std::size_t i = 0; i < devices.size(); ++i) {
    wire::Device& device = devices[i];
    const bool was_healthy = device.healthy;
    std::map<std::string, std::int64_t> says;
    std::istringstream words(lines[i]);
    for (std::string word; words >> word;)
      if (const auto equals = word.find('='); equals != std::string::npos) says[word.substr(0, equals)] = std::strtoll(word.c_str() + equals + 1, nullptr, 10);
    const auto value = [&](const char* key, std::int64_t usual) { return says.contains(key) ? says[key] : usual; };
    device.temperature_c = static_cast<std::int16_t>(value("temperature", -1));
    device.utilization_pct = static_cast<std::int16_t>(value("utilization", -1));
    device.used_mib = std::max<std::int64_t>(0, value("foreign", 0));
    device.used_by_us_mib = 0;
    device.healthy = !is_fatal_xid(static_cast<unsigned>(value("xid", 0)));
    if (was_healthy && !device.healthy) log::warn("device_unhealthy", {{"device", device.uuid}, {"reason", "Xid " + std::to_string(value("xid", 0))}});
    if (!was_healthy && device.healthy) log::info("device_healthy", {{"device", device.uuid}});
  }
}

struct Devices::State {
  std::unique_ptr<Nvml> nvml;
  std::vector<wire::Device> list;                       ///< the loop's copy
  std::mutex mutex;
  std::condition_variable wake;
  bool stop{};
  std::map<std::string, std::set<pid_t>> groups;
  std::map<std::string, std::int64_t> booked_mib;       ///< for processes that are not ours, by device
  std::map<std::string, std::int64_t> foreign_mib;      ///< last seen without children of ours: what others hold
  std::thread monitor;
  struct Wait { std::string uuid; pid_t group{}; std::int64_t left_mib{}; std::function<void()> done; };
  std::uint64_t removals{};                             ///< of groups; a change is measured at once
  std::vector<Wait> waits;                              ///< for memory to be free; looked at every 50 ms
  std::map<std::pair<std::string, pid_t>, std::int64_t> group_mib;   ///< measured, by device and group; absent = no figure

  std::vector<std::function<void()>> settle_waits();
  std::vector<wire::Device> measure(std::vector<wire::Device> devices, const std::map<std::string, std::set<pid_t>>& ours, const std::map<std::string, std::int64_t>& booked);
  void measure_card(wire::Device& device, const CardReading& card, const std::set<pid_t>& ours, const std::map<pid_t, pid_t>& group_of,
                    std::map<std::pair<std::string, pid_t>, std::int64_t>& measured);
};

Devices::Devices() : state_(std::make_shared<State>()) {}
Devices::~Devices() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  if (state_->monitor.joinable()) state_->monitor.join();
}

const std::vector<wire::Device>& Devices::list() const { return state_->list; }
const wire::Device* Devices::by_uuid(const std::string& uuid) const {
  for (const wire::Device& device : state_->list)
    if (device.uuid == uuid) return &device;
  return nullptr;
}
void Devices::add_group(const std::string& uuid, pid_t group) {
  const std::lock_guard lock(state_->mutex);
  state_->groups[uuid].insert(group);
}
void Devices::remove_group(const std::string& uuid, pid_t group) {
  const std::lock_guard lock(state_->mutex);
  state_->groups[uuid].erase(group);
  if (!state_->nvml) return;                            // elsewhere nothing is decided by what is measured
  outdated_[uuid] = ++state_->removals;
  state_->wake.notify_all();
}

std::optional<std::int64_t> Devices::group_mib(const std::string& uuid, pid_t group) const {
  const std::lock_guard lock(state_->mutex);
  const auto it = state_->group_mib.find({uuid, group});
  return it == state_->group_mib.end() ? std::nullopt : std::optional(it->second);
}

Devices::Booking Devices::book(const std::vector<std::string>& uuids, std::int64_t mib) {
  const auto add = [uuids](State& state, std::int64_t more) {
    const std::lock_guard lock(state.mutex);
    for (const std::string& uuid : uuids)
      if ((state.booked_mib[uuid] += more) <= 0) state.booked_mib.erase(uuid);
  };
  add(*state_, mib);
  return Booking(nullptr, [weak = std::weak_ptr<State>(state_), add, mib](const void*) {
    if (const auto state = weak.lock()) add(*state, -mib);
  });
}

Result<std::unique_ptr<Devices>> Devices::find(const DeviceChoice& choice, const std::string& worker) {
  std::unique_ptr<Devices> found(new Devices);
  State& s = *found->state_;
  if (!choice.simulate.empty()) {
    std::uint16_t index = 0;
    for (const std::string& size : split(choice.simulate)) {
      const auto total = parse_mib(size);
      if (!total || total->value <= 0) return fail(Errc::usage, "--simulate-gpus: '" + size + "' is not a size", "--simulate-gpus 24GiB,8GiB");
      wire::Device device;
      device.uuid = "GPU-sim-" + worker + "-" + std::to_string(index);
      device.name = "simulated " + gq::to_string(*total);
      device.kind = static_cast<std::uint8_t>(DeviceKind::simulated);
      device.index = index++;
      device.total_mib = total->value;
      s.list.push_back(std::move(device));
    }
    return found;
  }

  std::string why_no_cards;
  std::vector<CardReading> cards;
  if (choice.devices != "cpu") {
    auto nvml = Nvml::open();
    if (nvml) {
      cards = (*nvml)->read();
      s.nvml = std::move(*nvml);
    } else {
      why_no_cards = nvml.error().what;
    }
  }
  if (choice.devices == "auto") {
    for (const CardReading& card : cards)
      if (card.healthy) fill(s.list.emplace_back(), card);
#ifdef __APPLE__
    if (s.list.empty()) {
      wire::Device device;
      device.uuid = "MPS-" + worker;
      device.name = "Apple GPU";
      device.kind = static_cast<std::uint8_t>(DeviceKind::mps);
      device.total_mib = choice.cpu_memory.value > 0 ? choice.cpu_memory.value : host_memory().value / 2;
      s.list.push_back(std::move(device));
    }
#endif
    if (s.list.empty() && !cards.empty()) log::warn("cards_unusable", {{"first", cards[0].uuid}, {"reason", cards[0].trouble}, {"using", "cpu"}});
  } else if (choice.devices != "cpu") {
    for (const std::string& wanted : split(choice.devices)) {
      const auto card = std::find_if(cards.begin(), cards.end(), [&](const CardReading& c) { return c.uuid == wanted; });
      if (card != cards.end()) {
        fill(s.list.emplace_back(), *card);
        continue;
      }
      std::string there;
      for (const CardReading& c : cards) there += (there.empty() ? "" : ", ") + c.uuid + " (" + c.name + ")";
      return fail(Errc::no_device, "no device " + wanted + " here", there.empty() ? "there is no NVIDIA card (" + why_no_cards + "): use --devices cpu" : "there is: " + there);
    }
  }
  if (s.list.empty()) {
    wire::Device device;
    device.uuid = "CPU-" + worker;
    device.name = cpu_name();
    device.kind = static_cast<std::uint8_t>(DeviceKind::cpu);
    device.total_mib = choice.cpu_memory.value > 0 ? choice.cpu_memory.value : host_memory().value / 2;
    s.list.push_back(std::move(device));
  }
  return found;
}

void Devices::State::measure_card(wire::Device& device, const CardReading& card, const std::set<pid_t>& ours, const std::map<pid_t, pid_t>& group_of,
                                  std::map<std::pair<std::string, pid_t>, std::int64_t>& measured) {
  const bool was_healthy = device.healthy;
  fill(device, card);
  if (was_healthy && !device.healthy) log::warn("device_unhealthy", {{"device", device.uuid}, {"reason", card.trouble}});
  device.used_by_us_mib = 0;
  if (ours.empty()) {
    foreign_mib[device.uuid] = std::max<std::int64_t>(0, device.used_mib - device.driver_mib);
    return;
  }
  bool matched = false;
  bool has_figures = true;
  std::map<pid_t, std::int64_t> by_group;
  for (const CardReading::Process& process : card.processes) {
    const auto group = group_of.find(static_cast<pid_t>(process.pid));
    if (group == group_of.end() || !ours.contains(group->second)) continue;
    matched = true;
    if (process.mib < 0) has_figures = false;
    else by_group[group->second] += process.mib;
  }
  for (const auto& [group, mib] : by_group) device.used_by_us_mib += mib;
  if (matched && has_figures)
    for (const auto& [group, mib] : by_group) measured[{device.uuid, group}] = mib;
  // In a container the ids are the host's and match nobody; some drivers give no per-process figure: then whatever came on top of
  // what was there before our first child is ours.
  if (!matched || !has_figures)
    device.used_by_us_mib = std::max<std::int64_t>(0, device.used_mib - device.driver_mib - foreign_mib[device.uuid]);
}

std::vector<wire::Device> Devices::State::measure(std::vector<wire::Device> devices, const std::map<std::string, std::set<pid_t>>& ours,
                                                  const std::map<std::string, std::int64_t>& booked) {
  static const std::set<pid_t> kNone;
  const auto groups_on = [&](const std::string& uuid) -> const std::set<pid_t>& {
    const auto it = ours.find(uuid);
    return it == ours.end() ? kNone : it->second;
  };
  std::vector<CardReading> cards;
  std::map<pid_t, pid_t> group_of;
  std::map<std::pair<std::string, pid_t>, std::int64_t> measured;
  if (nvml) {
    cards = nvml->read();
    for (const ProcessLine& process : all_processes()) group_of[process.pid] = process.group;
  }
  for (wire::Device& device : devices) {
    const auto kind = static_cast<DeviceKind>(device.kind);
    if (kind == DeviceKind::cuda) {
      for (const CardReading& card : cards)
        if (card.uuid == device.uuid) measure_card(device, card, groups_on(device.uuid), group_of, measured);
    } else if (kind != DeviceKind::simulated) {
      std::int64_t sum = 0;
      for (const auto& [group, size] : resident_mib_by_group(groups_on(device.uuid))) {
        sum += size;
        measured[{device.uuid, group}] = size;
      }
      device.used_mib = device.used_by_us_mib = sum;
    }
  }
  if (!devices.empty() && static_cast<DeviceKind>(devices[0].kind) == DeviceKind::simulated) apply_pretence(devices);
  {
    const std::lock_guard lock(mutex);
    group_mib = std::move(measured);
  }
  for (wire::Device& device : devices)
    if (const auto it = booked.find(device.uuid); it != booked.end())
      device.used_by_us_mib += std::min(it->second, std::max<std::int64_t>(0, device.used_mib - device.driver_mib - device.used_by_us_mib));
  return devices;
}

/// With the lock held, after a measurement: those whose memory is free.
std::vector<std::function<void()>> Devices::State::settle_waits() {
  std::vector<std::function<void()>> over;
  std::erase_if(waits, [&](Wait& wait) {
    const auto measured = group_mib.find({wait.uuid, wait.group});
    if (measured != group_mib.end() && measured->second > wait.left_mib) return false;
    over.push_back(std::move(wait.done));
    return true;
  });
  return over;
}

void Devices::when_freed(asio::io_context& io, const std::string& uuid, pid_t group, std::int64_t left_mib, std::function<void()> done) {
  const wire::Device* device = by_uuid(uuid);
  if (device == nullptr || static_cast<DeviceKind>(device->kind) != DeviceKind::cuda || !state_->monitor.joinable()) {
    asio::post(io, std::move(done));
    return;
  }
  const std::lock_guard lock(state_->mutex);
  state_->waits.push_back({uuid, group, left_mib, std::move(done)});
  state_->wake.notify_all();
}

void Devices::watch(asio::io_context& io, Changed changed) {
  state_->monitor = std::thread([this, state = state_, &io, changed = std::move(changed)] {
    std::vector<wire::Device> devices = state->list;
    std::unique_lock lock(state->mutex);
    while (!state->stop) {
      const auto ours = state->groups;
      const auto booked = state->booked_mib;
      const std::uint64_t removals = state->removals;
      lock.unlock();
      devices = state->measure(devices, ours, booked);
      asio::post(io, [this, weak = std::weak_ptr<State>(state), devices, changed, removals] {
        if (const auto alive = weak.lock()) {
          alive->list = devices;
          std::erase_if(outdated_, [&](const auto& o) { return o.second <= removals; });
          changed(devices);
        }
      });
      lock.lock();
      for (auto& done : state->settle_waits()) asio::post(io, std::move(done));
      const auto patience = state->waits.empty() ? std::chrono::milliseconds(1000) : std::chrono::milliseconds(50);
      state->wake.wait_for(lock, patience, [&, known = state->waits.size()] { return state->stop || state->waits.size() != known || state->removals != removals; });
    }
  });
}

}  // namespace gq::worker
