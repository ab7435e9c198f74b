// A job's life through real sockets with CURVE: submit, start, end, notice; and everything people ask about it.
#include "tests/integration/broker_harness.h"

namespace gq::test {
namespace {

struct BrokerLife : BrokerStory {
  void SetUp() override { start({"--memory-store"}); }
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
  EXPECT_EQ(final.state, static_cast<std::uint8_t>(JobState::succeeded));
  EXPECT_EQ(final.worker, "anna");
  EXPECT_EQ(client->last_body, "hello back");
}

}  // namespace
}  // namespace gq::test
