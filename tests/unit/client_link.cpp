// client_link.cpp - when the client opens sockets, beats, gives up on a link, and tells its callers.
#include <gtest/gtest.h>

#include "client/lib/link.h"

namespace gq::client {
namespace {

using K = LinkAction::Kind;

std::vector<K> kinds(const LinkActions& actions) {
  std::vector<K> out;
  for (const LinkAction& action : actions) out.push_back(action.kind);
  return out;
}
std::vector<K> just(std::initializer_list<K> list) { return list; }
const Error kRefused{Errc::key_refused, "the broker refused this key", "gpuq keys issue"};

class LinkStory : public ::testing::Test {
 protected:
  Instant now{};
  Link link{LinkTiming{}, 42};
  void after(Duration d) { now += d; }
  void come_up(Term term = 1) {
    EXPECT_EQ(kinds(link.start(now)), just({K::open}));
    EXPECT_EQ(kinds(link.connected(now)), just({K::hello}));
    EXPECT_EQ(kinds(link.welcomed(now, term, 1s)), just({K::resume}));
  }
  /// Ticks until it opens a socket again; how long that took.
  Duration until_open() {
    const Instant from = now;
    for (int i = 0; i < 10'000; ++i) {
      if (kinds(link.tick(now)) == just({K::open})) return now - from;
      after(1ms);
    }
    ADD_FAILURE() << "never opened again";
    return {};
  }
};

TEST_F(LinkStory, it_connects_says_hello_and_everything_unanswered_goes_out_on_the_welcome) {
  come_up();
  EXPECT_TRUE(link.up());
  EXPECT_TRUE(link.ever_welcomed());
}

TEST_F(LinkStory, an_idle_link_beats_once_a_second_and_a_busy_one_does_not) {
  come_up();
  after(999ms);
  EXPECT_EQ(kinds(link.tick(now)), just({}));
  after(1ms);
  EXPECT_EQ(kinds(link.tick(now)), just({K::beat}));
  after(900ms);
  link.sent(now);
  link.heard(now);
  after(900ms);
  EXPECT_EQ(kinds(link.tick(now)), just({}));
}

TEST_F(LinkStory, five_silent_seconds_end_the_socket_and_a_new_one_is_opened) {
  come_up();
  for (int i = 0; i < 4; ++i) {
    after(1s);
    EXPECT_EQ(kinds(link.tick(now)), just({K::beat}));
  }
  after(1s);
  EXPECT_EQ(kinds(link.tick(now)), just({K::close}));
  EXPECT_FALSE(link.up());
  EXPECT_LE(until_open(), Duration(50ms));
}

TEST_F(LinkStory, back_off_doubles_with_jitter_up_to_three_seconds_and_a_welcome_resets_it) {
  come_up();
  Duration previous{};
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(kinds(link.disconnected(now)), just({K::close}));
    previous = until_open();
    const auto ceiling = std::min<Duration>(3s, Duration(50ms) * (1 << i));
    EXPECT_GE(previous, ceiling / 2 - Duration(1ms));
    EXPECT_LE(previous, ceiling + Duration(1ms));
    link.connected(now);
  }
  link.welcomed(now, 1, 1s);
  link.disconnected(now);
  EXPECT_LE(until_open(), Duration(50ms));
}

TEST_F(LinkStory, a_refused_key_fails_every_caller_at_once_when_this_broker_never_welcomed_us) {
  link.start(now);
  EXPECT_EQ(link.refused(now, kRefused), (LinkActions{{K::close, {}}, {K::fail_all, kRefused}}));
}

TEST_F(LinkStory, a_restarting_broker_may_refuse_for_a_moment_and_nobody_is_failed_for_it) {
  come_up();
  link.disconnected(now);
  until_open();
  EXPECT_EQ(kinds(link.refused(now, kRefused)), just({K::close}));
  until_open();
  after(3s);
  EXPECT_EQ(kinds(link.refused(now, kRefused)), just({K::close, K::fail_all}));
  EXPECT_EQ(link.last_refusal(), kRefused);
}

TEST_F(LinkStory, another_term_on_the_same_link_means_watch_again) {
  come_up(7);
  EXPECT_EQ(kinds(link.term_seen(7)), just({}));
  EXPECT_EQ(kinds(link.term_seen(8)), just({K::rewatch}));
  EXPECT_EQ(kinds(link.term_seen(8)), just({}));
}

TEST_F(LinkStory, a_socket_that_neither_connects_nor_is_welcomed_is_replaced) {
  link.start(now);
  after(10s);
  EXPECT_EQ(kinds(link.tick(now)), just({K::close}));
  until_open();
  link.connected(now);
  after(5s);
  EXPECT_EQ(kinds(link.tick(now)), just({K::close}));
}

}  // namespace
}  // namespace gq::client
