// The core is dropped and loaded again in the middle of work, whether the batch in flight was applied or not: clients resend,
// workers say hello, nothing acknowledged is lost and nothing is accepted twice.
#include "broker/shell/broker.h"
#include "broker/store/memory_store.h"
#include "tests/integration/broker_harness.h"

namespace gq::test {
namespace {

struct BrokerReload : testing::Test {
  TempDir dir;
  Loop loop;
  store::MemoryStore* store{};
  std::unique_ptr<store::BlobStore> blobs;
  std::unique_ptr<broker::Broker> shell;
  std::unique_ptr<Client> client;
  std::unique_ptr<Worker> worker;
  std::optional<Error> failed;
  bool serving{};

  void SetUp() override {
    blobs = store::make_blob_store(loop.io, {.dir = dir.path("blobs"), .clock = {}});
    bool open = false;
    blobs->open([&](Result<void> done) { open = done.has_value(); });
    loop.until([&] { return open; }, "the blob store");
    broker::BrokerConfig config;
    config.clients.endpoint = config.workers.endpoint = "tcp://127.0.0.1:*";
    config.clients.insecure_role = net::Role::admin;
    config.workers.insecure_role = net::Role::worker;
    shell = std::make_unique<broker::Broker>(
        loop.context, loop.io, config,
        [this](store::Watcher watcher) {
          auto made = store::make_memory_store(loop.io, std::move(watcher));
          store = made.get();
          return made;
        },
        *blobs, broker::Broker::Handlers{.serving = [this] { serving = true; }, .failed = [this](const Error& why) { failed = why; }});
    ASSERT_TRUE(shell->bind());
    shell->open_store();
    loop.until([this] { return serving; }, "serving");
    client = std::make_unique<Client>(loop, shell->client_endpoint(), std::nullopt);
    client->connect();
    worker = std::make_unique<Worker>(loop, shell->worker_endpoint(), std::nullopt, "anna");
    worker->connect();
    worker->echo_everything();
    worker->hello();
  }
  void TearDown() override {
    client.reset();
    worker.reset();
    shell->close();
  }
};

TEST_F(BrokerReload, nothing_is_lost_when_the_image_is_read_anew_again_and_again) {
  std::map<std::uint64_t, wire::SubmitItem> asked;
  std::set<JobId> acknowledged;
  client->remember_finals();
  int submitted = 0, reloads = 0, rehellos = 0;
  const auto submit = [&](const wire::SubmitItem& item) { asked[client->say_submit({item}, {"payload"})] = item; };
  const Error why{Errc::storage_full, "tried", {}};
  loop.until(
      [&] {
        if (submitted < 200 && asked.size() < 4) {
          submit(echo_job(new_job_id()));
          if (++submitted % 20 == 10) {
            ++reloads;
            if (reloads % 2 == 0) store->drop_next_batch(why);
            else store->apply_next_batch_and_reload(why);
          }
        }
        for (auto it = client->heard.begin(); it != client->heard.end(); it = client->heard.erase(it)) {
          if (std::holds_alternative<wire::BeatReply>(it->message) && !acknowledged.empty())   // a new term: watch again
            client->say(wire::Watch{{acknowledged.begin(), acknowledged.end()}});
          const auto question = asked.find(it->header.id);
          if (question == asked.end()) continue;
          const wire::SubmitItem item = question->second;
          asked.erase(question);
          if (const auto* answered = std::get_if<wire::Submitted>(&it->message); answered != nullptr && answered->items.at(0).ok) acknowledged.insert(item.id);
          else submit(item);
        }
        for (auto it = worker->heard.begin(); it != worker->heard.end(); it = worker->heard.erase(it)) {
          const auto* failure = std::get_if<wire::Failure>(&it->message);
          if (failure == nullptr || failure->what != "say hello") continue;
          ++rehellos;
          std::vector<wire::Grant> held;
          for (const auto& [grant, end] : worker->journal) held.push_back(grant);
          worker->say_hello(held);
          worker->running.clear();
          for (const auto& [grant, end] : worker->journal) worker->say(wire::Ended{{end.first}}, end.second);
        }
        bool all = submitted == 200 && asked.empty();
        for (const JobId job : acknowledged) all = all && client->finals.contains(job);
        return all || failed;
      },
      "all jobs to end", 40s);
  EXPECT_FALSE(failed);
  EXPECT_EQ(reloads, 10);
  EXPECT_GE(rehellos, 10);
  EXPECT_EQ(acknowledged.size(), 200U);
  for (const JobId job : acknowledged) EXPECT_EQ(client->finals[job].first.state, static_cast<std::uint8_t>(JobState::succeeded));
  for (const auto& [job, grants] : worker->accepted) EXPECT_EQ(grants.size(), 1U) << to_string(job) << " was accepted twice";
  EXPECT_EQ(shell->figures().term, 11U);
}

TEST_F(BrokerReload, a_reply_lost_after_the_batch_was_applied_changes_nothing) {
  const JobId job = new_job_id();
  store->lose_next_reply();
  client->submit({echo_job(job)}, {"body"});
  client->final_of(job);
  EXPECT_EQ(client->last_body, "body");
}

TEST_F(BrokerReload, a_deposed_broker_says_so_once) {
  store->fence({Errc::fenced, "another broker has taken over", "stop one"});
  loop.until([&] { return failed.has_value(); }, "the end");
  EXPECT_EQ(failed->code, Errc::fenced);
}

}  // namespace
}  // namespace gq::test
