#include "worker/runtime/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <string_view>

namespace gq::worker {
namespace {

using Handle = struct nvmlDevice_st*;
constexpr int kOk = 0;
constexpr int kInsufficientSize = 7;
constexpr int kGpuLost = 15;
constexpr int kResetRequired = 16;
constexpr unsigned kCardsMax = 64;

struct MemoryV1 { unsigned long long total, free, used; };
struct MemoryV2 { unsigned version; unsigned long long total, reserved, free, used; };
struct Utilization { unsigned gpu, memory; };
struct EventData { Handle device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
constexpr unsigned long long kXidEvent = 0x8;
struct ProcessV2 { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
static_assert(sizeof(ProcessV2) == 24 && sizeof(MemoryV2) == 40);

std::int64_t mib(unsigned long long bytes) { return static_cast<std::int64_t>(bytes >> 20U); }

}  // namespace

struct Nvml::State {
  void* library{};
  int (*init)(){};
  int (*shutdown)(){};
  int (*count)(unsigned*){};
  int (*handle)(unsigned, Handle*){};
  int (*name)(Handle, char*, unsigned){};
  int (*uuid)(Handle, char*, unsigned){};
  int (*memory_v1)(Handle, MemoryV1*){};
  int (*memory_v2)(Handle, MemoryV2*){};
  int (*temperature)(Handle, int, unsigned*){};
  int (*utilization)(Handle, Utilization*){};
  int (*processes)(Handle, unsigned*, ProcessV2*){};
  int (*event_set_create)(void**){};
  int (*event_set_free)(void*){};
  int (*register_events)(Handle, unsigned long long, void*){};
  int (*event_set_wait)(void*, EventData*, unsigned){};
  const char* (*error_string)(int){};
  void* events{};                  ///< null: this driver tells no Xids
  std::map<Handle, unsigned> fatal_xids;
  bool initialised{};
  std::vector<CardReading> last;   ///< identities survive a card that stops answering

