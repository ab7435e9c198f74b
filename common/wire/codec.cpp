// codec.cpp - frames from messages and back; every message type is instantiated here, so that users compile none of it.
#include "common/wire/codec.h"

#include "common/wire/fields.h"

namespace gq::wire {

namespace {

constexpr pack::Bounds kBounds{};
thread_local pack::Tokens tokens;  // of the one message that this thread is decoding

Error bad(const char* type, const Source& source) {
  std::string what = std::string("message ") + type;
  if (!source.where.empty()) what += ", field " + source.where;
  what += ": ";
  what += source.in.error() != nullptr ? source.in.error() : "malformed";
  return {Errc::bad_message, std::move(what), "compare what was sent with common/wire/PROTOCOL.md"};
}

template <class T>
Result<Decoded> decode_as(Header&& header, Source& source) {
  Result<Decoded> decoded(tl::in_place, Decoded{std::move(header), Message{}});
  if (!read(source, decoded->message.template emplace<T>(), 0)) return tl::unexpected(bad(TypeNumber<T>::name, source));
  if (!source.in.at_end()) return fail(Errc::bad_message, std::string("message ") + TypeNumber<T>::name + ": bytes after its end");
  return decoded;
}

}  // namespace

template <class T>
std::string encode(const T& message, std::uint64_t id, std::string_view trace) {
  thread_local std::string buffer;  // grows to the largest frame of this thread
  Writer out(buffer);
  out.array(trace.empty() ? 4 : 5);
  out.number(kProtocolVersion);
  out.number(kOldestReader);
  out.number(TypeNumber<T>::value);
  out.number(id);
  if (!trace.empty()) out.text(trace);
  write(out, message);
  return std::string(out.view());
}

std::optional<Header> decode_header(std::span<const std::byte> frame0) {
  Source source{pack::Reader(frame0.data(), frame0.size(), kBounds, tokens), {}};
  Header header;
  header.v = header.min = 0;
  if (!read(source, header, 0) || header.v == 0 || header.type == 0) return std::nullopt;
  return header;
}

Result<Decoded> decode(std::span<const std::byte> frame0) {
  if (frame0.size() > kLimits.frame_bytes_hard) return fail(Errc::too_large, "frame of " + std::to_string(frame0.size()) + " bytes");
  Source source{pack::Reader(frame0.data(), frame0.size(), kBounds, tokens), {}};
  Header header;
  header.v = header.min = 0;
  if (!read(source, header, 0)) return tl::unexpected(bad("header", source));
  if (header.v == 0 || header.type == 0) return fail(Errc::bad_message, "message header: no version or no type");
  if (header.min > kProtocolVersion)
    return fail(Errc::protocol,
                "peer speaks protocol " + std::to_string(header.v) + " and needs a reader of " + std::to_string(header.min) +
                    " or newer; this program reads " + std::to_string(kProtocolVersion),
                "install the same gpuq version on both sides");
  switch (header.type) {
#define GQ_DECODE(number, Struct) \
  case number: return decode_as<Struct>(std::move(header), source);
    GQ_WIRE_MESSAGES(GQ_DECODE)
#undef GQ_DECODE
    default: return Decoded{std::move(header), std::monostate{}};
  }
}

template <class Items>
Result<std::vector<std::string_view>> split_payloads(const Items& items, std::string_view frame1) {
  std::vector<std::string_view> parts;
  parts.reserve(items.size());
  std::size_t offset = 0;
  for (const auto& item : items) {
    if (item.payload_bytes > frame1.size() - offset)
      return fail(Errc::bad_message, "payload_bytes add up to more than the " + std::to_string(frame1.size()) + " bytes of frame 1");
    parts.push_back(frame1.substr(offset, item.payload_bytes));
    offset += item.payload_bytes;
  }
  if (offset != frame1.size())
    return fail(Errc::bad_message, "payload_bytes add up to " + std::to_string(offset) + ", frame 1 has " + std::to_string(frame1.size()) + " bytes");
  return parts;
}

Failure failure(const Error& error) { return {std::string(to_string(error.code)), error.what, error.next}; }

Error to_error(const Failure& failure) {
  Error error{Errc::internal, failure.what, failure.next};
  if (!parse_errc(failure.code, error.code)) error.what = failure.code + ": " + error.what;  // a newer peer's code
  return error;
}

#define GQ_INSTANTIATE(number, Struct) template std::string encode<Struct>(const Struct&, std::uint64_t, std::string_view);
GQ_WIRE_MESSAGES(GQ_INSTANTIATE)
#undef GQ_INSTANTIATE
template Result<std::vector<std::string_view>> split_payloads(const std::vector<SubmitItem>&, std::string_view);
template Result<std::vector<std::string_view>> split_payloads(const std::vector<NotifyItem>&, std::string_view);
template Result<std::vector<std::string_view>> split_payloads(const std::vector<AssignItem>&, std::string_view);
template Result<std::vector<std::string_view>> split_payloads(const std::vector<EndedItem>&, std::string_view);

}  // namespace gq::wire
