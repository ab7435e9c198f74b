// scenario.cpp - see scenario.h: the same reader of toml as gpuq.toml's, so a mistake is told as there.
#include "tests/sim/scenario.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <date/tz.h>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "broker/policy/policy_file.h"
#include "broker/policy/settings.h"
#include "common/config/config.h"

namespace gq::sim {
namespace {

using std::chrono::milliseconds;

std::vector<Setting> settings() {
  using T = SettingType;
  std::vector<Setting> all{
      {"title", T::text, "", "what the scenario shows, one line"},
      {"start", T::text, "2026-03-02 00:00", "local date and time at which it begins"},
      {"zone", T::text, "UTC", "IANA name of the time zone that everything here is local to"},
      {"length", T::duration, "24h", "how much is simulated"},
      {"seed", T::number, "1", "the run is a function of it"},
      {"pause_slice", T::duration, "0ms", "a paused training goes on for at least so long before it is paused again"},
      {"inversions_max", T::number, "0", "how often a lower class may take room that a waiting higher one could have had"},
      {"policy_file", T::text, "", "a gpuq.toml to follow, relative to this file; or write [policy], [class.*] … here"},
      {"host[].name", T::text, "", "of the machine; with count > 1 numbers are appended"},
      {"host[].count", T::number, "1", "how many of them"},
      {"host[].gpus", T::list, "", "memory of its cards: [\"24GiB\", \"24GiB\"]"},
      {"host[].driver", T::memory, "350MiB", "of each card, taken by the driver"},
      {"host[].foreign", T::memory, "0MiB", "of each card, taken by programs that are not ours"},
      {"host[].labels", T::list, "", "key=value"},
      {"host[].lost_every", T::duration, "0s", "mean time between losses of the whole machine (spot); 0 = never"},
      {"host[].back_after", T::duration, "10min", "after a loss"},
      {"model[].name", T::text, "", ""},
      {"model[].vram", T::memory, "1GiB", "its budget"},
      {"model[].load", T::duration, "2s", "from the disk to the card"},
      {"stream[].name", T::text, "", "of a kind of jobs that arrive"},
      {"stream[].class", T::text, "", "inference, training or synthesis; empty = the kind's own"},
      {"stream[].kind", T::text, "", "detect, infer, train.detector, train.gnn, train.gan, synthesize, command"},
      {"stream[].model", T::text, "", "for kinds that use one"},
      {"stream[].vram", T::text, "", "8GiB, 2GiB..8GiB, 2GiB..rest; empty = the class's default"},
      {"stream[].devices", T::number, "1", "cards of one host"},
      {"stream[].priority", T::number, "5", "0..9, 9 first"},
      {"stream[].on_preempt", T::text, "", "checkpoint, pause, restart, never; empty = the kind's own"},
      {"stream[].where", T::list, "", "key=value labels of the host"},
      {"stream[].per_hour", T::text, "", "jobs per hour by local hour: \"40\", or \"00-07 20, 07-22 900, 22-24 60\""},
      {"stream[].at", T::list, "", "local times at which jobs arrive each day: [\"21:30\"]"},
      {"stream[].count", T::number, "1", "how many at each of these times"},
      {"stream[].burst_every", T::duration, "0s", "besides, a burst this often"},
      {"stream[].burst_jobs", T::number, "0", "jobs of a burst"},
      {"stream[].burst_within", T::duration, "10s", "in which they arrive"},
      {"stream[].takes", T::text, "1s", "GPU time of a job alone on its card: \"12ms..40ms\", \"5h\""},
      {"stream[].start_takes", T::text, "500ms", "from ASSIGN to its first step (kinds without a warm model)"},
      {"stream[].optimizer_step", T::duration, "0s", "training: what a checkpoint counts"},
      {"stream[].micro_step", T::duration, "0s", "training: it leaves and pauses between these"},
      {"stream[].checkpoint_every", T::duration, "0s", "unasked; 0 = never"},
      {"stream[].checkpoint_takes", T::duration, "2s", "until it is durable"},
      {"stream[].release_takes", T::duration, "300ms", "asked to leave, at a micro-step: until the card's memory is free"},
      {"promise.*.wait_p99", T::duration, "0s", "of 100 jobs 99 start within this time of their arrival"},
      {"promise.*.wait_max", T::duration, "0s", "every job does"},
      {"promise.*.share_of_rest", T::real, "0", "percent of the GPU time that higher classes leave within its window"},
      {"promise.*.done", T::number, "0", "jobs that succeed"},
  };
  for (Setting& s : policy::policy_settings()) all.push_back(std::move(s));
  return all;
}

struct Wrong { Error error; };  ///< thrown inside this file only, caught in parse_scenario

class Reader {
 public:
  Reader(const Config& config, Scenario& scenario) : c_(config), s_(scenario) {}