  template <class F>
  void find(F& function, std::initializer_list<const char*> names) {
    for (const char* symbol : names)
      if (void* found = ::dlsym(library, symbol)) {
        std::memcpy(&function, &found, sizeof found);
        return;
      }
  }
  std::string word(int code) const { return error_string != nullptr ? error_string(code) : "NVML error " + std::to_string(code); }
  void listen_for_xids();
  void collect_xids();
  void read_card(unsigned index, CardReading& card);
  void read_memory(Handle device, CardReading& card);
  void read_processes(Handle device, CardReading& card);
};

Nvml::Nvml() : state_(std::make_unique<State>()) {}
Nvml::~Nvml() {
  if (state_->events != nullptr && state_->event_set_free != nullptr) state_->event_set_free(state_->events);
  if (state_->initialised && state_->shutdown != nullptr) state_->shutdown();
  if (state_->library != nullptr) ::dlclose(state_->library);
}

Result<std::unique_ptr<Nvml>> Nvml::open() {
  std::unique_ptr<Nvml> nvml(new Nvml);
  State& s = *nvml->state_;
  const char* chosen = std::getenv("GPUQ_NVML");
  if (chosen != nullptr && *chosen != '\0') {
    if (std::string_view(chosen) == "none") return fail(Errc::no_device, "no NVIDIA card is looked for (GPUQ_NVML=none)");
    s.library = ::dlopen(chosen, RTLD_NOW | RTLD_LOCAL);
  } else {
    s.library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (s.library == nullptr) s.library = ::dlopen("libnvidia-ml.so", RTLD_NOW | RTLD_LOCAL);
  }
  if (s.library == nullptr) {
    const char* why = ::dlerror();
    return fail(Errc::no_device, std::string("no NVIDIA driver here: ") + (why != nullptr ? why : "libnvidia-ml.so cannot be opened"));
  }
  s.find(s.init, {"nvmlInit_v2"});
  s.find(s.shutdown, {"nvmlShutdown"});
  s.find(s.count, {"nvmlDeviceGetCount_v2"});
  s.find(s.handle, {"nvmlDeviceGetHandleByIndex_v2"});
  s.find(s.name, {"nvmlDeviceGetName"});
  s.find(s.uuid, {"nvmlDeviceGetUUID"});
  s.find(s.memory_v1, {"nvmlDeviceGetMemoryInfo"});
  s.find(s.memory_v2, {"nvmlDeviceGetMemoryInfo_v2"});
  s.find(s.temperature, {"nvmlDeviceGetTemperature"});
  s.find(s.utilization, {"nvmlDeviceGetUtilizationRates"});
  s.find(s.processes, {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"});
  s.find(s.event_set_create, {"nvmlEventSetCreate"});
  s.find(s.event_set_free, {"nvmlEventSetFree"});
  s.find(s.register_events, {"nvmlDeviceRegisterEvents"});
  s.find(s.event_set_wait, {"nvmlEventSetWait_v2"});
  s.find(s.error_string, {"nvmlErrorString"});
  if (s.init == nullptr || s.count == nullptr || s.handle == nullptr || s.uuid == nullptr)
    return fail(Errc::no_device, "the NVIDIA management library lacks nvmlInit_v2 or its like", "install a driver of series 450 or newer");
  if (const int code = s.init(); code != kOk) return fail(Errc::no_device, "the NVIDIA driver does not answer: " + s.word(code), "does `nvidia-smi` work?");
  s.initialised = true;
  s.listen_for_xids();
  return nvml;
}

bool is_fatal_xid(unsigned xid) {
  // A program's own: 13 graphics exception, 31 page fault, 43 and 45 its channel was stopped, 68 video, 109 context switch timeout; and
  // 63 and 94, repairs that succeeded.
  constexpr std::array kHarmless{0U, 13U, 31U, 43U, 45U, 63U, 68U, 94U, 109U};
  return std::find(kHarmless.begin(), kHarmless.end(), xid) == kHarmless.end();
}

void Nvml::State::listen_for_xids() {
  if (event_set_create == nullptr || register_events == nullptr || event_set_wait == nullptr || event_set_create(&events) != kOk) {
    events = nullptr;
    return;
  }
  unsigned cards = 0;
  if (count(&cards) != kOk) return;
  for (unsigned i = 0; i < std::min(cards, kCardsMax); ++i)
    if (Handle device = nullptr; handle(i, &device) == kOk) register_events(device, kXidEvent, events);   // unsupported on some: then none come
}

void Nvml::State::collect_xids() {
  EventData event{};
  for (int i = 0; events != nullptr && i < 64 && event_set_wait(events, &event, 0) == kOk; ++i)
    if ((event.type & kXidEvent) != 0 && is_fatal_xid(static_cast<unsigned>(event.data))) fatal_xids[event.device] = static_cast<unsigned>(event.data);
}

void Nvml::State::read_memory(Handle device, CardReading& card) {
  if (memory_v2 != nullptr) {
    MemoryV2 info{};
    info.version = static_cast<unsigned>(sizeof info) | (2U << 24U);
    if (memory_v2(device, &info) == kOk) {
      card.total_mib = mib(info.total);
      card.reserved_mib = mib(info.reserved);
      // Drivers disagree on whether `used` has the reserved part in it (580 leaves it out: total = reserved + used + free); all agree on `free`.
      card.used_mib = mib(info.total - std::min(info.free, info.total));
      return;
    }
  }
  MemoryV1 info{};
  const int code = memory_v1 != nullptr ? memory_v1(device, &info) : kGpuLost;
  if (code != kOk || info.total == 0) {
    card.healthy = false;
    card.trouble = word(code);
    return;
  }
  card.total_mib = mib(info.total);
  card.used_mib = std::min(mib(info.used), card.total_mib);
}

void Nvml::State::read_processes(Handle device, CardReading& card) {
  if (processes == nullptr) return;
  unsigned found = 0;
  int code = processes(device, &found, nullptr);
  if (code != kInsufficientSize || found > 4096) return;
  std::vector<ProcessV2> list(found + 8);
  found = static_cast<unsigned>(list.size());
  code = processes(device, &found, list.data());
  if (code != kOk) return;
  for (unsigned i = 0; i < found && i < list.size(); ++i)
    card.processes.push_back({list[i].pid, list[i].used == ~0ULL ? std::int64_t{-1} : mib(list[i].used)});
}

void Nvml::State::read_card(unsigned index, CardReading& card) {
  card.index = index;
  Handle device = nullptr;
  const int code = handle(index, &device);
  if (code != kOk) {
    card.healthy = false;
    card.trouble = word(code);
    return;
  }
  std::array<char, 96> text{};
  if (uuid(device, text.data(), static_cast<unsigned>(text.size())) == kOk) card.uuid.assign(text.data(), ::strnlen(text.data(), text.size()));
  text.fill('\0');
  if (name != nullptr && name(device, text.data(), static_cast<unsigned>(text.size())) == kOk) card.name.assign(text.data(), ::strnlen(text.data(), text.size()));
  read_memory(device, card);
  unsigned celsius = 0;
  if (temperature != nullptr) {
    const int t = temperature(device, 0, &celsius);
    if (t == kOk && celsius < 200) card.temperature_c = static_cast<int>(celsius);
    if (t == kGpuLost || t == kResetRequired) {
      card.healthy = false;
      card.trouble = word(t);
    }
  }
  if (const auto xid = fatal_xids.find(device); xid != fatal_xids.end()) {
    card.xid = xid->second;
    card.healthy = false;
    card.trouble = "Xid " + std::to_string(card.xid) + ": the card needs a reset, then start this worker again";
  }
  Utilization use{};
  if (utilization != nullptr && utilization(device, &use) == kOk && use.gpu <= 100) card.utilization_pct = static_cast<int>(use.gpu);
  read_processes(device, card);
}

std::vector<CardReading> Nvml::read() {
  State& s = *state_;
  s.collect_xids();
  unsigned count = 0;
  if (s.count(&count) != kOk || count > kCardsMax) count = static_cast<unsigned>(s.last.size());
  std::vector<CardReading> cards;
  for (unsigned i = 0; i < count; ++i) {
    CardReading card;
    s.read_card(i, card);
    if (card.uuid.empty()) {   // a lost card may not even say its name
      if (i >= s.last.size()) continue;
      card.uuid = s.last[i].uuid;
      card.healthy = false;
      if (card.trouble.empty()) card.trouble = "it does not say its UUID";
    }
    for (const CardReading& before : s.last)
      if (before.uuid == card.uuid) {
        if (card.name.empty()) card.name = before.name;
        if (card.total_mib == 0) {
          card.total_mib = before.total_mib;
          card.used_mib = before.used_mib;
        }
      }
    cards.push_back(std::move(card));
  }
  for (const CardReading& before : s.last) {   // fewer than before: it fell off the bus
    bool seen = false;
    for (const CardReading& card : cards) seen |= card.uuid == before.uuid;
    if (seen) continue;
    CardReading gone = before;
    gone.healthy = false;
    gone.trouble = "no longer listed by the driver";
    cards.push_back(std::move(gone));
  }
  s.last = cards;
  return cards;
}

}  // namespace gq::worker
