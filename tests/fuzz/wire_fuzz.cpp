// wire_fuzz.cpp - any bytes at the codec's border: no crash, no throw; what was accepted is accepted again after encoding.
// libFuzzer entry (clang); wire_fuzz_replay.cpp runs the same entry over the corpus with any compiler.
#include <cstdint>
#include <cstdlib>

#include "common/wire/codec.h"
#include "common/wire/fields.h"

using namespace gq::wire;

namespace {

void must(bool holds) {
  if (!holds) std::abort();
}

void one_frame(std::string_view frame) {
  (void)decode_header(frame);
  const auto first = decode(frame);
  if (!first) return;
  std::visit(
      [&](const auto& message) {
        using T = std::decay_t<decltype(message)>;
        if constexpr (!std::is_same_v<T, std::monostate>) {
          const std::string again = encode(message, first->header.id, first->header.trace);
          const auto second = decode(std::string_view(again));
          must(second.has_value());
          must(encode(std::get<T>(second->message), second->header.id, second->header.trace) == again);  // by bytes: NaN is not itself
          if constexpr (requires { message.items[0].payload_bytes; }) (void)split_payloads(message.items, frame);
        }
      },
      first->message);
}

template <class Decode>
void one_body(std::string_view bytes, Decode decode_body) {
  const auto first = decode_body(std::as_bytes(std::span(bytes)));
  if (!first) return;
  const std::string again = encode(*first);
  const auto second = decode_body(std::as_bytes(std::span(again)));
  must(second.has_value() && encode(*second) == again);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  one_frame(bytes);
  one_body(bytes, decode_job_body);
  one_body(bytes, decode_result_body);
  return 0;
}
