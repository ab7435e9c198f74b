// wire_identity.cpp - decode(encode(x)) == x for every message and any x within its bounds.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/wire_samples.h"

namespace gq::wire {
namespace {

template <class T>
void arbitrary(T& value, std::uint64_t max) {
  if constexpr (std::is_same_v<T, bool>) value = *rc::gen::arbitrary<bool>();
  else if constexpr (std::is_floating_point_v<T>) value = *rc::gen::arbitrary<T>();
  else if constexpr (std::is_integral_v<T>) {
    if (max != 0) value = static_cast<T>(*rc::gen::inRange<std::uint64_t>(0, max + 1));
    else value = *rc::gen::element(*rc::gen::arbitrary<T>(), std::numeric_limits<T>::max(), std::numeric_limits<T>::min(), T{});
  } else if constexpr (std::is_same_v<T, std::string>) value = *rc::gen::arbitrary<std::string>();
  else if constexpr (std::is_same_v<T, JobId> || std::is_same_v<T, Digest128>) {
    value.hi = *rc::gen::arbitrary<std::uint64_t>();
    value.lo = *rc::gen::arbitrary<std::uint64_t>();
  } else if constexpr (std::is_same_v<T, BlobDigest>) value.bytes[*rc::gen::inRange<std::size_t>(0, 32)] = *rc::gen::arbitrary<std::uint8_t>();
  else if constexpr (std::is_array_v<T>) for (auto& element : value) arbitrary(element, 0);
  else if constexpr (kIsOptional<T>) {
    if (*rc::gen::arbitrary<bool>()) arbitrary(value.emplace(), max);
  } else if constexpr (kIsVector<T>) {
    value.resize(*rc::gen::inRange<std::size_t>(0, 4));
    for (auto& element : value) arbitrary(element, 0);
  } else if constexpr (kIsMap<T>) {
    for (std::size_t n = *rc::gen::inRange<std::size_t>(0, 3); n > 0; --n) arbitrary(value[*rc::gen::arbitrary<std::string>()], 0);
  } else {
    std::apply([&](const auto&... f) { (arbitrary(value.*f.member, f.max), ...); }, Shape<T>::fields);
  }
}

template <class T>
void identity() {
  T sent;
  arbitrary(sent, 0);
  const auto id = *rc::gen::arbitrary<std::uint64_t>();
  const auto read = decode(std::string_view(encode(sent, id, "t")));
  RC_ASSERT(read.has_value());
  RC_ASSERT(read->header.id == id);
  RC_ASSERT(std::holds_alternative<T>(read->message));
  RC_ASSERT(std::get<T>(read->message) == sent);
}

#define GQ_PROPERTY(number, Struct) \
  RC_GTEST_PROP(Identity, Struct, ()) { identity<wire::Struct>(); }
GQ_WIRE_MESSAGES(GQ_PROPERTY)
#undef GQ_PROPERTY

RC_GTEST_PROP(Identity, JobBodies, ()) {
  JobBody job;
  arbitrary(job, 0);
  const std::string sent = encode(job);
  RC_ASSERT(decode_job_body(std::as_bytes(std::span(sent))) == job);
  ResultBody result;
  arbitrary(result, 0);
  const std::string answered = encode(result);
  RC_ASSERT(decode_result_body(std::as_bytes(std::span(answered))) == result);
}

}  // namespace
}  // namespace gq::wire
