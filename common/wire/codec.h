// codec.h - messages to frames and back. Decoding has explicit limits and returns a value; it never throws or aborts.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/vocabulary/errors.h"
#include "common/wire/messages.h"

namespace gq::wire {

/// Frame 0. Header.type is set from the struct.
template <class T>
std::string encode(const T& message, std::uint64_t id = 0, std::string_view trace = {});

struct Decoded {
  Header header;
  Message message;  ///< monostate: an unknown type number; the header is valid, answer Failure PROTOCOL
};
/// Errors: BAD_MESSAGE (not msgpack, over a limit, wrong shape), PROTOCOL (header.min newer than we are).
Result<Decoded> decode(std::span<const std::byte> frame0);
inline Result<Decoded> decode(std::string_view frame0) {
  return decode(std::as_bytes(std::span(frame0.data(), frame0.size())));
}

/// The header alone, when even that much can be read: lets a refusal of decode() be answered under its request id.
std::optional<Header> decode_header(std::span<const std::byte> frame0);
inline std::optional<Header> decode_header(std::string_view frame0) {
  return decode_header(std::as_bytes(std::span(frame0.data(), frame0.size())));
}

/// Cut frame 1 by the items' payload_bytes. Error BAD_MESSAGE unless they add up exactly.
template <class Items>
Result<std::vector<std::string_view>> split_payloads(const Items& items, std::string_view frame1);

/// An Error as the answer to a request, and back; a code we do not know becomes INTERNAL with the code in the text.
Failure failure(const Error& error);
Error to_error(const Failure& failure);

}  // namespace gq::wire
