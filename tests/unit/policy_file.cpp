// policy_file.cpp - gpuq.toml: what it may say, what becomes of it, and what a mistake is told.
#include "broker/policy/policy_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "broker/policy/settings.h"

namespace gq::policy {
namespace {

using core::DeviceSelector;
using core::Reservation;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr WallTime kNow{1'710'504'000'000};   // Friday 2024-03-15 12:00 UTC

Config::Environment environment(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const char* name) -> const char* {
    const auto at = values.find(name);
    return at == values.end() ? nullptr : at->second.c_str();
  };
}
Result<Loaded> read(std::string_view text, std::map<std::string, std::string> env = {}) { return parse(text, "gpuq.toml", kNow, environment(std::move(env))); }
core::Policy policy_of(std::string_view text) {
  auto loaded = read(text);
  EXPECT_TRUE(loaded) << (loaded ? "" : loaded.error().what);
  return loaded ? loaded->policy : core::Policy{};
}
std::string mistake(std::string_view text) {
  const auto loaded = read(text);
  return loaded ? "accepted" : std::string(to_string(loaded.error().code)) + " " + loaded.error().what + " | " + loaded.error().next;
}
/// Of the setting `key`: value and where it came from.
std::string shown(const Loaded& loaded, const std::string& key) {
  for (const EffectiveSetting& s : loaded.effective)
    if (s.key == key) return s.value + " # " + (s.where.empty() ? std::string(to_string(s.origin)) : s.where);
  return "absent";
}

// ---- what it may say

TEST(PolicyFile, that_says_nothing_is_the_built_in_policy) {
  EXPECT_EQ(policy_of(""), core::Policy{});
  EXPECT_EQ(policy_of("[class.training]\n[policy]\n"), core::Policy{});
}

TEST(PolicyFile, with_everything_in_it_becomes_that_policy) {
  const core::Policy policy = policy_of(R"(
[policy]
ladder = ["training", "inference", "synthesis"]
aging = "off"
headroom = "3%"
hold_at_c = 80
resume_at_c = 70
reserve_after = "5min"
model_idle_min = "1min"
packing = "fgd"
fair = true
fair_half_life = "12h"
time_zone = "UTC"

[class.inference]
budget = "4GiB"
devices = ["host1/0", "label:shared", "label:zone=a", "GPU-7e1f", 2, "*"]
reserve = [{ device = "host1/0", vram = "6GiB" }, { device = "label:shared", vram = "loaded", when = "22:00-07:00, sat-sun" },
           { device = "*", vram = "25%", when = "09:00-17:00", time_zone = "Asia/Seoul" }]
preemptible = false

[class.training]
budget = "rest"
window = "22:00-07:00, sat-sun"
min_run = "2min"
grace = "45s"
checkpoint_interval = "10min"
preemptions_max = 4
protect_after = 1
running_max = 2
queued_max = 1000

[class.synthesis]
budget = "kind"
not_beside = ["training"]
pause_for = ["inference", "training"]
min_run_ignored_by = []
cloud = "never"
durability = "none"

[device."host1/0"]
headroom = "1GiB"
labels = ["shared", "rack=3"]
[device."GPU-7e1f"]
headroom = "10%"
hold_at_c = 90

[tenant.alice]
running_max = 3
weight = 2.5
[tenant."*"]
queued_max = 50
)");
  core::Policy wanted;
  wanted.ladder = {JobClass::training, JobClass::inference, JobClass::synthesis};
  wanted.aging = false;
  wanted.headroom_pct = 3;
  wanted.hold_at_c = 80;
  wanted.resume_at_c = 70;
  wanted.reserve_after = 5min;
  wanted.model_idle_min = 1min;
  wanted.packing = core::Packing::fgd;
  wanted.fair = true;
  wanted.fair_half_life = 12h;
  const DeviceSelector host1_0{DeviceSelector::Kind::host_index, "host1", 0}, shared{DeviceSelector::Kind::label, "shared", 0}, card{DeviceSelector::Kind::uuid, "GPU-7e1f", 0};
  core::ClassPolicy& inference = wanted.of(JobClass::inference);
  inference.budget = {4096};
  inference.devices = {host1_0, shared, {DeviceSelector::Kind::label, "zone=a", 0}, card, {DeviceSelector::Kind::index, "", 2}, {}};
  inference.preemptible = false;
  core::ClassPolicy& training = wanted.of(JobClass::training);
  training.budget = kRest;
  training.window = 0;
  training.min_run = 2min;
  training.grace = 45s;
  training.checkpoint_interval = 10min;
  training.preemptions_max = 4;
  training.protect_after = 1;
  training.running_max = 2;
  training.queued_max = 1000;
  core::ClassPolicy& synthesis = wanted.of(JobClass::synthesis);
  synthesis.budget = {};
  synthesis.not_beside = {JobClass::training};
  synthesis.pause_for = {JobClass::inference, JobClass::training};
  synthesis.min_run_ignored_by = {};
  synthesis.cloud = false;
  synthesis.durable = false;
  wanted.reservations = {{Reservation::Size::mib, JobClass::inference, host1_0, {6144}, 0, core::kAlways},
                         {Reservation::Size::loaded, JobClass::inference, shared, {}, 0, 0},
                         {Reservation::Size::percent, JobClass::inference, {}, {}, 25, 1}};
  wanted.devices = {{host1_0, std::nullopt, Mib{1024}, std::nullopt, std::nullopt, {"shared", "rack=3"}}, {card, 10, std::nullopt, std::int16_t{90}, std::nullopt, {}}};
  wanted.tenants = {{"*", 0, 50, 1.0}, {"alice", 3, 0, 2.5}};
  ASSERT_EQ(policy.windows.size(), 2U) << "training's window is the reservation's too: one of each";
  EXPECT_EQ(policy.windows[0].text + " " + policy.windows[0].zone, "22:00-07:00, sat-sun UTC");
  EXPECT_EQ(policy.windows[1].text + " " + policy.windows[1].zone, "09:00-17:00 Asia/Seoul");
  EXPECT_EQ(policy.windows[0].opens_after(kNow.ms), kNow.ms + 10 * 3'600'000) << "tonight at ten";
  EXPECT_EQ(policy.windows[0].closes_after(kNow.ms + 11 * 3'600'000), kNow.ms + (3 * 24 - 5) * 3'600'000LL) << "and closes on Monday at seven";
  wanted.windows = policy.windows;
  EXPECT_EQ(policy.classes, wanted.classes);
  EXPECT_EQ(policy.reservations, wanted.reservations);
  EXPECT_EQ(policy.devices, wanted.devices);
  EXPECT_EQ(policy.tenants, wanted.tenants);
  EXPECT_EQ(policy, wanted);
}

TEST(PolicyFile, takes_reservations_in_every_way_toml_has_for_a_list_of_tables) {
  const auto one = policy_of("class.inference.reserve = [{device = \"*\", vram = \"25%\"}]\n").reservations;
  EXPECT_EQ(one.size(), 1U);
  EXPECT_EQ(policy_of("[class.inference]\nreserve = {device = \"*\", vram = \"25%\"}\n").reservations, one);
  EXPECT_EQ(policy_of("[[class.inference.reserve]]\ndevice = \"*\"\nvram = \"25%\"\n").reservations, one);
}

TEST(PolicyFile, lets_a_zone_be_named_once_per_class_or_for_all) {
  const auto zone = [](std::string_view text) { return policy_of(text).windows.at(0).zone; };
  EXPECT_EQ(zone("[policy]\ntime_zone = \"Asia/Seoul\"\n[class.training]\nwindow = \"22:00-07:00\"\n"), "Asia/Seoul");
  EXPECT_EQ(zone("[policy]\ntime_zone = \"Asia/Seoul\"\n[class.training]\nwindow = \"22:00-07:00\"\ntime_zone = \"Europe/Berlin\"\n"), "Europe/Berlin");
  EXPECT_EQ(zone("[class.training]\ntime_zone = \"Europe/Berlin\"\nreserve = [{device = \"*\", vram = \"1GiB\", when = \"sat\"}]\n"), "Europe/Berlin");
}

TEST(PolicyFile, that_names_no_zone_says_which_one_it_took) {
  const auto loaded = read("[class.training]\nwindow = \"22:00-07:00\"\n", {{"TZ", "Europe/Berlin"}});
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->policy.windows.at(0).zone, "Europe/Berlin");
  EXPECT_THAT(loaded->warnings, ElementsAre("the time zone of windows that name none is this machine's, Europe/Berlin; to choose it: [policy] time_zone = \"Europe/Berlin\""));
  EXPECT_EQ(shown(*loaded, "policy.time_zone"), "local (Europe/Berlin) # default");
  const auto chosen = read("[policy]\ntime_zone = \"local\"\n[class.training]\nwindow = \"22:00-07:00\"\n", {{"TZ", "Europe/Berlin"}});
  EXPECT_TRUE(chosen->warnings.empty()) << "who writes local, means it";
}

