// store_memory_test.cpp - the faults of the memory store, which other tests lean on.
#include "broker/store/memory_store.h"

#include "tests/integration/store_driver.h"

namespace gq::test {
namespace {

class MemoryFaults : public testing::Test {
 protected:
  MemoryFaults() {
    auto made = store::make_memory_store(io, broker.watcher());
    memory = made.get();
    broker.store = std::move(made);
    broker.open();
  }
  asio::io_context io;
  StoreDriver broker{io};
  store::MemoryStore* memory{};
};

TEST_F(MemoryFaults, while_it_is_down_nothing_is_applied_and_afterwards_the_same_batch_is) {
  memory->go_down({Errc::storage_full, "full", ""});
  broker.start_commit({created(a_job(1), "x")});
  EXPECT_TRUE(broker.wait_told("down STORAGE_FULL"));
  run_until(io, [] { return false; }, 20ms);
  EXPECT_FALSE(broker.committed);
  EXPECT_TRUE(memory->disk().jobs.empty());
  EXPECT_EQ(broker.results({job_id(1)}).error().code, Errc::storage_full);
  memory->come_up();
  broker.wait_committed();
  EXPECT_EQ(broker.told, (std::vector<std::string>{"down STORAGE_FULL", "up"}));
}

TEST_F(MemoryFaults, a_lost_reply_is_a_short_outage_and_an_applied_batch) {
  memory->lose_next_reply();
  broker.commit({created(a_job(1), "x")});
  EXPECT_EQ(broker.told, (std::vector<std::string>{"down UNAVAILABLE", "up"}));
  EXPECT_EQ(memory->disk().batch, 1U);
}

TEST_F(MemoryFaults, a_dropped_and_an_applied_batch_both_end_in_reload_and_differ_on_the_disk) {
  memory->drop_next_batch({Errc::unavailable, "refused", ""});
  broker.start_commit({created(a_job(1), "x")});
  EXPECT_TRUE(broker.wait_told("reload UNAVAILABLE"));
  EXPECT_TRUE(broker.open().image.jobs.empty());
  broker.told.clear();
  memory->apply_next_batch_and_reload({Errc::unavailable, "lost", ""});
  broker.start_commit({created(a_job(1), "x")});
  EXPECT_TRUE(broker.wait_told("reload UNAVAILABLE"));
  EXPECT_FALSE(broker.committed);
  EXPECT_EQ(broker.open().image.jobs.size(), 1U);
}

}  // namespace
}  // namespace gq::test
