// store_protocol_test.cpp - the commit protocol without a socket: replies in, actions out, every edge of it.
#include <gtest/gtest.h>

#include "broker/store/commit_fsm.h"
#include "tests/integration/store_driver.h"

namespace gq::test {
namespace {

using store::Action;
using store::Actions;
using store::CommitFsm;
using store::Reply;
using namespace gq::store;
using State = CommitFsm::State;

std::string describe(const Action& action) {
  return std::visit(overloaded{
                        [](const SendCommands& a) {
                          ReplyReader reader;
                          reader.feed(a.bytes);
                          std::string line;
                          while (auto c = reader.next().value()) line += (line.empty() ? "" : " | ") + c->items[0].text + (c->items.size() > 1 && c->items[0].text != "CONFIG" ? " " + c->items[1].text : "");
                          for (std::size_t at; (at = line.find("gpuq:{t}:")) != std::string::npos;) line.erase(at, 9);
                          return "send " + line;
                        },
                        [](const ConnectAgain&) { return std::string("connect again"); },
                        [](const WakeAt&) { return std::string("wake"); },
                        [](const TookOver& a) { return "took over term " + std::to_string(a.term) + " batch " + std::to_string(a.batch); },
                        [](const OpenFailed& a) { return "open failed " + std::string(to_string(a.why.code)); },
                        [](const BatchApplied& a) { return "applied " + std::to_string(a.number) + (a.bodies.items.empty() ? "" : " with bodies"); },
                        [](const WentDown& a) { return "down " + std::string(to_string(a.why.code)); },
                        [](const CameUp&) { return std::string("up"); },
                        [](const Deposed& a) { return "deposed " + std::string(to_string(a.why.code)); },
                        [](const MustReload& a) { return "reload " + std::string(to_string(a.why.code)); },
                    },
                    action);
}
using Lines = std::vector<std::string>;

std::string good_info() { return "# Server\r\nredis_version:7.0.15\r\nrole:master\r\nloading:0\r\naof_last_write_status:ok\r\nused_memory:1000\r\n"; }
std::vector<std::pair<std::string, std::string>> good_config() {
  return {{"maxmemory", "1000000"}, {"maxmemory-policy", "noeviction"}, {"appendonly", "yes"}, {"appendfsync", "always"}, {"no-appendfsync-on-rewrite", "no"}};
}
Reply config_reply(std::vector<std::pair<std::string, std::string>> config = good_config()) {
  Reply reply = array_reply({});
  for (auto& [k, v] : config) reply.items.push_back(string_reply(k)), reply.items.push_back(string_reply(v));
  return reply;
}
const std::string kCheck = "send INFO default | CONFIG | MULTI | EXEC | WATCH term | GET term";
const std::string kMove = "send MULTI | SET term | EXEC | WATCH term | GET term | GET batch";

class StoreProtocol : public testing::Test {
 protected:
  static RedisOptions options() {
    RedisOptions o;
    o.address.socket_path = "/x";
    o.name_space = "t";
    return o;
  }
  Lines tell(Actions actions) {
    Lines lines;
    for (auto& a : actions) {
      lines.push_back(describe(a));
      if (auto* send = std::get_if<SendCommands>(&a)) sent = send->bytes;
    }
    return lines;
  }
  Lines replied(std::vector<Reply> replies) { return tell(fsm.replied(now, std::move(replies))); }
  /// What the checks answer on a healthy server whose term key holds `term`.
  static std::vector<Reply> checked(Reply term) {
    return {string_reply(good_info()), config_reply(), status("OK"), array_reply({}), status("OK"), std::move(term)};
  }
  /// The value of the term that was last written.
  std::string written_term() {
    const auto at = sent.find("gpuq:{t}:term\r\n$");
    const auto start = sent.find("\r\n", at + 15) + 2;
    return sent.substr(start, sent.find("\r\n", start) - start);
  }
  std::vector<Reply> term_moved(Reply batch) {
    mine = written_term();
    return {status("OK"), status("QUEUED"), array_reply({status("OK")}), status("OK"), string_reply(mine), std::move(batch)};
  }
  void take_over(const std::string& batch = "0") {
    EXPECT_EQ(tell(fsm.open(now)), Lines{"connect again"});
    EXPECT_EQ(tell(fsm.connected(now, 42)), Lines{kCheck});
    EXPECT_EQ(replied(checked(string_reply("6 abc"))), Lines{kMove});
    EXPECT_EQ(replied(term_moved(string_reply(batch))), (Lines{"wake", "took over term 7 batch " + batch}));
  }
  static EncodedBatch batch(std::uint64_t number, bool reads = false) {
    auto job = a_job(1);
    auto submit = created(job, "x");
    if (!reads) return encode_batch({number, {submit}}, Keys("t"));
    return encode_batch({number, {moved(job, JobState::running), item(core::PayloadRead{job.fixed.id})}}, Keys("t"));
  }
  /// MULTI, `queued` times QUEUED, then these.
  static std::vector<Reply> executed(std::size_t queued, Reply exec, Reply term) {
    std::vector<Reply> all{status("OK")};
    for (std::size_t i = 0; i < queued; ++i) all.push_back(status("QUEUED"));
    all.push_back(std::move(exec)), all.push_back(status("OK")), all.push_back(std::move(term));
    return all;
  }
  static Reply fine(std::size_t n) { return array_reply(std::vector<Reply>(n, status("OK"))); }
  Lines lose_link() { return tell(fsm.disconnected(now, {Errc::unavailable, "link lost", ""})); }
  /// Connected again, the term was still mine, it was moved; the store is at `batch_number`.
  Lines come_back(const std::string& batch_number) {
    EXPECT_EQ(tell(fsm.connected(now, 43)), Lines{kCheck});
    EXPECT_EQ(replied(checked(string_reply(mine))), Lines{kMove});
    return replied(term_moved(string_reply(batch_number)));
  }