TEST(PolicyFile, also_holds_what_the_broker_is_told) {
  EXPECT_EQ(policy_of("[broker]\nlisten_clients = \"tcp://0.0.0.0:7700\"\n[broker.timing]\nlease = \"12s\"\n"), core::Policy{});
  EXPECT_EQ(mistake("[broker]\nlisten_client = \"tcp://0.0.0.0:7700\"\n"), "USAGE gpuq.toml:2:1: unknown key broker.listen_client | did you mean broker.listen_clients?");
}

// ---- where every value came from

TEST(EffectivePolicy, names_the_origin_of_every_value) {
  const auto loaded = read("[class.training]\nwindow = \"always\"\n  budget = \"8GiB\"\n[device.\"a.b/0\"]\nheadroom = \"1GiB\"\n[class.inference]\nreserve = [{device = \"*\", vram = \"25%\"}]\n"
                           "[broker]\nredis = \"redis://gpuq:secret@db:6379\"\n",
                           {{"GPUQ_CLASS_TRAINING_MIN_RUN", "1min"}, {"GPUQ_CLASS_TRAINING_BUDGET", "10GiB"}});
  ASSERT_TRUE(loaded);
  EXPECT_EQ(shown(*loaded, "class.training.window"), "always # gpuq.toml:2:1");
  EXPECT_EQ(shown(*loaded, "class.training.budget"), "10GiB # GPUQ_CLASS_TRAINING_BUDGET");
  EXPECT_EQ(shown(*loaded, "class.training.min_run"), "1min # GPUQ_CLASS_TRAINING_MIN_RUN");
  EXPECT_EQ(shown(*loaded, "class.inference.budget"), "6GiB # default");
  EXPECT_EQ(shown(*loaded, "class.synthesis.min_run_ignored_by"), "inference # default");
  EXPECT_EQ(shown(*loaded, "policy.ladder"), "inference,training,synthesis # default");
  EXPECT_EQ(shown(*loaded, "policy.aging"), "10min # default");
  EXPECT_EQ(shown(*loaded, "device.\"a.b/0\".headroom"), "1GiB # gpuq.toml:5:1");
  EXPECT_EQ(shown(*loaded, "class.inference.reserve[0].vram"), "25% # gpuq.toml:7:27");
  EXPECT_EQ(shown(*loaded, "broker.redis"), "redis://gpuq:***@db:6379 # gpuq.toml:9:1") << "a password is nobody's business";
  EXPECT_EQ(loaded->policy.of(JobClass::training).budget, Mib{10 * 1024});
}