  void read(const std::string& name) {
    s_.path = name;
    s_.title = c_.text("title");
    s_.zone = c_.text("zone");
    s_.length_us = span("length");
    if (s_.length_us < 60'000'000 || s_.length_us > 14LL * 86'400'000'000) wrong("length", "is not between 1min and 14d", "length = \"24h\"");
    s_.seed = static_cast<std::uint64_t>(c_.number("seed"));
    s_.pause_slice_us = span("pause_slice");
    s_.inversions_max = static_cast<std::uint64_t>(whole("inversions_max", 0, 1'000'000));
    read_start();
    read_policy(name);
    for (std::size_t i = 0; i < c_.tables("host").size(); ++i) read_hosts("host[" + std::to_string(i) + "]");
    if (s_.hosts.empty()) wrong("host", "is missing: there is no machine", "[[host]] gpus = [\"24GiB\"]");
    for (std::size_t i = 0; i < c_.tables("model").size(); ++i) read_model("model[" + std::to_string(i) + "]");
    for (std::size_t i = 0; i < c_.tables("stream").size(); ++i) read_stream("stream[" + std::to_string(i) + "]");
    if (s_.streams.empty()) wrong("stream", "is missing: there is no job", "[[stream]] kind = \"detect\"");
    for (const std::string& of : c_.names("promise.*")) read_promise(of);
  }

 private:
  [[noreturn]] void wrong(const std::string& key, const std::string& what, const std::string& next) const {
    std::string at;
    try_where(key, at);
    throw Wrong{{Errc::usage, at + key + " " + what, next}};
  }
  void try_where(const std::string& key, std::string& at) const {
    for (const EffectiveSetting& s : c_.effective())
      if (s.key == key && !s.where.empty()) at = s.where + ": ";
    if (at.empty()) at = s_.path + ": ";
  }
  [[nodiscard]] std::int64_t span(const std::string& key) const { return c_.duration(key).count() * 1000; }
  [[nodiscard]] std::int64_t whole(const std::string& key, std::int64_t low, std::int64_t high) const {
    const std::int64_t n = c_.number(key);
    if (n < low || n > high) wrong(key, "= " + std::to_string(n) + " is not between " + std::to_string(low) + " and " + std::to_string(high), "another number");
    return n;
  }

  void read_start() {
    const std::string text = c_.text("start");
    int year = 0;
    unsigned month = 0, day = 0, hour = 0, minute = 0;
    char behind = 0;
    const int read = std::sscanf(text.c_str(), "%d-%u-%u %u:%u%c", &year, &month, &day, &hour, &minute, &behind);
    const auto date_part = date::year{year} / date::month{month} / date::day{day};
    const date::local_time<milliseconds> local = date::local_days(date_part) + std::chrono::hours(hour) + std::chrono::minutes(minute);
    if (read != 5 || !date_part.ok() || hour > 23 || minute > 59) wrong("start", "= '" + text + "' is no date with a time", "start = \"2026-03-02 00:00\"");
    const date::time_zone* zone = nullptr;
    try {
      zone = date::locate_zone(s_.zone);
    } catch (const std::exception&) {
      wrong("zone", "= '" + s_.zone + "' is no time zone", "an IANA name: zone = \"Asia/Seoul\"");
    }
    s_.start_ms = zone->to_sys(local, date::choose::earliest).time_since_epoch().count();
    s_.local_start_us = (local - date::floor<date::days>(local)).count() * 1000;
  }

  void read_policy(const std::string& name) {
    const auto environment = [this](const char* of) -> const char* { return std::string_view(of) == "TZ" ? s_.zone.c_str() : nullptr; };
    const std::string file = c_.text("policy_file");
    Result<policy::Loaded> loaded = tl::unexpected(Error{});
    if (file.empty()) {
      loaded = policy::from_config(c_, name, {s_.start_ms}, environment);
      s_.policy_name = "its own";
    } else {
      const std::filesystem::path path = std::filesystem::path(name).parent_path() / file;
      loaded = policy::load(path.string(), {s_.start_ms}, environment);
      s_.policy_name = std::filesystem::path(file).filename().string();
    }
    if (!loaded) throw Wrong{loaded.error()};
    s_.policy = std::move(loaded->policy);
  }

  void read_hosts(const std::string& table) {
    Host host;
    const auto count = whole(table + ".count", 1, 10'000);
    host.name = c_.text(table + ".name");
    if (host.name.empty()) wrong(table + ".name", "is missing", "name = \"anna\"");
    for (const std::string& gpu : c_.list(table + ".gpus")) {
      const auto size = parse_mib(gpu);
      if (!size || size->value < 1024) wrong(table + ".gpus", "has '" + gpu + "', which is no size of a card", "gpus = [\"24GiB\"]");
      host.gpus.push_back(*size);
    }
    if (host.gpus.empty() || host.gpus.size() > 16) wrong(table + ".gpus", "names no card, or more than 16", "gpus = [\"24GiB\"]");
    host.driver = c_.memory(table + ".driver");
    host.foreign = c_.memory(table + ".foreign");
    host.labels = c_.list(table + ".labels");
    std::sort(host.labels.begin(), host.labels.end());
    host.lost_every_us = span(table + ".lost_every");
    host.back_after_us = std::max<std::int64_t>(1'000'000, span(table + ".back_after"));
    for (std::int64_t n = 0; n < count; ++n) {
      s_.hosts.push_back(host);
      if (count > 1) s_.hosts.back().name += std::to_string(n);
    }
  }

  void read_model(const std::string& table) {
    s_.models.push_back({c_.text(table + ".name"), c_.memory(table + ".vram"), span(table + ".load")});
    if (s_.models.back().name.empty()) wrong(table + ".name", "is missing", "name = \"yolo\"");
    if (s_.models.size() > 250) wrong(table + ".name", "is one model too many", "at most 250");
  }

  Spread spread(const std::string& key) const {
    const std::string text = c_.text(key);
    const std::size_t dots = text.find("..");
    const auto low = parse_duration(std::string_view(text).substr(0, dots));
    const auto high = dots == std::string::npos ? low : parse_duration(std::string_view(text).substr(dots + 2));
    if (!low || !high || *high < *low || low->count() <= 0) wrong(key, "= '" + text + "' is no duration and no range of them", "\"12ms..40ms\" or \"5h\"");
    return {low->count() * 1000, high->count() * 1000};
  }

  void read_stream(const std::string& t) {
    Stream s;
    s.name = c_.text(t + ".name");
    if (s.name.empty()) wrong(t + ".name", "is missing", "name = \"camera\"");
    const auto kind = kind_index(c_.text(t + ".kind"));
    if (!kind || !kKinds[*kind].uses_device) wrong(t + ".kind", "= '" + c_.text(t + ".kind") + "' is no kind of work that uses a card", "detect, infer, train.detector, synthesize, command");
    s.kind = *kind;
    const KindTraits& traits = kKinds[s.kind];
    s.job_class = traits.default_class;
    if (const std::string text = c_.text(t + ".class"); !text.empty()) {
      const auto c = parse_job_class(text);
      if (!c) wrong(t + ".class", "= '" + text + "' is no class", "inference, training or synthesis");
      s.job_class = *c;
    }
    const std::string model = c_.text(t + ".model");
    for (std::size_t i = 0; i < s_.models.size(); ++i)
      if (s_.models[i].name == model) s.model = static_cast<std::uint16_t>(i);
    if (traits.uses_model && s.model == UINT16_MAX) wrong(t + ".model", model.empty() ? "is missing" : "= '" + model + "' is no [[model]] of this file", "model = one of them");
    if (!traits.uses_model && !model.empty()) wrong(t + ".model", "is named, but " + std::string(traits.name) + " uses none", "leave it out");
    if (const std::string vram = c_.text(t + ".vram"); !vram.empty()) {
      const std::size_t dots = vram.find("..");
      const auto low = parse_mib(std::string_view(vram).substr(0, dots));
      const auto high = dots == std::string::npos ? low : vram.substr(dots + 2) == "rest" ? kRestOfDevice : parse_mib(std::string_view(vram).substr(dots + 2));
      if (!low || !high || *high < *low) wrong(t + ".vram", "= '" + vram + "' is no size and no range", "8GiB, 2GiB..8GiB or 2GiB..rest");
      s.vram_min = *low;
      s.vram_max = *high;
    }
    s.devices = static_cast<std::uint16_t>(whole(t + ".devices", 1, 16));
    s.priority = static_cast<std::uint8_t>(whole(t + ".priority", 0, 9));
    s.on_preempt = traits.on_preempt;
    if (const std::string text = c_.text(t + ".on_preempt"); !text.empty()) {
      const auto p = parse_on_preempt(text);
      if (!p) wrong(t + ".on_preempt", "= '" + text + "' is none", "checkpoint, pause, restart or never");
      s.on_preempt = *p;
    }
    s.where = c_.list(t + ".where");
    std::sort(s.where.begin(), s.where.end());
    read_rates(t + ".per_hour", s);
    for (const std::string& at : c_.list(t + ".at")) s.at_us.push_back(minutes(t + ".at", at) * 60'000'000);
    s.at_count = static_cast<std::uint32_t>(whole(t + ".count", 1, 100'000));
    s.burst_every_us = span(t + ".burst_every");
    s.burst_jobs = static_cast<std::uint32_t>(whole(t + ".burst_jobs", 0, 100'000));
    s.burst_within_us = span(t + ".burst_within");
    s.takes = spread(t + ".takes");
    s.start_takes = spread(t + ".start_takes");
    s.optimizer_step_us = span(t + ".optimizer_step");
    s.micro_step_us = span(t + ".micro_step");
    if (s.optimizer_step_us > 0 && (s.micro_step_us <= 0 || s.optimizer_step_us % s.micro_step_us != 0))
      wrong(t + ".micro_step", "does not divide optimizer_step", "optimizer_step = \"400ms\", micro_step = \"50ms\"");
    s.checkpoint_every_us = span(t + ".checkpoint_every");
    s.checkpoint_takes_us = span(t + ".checkpoint_takes");
    s.release_takes_us = std::max<std::int64_t>(1'000, span(t + ".release_takes"));
    s_.streams.push_back(std::move(s));
  }

  [[nodiscard]] std::int64_t minutes(const std::string& key, const std::string& text) const {
    unsigned h = 99, m = 0;
    if (std::sscanf(text.c_str(), "%2u:%2u", &h, &m) != 2 || h > 23 || m > 59) wrong(key, "has '" + text + "', which is no time of the day", "\"21:30\"");
    return h * 60 + m;
  }

  /// "40", or "00-07 20, 07-22 900": hours that are not named have none.
  void read_rates(const std::string& key, Stream& s) const {
    std::istringstream items(c_.text(key));
    for (std::string item; std::getline(items, item, ',');) {
      unsigned from = 0, to = 24;
      double rate = 0;
      const bool hours = std::sscanf(item.c_str(), " %2u-%2u %lf", &from, &to, &rate) == 3;
      if (!hours && (from = 0, to = 24, std::sscanf(item.c_str(), " %lf", &rate) != 1)) from = 99;
      if (from >= to || to > 24 || rate < 0 || !std::isfinite(rate) || rate > 1e7) wrong(key, "has '" + item + "'", "\"40\" or \"00-07 20, 07-22 900, 22-24 60\"");
      for (unsigned h = from; h < to; ++h) s.per_hour[h] = rate;
    }
  }

  void read_promise(const std::string& of) {
    const auto c = parse_job_class(of);
    if (!c) wrong("promise." + of, "names no class", "[promise.inference]");
    Promise& p = s_.promises[static_cast<std::size_t>(*c)];
    const std::string key = "promise." + of + ".";
    if (c_.given(key + "wait_p99")) p.wait_p99_us = span(key + "wait_p99");
    if (c_.given(key + "wait_max")) p.wait_max_us = span(key + "wait_max");
    if (c_.given(key + "share_of_rest")) p.share_of_rest_pct = c_.real(key + "share_of_rest");
    if (c_.given(key + "done")) p.done_min = static_cast<std::uint64_t>(whole(key + "done", 0, 100'000'000));
  }

  const Config& c_;
  Scenario& s_;
};

}  // namespace

Result<Scenario> parse_scenario(std::string_view text, const std::string& name) {
  auto config = Config::parse(settings(), text, name, [](const char*) -> const char* { return nullptr; });
  if (!config) return tl::unexpected(config.error());
  Scenario scenario;
  try {
    Reader(*config, scenario).read(name);
  } catch (const Wrong& wrong) {
    return tl::unexpected(wrong.error);
  }
  return scenario;
}

Result<Scenario> read_scenario(const std::string& path) {
  std::ifstream in(path);
  if (!in) return tl::unexpected(Error{Errc::usage, "scenario " + path + " cannot be read", "tests/sim/scenarios has some"});
  std::stringstream text;
  text << in.rdbuf();
  return parse_scenario(text.str(), path);
}

}  // namespace gq::sim
