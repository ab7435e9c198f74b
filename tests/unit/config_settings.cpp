// config_settings.cpp - who wins, where a value came from, and what a mistake is told.
#include <gtest/gtest.h>

#include <map>

#include "common/config/config.h"

namespace gq {
namespace {

const std::vector<Setting> kSettings{{"broker.client_port", SettingType::number, "7700", "the port of clients"},
                                     {"broker.data", SettingType::text, "", "a folder"},
                                     {"broker.lease", SettingType::duration, "10s", "how long"},
                                     {"broker.sync", SettingType::boolean, "true", ""},
                                     {"broker.share", SettingType::real, "0.5", ""},
                                     {"redis.budget", SettingType::memory, "1GiB", ""},
                                     {"worker.labels", SettingType::list, "", "key=value"},
                                     {"class.*.window", SettingType::text, "", "when"},
                                     {"class.*.reserve[].vram", SettingType::memory, "", "how much"}};

Config::Environment environment(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const char* name) -> const char* {
    const auto at = values.find(name);
    return at == values.end() ? nullptr : at->second.c_str();
  };
}
Result<Config> parse(std::string_view toml, std::map<std::string, std::string> env = {}) {
  return Config::parse(kSettings, toml, "gpuq.toml", environment(std::move(env)));
}
std::string mistake(std::string_view toml) {
  const auto config = parse(toml);
  return config ? "accepted" : std::string(to_string(config.error().code)) + " " + config.error().what + " | " + config.error().next;
}

TEST(Settings, that_nobody_gave_have_their_defaults) {
  const Config config = *parse("");
  EXPECT_EQ(config.number("broker.client_port"), 7700);
  EXPECT_EQ(config.duration("broker.lease"), std::chrono::seconds(10));
  EXPECT_EQ(config.memory("redis.budget"), Mib{1024});
  EXPECT_TRUE(config.boolean("broker.sync"));
  EXPECT_EQ(config.real("broker.share"), 0.5);
  EXPECT_TRUE(config.list("worker.labels").empty());
  EXPECT_FALSE(config.given("broker.client_port"));
}

TEST(Settings, a_flag_beats_the_environment_beats_the_file_beats_the_default) {
  const char* file = "[broker]\nclient_port = 1\nlease = \"1s\"\n[worker]\nlabels = [\"a=1\", \"b=2\"]\n";
  Config config = *parse(file, {{"GPUQ_BROKER_CLIENT_PORT", "2"}, {"GPUQ_REDIS_BUDGET", "8GiB"}});
  EXPECT_EQ(config.number("broker.client_port"), 2);
  ASSERT_TRUE(config.set_flag("broker.client_port", "3", "--client-port").has_value());
  EXPECT_EQ(config.number("broker.client_port"), 3);
  EXPECT_EQ(config.list("worker.labels"), (std::vector<std::string>{"a=1", "b=2"}));
  EXPECT_EQ(config.effective(),
            (std::vector<EffectiveSetting>{{"broker.client_port", "3", Origin::flag, "--client-port"},
                                           {"broker.data", "", Origin::fallback, ""},
                                           {"broker.lease", "1s", Origin::file, "gpuq.toml:3:1"},
                                           {"broker.share", "0.5", Origin::fallback, ""},
                                           {"broker.sync", "true", Origin::fallback, ""},
                                           {"redis.budget", "8GiB", Origin::environment, "GPUQ_REDIS_BUDGET"},
                                           {"worker.labels", "a=1,b=2", Origin::file, "gpuq.toml:5:1"}}));
}

TEST(Settings, a_star_stands_for_any_name) {
  const Config config = *parse("[class.training]\nwindow = \"22:00-07:00\"\n[class.inference]\nwindow = \"\"\n");
  EXPECT_EQ(config.names("class.*"), (std::vector<std::string>{"inference", "training"}));
  EXPECT_EQ(config.text("class.training.window"), "22:00-07:00");
  EXPECT_EQ(config.text("class.synthesis.window"), "");
}

TEST(Settings, have_names_in_quotes_where_toml_has_them) {
  const Config config = *parse("[class.\"gpu1.lan/0\"]\nwindow = \"sat\"\n[class.plain-name_1]\nwindow = \"sun\"\n");
  EXPECT_EQ(config.names("class.*"), (std::vector<std::string>{"\"gpu1.lan/0\"", "plain-name_1"}));
  EXPECT_EQ(config.text("class.\"gpu1.lan/0\".window"), "sat") << "a dot within a name is no border";
  EXPECT_EQ(config.where("class.\"gpu1.lan/0\".window"), "gpuq.toml:2:1");
}

TEST(Settings, may_be_lists_of_tables) {
  const Config config = *parse("[class.a]\nreserve = [{vram = \"1GiB\"},\n           {}, {vram = \"3GiB\"}]\n");
  EXPECT_EQ(config.tables("class.a.reserve"), (std::vector<std::string>{"gpuq.toml:2:12", "gpuq.toml:3:12", "gpuq.toml:3:16"}));
  EXPECT_EQ(config.memory("class.a.reserve[0].vram"), Mib{1024});
  EXPECT_FALSE(config.given("class.a.reserve[1].vram"));
  EXPECT_EQ(config.memory("class.a.reserve[2].vram"), Mib{3072});
  EXPECT_TRUE(config.tables("class.b.reserve").empty());
}

TEST(Mistakes, an_unknown_key_is_named_with_its_place_and_the_key_that_was_meant) {
  EXPECT_EQ(mistake("[broker]\n  cleint_port = 1\n"), "USAGE gpuq.toml:2:3: unknown key broker.cleint_port | did you mean broker.client_port?");
  EXPECT_EQ(mistake("[nonsense]\nx = 1\n"), "USAGE gpuq.toml:2:1: unknown key nonsense.x | see the keys with: gpuq config show");
}

TEST(Mistakes, in_another_section_or_in_an_empty_one_are_named_too) {
  EXPECT_EQ(mistake("budget = \"1GiB\"\n"), "USAGE gpuq.toml:1:1: unknown key budget | did you mean redis.budget?");
  EXPECT_EQ(mistake("[nonsense]\n"), "USAGE gpuq.toml:1:2: unknown key nonsense | see the keys with: gpuq config show");
  EXPECT_EQ(mistake("[class.\"a.b\"]\nwindwo = \"sat\"\n"), "USAGE gpuq.toml:2:1: unknown key class.\"a.b\".windwo | did you mean class.\"a.b\".window?");
  EXPECT_EQ(mistake("[class.a]\nreserve = [{vram = 1}]\n"), "USAGE gpuq.toml:2:13: class.a.reserve[0].vram is not a size such as \"512MiB\" or \"8GiB\" | how much");
  EXPECT_EQ(mistake("[class.a]\nreserve = [1]\n"), "USAGE gpuq.toml:2:1: class.a.reserve is not a list of tables | write class.a.reserve = [{name = \"value\", …}, …]");
}

TEST(Mistakes, as_deep_as_a_stranger_likes_end_in_an_error_and_not_in_the_stack) {
  const auto many = [](std::string_view part, std::size_t times) {
    std::string text;
    for (std::size_t i = 0; i < times; ++i) text += part;
    return text;
  };
  EXPECT_EQ(mistake("[broker]\n[" + many("a.", 100'000) + "a]\n"), "USAGE gpuq.toml:2:1: nested deeper than any setting | is it the right file?");
  EXPECT_EQ(mistake("x = \"\"\"\n\"\"\"\n" + many("a.", 100'000) + "a = 1\n").substr(0, 22), "USAGE gpuq.toml:3:1: n");
  EXPECT_EQ(mistake("x = " + many("{a.b.c.d=", 1000) + "1" + many("}", 1000)).substr(0, 22), "USAGE gpuq.toml:1:1: n");
  EXPECT_EQ(mistake("x = " + many("[", 100'000)).substr(0, 22), "USAGE gpuq.toml:1:1: n");
  EXPECT_EQ(mistake("broker.data = \"" + many("a.[{", 1000) + "\" # " + many(".[", 1000) + "\nbroker.data_ = 1\n"), "USAGE gpuq.toml:2:8: unknown key broker.data_ | did you mean broker.data?")
      << "what stands in strings and comments counts for nothing";
}

TEST(Mistakes, a_value_of_the_wrong_kind_says_which_kind_was_expected) {
  EXPECT_EQ(mistake("[broker]\nclient_port = \"1\"\n"), "USAGE gpuq.toml:2:1: broker.client_port is not a whole number | the port of clients");
  EXPECT_EQ(mistake("broker.lease = \"soon\"\n"),
            "USAGE gpuq.toml:1:8: broker.lease = 'soon' is not a duration such as \"250ms\", \"30s\" or \"1h30min\" | how long");
  EXPECT_EQ(mistake("worker.labels = \"a\"\n"), "USAGE gpuq.toml:1:8: worker.labels is not a list of texts | key=value");
  const auto config = parse("", {{"GPUQ_BROKER_SYNC", "perhaps"}});
  ASSERT_FALSE(config.has_value());
  EXPECT_EQ(config.error().what, "GPUQ_BROKER_SYNC: broker.sync = 'perhaps' is not true or false");
}

TEST(Mistakes, a_file_that_is_no_toml_or_is_absent_is_told) {
  EXPECT_EQ(mistake("[broker\n").substr(0, 17), "USAGE gpuq.toml:1");
  const auto absent = Config::load(kSettings, "/nonexistent/gpuq.toml");
  ASSERT_FALSE(absent.has_value());
  EXPECT_EQ(absent.error().code, Errc::usage);
}

}  // namespace
}  // namespace gq