TEST(EffectivePolicy, as_text_is_a_line_per_setting_with_its_origin) {
  EXPECT_EQ(to_text({{"policy.aging", "off", Origin::file, "/etc/gpuq.toml:3:1"}, {"policy.fair", "false", Origin::fallback, ""}}),
            "policy.aging = off   # /etc/gpuq.toml:3:1\npolicy.fair = false  # default\n");
}

/// Whatever the file leaves out is what core::Policy says, so that a default is written down once.
TEST(EffectivePolicy, has_the_cores_own_defaults) {
  std::string all;
  for (const Setting& setting : policy_settings()) {
    if (setting.key.find('*') != std::string::npos || setting.key.find("[]") != std::string::npos || setting.fallback.empty()) continue;
    const bool bare = setting.type == SettingType::number || setting.type == SettingType::boolean || setting.type == SettingType::real;
    std::string value = bare ? setting.fallback : "\"" + setting.fallback + "\"";
    if (setting.type == SettingType::list) {
      value = "[\"" + setting.fallback + "\"]";
      for (std::size_t at = 0; (at = value.find(',', at)) != std::string::npos; at += 3) value.replace(at, 1, "\",\"");
    }
    all += setting.key + " = " + value + "\n";
  }
  EXPECT_EQ(policy_of(all), core::Policy{}) << all;
}

