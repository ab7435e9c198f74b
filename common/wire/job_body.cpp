// job_body.cpp - what payloads hold, to bytes and back, with the same bounds as messages; a part may be as large as a frame.
#include "common/wire/job_body.h"

#include "common/wire/fields.h"

namespace gq::wire {

namespace {

constexpr pack::Bounds kBounds{.bytes_max = static_cast<std::uint32_t>(kLimits.frame_bytes_hard)};
thread_local pack::Tokens tokens;  // of the one message that this thread is decoding

template <class T>
std::string encode_body(const T& body) {
  thread_local std::string buffer;
  if (buffer.size() > (1U << 20U)) std::string().swap(buffer);  // one large part must not stay for ever
  Writer out(buffer);
  write(out, body);
  return std::string(out.view());
}

template <class T>
Result<T> decode_body(std::span<const std::byte> bytes, const char* name) {
  T body;
  if (bytes.empty()) return body;  // no payload = nothing said
  Source source{pack::Reader(bytes.data(), bytes.size(), kBounds, tokens), {}};
  if (read(source, body, 0) && (source.in.at_end() || source.in.fail("bytes after its end"))) return body;
  std::string what = std::string(name);
  if (!source.where.empty()) what += ", field " + source.where;
  what += std::string(": ") + source.in.error();
  return fail(Errc::bad_message, std::move(what), "compare what was sent with common/wire/PROTOCOL.md");
}

}  // namespace

std::string encode(const JobBody& body) { return encode_body(body); }
std::string encode(const ResultBody& body) { return encode_body(body); }
Result<JobBody> decode_job_body(std::span<const std::byte> bytes) { return decode_body<JobBody>(bytes, "job body"); }
Result<ResultBody> decode_result_body(std::span<const std::byte> bytes) { return decode_body<ResultBody>(bytes, "result body"); }

}  // namespace gq::wire
