// openb_test.cpp - the replay on a small trace made here: deterministic, within capacity, and a bad file is named by line and column.
#include "tests/sim/openb.h"

#include <gtest/gtest.h>

#include <sstream>

namespace gq::sim {
namespace {

using core::PackPolicy;

const char* const kTaskHeader = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n";

Result<OpenbTrace> parsed(const std::string& nodes, const std::string& tasks) {
  std::istringstream n(nodes), t(tasks);
  return read_openb(n, "nodes.csv", t, "tasks.csv");
}

/// Many shares of two sizes that pack badly when thrown together, whole cards, pairs and CPU work.
OpenbTrace small_trace() {
  std::ostringstream nodes, tasks;
  nodes << "sn,cpu_milli,memory_mib,gpu,model\n";
  for (int i = 0; i < 30; ++i) nodes << "n" << i << ",64000,262144," << (i % 3 == 0 ? 8 : 2) << "," << (i % 2 == 0 ? "A" : "B") << "\n";
  tasks << kTaskHeader;
  for (int i = 0; i < 160; ++i) {
    const int kind = i % 8;
    tasks << "t" << i << ",";
    if (kind < 3) tasks << "4000,8192,1,700,,LS\n";
    else if (kind < 5) tasks << "2000,4096,1,300,,LS\n";
    else if (kind == 5) tasks << "8000,16384,1,1000,A|B,BE\n";
    else if (kind == 6) tasks << "8000,16384,2,1000,A,BE\n";
    else tasks << "4000,4096,0,0,,LS\n";
  }
  auto trace = parsed(nodes.str(), tasks.str());
  EXPECT_TRUE(trace.has_value()) << (trace ? "" : trace.error().what);
  return trace.value_or(OpenbTrace{});
}

TEST(Openb, a_trace_is_read_as_it_ships) {
  const auto trace = parsed("model,gpu,memory_mib,cpu_milli,sn\r\nA,2,1000,64000,x\r\nB,1,500,32000,y\n",
                            std::string(kTaskHeader) + "a,12000,16384,1,460,,LS\nb,1,2,4,1000,B|C,BE\nc,5,6,0,0,,LS\n");
  ASSERT_TRUE(trace) << trace.error().what;
  EXPECT_EQ(trace->capacity, 3000);
  ASSERT_EQ(trace->nodes.size(), 2U);
  EXPECT_EQ(trace->nodes[0].free, (std::vector<std::int64_t>{1000, 1000}));
  EXPECT_EQ(trace->nodes[1].model, 1U);
  EXPECT_EQ(trace->tasks, (std::vector<core::PackTask>{{12000, 16384, 1, 460, ~0ULL}, {1, 2, 4, 1000, 0b10}, {5, 6, 0, 0, ~0ULL}}));
}

TEST(Openb, the_same_seed_gives_the_same_decisions_and_another_seed_others) {
  const OpenbTrace trace = small_trace();
  for (const PackPolicy policy : {PackPolicy::random, PackPolicy::best_fit, PackPolicy::fgd}) {
    const OpenbResult a = replay_openb(trace, policy, 42, 1.3), b = replay_openb(trace, policy, 42, 1.3), c = replay_openb(trace, policy, 43, 1.3);
    EXPECT_EQ(a.trace_hash, b.trace_hash);
    EXPECT_EQ(a.allocated_pct, b.allocated_pct);
    EXPECT_NE(a.trace_hash, c.trace_hash);
  }
}

TEST(Openb, more_is_asked_than_there_is_and_the_wiser_policy_allocates_more_of_it) {
  const OpenbTrace trace = small_trace();
  double sum[3] = {};
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    for (const PackPolicy policy : {PackPolicy::random, PackPolicy::best_fit, PackPolicy::fgd}) {
      const OpenbResult r = replay_openb(trace, policy, seed, 1.3);
      EXPECT_LT(r.placed, r.tasks);
      EXPECT_LE(r.allocated_pct, 100.0);
      EXPECT_LE(r.allocated_pct + r.fragmented_pct, 100.0 + 1e-9);
      sum[static_cast<int>(policy)] += r.allocated_pct;
    }
  }
  EXPECT_GT(sum[1], sum[0]);
  EXPECT_GT(sum[2], sum[1]);
}

TEST(Openb, a_demand_below_what_there_is_is_placed_whole) {
  const OpenbTrace trace = parsed("cpu_milli,memory_mib,gpu,model\n9000,9000,4,A\n", std::string(kTaskHeader) + "a,1,1,1,500,,\nb,1,1,1,1000,,\n").value();
  const OpenbResult r = replay_openb(trace, PackPolicy::fgd, 1, 0.1);
  EXPECT_EQ(r.placed, 2U);
  EXPECT_EQ(r.allocated_pct, 37.5);
}

TEST(Openb, a_bad_file_is_named_by_line_and_column) {
  const std::string nodes = "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,1000,2,A\n", task = "a,1,1,1,500,,LS\n";
  const auto said = [](const Result<OpenbTrace>& got) { return got ? std::string("no complaint") : got.error().what; };
  EXPECT_EQ(said(parsed("", kTaskHeader + task)), "nodes.csv is empty");
  EXPECT_EQ(said(parsed("sn,cpu_milli,memory_mib,gpu\n", kTaskHeader + task)), "nodes.csv, line 1: no column model");
  EXPECT_EQ(said(parsed(nodes + "n1,many,1,2,A\n", kTaskHeader + task)), "nodes.csv, line 3, column 2 (cpu_milli): 'many' is not a whole number from 0");
  EXPECT_EQ(said(parsed(nodes + "n1,1,1,65,A\n", kTaskHeader + task)), "nodes.csv, line 3, column 4 (gpu): 65 is more than 64");
  EXPECT_EQ(said(parsed(nodes + "n1,1,1\n", kTaskHeader + task)), "nodes.csv, line 3: 3 columns, the header has 5");
  EXPECT_EQ(said(parsed("cpu_milli,memory_mib,gpu,model\n1,1,0,A\n", kTaskHeader + task)), "nodes.csv names no card");
  EXPECT_EQ(said(parsed(nodes, kTaskHeader + task + "b,1,-5,1,500,,LS\n")), "tasks.csv, line 3, column 3 (memory_mib): '-5' is not a whole number from 0");
  EXPECT_EQ(said(parsed(nodes, std::string(kTaskHeader) + "b,1,1,1,1001,,LS\n")), "tasks.csv, line 2, column 5 (gpu_milli): 1001 is more than 1000");
  EXPECT_EQ(said(parsed(nodes, std::string(kTaskHeader) + "b,1,1,1,0,,LS\n")), "tasks.csv, line 2, column 5 (gpu_milli): asks for cards, but for nothing of them");
  EXPECT_EQ(said(parsed(nodes, std::string(kTaskHeader) + "b,1,1,0,0,,LS\n")), "tasks.csv asks for no card");
}

}  // namespace
}  // namespace gq::sim