// ---- mistakes

TEST(PolicyMistakes, name_place_key_and_what_was_meant) {
  EXPECT_EQ(mistake("[class.training]\n  windwo = \"22:00-07:00\"\n"), "USAGE gpuq.toml:2:3: unknown key class.training.windwo | did you mean class.training.window?");
  EXPECT_EQ(mistake("[class.trainign]\nwindow = \"22:00-07:00\"\n"), "USAGE gpuq.toml:2:1: unknown key class.trainign.window | did you mean class.training.window?");
  EXPECT_EQ(mistake("aging = \"off\"\n"), "USAGE gpuq.toml:1:1: unknown key aging | did you mean policy.aging?");
  EXPECT_EQ(mistake("[device.\"host1/0\"]\nhedroom = \"1GiB\"\n"), "USAGE gpuq.toml:2:1: unknown key device.\"host1/0\".hedroom | did you mean device.\"host1/0\".headroom?");
  EXPECT_EQ(mistake("[class.inference]\nreserve = [{device = \"*\", vram = \"1GiB\", wen = \"sat\"}]\n"),
            "USAGE gpuq.toml:2:42: unknown key class.inference.reserve[0].wen | did you mean class.inference.reserve[0].when?");
  EXPECT_EQ(mistake("[scalar]\n"), "USAGE gpuq.toml:1:2: unknown key scalar | see the keys with: gpuq config show");
  EXPECT_THAT(mistake("[class.training\n"), StartsWith("USAGE gpuq.toml:1:16: "));
  EXPECT_THAT(mistake("[policy]\naging = \"off\"\naging = \"1h\"\n"), StartsWith("USAGE gpuq.toml:3:"));
}

TEST(PolicyMistakes, of_kind_say_which_kind_was_expected) {
  EXPECT_THAT(mistake("[class.training]\nmin_run = 30\n"), StartsWith("USAGE gpuq.toml:2:1: class.training.min_run is not a duration such as \"250ms\", \"30s\" or \"1h30min\" | not preempted before"));
  EXPECT_THAT(mistake("[class.training]\npreemptible = \"no\"\n"), StartsWith("USAGE gpuq.toml:2:1: class.training.preemptible is not true or false | "));
  EXPECT_THAT(mistake("[class.training]\nnot_beside = \"synthesis\"\n"), StartsWith("USAGE gpuq.toml:2:1: class.training.not_beside is not a list of texts | "));
  EXPECT_THAT(mistake("[class.inference]\nreserve = \"6GiB\"\n"), StartsWith("USAGE gpuq.toml:2:1: class.inference.reserve is not a list of tables | "));
  EXPECT_THAT(mistake("[class.inference]\nreserve = [\"6GiB\"]\n"), StartsWith("USAGE gpuq.toml:2:1: class.inference.reserve is not a list of tables | "));
  EXPECT_THAT(mistake("[class.training]\nrunning_max = -1\n"), StartsWith("USAGE gpuq.toml:2:1: class.training.running_max: -1 is not from 0 to 1000000000"));
}