  const std::string kCommit = "send MULTI | MSET j:" + to_string(job_id(1)) + " | ZADD ready:inference | SET batch | SET leader | EXEC | WATCH term | GET term";
  const std::string kCommitAgain = "send MULTI | MSET j:" + to_string(job_id(1)) + " | ZADD ready:inference | SET batch | EXEC | WATCH term | GET term";
  Instant now{100s};
  CommitFsm fsm{options(), Keys("t")};
  std::string sent, mine;
};

TEST_F(StoreProtocol, a_batch_goes_out_armed_and_comes_back_armed) {
  take_over();
  EXPECT_EQ(tell(fsm.submit(now, batch(1))), Lines{kCommit});
  EXPECT_EQ(replied(executed(4, fine(4), string_reply(mine))), (Lines{"wake", "applied 1"}));
  EXPECT_EQ(fsm.state(), State::armed);
  EXPECT_EQ(tell(fsm.submit(now, batch(2))), Lines{kCommitAgain});   // the leader hint is fresh enough
}

TEST_F(StoreProtocol, nothing_is_sent_before_the_term_is_moved) {
  fsm.open(now);
  EXPECT_EQ(fsm.state(), State::disconnected);
  fsm.connected(now, 42);
  replied(checked(nil_reply()));
  EXPECT_EQ(fsm.state(), State::moving);
  EXPECT_EQ(written_term(), "1 000000000000002a");
  EXPECT_EQ(replied(term_moved(nil_reply())), (Lines{"wake", "took over term 1 batch 0"}));
}

TEST_F(StoreProtocol, a_race_at_take_over_is_run_again) {
  fsm.open(now);
  fsm.connected(now, 42);
  replied(checked(string_reply("6 abc")));
  EXPECT_EQ(replied({status("OK"), status("QUEUED"), nil_reply(), status("OK"), string_reply("7 other"), nil_reply()}), Lines{kCheck});
  EXPECT_EQ(replied(checked(string_reply("7 other"))), Lines{kMove});
  EXPECT_EQ(replied(term_moved(nil_reply())), (Lines{"wake", "took over term 8 batch 0"}));
}

TEST_F(StoreProtocol, exec_nil_means_somebody_else_leads) {
  take_over();
  fsm.submit(now, batch(1));
  EXPECT_EQ(replied(executed(4, nil_reply(), string_reply("8 other"))), Lines{"deposed FENCED"});
  EXPECT_EQ(tell(fsm.submit(now, batch(1))), Lines{});   // stopped: nothing leaves any more
}

TEST_F(StoreProtocol, execabort_hides_a_lost_fence_and_the_get_behind_it_judges) {
  take_over();
  fsm.submit(now, batch(1));
  auto replies = executed(4, error_reply("EXECABORT Transaction discarded because of previous errors."), string_reply("8 other"));
  replies[1] = error_reply("MISCONF Errors writing to the AOF file");
  EXPECT_EQ(replied(replies), Lines{"deposed FENCED"});
}

TEST_F(StoreProtocol, a_refused_batch_goes_again_with_back_off_and_the_same_bytes) {
  take_over();
  tell(fsm.submit(now, batch(1)));
  const std::string first = sent;
  auto replies = executed(4, error_reply("EXECABORT Transaction discarded because of previous errors."), string_reply(mine));
  replies[1] = error_reply("MISCONF Errors writing to the AOF file: No space left on device");
  EXPECT_EQ(replied(replies), (Lines{"down STORAGE_FULL", "wake"}));
  now += 50ms;
  EXPECT_EQ(tell(fsm.timer(now)), Lines{kCommitAgain});
  ASSERT_NE(first.find("leader"), std::string::npos);
  const auto until_batch = [](const std::string& bytes) { return bytes.substr(0, bytes.find("gpuq:{t}:batch")); };
  EXPECT_EQ(until_batch(first), until_batch(sent));
  EXPECT_EQ(replied(executed(3, fine(3), string_reply(mine))), (Lines{"up", "wake", "applied 1"}));
}

TEST_F(StoreProtocol, refused_longer_than_five_seconds_is_a_reload) {
  take_over();
  fsm.submit(now, batch(1));
  auto replies = executed(4, error_reply("EXECABORT x"), string_reply(mine));
  replies[1] = error_reply("NOREPLICAS Not enough good replicas to write.");
  EXPECT_EQ(replied(replies), (Lines{"down UNAVAILABLE", "wake"}));
  now += 5s;
  fsm.timer(now);
  EXPECT_EQ(replied(replies), Lines{"reload UNAVAILABLE"});
  EXPECT_FALSE(fsm.has_batch());
  EXPECT_EQ(tell(fsm.open(now)), Lines{"connect again"});
}

TEST_F(StoreProtocol, a_batch_is_given_its_own_five_seconds_however_long_the_beats_were_refused) {
  take_over();
  const auto refused = [&](std::size_t queued) {
    auto replies = executed(queued, error_reply("EXECABORT x"), string_reply(mine));
    replies[1] = error_reply("MISCONF Errors writing to the AOF file");
    return replied(replies);
  };
  now += 400ms;
  fsm.timer(now);
  EXPECT_EQ(refused(1), (Lines{"down STORAGE_FULL", "wake"}));
  now += 10min;
  EXPECT_EQ(tell(fsm.submit(now, batch(1))), Lines{});
  fsm.timer(now);
  EXPECT_EQ(refused(4), Lines{"wake"});
}

TEST_F(StoreProtocol, refused_for_memory_is_a_reload_at_once) {
  take_over();
  fsm.submit(now, batch(1));
  auto replies = executed(4, error_reply("EXECABORT x"), string_reply(mine));
  replies[2] = error_reply("OOM command not allowed when used memory > 'maxmemory'.");
  EXPECT_EQ(replied(replies), Lines{"reload STORAGE_FULL"});
}

TEST_F(StoreProtocol, an_error_inside_exec_is_half_a_batch_and_stops_the_broker) {
  take_over();
  fsm.submit(now, batch(1));
  Reply exec = fine(4);
  exec.items[1] = error_reply("WRONGTYPE Operation against a key holding the wrong kind of value");
  const auto actions = fsm.replied(now, executed(4, exec, string_reply(mine)));
  ASSERT_EQ(actions.size(), 1U);
  const Error& why = std::get<Deposed>(actions[0]).why;
  EXPECT_EQ(why.code, Errc::redis_corrupt);
  EXPECT_NE(why.what.find("ZADD gpuq:{t}:ready:inference: WRONGTYPE"), std::string::npos) << why.what;
}

TEST_F(StoreProtocol, a_batch_that_ran_without_its_multi_stops_the_broker) {
  take_over();
  fsm.submit(now, batch(1));
  EXPECT_EQ(replied(executed(4, error_reply("ERR EXEC without MULTI"), string_reply(mine))), Lines{"deposed REDIS_CORRUPT"});
}

TEST_F(StoreProtocol, lost_before_it_was_applied_the_same_batch_goes_again) {
  take_over();
  fsm.submit(now, batch(1));
  EXPECT_EQ(lose_link(), (Lines{"down UNAVAILABLE", "connect again"}));
  EXPECT_EQ(come_back("0"), (Lines{"up", kCommitAgain}));
  EXPECT_EQ(replied(executed(3, fine(3), string_reply(mine))), (Lines{"wake", "applied 1"}));
}

TEST_F(StoreProtocol, lost_after_it_was_applied_it_is_not_sent_again) {
  take_over();
  fsm.submit(now, batch(1));
  lose_link();
  EXPECT_EQ(come_back("1"), (Lines{"up", "wake", "applied 1"}));
  EXPECT_EQ(fsm.statistics().replies_lost, 1U);
}

TEST_F(StoreProtocol, bodies_whose_reply_was_lost_are_read_again_before_the_batch_counts_as_applied) {
  take_over();
  fsm.submit(now, batch(1, true));
  lose_link();
  EXPECT_EQ(come_back("1"), Lines{"send MGET b:" + to_string(job_id(1))});
  EXPECT_EQ(fsm.state(), State::rereading);
  EXPECT_EQ(lose_link(), (Lines{"connect again"}));      // and once more: still applied, still to be read
  EXPECT_EQ(come_back("1"), Lines{"send MGET b:" + to_string(job_id(1))});
  EXPECT_EQ(replied({array_reply({string_reply("x")})}), (Lines{"up", "wake", "applied 1 with bodies"}));
}

TEST_F(StoreProtocol, a_mere_reconnect_moves_the_term_before_it_reads_the_batch_number) {
  take_over();
  lose_link();
  EXPECT_EQ(tell(fsm.connected(now, 43)), Lines{kCheck});
  EXPECT_EQ(replied(checked(string_reply(mine))), Lines{kMove});   // SET term … EXEC stands before GET batch
  EXPECT_TRUE(written_term().starts_with("8 "));
  EXPECT_NE(written_term(), mine);
}

TEST_F(StoreProtocol, a_term_i_tried_to_write_is_mine_too) {
  take_over();
  lose_link();
  fsm.connected(now, 43);
  replied(checked(string_reply(mine)));
  const std::string tried = written_term();
  lose_link();                                   // the CAS was applied, its reply lost
  fsm.connected(now, 44);
  EXPECT_EQ(replied(checked(string_reply(tried))), Lines{kMove});
  EXPECT_EQ(replied(term_moved(string_reply("0"))), (Lines{"up", "wake"}));
}

TEST_F(StoreProtocol, a_foreign_term_at_reconnect_means_fenced) {
  take_over();
  fsm.submit(now, batch(1));
  lose_link();
  fsm.connected(now, 43);
  EXPECT_EQ(replied(checked(string_reply("8 other"))), Lines{"deposed FENCED"});
}

TEST_F(StoreProtocol, a_vanished_name_space_stops_the_broker_instead_of_starting_empty) {
  take_over("5");
  lose_link();
  fsm.connected(now, 43);
  EXPECT_EQ(replied(checked(nil_reply())), Lines{"deposed REDIS_CORRUPT"});
}

TEST_F(StoreProtocol, a_store_that_lost_its_tail_is_read_anew) {
  take_over("5");
  lose_link();
  EXPECT_EQ(come_back("4"), Lines{"reload UNAVAILABLE"});
}

TEST_F(StoreProtocol, an_idle_leader_beats_and_so_notices_that_it_was_deposed) {
  take_over();
  now += 400ms;
  EXPECT_EQ(tell(fsm.timer(now)), Lines{"send MULTI | SET leader | EXEC | WATCH term | GET term"});
  EXPECT_EQ(tell(fsm.submit(now, batch(1))), Lines{});    // waits for the beat
  EXPECT_EQ(replied(executed(1, fine(1), string_reply(mine))), Lines{kCommitAgain});
  replied(executed(3, fine(3), string_reply(mine)));
  now += 400ms;
  fsm.timer(now);
  EXPECT_EQ(replied(executed(1, nil_reply(), string_reply("9 other"))), Lines{"deposed FENCED"});
}

TEST_F(StoreProtocol, the_idle_beat_is_at_least_every_half_second) { EXPECT_LE(RedisOptions{}.idle_beat, 500ms); }

TEST_F(StoreProtocol, a_take_over_waits_while_redis_loads_and_gives_up_on_silence) {
  fsm.open(now);
  for (int i = 0; i < 100; ++i, now += 1s) {
    fsm.connected(now, 42);
    auto replies = checked(error_reply("LOADING Redis is loading the dataset in memory"));
    replies[0].text.replace(replies[0].text.find("loading:0"), 9, "loading:1");
    ASSERT_EQ(replied(replies), Lines{"connect again"});
  }
  now += 11s;
  EXPECT_EQ(tell(fsm.disconnected(now, {Errc::unavailable, "connection refused", ""})), Lines{"open failed UNAVAILABLE"});
}

TEST_F(StoreProtocol, a_password_comes_first_and_its_refusal_is_final) {
  auto o = options();
  o.address.password = "secret";
  CommitFsm locked(o, Keys("t"));
  locked.open(now);
  EXPECT_EQ(tell(locked.connected(now, 1))[0].substr(0, 16), "send AUTH secret");
  std::vector<Reply> replies{error_reply("WRONGPASS invalid username-password pair")};
  for (int i = 0; i < 6; ++i) replies.push_back(error_reply("NOAUTH Authentication required."));
  EXPECT_EQ(tell(locked.replied(now, replies)), Lines{"open failed REFUSED"});
}

TEST_F(StoreProtocol, a_user_who_may_not_multi_is_found_out_before_anything_is_written) {
  fsm.open(now);
  fsm.connected(now, 42);
  auto replies = checked(nil_reply());
  replies[2] = error_reply("NOPERM this user has no permissions to run the 'multi' command");
  EXPECT_EQ(replied(replies), Lines{"open failed REFUSED"});
}

// ---- start-up checks

struct BadServer { std::string name, info, value, next; Errc code; };
class StoreChecks : public testing::TestWithParam<BadServer> {};
TEST_P(StoreChecks, a_server_that_would_lose_work_is_refused_with_the_line_to_change) {
  const BadServer& bad = GetParam();
  auto config = good_config();
  std::string info = good_info();
  if (!bad.info.empty()) {
    const auto at = info.find(bad.info + ":");
    info.replace(at, info.find("\r\n", at) - at, bad.info + ":" + bad.value);
  } else {
    for (auto& [k, v] : config)
      if (k == bad.name) v = bad.value;
  }
  const Reply replies[] = {string_reply(info), config_reply(config)};
  RedisOptions options;
  options.address.host = "h";
  const auto why = check_server(parse_facts(replies).value(), options);
  ASSERT_TRUE(why);
  EXPECT_EQ(to_string(why->code), to_string(bad.code));
  EXPECT_NE(why->next.find(bad.next), std::string::npos) << why->next;
}
INSTANTIATE_TEST_SUITE_P(
    Bad, StoreChecks,
    testing::Values(BadServer{"maxmemory-policy", "", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction", Errc::redis_policy},
                    BadServer{"appendonly", "", "no", "CONFIG SET appendonly yes", Errc::redis_durability},
                    BadServer{"appendfsync", "", "everysec", "CONFIG SET appendfsync always", Errc::redis_durability},
                    BadServer{"no-appendfsync-on-rewrite", "", "yes", "CONFIG SET no-appendfsync-on-rewrite no", Errc::redis_durability},
                    BadServer{"maxmemory", "", "0", "--redis-budget", Errc::redis_budget},
                    BadServer{"version", "redis_version", "6.2.6", "Redis 7.0", Errc::redis_version},
                    BadServer{"role", "role", "slave", "primary", Errc::redis_role},
                    BadServer{"aof", "aof_last_write_status", "err", "free space", Errc::storage_full}),
    [](const auto& which) {
      std::string name = which.param.name;
      for (char& c : name)
        if (c == '-') c = '_';
      return name;
    });

TEST(StoreChecks, everysec_is_enough_when_it_is_asked_for_and_a_budget_replaces_maxmemory) {
  auto config = good_config();
  config[0].second = "0";
  config[3].second = "everysec";
  const Reply replies[] = {string_reply(good_info()), config_reply(config)};
  RedisOptions options;
  options.durability = Durability::everysec;
  options.budget_bytes = 1 << 20;
  const auto facts = parse_facts(replies).value();
  EXPECT_FALSE(check_server(facts, options));
  EXPECT_EQ(bytes_max(facts, options), 1U << 20U);
}

TEST(StoreChecks, replicas_asked_for_need_a_primary_that_stops_without_them) {
  RedisOptions options;
  options.replicas = 1;
  auto config = good_config();
  config.emplace_back("min-replicas-to-write", "0");
  const Reply none[] = {string_reply(good_info()), config_reply(config)};
  const auto why = check_server(parse_facts(none).value(), options);
  ASSERT_TRUE(why);
  EXPECT_EQ(why->code, Errc::redis_durability);
  EXPECT_NE(why->next.find("CONFIG SET min-replicas-to-write 1"), std::string::npos);
  config.back().second = "1";
  const Reply one[] = {string_reply(good_info()), config_reply(config)};
  EXPECT_FALSE(check_server(parse_facts(one).value(), options));
}

/// The same protocol with one replica asked for.
class StoreReplicas : public StoreProtocol {
 protected:
  StoreReplicas() {
    RedisOptions o = options();
    o.replicas = 1;
    fsm = CommitFsm(o, Keys("t"));
    const auto exec = kCommit.find(" | EXEC");
    kWaited = kCommit.substr(0, exec + 7) + " | WAIT 1" + kCommit.substr(exec + 7);
  }
  std::vector<Reply> checked_with_replicas(Reply term) {
    auto all = checked(std::move(term));
    all[1].items.push_back(string_reply("min-replicas-to-write")), all[1].items.push_back(string_reply("1"));
    return all;
  }
  void take_over() {
    tell(fsm.open(now));
    tell(fsm.connected(now, 42));
    replied(checked_with_replicas(string_reply("6 abc")));
    EXPECT_EQ(replied(term_moved(string_reply("0"))), (Lines{"wake", "took over term 7 batch 0"}));
  }
  Lines come_back(const std::string& batch_number) {
    tell(fsm.connected(now, 43));
    replied(checked_with_replicas(string_reply(mine)));
    return replied(term_moved(string_reply(batch_number)));
  }
  std::vector<Reply> waited(std::int64_t replicas) {
    auto all = executed(4, fine(4), string_reply(mine));
    all.insert(all.end() - 2, integer_reply(replicas));
    return all;
  }
  std::string kWaited;
};

TEST_F(StoreReplicas, a_batch_is_answered_when_a_replica_has_it) {
  take_over();
  EXPECT_EQ(tell(fsm.submit(now, batch(1))), Lines{kWaited});
  EXPECT_EQ(replied(waited(1)), (Lines{"wake", "applied 1"}));
}

TEST_F(StoreReplicas, without_one_nothing_leaves_and_the_question_is_asked_again) {
  take_over();
  tell(fsm.submit(now, batch(1)));
  EXPECT_EQ(replied(waited(0)), Lines{"send WAIT 1 | GET term"});
  EXPECT_EQ(replied({integer_reply(0), string_reply(mine)}), (Lines{"down UNAVAILABLE", "send WAIT 1 | GET term"}));
  EXPECT_EQ(replied({integer_reply(0), string_reply(mine)}), Lines{"send WAIT 1 | GET term"});
  EXPECT_EQ(replied({integer_reply(1), string_reply(mine)}), (Lines{"up", "wake", "applied 1"}));
}

TEST_F(StoreReplicas, a_link_lost_meanwhile_asks_on_the_new_one_and_the_bodies_are_kept) {
  take_over();
  tell(fsm.submit(now, batch(1, true)));
  auto replies = executed(6, array_reply({array_reply({string_reply("the body")}), status("OK"), status("OK"), status("OK"), status("OK"), status("OK")}), string_reply(mine));
  replies.insert(replies.end() - 2, integer_reply(0));
  EXPECT_EQ(replied(std::move(replies)), Lines{"send WAIT 1 | GET term"});
  lose_link();
  EXPECT_EQ(come_back("1"), Lines{"send WAIT 1 | GET term"});
  const Lines lines = replied({integer_reply(1), string_reply(mine)});
  EXPECT_EQ(lines.back(), "applied 1 with bodies");
}

TEST_F(StoreReplicas, a_failover_that_went_back_behind_it_gets_it_again) {
  take_over();
  tell(fsm.submit(now, batch(1)));
  replied(waited(0));
  lose_link();
  const Lines lines = come_back("0");   // the promoted one never had it; nobody was told of it
  EXPECT_NE(std::find_if(lines.begin(), lines.end(), [](const std::string& l) { return l.starts_with("send MULTI | MSET"); }), lines.end());
}

TEST_F(StoreReplicas, a_failover_that_lost_what_was_answered_is_reloaded) {
  take_over();
  tell(fsm.submit(now, batch(1)));
  replied(waited(1));
  lose_link();
  const Lines lines = come_back("0");
  EXPECT_EQ(lines.back(), "reload UNAVAILABLE");
}

TEST_F(StoreReplicas, a_reply_lost_and_the_batch_applied_still_needs_a_replica) {
  take_over();
  tell(fsm.submit(now, batch(1)));
  lose_link();
  EXPECT_EQ(come_back("1"), Lines{"send WAIT 1 | GET term"});
  const Lines lines = replied({integer_reply(2), string_reply(mine)});
  EXPECT_EQ(lines.back(), "applied 1");
}

TEST_F(StoreReplicas, who_waits_for_replicas_notices_that_another_leads) {
  take_over();
  tell(fsm.submit(now, batch(1)));
  replied(waited(0));
  const Lines lines = replied({integer_reply(0), string_reply("8 another")});
  EXPECT_EQ(lines, Lines{"deposed FENCED"});
}

TEST_F(StoreProtocol, a_primary_demoted_under_us_is_left_for_the_one_that_leads_now) {
  take_over();
  tell(fsm.submit(now, batch(1)));
  std::vector<Reply> replies{status("OK"), error_reply("READONLY You can't write against a read only replica."), error_reply("READONLY"), error_reply("READONLY"), error_reply("READONLY"),
                             error_reply("EXECABORT Transaction discarded because of previous errors."), status("OK"), string_reply(mine)};
  EXPECT_EQ(replied(std::move(replies)), (Lines{"down REDIS_ROLE", "connect again"}));
}

TEST(StoreAddress, sentinels_are_named_with_the_primary_they_know) {
  const auto a = parse_redis_url("redis-sentinel://gpuq:pw@s1,s2:7000,[::1]:7001/3#boards").value();
  EXPECT_EQ(a.sentinels, (std::vector<RedisAddress::Sentinel>{{"s1", 26379}, {"s2", 7000}, {"::1", 7001}}));
  EXPECT_EQ(a.primary, "boards");
  EXPECT_EQ(a.database, 3U);
  EXPECT_EQ(a.password, "pw");
  EXPECT_FALSE(a.tls);
  EXPECT_TRUE(parse_redis_url("rediss-sentinel://s1#m")->tls);
  EXPECT_EQ(a.describe(), "redis primary 'boards' of sentinels s1:26379,s2:7000,::1:7001");
  for (const char* bad : {"redis-sentinel://s1", "redis-sentinel://#m", "redis-sentinel://s1,,s2#m", "redis-sentinel://s1:x#m", "redis-sentinel://s1#"})
    EXPECT_EQ(parse_redis_url(bad).error().code, Errc::usage) << bad;
}

TEST(StoreAddress, urls_are_read_and_never_show_the_password) {
  const auto a = parse_redis_url("rediss://gp%40q:s3c%3Aret@[::1]:7000/2").value();
  EXPECT_EQ(a.describe(), "rediss://[::1]:7000/2");
  EXPECT_EQ(a.user, "gp@q");
  EXPECT_EQ(a.password, "s3c:ret");
  EXPECT_EQ(parse_redis_url("redis://h")->port, 6379);
  EXPECT_EQ(parse_redis_url("unix:///run/r.sock")->describe(), "unix:///run/r.sock");
  EXPECT_EQ(parse_redis_url("/run/r.sock")->socket_path, "/run/r.sock");
  for (const char* bad : {"", "h:1", "http://h", "redis://", "redis://h:x", "redis://h:99999", "redis://h/x", "redis://u@h", "redis://[::1"})
    EXPECT_EQ(parse_redis_url(bad).error().code, Errc::usage) << bad;
}

}  // namespace
}  // namespace gq::test
