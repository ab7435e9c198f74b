// What reads hostile HTTP: forms, jobs as JSON, addresses. Pure functions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <ostream>
#include <random>

#include "client/http/job_json.h"
#include "client/http/multipart.h"
#include "client/http/openapi.h"
#include "client/http/query.h"

namespace gq::http {
namespace {

std::string form(const std::string& inner) { return "--b\r\n" + inner + "\r\n--b--\r\n"; }
constexpr const char* kType = "multipart/form-data; boundary=b";

TEST(HttpForm, a_file_and_a_field_as_curl_sends_them) {
  const std::string body = "--b\r\nContent-Disposition: form-data; name=\"conf\"\r\n\r\n0.4\r\n--b\r\n"
                           "Content-Disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\".png\"\r\nContent-Type: image/PNG; q=1\r\n\r\n\x89PNG\r\n-b\r\n--b--\r\nepilogue";
  const auto parts = parse_form(kType, body);
  ASSERT_TRUE(parts) << parts.error().what;
  ASSERT_EQ(parts->size(), 2U);
  EXPECT_EQ((*parts)[0].name, "conf");
  EXPECT_EQ((*parts)[0].bytes, "0.4");
  EXPECT_FALSE((*parts)[0].is_file);
  EXPECT_EQ((*parts)[1].filename, "a \"b\".png");
  EXPECT_EQ((*parts)[1].media, "image/png");
  EXPECT_EQ((*parts)[1].bytes, "\x89PNG\r\n-b");
}

TEST(HttpForm, what_only_looks_like_the_boundary_is_refused_not_guessed) {
  const auto parts = parse_form(kType, "--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--bc\r\n--b--");
  ASSERT_FALSE(parts);
  EXPECT_EQ(parts.error().code, Errc::bad_message);
}

TEST(HttpForm, an_empty_part_is_empty) {
  const auto parts = parse_form(kType, form("Content-Disposition: form-data; name=\"a\"\r\n\r\n"));
  ASSERT_TRUE(parts) << parts.error().what;
  ASSERT_EQ(parts->size(), 1U);
  EXPECT_EQ((*parts)[0].bytes, "");
}

TEST(HttpForm, a_form_cut_anywhere_is_refused) {
  const std::string whole = form("Content-Disposition: form-data; name=\"a\"; filename=\"f\"\r\n\r\ncontent");
  ASSERT_TRUE(parse_form(kType, whole));
  for (std::size_t n = 0; n + 4 < whole.size(); ++n) EXPECT_FALSE(parse_form(kType, whole.substr(0, n))) << n;
}

TEST(HttpForm, bombs_end_at_a_limit) {
  std::string many;
  for (int i = 0; i < 65; ++i) many += "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n";
  auto parts = parse_form(kType, many + "--b--");
  ASSERT_FALSE(parts);
  EXPECT_EQ(parts.error().code, Errc::over_limit);
  parts = parse_form(kType, form("X: " + std::string(9000, 'y') + "\r\n\r\n1"));
  ASSERT_FALSE(parts);
  EXPECT_EQ(parts.error().code, Errc::over_limit);
  parts = parse_form(kType, form("Content-Disposition: form-data; name=\"" + std::string(300, 'n') + "\"\r\n\r\n1"));
  ASSERT_FALSE(parts);
  EXPECT_EQ(parts.error().code, Errc::over_limit);
}

TEST(HttpForm, a_boundary_is_1_to_70_characters) {
  EXPECT_FALSE(parse_form("multipart/form-data", "--\r\n"));
  EXPECT_FALSE(parse_form("multipart/form-data; boundary=" + std::string(71, 'b'), "x"));
  EXPECT_FALSE(parse_form("multipart/form-data; boundary=\"never ends", "x"));
  EXPECT_FALSE(parse_form("application/json", "{}"));
}

/// Random edits of a right form: no crash, no part outside the body.
TEST(HttpForm, a_mutated_form_never_reads_outside_its_body) {
  std::mt19937_64 random(20'261'127);   // NOLINT(cert-msc51-cpp): the same in every run
  const std::string whole = "--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"x\"\r\nContent-Type: image/png\r\n\r\nabc\r\n--b\r\nContent-Disposition: form-data; name=c\r\n\r\n\r\n--b--\r\n";
  const std::string alphabet = "\r\n-b:;\"\\= ax";
  for (int round = 0; round < 20'000; ++round) {
    std::string body = whole;
    for (std::uint64_t edits = random() % 6; edits > 0; --edits) {
      const std::size_t at = random() % body.size();
      const char c = alphabet[random() % alphabet.size()];
      switch (random() % 3) {
        case 0: body[at] = c; break;
        case 1: body.insert(at, 1, c); break;
        default: body.erase(at, 1 + random() % 4); break;
      }
      if (body.empty()) body = "-";
    }
    if (const auto parts = parse_form(kType, body))
      for (const FormPart& part : *parts) {
        ASSERT_FALSE(part.name.empty());
        ASSERT_TRUE(part.bytes.empty() || (part.bytes.data() >= body.data() && part.bytes.data() + part.bytes.size() <= body.data() + body.size()));
      }
  }
}

TEST(HttpJob, every_field_lands_where_it_belongs) {
  const auto job = job_of(R"({"kind":"detect","model":"boards@1","class":"inference","priority":7,"vram":"2GiB..rest","devices":2,"where":["rack=3"],
    "params":{"conf":0.25,"deep":true,"name":"x"},"env":{"A":1},"argv":["a","b"],"after":["01J"],"not_before_ms":5,"deadline_ms":6,"timeout_s":1.5,"retries":3,
    "on_preempt":"pause","unique":"u","id":"01K","label":"l","exclusive":true,"strict":true,"cwd":"/w","outputs":"boards/out","array":"0-3",
    "parts":[{"name":"image","media":"image/png","base64":"iVBORw=="},{"name":"t","text":"hi"},{"name":"j","json":{"a":[1]}},{"name":"s","share":"boards/a.png"}]})");
  ASSERT_TRUE(job) << job.error().what;
  EXPECT_EQ(job->kind + " " + job->model + " " + job->job_class, "detect boards@1 inference");
  EXPECT_EQ(job->priority, 7);
  EXPECT_EQ(job->vram_min_mib, 2048);
  EXPECT_GT(job->vram_max_mib, std::int64_t{1} << 40U);
  EXPECT_EQ(job->devices, 2);
  EXPECT_EQ(job->params, (std::map<std::string, std::string>{{"conf", "0.25"}, {"deep", "true"}, {"name", "x"}}));
  EXPECT_EQ(job->timeout, std::chrono::milliseconds(1500));
  EXPECT_EQ(job->retries, 3);
  EXPECT_TRUE(job->exclusive && job->strict);
  EXPECT_EQ(job->array, "0-3");
  ASSERT_EQ(job->parts.size(), 4U);
  EXPECT_EQ(job->parts[0].bytes, "\x89PNG");
  EXPECT_EQ(job->parts[1].media, "text/plain");
  EXPECT_EQ(job->parts[2].bytes, R"({"a":[1]})");
  EXPECT_EQ(job->parts[3].share, "boards/a.png");
}

struct Wrong {
  const char* json;
  const char* says;
  friend void PrintTo(const Wrong& wrong, std::ostream* out) { *out << wrong.says; }
};
class WrongJob : public testing::TestWithParam<Wrong> {};
TEST_P(WrongJob, is_refused_by_name) {
  const auto job = job_of(GetParam().json);
  ASSERT_FALSE(job);
  EXPECT_EQ(job.error().code, Errc::bad_message);
  EXPECT_NE(job.error().what.find(GetParam().says), std::string::npos) << job.error().what;
}
INSTANTIATE_TEST_SUITE_P(HttpJob, WrongJob,
                         testing::Values(Wrong{"", "no JSON"}, Wrong{"[]", "no JSON object"}, Wrong{"{\"kind\":", "at byte"}, Wrong{R"({"priorty":3})", "did you mean \"priority\""},
                                         Wrong{R"({"kind":"a","kind":"b"})", "twice"}, Wrong{R"({"priority":-1})", "priority"}, Wrong{R"({"priority":99999999999})", "priority"},
                                         Wrong{R"({"priority":1.5})", "priority"}, Wrong{R"({"kind":3})", "\"kind\" is not a string"}, Wrong{R"({"params":{"a":[]}})", "params.a"},
                                         Wrong{R"({"timeout_s":-1})", "timeout_s"}, Wrong{R"({"timeout_s":1e300})", "timeout_s"}, Wrong{R"({"vram":"much"})", "much"},
                                         Wrong{R"({"parts":[{"name":"a"}]})", "exactly one"}, Wrong{R"({"parts":[{"text":"a"}]})", "no name"},
                                         Wrong{R"({"parts":[{"name":"a","base64":"@@@@"}]})", "base64"}, Wrong{R"({"parts":[{"name":"a","blob":"x"}]})", "no field \"blob\""},
                                         Wrong{R"({"parts":[{"name":"a","json":[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]}]})", "deeper"}));

TEST(HttpJob, the_description_has_the_fields_that_are_taken_and_no_others) {
  const auto about = nlohmann::json::parse(openapi());
  const auto described = [&](const char* schema) {
    std::vector<std::string> names;
    for (const auto& [name, shape] : about["components"]["schemas"][schema]["properties"].items()) names.push_back(name);
    return names;
  };
  EXPECT_THAT(job_field_names(), testing::UnorderedElementsAreArray(described("Job")));
  EXPECT_THAT(part_field_names(), testing::UnorderedElementsAreArray(described("InputPart")));
}

TEST(HttpTarget, paths_and_queries_are_decoded_once) {
  const auto target = read_target("/api/v1/models/a%20b%40c/detect?timeout=3&x=a+b%26");
  ASSERT_TRUE(target);
  EXPECT_EQ(target->path, (std::vector<std::string>{"api", "v1", "models", "a b@c", "detect"}));
  EXPECT_EQ(target->query, (std::map<std::string, std::string>{{"timeout", "3"}, {"x", "a b&"}}));
}

TEST(HttpTarget, what_could_mean_two_things_is_refused) {
  for (const char* target : {"/a%2Fb", "/a%00", "/a%", "/a%4", "/a%zz", "/a?x=1&x=2", "/a?x=%"})
    EXPECT_FALSE(read_target(target)) << target;
}

}  // namespace
}  // namespace gq::http