TEST(PolicyMistakes, in_windows_and_zones_are_told) {
  EXPECT_EQ(mistake("[class.training]\nwindow = \"07:00-07:00\"\n"),
            "USAGE gpuq.toml:2:1: class.training.window: '07:00-07:00' never opens: it begins and ends at the same time | for whole days write the days alone, such as mon-sun or sat");
  EXPECT_THAT(mistake("[class.training]\nwindow = \"\"\n"), StartsWith("USAGE gpuq.toml:2:1: class.training.window: an empty window never opens"));
  EXPECT_EQ(mistake("[class.training]\nwindow = \"sat\"\ntime_zone = \"Asia/Soul\"\n"),
            "USAGE gpuq.toml:3:1: class.training.time_zone: 'Asia/Soul' is no time zone of this system | did you mean Asia/Seoul?");
  EXPECT_THAT(mistake("[class.training]\ntime_zone = \"Asia/Soul\"\n"), HasSubstr("'Asia/Soul' is no time zone")) << "also where no window needs it";
  EXPECT_EQ(mistake("[policy]\ntime_zone = \"UTC\"\n[class.training]\nwindow = \"22:00-23:00\"\nmin_run = \"2h\"\n"),
            "USAGE gpuq.toml:4:1: class.training.window: is never open long enough for a job to start: 60 min, and min_run or grace is no shorter | make it longer, or class.training.min_run and grace shorter");
}

TEST(PolicyMistakes, in_the_ladder_are_told) {
  EXPECT_EQ(mistake("[policy]\nladder = [\"inference\", \"training\", \"inference\"]\n"),
            "USAGE gpuq.toml:2:1: policy.ladder: 'inference' stands in it twice, so it would be above and below itself | name every class once, the highest first");
  EXPECT_EQ(mistake("[policy]\nladder = [\"inference\", \"training\"]\n"), "USAGE gpuq.toml:2:1: policy.ladder: 'synthesis' is missing | name every class once, the highest first");
  EXPECT_EQ(mistake("[policy]\nladder = [\"inference\", \"trainings\", \"synthesis\"]\n"), "USAGE gpuq.toml:2:1: policy.ladder: 'trainings' is no class | did you mean training?");
}

TEST(PolicyMistakes, between_classes_are_told) {
  EXPECT_EQ(mistake("[class.synthesis]\nnot_beside = [\"training\", \"synthesis\"]\n"),
            "USAGE gpuq.toml:2:1: class.synthesis.not_beside: names synthesis itself | name other classes; to run one job at a time: running_max = 1");
  EXPECT_EQ(mistake("[class.inference]\npause_for = [\"training\"]\n"),
            "USAGE gpuq.toml:2:1: class.inference.pause_for: training is below inference in the ladder | a class is held only for those above it");
}

TEST(PolicyMistakes, in_amounts_are_told) {
  EXPECT_THAT(mistake("[class.training]\nbudget = \"lots\"\n"), StartsWith("USAGE gpuq.toml:2:1: class.training.budget: 'lots' is no budget | write a size such as \"12GiB\", \"rest\""));
  EXPECT_THAT(mistake("[policy]\naging = \"soon\"\n"), StartsWith("USAGE gpuq.toml:2:1: policy.aging: 'soon' is neither \"off\" nor a duration"));
  EXPECT_THAT(mistake("[policy]\nheadroom = \"1GiB\"\n"), StartsWith("USAGE gpuq.toml:2:1: policy.headroom: '1GiB' is no percentage"));
  EXPECT_THAT(mistake("[policy]\nhold_at_c = 70\n"), StartsWith("USAGE gpuq.toml:2:1: policy.hold_at_c: a device held at 70 C would resume at 75 C, which is not cooler"));
  EXPECT_THAT(mistake("[device.0]\nresume_at_c = 83\n"), StartsWith("USAGE gpuq.toml:2:1: device.0.resume_at_c: a device held at 83 C would resume at 83 C"));
  EXPECT_THAT(mistake("[policy]\npacking = \"worst-fit\"\n"), StartsWith("USAGE gpuq.toml:2:1: policy.packing: 'worst-fit' is no way of packing"));
  EXPECT_THAT(mistake("[class.inference]\ndurability = \"everysec\"\n"), StartsWith("USAGE gpuq.toml:2:1: class.inference.durability: 'everysec' is no answer"));
  EXPECT_THAT(mistake("[class.synthesis]\ncloud = \"maybe\"\n"), StartsWith("USAGE gpuq.toml:2:1: class.synthesis.cloud: 'maybe' is no answer"));
  EXPECT_THAT(mistake("[tenant.bob]\nweight = 0.0\n"), StartsWith("USAGE gpuq.toml:2:1: tenant.bob.weight: is not from 0.001 to 1000"));
}

