// child_frame.cpp - frames of the child protocol: what goes in comes out, garbage is a value, large values travel beside.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "worker/child/frame.h"

namespace gq::child {
namespace {

std::string text_of(const Frame& frame) {
  std::string out = std::to_string(static_cast<int>(frame.type)) + "#" + std::to_string(frame.id);
  for (const Field& field : frame.fields) {
    out += " " + field.key + (field.is_bytes ? ":b=" : "=");
    if (const auto* i = std::get_if<std::int64_t>(&field.value)) out += "i" + std::to_string(*i);
    else if (const auto* f = std::get_if<double>(&field.value)) out += "f" + std::to_string(*f);
    else out += std::get<std::string>(field.value);
  }
  return out;
}

Frame sample() {
  Frame frame{Type::run, 77, {}};
  frame.add("kind", "detect").add("step", std::int64_t{-5}).add("loss", 0.25).add_bytes("part.image", std::string("\0\xFF\x01", 3));
  frame.add("kind", "again");
  return frame;
}

std::size_t open_descriptors() {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++n;
  return n;
}

struct Pair {
  Pair() : Pair(Channel::make_pair()) {}
  explicit Pair(std::pair<int, int> fds) : parent(fds.first), child(fds.second) {}
  Channel parent, child;
};

TEST(ChildFrame, what_is_encoded_is_decoded) {
  std::string error;
  const auto back = decode(encode(sample()), error);
  ASSERT_TRUE(back) << error;
  EXPECT_EQ(text_of(*back), text_of(sample()));
}

TEST(ChildFrame, the_bytes_are_the_ones_that_the_page_describes) {
  Frame frame{Type::ping, 0x0102, {}};
  frame.add("k", std::int64_t{1});
  const std::string expected("\x01\x08\x01\x00\x00\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00" "\x01" "k" "i" "\x08\x00\x00\x00" "\x01\x00\x00\x00\x00\x00\x00\x00", 31);
  EXPECT_EQ(encode(frame), expected);
}

TEST(ChildFrame, fields_are_found_by_key_kind_and_prefix) {
  Frame frame = sample();
  frame.add("param.conf", "0.35").add("param.max_det", std::int64_t{9});
  EXPECT_EQ(frame.text("kind"), "detect");
  EXPECT_EQ(frame.number("step"), -5);
  EXPECT_EQ(frame.number("kind", 3), 3);
  EXPECT_EQ(frame.real("loss"), 0.25);
  EXPECT_EQ(frame.real("step"), -5.0);
  EXPECT_EQ(frame.text("nothing"), "");
  EXPECT_FALSE(frame.has("nothing"));
  EXPECT_EQ(frame.with_prefix("param."), (std::map<std::string, std::string>{{"conf", "0.35"}, {"max_det", "9"}}));
}

TEST(ChildFrame, every_truncation_is_refused_with_a_reason) {
  const std::string whole = encode(sample());
  for (std::size_t n = 0; n < whole.size(); ++n) {
    std::string error;
    EXPECT_FALSE(decode(std::string_view(whole).substr(0, n), error)) << n;
    EXPECT_FALSE(error.empty()) << n;
  }
  std::string error;
  EXPECT_FALSE(decode(whole + "x", error));
}

TEST(ChildFrame, wrong_version_reserved_word_kind_or_number_length_are_refused) {
  const std::string good = encode(Frame{Type::ping, 1, {}}.add("k", std::int64_t{1}));
  for (const auto& [at, value] : {std::pair<std::size_t, char>{0, 2}, {4, 1}, {18, 'z'}, {19, 7}, {2, 9}}) {
    std::string bad = good;
    bad[at] = value;
    std::string error;
    EXPECT_FALSE(decode(bad, error)) << at;
  }
}

TEST(ChildFrame, random_and_mutated_packets_neither_crash_nor_lie) {
  std::mt19937_64 random(1);
  const std::string seed = encode(sample());
  for (int i = 0; i < 200'000; ++i) {
    std::string packet = seed;
    for (std::uint64_t flips = random() % 4 + 1; flips > 0; --flips) packet[random() % packet.size()] = static_cast<char>(random());
    if (random() % 4 == 0) packet.resize(random() % packet.size());
    std::string error;
    const auto frame = decode(packet, error);
    if (!frame) {
      ASSERT_FALSE(error.empty());
      continue;
    }
    const auto again = decode(encode(*frame), error);   // what decodes, encodes to the same
    ASSERT_TRUE(again);
    ASSERT_EQ(encode(*again), encode(*frame));
  }
}

TEST(ChildFrame, a_key_that_is_too_long_cannot_be_said) {
  EXPECT_EQ(encode(Frame{Type::ping, 1, {}}.add(std::string(256, 'k'), "v")), "");
}

TEST(ChildChannel, small_frames_cross_as_they_are) {
  Pair pair;
  ASSERT_TRUE(pair.parent.send(sample()));
  Frame got;
  std::string error;
  ASSERT_EQ(pair.child.receive(got, error), Channel::Got::frame);
  EXPECT_EQ(text_of(got), text_of(sample()));
}

TEST(ChildChannel, ten_megabytes_cross_beside_the_packet_and_no_descriptor_stays) {
  const std::size_t before = open_descriptors();
  {
    Pair pair;
    std::string image(10U << 20U, '\0');
    for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<char>(i * 31);
    Frame frame = sample();
    frame.add_bytes("part.big", image).add_bytes("part.big2", std::string(40'000, 'x'));
    ASSERT_TRUE(pair.parent.send(frame));
    Frame got;
    std::string error;
    ASSERT_EQ(pair.child.receive(got, error), Channel::Got::frame);
    EXPECT_EQ(got.text("part.big") == image, true);
    EXPECT_EQ(got.text("part.big2"), std::string(40'000, 'x'));
    EXPECT_EQ(got.text("kind"), "detect");
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(ChildChannel, many_values_that_fit_alone_but_not_together_still_cross) {
  Pair pair;
  Frame frame{Type::done, 1, {}};
  for (int i = 0; i < 10; ++i) frame.add_bytes("out." + std::to_string(i), std::string(20'000, static_cast<char>('a' + i)));
  ASSERT_TRUE(pair.child.send(frame));
  Frame got;
  std::string error;
  ASSERT_EQ(pair.parent.receive(got, error), Channel::Got::frame);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(got.text("out." + std::to_string(i)), std::string(20'000, static_cast<char>('a' + i)));
}

TEST(ChildChannel, a_reference_to_nothing_beyond_or_to_a_pipe_is_malformed) {
  const auto fds = Channel::make_pair();
  Channel reader(fds.second);
  const auto send_reference = [&](std::uint32_t index, std::uint64_t offset, std::uint64_t length, int descriptor) {
    std::string reference(20, '\0');
    std::memcpy(reference.data(), &index, 4);
    std::memcpy(reference.data() + 4, &offset, 8);
    std::memcpy(reference.data() + 12, &length, 8);
    std::string packet = encode(Frame{Type::done, 1, {}}.add_bytes("fd:out.x", reference));
    iovec part{packet.data(), packet.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    if (descriptor >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    ASSERT_GT(::sendmsg(fds.first, &message, MSG_NOSIGNAL), 0);
    Frame got;
    std::string error;
    EXPECT_EQ(reader.receive(got, error), Channel::Got::malformed);
    EXPECT_FALSE(error.empty());
  };
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const int file = ::open("/proc/self/exe", O_RDONLY);
  const std::size_t before = open_descriptors();
  send_reference(0, 0, 10, -1);                       // no descriptor came
  send_reference(3, 0, 10, file);                     // another index
  send_reference(0, ~0ULL, 10, file);                 // overflow
  send_reference(0, 0, 1ULL << 40U, file);            // longer than the file
  send_reference(0, 0, 10, pipe_ends[0]);             // would block for ever
  EXPECT_EQ(open_descriptors(), before);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  ::close(file);
  ::close(fds.first);
}

TEST(ChildChannel, a_closed_peer_is_told_apart_from_silence) {
  auto fds = Channel::make_pair();
  ::fcntl(fds.first, F_SETFL, O_NONBLOCK);
  Channel parent(fds.first);
  Frame got;
  std::string error;
  EXPECT_EQ(parent.receive(got, error), Channel::Got::nothing);
  ::close(fds.second);
  EXPECT_EQ(parent.receive(got, error), Channel::Got::closed);
  EXPECT_FALSE(parent.send(sample()));
}

TEST(ChildChannel, a_full_socket_says_so_instead_of_blocking) {
  auto fds = Channel::make_pair();
  ::fcntl(fds.first, F_SETFL, O_NONBLOCK);
  Channel parent(fds.first);
  Channel child(fds.second);
  Frame frame{Type::run, 1, {}};
  frame.add_bytes("x", std::string(30'000, 'x'));
  int sent = 0;
  while (sent < 1000 && parent.send(frame)) ++sent;
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_LT(sent, 1000);
  Frame got;
  std::string error;
  for (int i = 0; i < sent; ++i) ASSERT_EQ(child.receive(got, error), Channel::Got::frame);
}

}  // namespace
}  // namespace gq::child
