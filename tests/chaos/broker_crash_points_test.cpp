// The broker dies at every named site of its commit cycle; what it acknowledged is not lost, what it accepted is accepted once.
#include "broker/shell/crash_points.h"
#include "tests/integration/broker_harness.h"

namespace gq::test {
namespace {

struct BrokerCrash : BrokerStory, testing::WithParamInterface<std::string> {
  std::set<JobId> acknowledged;
  std::map<JobId, wire::SubmitItem> unanswered;
  std::map<std::uint64_t, std::vector<JobId>> asked;

  void submit(const std::vector<JobId>& jobs) {
    std::vector<wire::SubmitItem> items;
    for (const JobId job : jobs) items.push_back(unanswered.at(job));
    asked[client->say_submit(items, std::vector<std::string>(items.size(), "payload"))] = jobs;
  }
  void hear() {
    for (auto it = client->heard.begin(); it != client->heard.end(); it = client->heard.erase(it)) {
      const auto question = asked.find(it->header.id);
      const auto* submitted = std::get_if<wire::Submitted>(&it->message);
      if (question == asked.end() || submitted == nullptr) continue;
      for (const auto& item : submitted->items) {
        EXPECT_TRUE(item.ok) << item.code;
        acknowledged.insert(item.id);
        unanswered.erase(item.id);
      }
      asked.erase(question);
    }
  }
  void come_back() {
    EXPECT_EQ(*broker.process.exited(), 137) << broker.log();
    hear();   // what it said with its last breath counts
    broker.restart();
    if (HasFatalFailure()) return;
    worker->resume();
    client->connect();
    asked.clear();
    std::vector<JobId> again;
    for (const auto& [job, item] : unanswered) again.push_back(job);
    if (!again.empty()) submit(again);
    client->ask<wire::Watched>(wire::Watch{{acknowledged.begin(), acknowledged.end()}});
  }
};

TEST_P(BrokerCrash, loses_nothing_acknowledged_and_accepts_nothing_twice) {
  start({"--restart-grace", "2s"}, {"GPUQ_CRASH_AT=" + GetParam()});
  client->remember_finals();
  worker->echo_everything();
  worker->hello();
  int rounds = 0;
  bool crashed = false;
  loop.until(
      [&] {
        if (!crashed && broker.process.exited()) {
          crashed = true;
          come_back();
        }
        if (rounds < 30 && asked.size() < 3 && client->connected() && broker.process.running()) {
          std::vector<JobId> jobs;
          for (int i = 0; i < 3; ++i) {
            jobs.push_back(new_job_id());
            unanswered[jobs.back()] = echo_job(jobs.back());
          }
          ++rounds;
          submit(jobs);
        }
        hear();
        return HasFailure() || (rounds == 30 && unanswered.empty() && client->finals.size() >= acknowledged.size());
      },
      "all acknowledged jobs to end", 40s);
  EXPECT_TRUE(crashed) << "the site " << GetParam() << " was never passed";
  EXPECT_EQ(acknowledged.size(), 90U);
  for (const JobId job : acknowledged) EXPECT_EQ(client->finals[job].first.state, static_cast<std::uint8_t>(JobState::succeeded)) << to_string(job);
  for (const auto& [job, grants] : worker->accepted) EXPECT_EQ(grants.size(), 1U) << to_string(job) << " was accepted twice";
}

std::vector<std::string> sites() {
  std::vector<std::string> all;
  for (const std::string_view site : broker::crash_site_names())
    for (const char* pass : {":2", ":7"}) all.push_back(std::string(site) + pass);
  return all;
}

INSTANTIATE_TEST_SUITE_P(EverySite, BrokerCrash, testing::ValuesIn(sites()), [](const testing::TestParamInfo<std::string>& site) {
  std::string text = site.param;
  for (char& c : text)
    if (c == '-' || c == ':') c = '_';
  return text;
});

}  // namespace
}  // namespace gq::test
