// wire_golden.cpp - the bytes of every message of every version are kept: what was once sent can always be read, and what we send
// changes only on purpose. New messages: GPUQ_WRITE_GOLDEN=1 tests/wire_golden (it writes only files that are absent).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <msgpack.hpp>

#include "tests/unit/wire_samples.h"

namespace gq::wire {
namespace {

const std::string kFolder = std::string(GPUQ_SOURCE_DIR) + "/tests/unit/golden/v1/";
constexpr std::uint64_t kRequest = 0x0102030405060708;
constexpr std::string_view kTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

std::string golden(const std::string& name, const std::string& bytes) {
  const std::string path = kFolder + name + ".hex";
  if (!std::filesystem::exists(path) && std::getenv("GPUQ_WRITE_GOLDEN") != nullptr) {
    std::ofstream out(path);
    const std::string hex = to_hex(bytes);
    for (std::size_t i = 0; i < hex.size(); i += 96) out << hex.substr(i, 96) << "\n";
  }
  std::ifstream in(path);
  return from_hex(std::string(std::istreambuf_iterator<char>(in), {}));
}

template <class T>
class Golden : public ::testing::Test {};
#define GQ_ALTERNATIVE(number, Struct) , Struct
template <class First, class... Others>
using TypesAfter = ::testing::Types<Others...>;
using All = TypesAfter<void GQ_WIRE_MESSAGES(GQ_ALTERNATIVE)>;
struct Names {
  template <class T>
  static std::string GetName(int) { return TypeNumber<T>::name; }
};
TYPED_TEST_SUITE(Golden, All, Names);

TYPED_TEST(Golden, bytes_are_unchanged_and_are_read_back) {
  const auto sample = Sampler().make<TypeParam>();
  const std::string sent = encode(sample, kRequest, kTrace);
  const std::string kept = golden(TypeNumber<TypeParam>::name, sent);
  EXPECT_EQ(to_hex(sent), to_hex(kept));
  const auto read = decode(std::string_view(kept));
  ASSERT_TRUE(read.has_value()) << read.error().what;
  EXPECT_EQ(read->header, (Header{kProtocolVersion, kOldestReader, TypeNumber<TypeParam>::value, kRequest, std::string(kTrace)}));
  ASSERT_TRUE(std::holds_alternative<TypeParam>(read->message));
  EXPECT_TRUE(std::get<TypeParam>(read->message) == sample);
}

TYPED_TEST(Golden, any_msgpack_reads_exactly_a_header_and_a_body) {  // a peer of another make reads them in wire_page
  const std::string sent = encode(Sampler().make<TypeParam>(), kRequest);
  std::size_t offset = 0;
  const auto header = ::msgpack::unpack(sent.data(), sent.size(), offset);
  EXPECT_EQ(header.get().type, ::msgpack::type::ARRAY);
  EXPECT_EQ(header.get().via.array.size, 4U);
  const auto body = ::msgpack::unpack(sent.data(), sent.size(), offset);
  EXPECT_EQ(body.get().type, Shape<TypeParam>::form == Form::array ? ::msgpack::type::ARRAY : ::msgpack::type::MAP);
  EXPECT_EQ(offset, sent.size());
}

TYPED_TEST(Golden, defaults_take_no_room_and_come_back) {
  const std::string sent = encode(TypeParam{}, 1);
  if constexpr (!std::is_same_v<TypeParam, TopReply>) {  // has a fixed array
    EXPECT_LE(sent.size(), 8U);
  }
  const auto read = decode(std::string_view(sent));
  ASSERT_TRUE(read.has_value()) << read.error().what;
  EXPECT_TRUE(std::get<TypeParam>(read->message) == TypeParam{});
}

TEST(GoldenEarlier, what_was_sent_before_fields_were_appended_is_still_read) {  // NAME-N.hex: the N-th form of that message
  std::size_t read_back = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(GPUQ_SOURCE_DIR) + "/tests/unit/golden/v1-earlier")) {
    std::ifstream in(entry.path());
    const std::string kept = from_hex(std::string(std::istreambuf_iterator<char>(in), {}));
    if (const std::string name = entry.path().stem().string(); name.find("Body-") != std::string::npos) {   // of payloads, which have no header
      const auto bytes = std::as_bytes(std::span(kept));
      const auto again = name.starts_with("Job") ? decode_job_body(bytes).map([](const JobBody& b) { return encode(b); }) : decode_result_body(bytes).map([](const ResultBody& b) { return encode(b); });
      ASSERT_TRUE(again.has_value()) << name << ": " << again.error().what;
      EXPECT_EQ(to_hex(*again), to_hex(kept)) << name;
      ++read_back;
      continue;
    }
    const auto read = decode(std::string_view(kept));
    ASSERT_TRUE(read.has_value()) << entry.path() << ": " << read.error().what;
    const std::string name = entry.path().stem().string();
    std::visit(
        [&](const auto& message) {
          using T = std::decay_t<decltype(message)>;
          if constexpr (!std::is_same_v<T, std::monostate>) {
            EXPECT_EQ(name.substr(0, name.find('-')), TypeNumber<T>::name);
            EXPECT_GT(encode(message, kRequest, kTrace).size(), kept.size() / 2) << name;  // nothing of what it said is dropped
          }
        },
        read->message);
    ++read_back;
  }
  EXPECT_GE(read_back, 6U);
}

TEST(GoldenBodies, job_and_result_bodies_are_unchanged_and_are_read_back) {
  const auto job = Sampler().make<JobBody>();
  const std::string job_bytes = golden("JobBody", encode(job));
  EXPECT_EQ(to_hex(encode(job)), to_hex(job_bytes));
  EXPECT_TRUE(decode_job_body(std::as_bytes(std::span(job_bytes))) == job);
  const auto result = Sampler().make<ResultBody>();
  const std::string result_bytes = golden("ResultBody", encode(result));
  EXPECT_EQ(to_hex(encode(result)), to_hex(result_bytes));
  EXPECT_TRUE(decode_result_body(std::as_bytes(std::span(result_bytes))) == result);
}

}  // namespace
}  // namespace gq::wire