TEST(PolicyMistakes, in_reservations_are_told) {
  const auto reserve = [](const std::string& tables) { return mistake("[policy]\ntime_zone = \"UTC\"\n[class.inference]\nreserve = [" + tables + "]\n"); };
  EXPECT_EQ(reserve(R"({vram = "6GiB"})"), "USAGE gpuq.toml:4:12: class.inference.reserve[0] has no device | write {device = \"host1/0\", vram = \"6GiB\"}");
  EXPECT_EQ(reserve(R"({device = "*", vram = "120%"})"), "USAGE gpuq.toml:4:27: class.inference.reserve[0].vram: '120%' is more than the whole device | at most 100%");
  EXPECT_THAT(reserve(R"({device = "*", vram = "half"})"), StartsWith("USAGE gpuq.toml:4:27: class.inference.reserve[0].vram: 'half' is no amount of memory"));
  EXPECT_THAT(reserve(R"({device = "*", vram = "0%"})"), HasSubstr("'0%' reserves nothing | leave the reservation out"));
  EXPECT_THAT(reserve(R"({device = "gpu0", vram = "1GiB"})"), StartsWith("USAGE gpuq.toml:4:13: class.inference.reserve[0].device: 'gpu0' names no device | write a UUID (GPU-…), label:NAME, HOST/INDEX"));
  EXPECT_THAT(reserve(R"({device = "*", vram = "1GiB"}, {device = "*", vram = "2GiB"})"),
              StartsWith("USAGE gpuq.toml:4:43: class.inference.reserve[1]: * has such a reservation already, in gpuq.toml:4:12 | "));
  EXPECT_EQ(reserve(R"({device = "*", vram = "60%"}, {device = "h/0", vram = "50%", when = "sat"})"), "accepted") << "of one class's the largest counts";
  const auto both = [](const std::string& inference, const std::string& training) {
    return mistake("[policy]\ntime_zone = \"UTC\"\n[class.inference]\nreserve = [" + inference + "]\n[class.training]\nreserve = [" + training + "]\n");
  };
  EXPECT_THAT(both(R"({device = "*", vram = "60%"})", R"({device = "h/0", vram = "50%", when = "sat"})"),
              StartsWith("USAGE gpuq.toml:6:12: reservations of h/0 that hold at the same time add up to 110% of it | "));
  EXPECT_EQ(both(R"({device = "h/0", vram = "60%", when = "sun"})", R"({device = "h/0", vram = "50%", when = "sat"})"), "accepted") << "never at the same time";
  EXPECT_EQ(both(R"({device = "h/1", vram = "60%"})", R"({device = "h/0", vram = "50%"})"), "accepted") << "not on the same device";
}

TEST(PolicyWarnings, tell_what_is_legal_but_hardly_meant) {
  EXPECT_THAT(read("[class.inference]\ndevices = [\"0\"]\nreserve = [{device = \"1\", vram = \"1GiB\"}]\n")->warnings,
              ElementsAre("gpuq.toml:3:12: 1 is reserved for inference, but class.inference.devices does not name it"));
  EXPECT_TRUE(read("[policy]\nfair = true\n[tenant.bob]\nweight = 2.0\nrunning_max = 2\nqueued_max = 9\n[class.synthesis]\ncloud = \"never\"\n")->warnings.empty()) << "all of it is followed";
  EXPECT_THAT(read("[tenant.bob]\nweight = 2.0\n")->warnings, ElementsAre("gpuq.toml:2:1: tenant.bob.weight counts only with policy.fair = true"));
}

TEST(PolicyFile, that_is_absent_or_a_folder_is_told) {
  EXPECT_THAT(load("/nonexistent/gpuq.toml", kNow).error().what, StartsWith("cannot read the configuration /nonexistent/gpuq.toml"));
  EXPECT_THAT(load("/", kNow).error().what, StartsWith("cannot read the configuration /"));
}

}  // namespace
}  // namespace gq::policy
