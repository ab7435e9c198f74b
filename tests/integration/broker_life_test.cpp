// A job's life through real sockets with CURVE: submit, start, end, notice; and everything people ask about it.
#include "broker/store/blobs.h"
#include "tests/integration/broker_harness.h"

namespace gq::test {
namespace {

constexpr auto number = [](auto value) { return static_cast<std::uint8_t>(value); };

struct BrokerLife : BrokerStory {
  void SetUp() override { start({"--memory-store"}); }
  wire::AssignItem running_job(JobId job, const std::string& body = {}) {
    client->submit({echo_job(job)}, {body});
    auto assigned = worker->next_assignment();
    EXPECT_EQ(assigned.grant.job, job);
    worker->started(assigned.grant);
    return assigned;
  }
};

TEST_F(BrokerLife, an_echo_job_goes_from_client_to_worker_and_back) {
  EXPECT_EQ(client->hello().role, "client");
  worker->hello();
  const JobId job = new_job_id();
  const auto submitted = client->submit({echo_job(job)}, {"hello"});
  ASSERT_EQ(submitted.items.size(), 1U);
  EXPECT_EQ(submitted.items[0].id, job);

  const auto assigned = worker->next_assignment();
  EXPECT_EQ(assigned.grant.job, job);
  EXPECT_EQ(assigned.grant.attempt, 1U);
  EXPECT_EQ(assigned.kind, "echo");
  EXPECT_EQ(assigned.owner, "ada");
  EXPECT_EQ(worker->last_body, "hello");
  EXPECT_EQ(worker->end(assigned.grant, "hello back"), 0) << "accepted";

  const auto final = client->final_of(job);
  EXPECT_EQ(final.state, number(JobState::succeeded));
  EXPECT_EQ(final.worker, "anna");
  EXPECT_EQ(client->last_body, "hello back");
  EXPECT_EQ(client->ask<wire::ResultReply>(wire::ResultQuery{job}).item.state, number(JobState::succeeded));
  EXPECT_EQ(client->last_body, "hello back") << "read again from the store";
}

TEST_F(BrokerLife, a_worker_reads_the_results_of_its_jobs_parents_and_no_others) {
  worker->hello();
  const auto parent = running_job(new_job_id()), stranger = running_job(new_job_id());
  for (const auto& assigned : {parent, stranger}) EXPECT_EQ(worker->end(assigned.grant, "result of " + to_string(assigned.grant.job)), 0);
  auto item = echo_job(new_job_id());
  item.after = {parent.grant.job};
  client->submit({item});
  const auto child = worker->next_assignment();
  EXPECT_EQ(child.after, (std::vector{parent.grant.job}));
  EXPECT_EQ(worker->ask<wire::ResultReply>(wire::ResultQuery{parent.grant.job, item.id}).item.id, parent.grant.job);
  EXPECT_EQ(worker->last_body, "result of " + to_string(parent.grant.job));

  const auto refused = worker->ask<wire::Failure>(wire::ResultQuery{stranger.grant.job, item.id});
  EXPECT_EQ(refused.code, "REFUSED") << "no parent of it";
  EXPECT_EQ(worker->ask<wire::Failure>(wire::ResultQuery{parent.grant.job, {}}).code, "REFUSED");
  const auto other = new_worker("bert");
  other->hello();
  EXPECT_EQ(other->ask<wire::Failure>(wire::ResultQuery{parent.grant.job, item.id}).code, "REFUSED") << "the child runs elsewhere";
  EXPECT_EQ(worker->end(child.grant), 0);
  EXPECT_EQ(worker->ask<wire::Failure>(wire::ResultQuery{parent.grant.job, item.id}).code, "REFUSED") << "it runs no longer";
}

TEST_F(BrokerLife, a_waiting_job_can_be_looked_at_from_all_sides_and_cancelled) {
  const JobId job = new_job_id();
  auto item = echo_job(job);
  item.label = "panel 7";
  client->submit({item});
  const auto status = client->status(job);
  EXPECT_TRUE(status.found);
  EXPECT_EQ(status.state, number(JobState::ready));
  EXPECT_EQ(status.label, "panel 7");
  EXPECT_EQ(status.owner, "ada");
  EXPECT_NE(status.reason, "") << "nothing runs it: it says why";
  const auto list = client->ask<wire::ListReply>(wire::ListQuery{.state = "ready", .job_class = {}, .kind = {}, .active_only = false, .after = {}, .limit = 10});
  ASSERT_EQ(list.jobs.size(), 1U);
  EXPECT_EQ(list.jobs[0].id, job);
  const auto top = client->ask<wire::TopReply>(wire::TopQuery{});
  EXPECT_EQ(top.submitted, 1U);
  EXPECT_EQ(top.by_class_and_state[0][number(JobState::ready)], 1U);
  EXPECT_GE(top.commits, 1U);
  EXPECT_EQ(client->ask<wire::Failure>(wire::ResultQuery{job}).code, "UNAVAILABLE");
  const JobId nobody = new_job_id();
  EXPECT_EQ(client->ask<wire::CancelReply>(wire::CancelJobs{{job, nobody}}).items, (std::vector<std::uint8_t>{0, 3}));
  EXPECT_EQ(client->final_of(job).state, number(JobState::cancelled));
  EXPECT_EQ(client->ask<wire::Failure>(wire::ResultQuery{nobody}).code, "NOT_FOUND");
  EXPECT_FALSE(client->status(nobody).found);
}

TEST_F(BrokerLife, cancelling_a_running_job_asks_its_worker) {
  worker->hello();
  const auto assigned = running_job(new_job_id());
  EXPECT_EQ(client->ask<wire::CancelReply>(wire::CancelJobs{{assigned.grant.job}}).items, std::vector<std::uint8_t>{1});
  const auto asked = worker->next<wire::CancelJob>();
  EXPECT_EQ(asked.grant, assigned.grant);
  EXPECT_EQ(asked.number, assigned.number + 1);
  EXPECT_EQ(worker->end(assigned.grant, {}, Outcome::cancelled), 0);
  EXPECT_EQ(client->final_of(assigned.grant.job).state, number(JobState::cancelled));
}

TEST_F(BrokerLife, a_client_that_comes_back_watches_and_is_told) {
  worker->hello();
  const auto early = running_job(new_job_id());
  const auto late = running_job(new_job_id());
  client->close();
  EXPECT_EQ(worker->end(early.grant, "early result"), 0);
  client = new_client();
  const JobId unknown = new_job_id();
  const auto watched = client->ask<wire::Watched>(wire::Watch{{early.grant.job, late.grant.job, unknown}});
  EXPECT_EQ(watched.unknown, std::vector<JobId>{unknown});
  EXPECT_EQ(client->final_of(early.grant.job).state, number(JobState::succeeded));
  EXPECT_EQ(client->last_body, "early result") << "it ended while nobody watched";
  EXPECT_EQ(worker->end(late.grant, "late result"), 0);
  client->final_of(late.grant.job);
  EXPECT_EQ(client->last_body, "late result");
}

TEST_F(BrokerLife, output_is_followed_to_its_end_and_progress_shows) {
  worker->hello();
  const auto assigned = running_job(new_job_id());
  const JobId job = assigned.grant.job;
  worker->say(wire::Log{assigned.grant, 0}, "epoch 1\n");
  const auto follow = client->say(wire::LogQuery{.job = job, .offset = 0, .follow = true});
  std::string seen;
  bool end = false;
  const auto read_on = [&] {
    const auto piece = client->answer<wire::LogReply>(follow);
    EXPECT_EQ(piece.offset, seen.size());
    seen += client->last_body;
    end = piece.end;
  };
  while (seen.size() < 8 && !HasFailure()) read_on();
  auto other = assigned.grant;
  other.nonce ^= 1;
  worker->say(wire::Log{other, 0}, "a stranger's words\n");
  worker->say(wire::Log{assigned.grant, 8}, "epoch 2\n");
  while (seen.size() < 16 && !HasFailure()) read_on();
  worker->say(wire::Progress{assigned.grant, 20, 100, {{"loss", 0.25}}});
  loop.until([&] { return client->status(job).progress_step == 20; }, "progress");
  EXPECT_EQ(client->status(job).metrics.at("loss"), 0.25);
  EXPECT_EQ(client->status(job).last_lines, "epoch 1\nepoch 2\n");
  worker->end(assigned.grant);
  while (!end && !HasFailure()) read_on();
  EXPECT_EQ(seen, "epoch 1\nepoch 2\n");
  EXPECT_TRUE(client->ask<wire::LogReply>(wire::LogQuery{.job = job, .offset = 16, .follow = true}).end) << "following what has ended ends at once";
}

TEST_F(BrokerLife, one_wrong_item_is_refused_in_its_place_and_its_neighbours_are_taken) {
  auto unknown_kind = echo_job(new_job_id()), too_large = echo_job(new_job_id()), no_blob = echo_job(new_job_id());
  auto unknown_model = echo_job(new_job_id());
  unknown_kind.kind = "teleport";
  no_blob.blobs = {store::digest_of("never uploaded")};
  unknown_model.kind = "detect";
  unknown_model.model = "nobody";
  const auto answered = client->answer<wire::Submitted>(client->say_submit({echo_job(new_job_id()), unknown_kind, too_large, echo_job(new_job_id()), no_blob, unknown_model},
                                                                         {"a", "b", std::string(65537, 'x'), "d", "e", "f"}));
  std::vector<std::string> codes;
  for (const auto& item : answered.items) codes.push_back(item.ok ? "ok" : item.code);
  EXPECT_EQ(codes, (std::vector<std::string>{"ok", "UNKNOWN_KIND", "TOO_LARGE", "ok", "UNKNOWN_BLOB", "UNKNOWN_MODEL"}));
  EXPECT_NE(answered.items[1].next.find("detect"), std::string::npos) << "it names the kinds there are";
}

TEST_F(BrokerLife, the_same_id_again_is_the_same_job_and_another_digest_is_a_conflict) {
  const auto item = echo_job(new_job_id());
  EXPECT_FALSE(client->submit({item}).items[0].existing);
  EXPECT_TRUE(client->submit({item}).items[0].existing);
  auto other = item;
  other.digest.lo ^= 1;
  EXPECT_EQ(client->answer<wire::Submitted>(client->say_submit({other})).items[0].code, "ID_CONFLICT");
}

TEST_F(BrokerLife, a_retry_is_a_new_job_with_the_same_body) {
  worker->hello();
  const auto assigned = running_job(new_job_id(), "the body");
  worker->end(assigned.grant, {}, Outcome::failed_final);
  EXPECT_EQ(client->final_of(assigned.grant.job).state, number(JobState::failed));
  const JobId again = new_job_id();
  EXPECT_TRUE(client->ask<wire::RetryReply>(wire::Retry{assigned.grant.job, again, true}).item.ok);
  const auto second = worker->next_assignment();
  EXPECT_EQ(second.grant.job, again);
  EXPECT_EQ(worker->last_body, "the body");
  EXPECT_EQ(client->status(again).retry_of, assigned.grant.job);
}

TEST_F(BrokerLife, a_blob_is_uploaded_in_pieces_resumed_on_a_new_link_and_read_by_a_worker) {
  std::string bytes(700'000, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 + i / 257);
  const BlobDigest digest = store::digest_of(bytes);
  const std::uint64_t half = 262'144;
  EXPECT_EQ(client->ask<wire::BlobPutReply>(wire::BlobPut{digest, bytes.size(), 0}).next, 0U);
  EXPECT_EQ(client->ask<wire::BlobPutReply>(wire::BlobPut{digest, bytes.size(), 0}, std::string_view(bytes).substr(0, half)).next, half);
  EXPECT_EQ(worker->ask<wire::Failure>(wire::BlobGet{digest, 0, 0}).code, "UNKNOWN_BLOB") << "half a blob is none";
  client = new_client();
  EXPECT_EQ(client->ask<wire::BlobPutReply>(wire::BlobPut{digest, bytes.size(), 0}).next, half) << "goes on where it stopped";
  EXPECT_EQ(upload(*client, bytes), digest);

  auto item = echo_job(new_job_id());
  item.blobs = {digest};
  client->submit({item});
  std::string read;
  while (read.size() < bytes.size() && !HasFailure()) {
    const auto piece = worker->ask<wire::BlobGetReply>(wire::BlobGet{digest, read.size(), 100'000});
    EXPECT_EQ(piece.offset, read.size());
    EXPECT_EQ(piece.total, bytes.size());
    ASSERT_FALSE(worker->last_body.empty());
    read += worker->last_body;
  }
  EXPECT_TRUE(read == bytes);
  EXPECT_EQ(client->ask<wire::Failure>(wire::BlobPut{store::digest_of("x"), 10, 8}, "beyond").code, "BAD_MESSAGE");
  const BlobDigest lie = store::digest_of("something else");
  client->ask<wire::BlobPutReply>(wire::BlobPut{lie, 4, 0});
  EXPECT_EQ(client->ask<wire::Failure>(wire::BlobPut{lie, 4, 0}, "lies").code, "BAD_INPUT") << "content must be what its name says";
}

TEST_F(BrokerLife, a_result_that_names_an_unknown_blob_is_refused_and_taken_when_it_comes_again) {
  worker->hello();
  const auto assigned = running_job(new_job_id());
  const std::string artefact(100'000, 'r');
  const BlobDigest digest = store::digest_of(artefact);
  const auto refused = worker->say_end(assigned.grant, "r", Outcome::succeeded, {digest});
  EXPECT_EQ(worker->answer<wire::Failure>(refused).code, "UNKNOWN_BLOB");
  EXPECT_EQ(client->status(assigned.grant.job).state, number(JobState::running)) << "nothing was accepted";
  upload(*worker, artefact);
  EXPECT_EQ(worker->end(assigned.grant, "r", Outcome::succeeded, {digest}), 0);
  EXPECT_EQ(client->final_of(assigned.grant.job).blobs, std::vector<BlobDigest>{digest});
}

TEST_F(BrokerLife, a_result_too_large_to_travel_inline_fails_the_job_for_good) {
  worker->hello();
  const auto assigned = running_job(new_job_id());
  EXPECT_EQ(worker->end(assigned.grant, std::string(70'000, 'x')), 0) << "the worker may forget it";
  const auto final = client->final_of(assigned.grant.job);
  EXPECT_EQ(final.state, number(JobState::failed));
  EXPECT_EQ(final.code, "TOO_LARGE");
}

TEST_F(BrokerLife, only_admins_change_models) {
  const std::string weights(5000, 'w');
  wire::ModelPush push;
  push.model.name = "boards";
  push.model.runtime = "torchscript";
  push.model.blob = store::digest_of(weights);
  const auto refused = client->ask<wire::Failure>(push);
  EXPECT_EQ(refused.code, "REFUSED");
  EXPECT_NE(refused.next.find("gpuq keys issue"), std::string::npos);
  admin = new_client("root", net::Role::admin);
  EXPECT_EQ(admin->ask<wire::Failure>(push).code, "UNKNOWN_BLOB");
  upload(*admin, weights);
  const auto pushed = admin->ask<wire::ModelReply>(push).model;
  EXPECT_EQ(pushed.version, to_string(push.model.blob).substr(0, 12));
  EXPECT_EQ(pushed.bytes, weights.size());
  ASSERT_EQ(client->ask<wire::ModelsReply>(wire::ModelsQuery{}).models.size(), 1U);
  EXPECT_EQ(client->ask<wire::Failure>(wire::ModelRemove{"boards", {}}).code, "REFUSED");
  admin->ask<wire::ModelReply>(wire::ModelRemove{"boards", {}});
  EXPECT_TRUE(client->ask<wire::ModelsReply>(wire::ModelsQuery{}).models.empty());
}

TEST_F(BrokerLife, workers_are_shown_with_their_devices) {
  worker->hello();
  const auto shown = client->ask<wire::WorkersReply>(wire::WorkersQuery{});
  ASSERT_EQ(shown.workers.size(), 1U);
  EXPECT_EQ(shown.workers[0].name, "anna");
  EXPECT_EQ(shown.workers[0].state, "live");
  EXPECT_EQ(shown.workers[0].kinds, (std::vector<std::string>{"echo", "sleep"}));
  ASSERT_EQ(shown.workers[0].devices.size(), 1U);
  EXPECT_EQ(shown.workers[0].devices[0].device.uuid, "CPU-anna");
}

TEST_F(BrokerLife, a_dead_workers_job_runs_elsewhere_at_once) {
  worker->hello();
  const auto assigned = running_job(new_job_id(), "body");
  auto bea = new_worker("bea");
  bea->hello();
  worker->close();   // link gone, the last beat is young: sudden death
  const auto again = bea->next_assignment();
  EXPECT_EQ(again.grant.job, assigned.grant.job);
  EXPECT_EQ(again.grant.attempt, 2U);
  EXPECT_EQ(bea->last_body, "body") << "read from the store";
  EXPECT_EQ(bea->end(again.grant, "done"), 0);
  worker = new_worker();
  const auto welcome = worker->hello({assigned.grant});
  EXPECT_EQ(welcome.revoke, std::vector<wire::Grant>{assigned.grant}) << "what it still holds it must stop";
  EXPECT_EQ(worker->end(assigned.grant, "too late"), 1) << "stale";
}

TEST_F(BrokerLife, health_and_metrics_are_served) {
  client->submit({echo_job(new_job_id())});
  EXPECT_NE(http_get(broker.http, "/healthz").find("200 OK"), std::string::npos);
  const std::string metrics = http_get(broker.http, "/metrics");
  for (const char* line : {"gpuq_jobs{queue=\"inference\",state=\"ready\"} 1\n", "gpuq_jobs_submitted_total 1\n", "gpuq_store_up 1\n", "gpuq_store_op_seconds_count{op=\"commit\"} "})
    EXPECT_NE(metrics.find(line), std::string::npos) << line;
  EXPECT_NE(http_get(broker.http, "/etc/passwd").find("404"), std::string::npos);
}

}  // namespace
}  // namespace gq::test
