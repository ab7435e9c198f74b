// wire_limits.cpp - what hostile or newer peers may send: every case is a value, none takes memory or time worth naming.
#include <gtest/gtest.h>

#include "tests/unit/wire_samples.h"

namespace gq::wire {
namespace {

std::string head(std::uint16_t type, std::uint8_t min = 1) {
  std::string buffer;
  Writer out(buffer);
  out.array(4);
  out.number(1);
  out.number(min);
  out.number(type);
  out.number(7);
  return std::string(out.view());
}
std::string bytes(std::initializer_list<unsigned> list) {
  std::string text;
  for (const unsigned b : list) text += static_cast<char>(b);
  return text;
}
Error refused(const std::string& frame) {
  const auto read = decode(std::string_view(frame));
  if (read) return {Errc::internal, "it was accepted", ""};
  return read.error();
}
constexpr std::uint16_t kSubmit = TypeNumber<Submit>::value;
constexpr std::uint16_t kBeat = TypeNumber<Beat>::value;
constexpr std::uint16_t kStatusReply = TypeNumber<StatusReply>::value;

TEST(Decoding, an_empty_frame_and_noise_are_bad_messages) {
  EXPECT_EQ(refused("").code, Errc::bad_message);
  EXPECT_EQ(refused("GET / HTTP/1.1\r\n").code, Errc::bad_message);
  EXPECT_EQ(refused(bytes({0xC1})).code, Errc::bad_message);
  EXPECT_EQ(refused(std::string(1000, '\xFF')).code, Errc::bad_message);
}

TEST(Decoding, a_five_byte_array_or_map_header_of_four_billion_elements_is_refused) {
  for (const unsigned tag : {0xDDU, 0xDFU}) {
    const std::string bomb = bytes({tag, 0xFF, 0xFF, 0xFF, 0xFF});
    EXPECT_EQ(refused(bomb).code, Errc::bad_message);
    EXPECT_EQ(refused(head(kSubmit) + bomb).code, Errc::bad_message);
    EXPECT_EQ(refused(head(kSubmit) + bytes({0x91}) + bomb).code, Errc::bad_message);
    EXPECT_EQ(refused(head(kBeat) + bytes({0x81, 0xA1, 'x'}) + bomb).code, Errc::bad_message);
  }
}

TEST(Decoding, a_string_bin_or_ext_that_claims_four_gigabytes_is_refused) {
  for (const unsigned tag : {0xDBU, 0xC6U, 0xC9U}) {
    const std::string bomb = bytes({tag, 0xFF, 0xFF, 0xFF, 0xFF, 0x01});
    EXPECT_EQ(refused(head(kBeat) + bytes({0x81, 0xA1, 'x'}) + bomb).code, Errc::bad_message);
  }
}

TEST(Decoding, nesting_of_two_hundred_thousand_arrays_is_refused) {
  EXPECT_EQ(refused(std::string(200'000, '\x91')).code, Errc::bad_message);
  const Error error = refused(head(kBeat) + bytes({0x81, 0xA1, 'x'}) + std::string(200'000, '\x91'));
  EXPECT_NE(error.what.find("nested too deep"), std::string::npos) << error.what;
}

TEST(Decoding, more_than_256_items_are_refused_and_256_are_not) {
  Submit submit;
  submit.items.resize(256);
  EXPECT_TRUE(decode(std::string_view(encode(submit))).has_value());
  submit.items.resize(257);
  const Error error = refused(encode(submit));
  EXPECT_EQ(error.what, "message Submit, field items: more elements than allowed");
}

TEST(Decoding, one_frame_cannot_make_more_elements_than_its_budget) {
  StatusReply reply;  // 4096 jobs of 4096 one-byte strings each would be half a gigabyte of strings
  reply.jobs.resize(64);
  for (JobStatus& job : reply.jobs) job.result_blobs.resize(4096);
  const Error error = refused(encode(reply));
  EXPECT_NE(error.what.find("in one frame"), std::string::npos) << error.what;
}

TEST(Decoding, every_truncation_of_every_message_is_refused) {
  const auto each = [](const std::string& whole) {
    for (std::size_t n = 0; n < whole.size(); ++n) EXPECT_EQ(refused(whole.substr(0, n)).code, Errc::bad_message) << n;
  };
#define GQ_EACH(number, Struct) each(encode(Sampler().make<Struct>(), 5));
  GQ_WIRE_MESSAGES(GQ_EACH)
#undef GQ_EACH
}

TEST(Decoding, bytes_after_the_end_are_refused) {
  EXPECT_EQ(refused(encode(Beat{1}) + "x").what, "message Beat: bytes after its end");
}

TEST(Decoding, wrong_kinds_and_values_out_of_range_name_the_field) {
  Submit submit;
  submit.items.resize(1);
  submit.items[0].priority = 10;
  EXPECT_EQ(refused(encode(submit)).what, "message Submit, field items.priority: out of range");
  submit.items[0].priority = 9;
  submit.items[0].job_class = 3;
  EXPECT_EQ(refused(encode(submit)).what, "message Submit, field items.job_class: out of range");
  EXPECT_EQ(refused(head(kBeat) + bytes({0x81, 0xA7}) + "sent_us" + bytes({0xA1, 'x'})).what, "message Beat, field sent_us: not a whole number");
  EXPECT_EQ(refused(head(kBeat) + bytes({0x81, 0xA7}) + "sent_us" + bytes({0xFF})).what, "message Beat, field sent_us: negative");
  EXPECT_EQ(refused(head(kBeat) + bytes({0x90})).what, "message Beat: not a map");
  EXPECT_EQ(refused(head(kStatusReply) + bytes({0x81, 0xA4}) + "jobs" + bytes({0x91, 0x81, 0xA2, 'i', 'd', 0xC4, 0x01, 0x00})).what,
            "message StatusReply, field jobs.id: not 16 bytes");
}

TEST(Decoding, what_is_unknown_may_be_nested_sixteen_deep_and_no_deeper) {
  const auto nested = [](std::size_t arrays) { return head(kBeat) + bytes({0x81, 0xA1, 'x'}) + std::string(arrays, '\x91') + bytes({0x01}); };
  EXPECT_EQ(refused(nested(15)).what, "it was accepted");
  EXPECT_EQ(refused(nested(16)).what, "message Beat, field (unknown key): nested too deep");
}

TEST(Decoding, the_length_of_what_is_unknown_is_bounded_even_when_the_bytes_are_there) {
  const auto unknown = [](std::initializer_list<unsigned> tag, std::size_t n) { return refused(head(kBeat) + bytes({0x81, 0xA1, 'x'}) + bytes(tag) + std::string(n, 'y')).what; };
  const std::string longer = "message Beat, field (unknown key): longer than allowed";
  EXPECT_EQ(unknown({0xDB, 0, 1, 0, 0}, 65'536), "it was accepted");
  EXPECT_EQ(unknown({0xDB, 0, 1, 0, 1}, 65'537), longer);
  EXPECT_EQ(unknown({0xC6, 0, 1, 0, 1}, 65'537), longer);
  EXPECT_EQ(unknown({0xC8, 4, 0, 5}, 1024), "it was accepted");
  EXPECT_EQ(unknown({0xC8, 4, 1, 5}, 1025), longer);
}

TEST(Decoding, a_cut_or_broken_value_is_told_with_its_field) {
  EXPECT_EQ(refused(head(kBeat) + bytes({0x81, 0xA7}) + "sent_us" + bytes({0xCF, 1})).what, "message Beat, field sent_us: cut short");
  EXPECT_EQ(refused(head(kBeat) + bytes({0x81, 0xA7}) + "sent_us" + bytes({0xC1})).what, "message Beat, field sent_us: not msgpack");
  EXPECT_EQ(refused(head(kBeat)).what, "message Beat: cut short");
  EXPECT_EQ(refused("").what, "message header: cut short");
}

TEST(Decoding, a_number_is_read_from_every_form_that_holds_it) {
  for (const std::string& five : {bytes({5}), bytes({0xCC, 5}), bytes({0xCD, 0, 5}), bytes({0xCE, 0, 0, 0, 5}), bytes({0xCF, 0, 0, 0, 0, 0, 0, 0, 5}), bytes({0xD0, 5}),
                                  bytes({0xD1, 0, 5}), bytes({0xD2, 0, 0, 0, 5}), bytes({0xD3, 0, 0, 0, 0, 0, 0, 0, 5})}) {
    const auto read = decode(std::string_view(head(kBeat) + bytes({0x81, 0xA7}) + "sent_us" + five));
    ASSERT_TRUE(read.has_value()) << read.error().what;
    EXPECT_EQ(std::get<Beat>(read->message), Beat{5});
  }
}

TEST(Decoding, a_float_is_read_from_both_widths_and_from_whole_numbers) {
  const auto metric = [](const std::string& value) {
    const auto read = decode(std::string_view(head(TypeNumber<Progress>::value) + bytes({0x81, 0xA7}) + "metrics" + bytes({0x81, 0xA1, 'm'}) + value));
    return read ? std::get<Progress>(read->message).metrics.at("m") : std::numeric_limits<double>::quiet_NaN();
  };
  EXPECT_EQ(metric(bytes({0xCB, 0x3F, 0xF8, 0, 0, 0, 0, 0, 0})), 1.5);
  EXPECT_EQ(metric(bytes({0xCA, 0x3F, 0xC0, 0, 0})), 1.5);
  EXPECT_EQ(metric(bytes({0x02})), 2.0);
  EXPECT_EQ(metric(bytes({0xFE})), -2.0);
  EXPECT_EQ(metric(bytes({0xCF, 0x80, 0, 0, 0, 0, 0, 0, 0})), 0x1p63);
}

TEST(Encoding, a_float_is_sent_as_a_float64_even_when_it_is_whole) {
  const auto sent = [](double value) {
    std::string buffer;
    Writer out(buffer);
    out.real(value);
    return to_hex(out.view());
  };
  EXPECT_EQ(sent(1.0), "cb3ff0000000000000");
  EXPECT_EQ(sent(-0.0), "cb8000000000000000");
  EXPECT_EQ(sent(0x1p64), "cb43f0000000000000");
}

TEST(Encoding, every_value_takes_its_shortest_form) {
  std::string buffer;
  const auto sent = [&](auto&& write_one) {
    Writer out(buffer);
    write_one(out);
    return to_hex(out.view().substr(0, 9));
  };
  const std::pair<std::int64_t, const char*> numbers[] = {
      {0, "00"}, {127, "7f"}, {128, "cc80"}, {255, "ccff"}, {256, "cd0100"}, {65'535, "cdffff"}, {65'536, "ce00010000"}, {0xFFFF'FFFF, "ceffffffff"},
      {0x1'0000'0000, "cf0000000100000000"}, {-1, "ff"}, {-32, "e0"}, {-33, "d0df"}, {-128, "d080"}, {-129, "d1ff7f"}, {-32'768, "d18000"},
      {-32'769, "d2ffff7fff"}, {-2'147'483'648, "d280000000"}, {-2'147'483'649, "d3ffffffff7fffffff"}};
  for (const auto& [value, hex] : numbers) {
    EXPECT_EQ(sent([v = value](Writer& out) { out.signed_number(v); }), hex);
    if (value >= 0) {
      EXPECT_EQ(sent([v = value](Writer& out) { out.number(static_cast<std::uint64_t>(v)); }), hex);
    }
  }
  const std::string long_text(65'536, 'a');
  const std::tuple<std::size_t, const char*, const char*> texts[] = {{0, "a0", "c400"}, {31, "bf", "c41f"}, {32, "d920", "c420"}, {255, "d9ff", "c4ff"},
      {256, "da0100", "c50100"}, {65'535, "daffff", "c5ffff"}, {65'536, "db00010000", "c600010000"}};
  for (const auto& [size, as_text, as_bytes] : texts) {
    EXPECT_TRUE(sent([&, n = size](Writer& out) { out.text(std::string_view(long_text).substr(0, n)); }).starts_with(as_text)) << size;
    EXPECT_TRUE(sent([&, n = size](Writer& out) { out.bytes(long_text.data(), n); }).starts_with(as_bytes)) << size;
  }
  const std::tuple<std::size_t, const char*, const char*> counts[] = {{0, "90", "80"}, {15, "9f", "8f"}, {16, "dc0010", "de0010"}, {65'535, "dcffff", "deffff"},
      {65'536, "dd00010000", "df00010000"}};
  for (const auto& [size, as_array, as_map] : counts) {
    EXPECT_EQ(sent([n = size](Writer& out) { out.array(n); }), as_array);
    EXPECT_EQ(sent([n = size](Writer& out) { out.map(n); }), as_map);
  }
}

TEST(Decoding, unknown_keys_extra_elements_and_any_kind_of_unknown_value_are_stepped_over) {
  const std::string unknown[] = {bytes({0xC0}), bytes({0xC3}), bytes({0xCB, 0, 0, 0, 0, 0, 0, 0, 0}), bytes({0xCA, 0, 0, 0, 0}), bytes({0xD8}) + std::string(17, 'x'),
                                 bytes({0xC7, 0x02, 0x05, 0, 0}), bytes({0xC4, 0x01, 0xFF}), bytes({0x92, 0x81, 0xA1, 'k', 0x01, 0xFF}), bytes({0xD3, 0xFF, 0, 0, 0, 0, 0, 0, 0})};
  for (const std::string& value : unknown) {
    const auto map = decode(std::string_view(head(kBeat) + bytes({0x82, 0xA3, 'n', 'e', 'w'}) + value + bytes({0xA7}) + "sent_us" + bytes({0x05})));
    ASSERT_TRUE(map.has_value()) << map.error().what;
    EXPECT_EQ(std::get<Beat>(map->message), Beat{5});
    const auto array = decode(std::string_view(head(TypeNumber<Started>::value) + bytes({0x92, 0x90}) + value));
    ASSERT_TRUE(array.has_value()) << array.error().what;
    EXPECT_EQ(std::get<Started>(array->message), Started{});
  }
}

TEST(Decoding, nil_stands_for_the_default) {
  const auto read = decode(std::string_view(head(kBeat) + bytes({0x81, 0xA7}) + "sent_us" + bytes({0xC0})));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(std::get<Beat>(read->message), Beat{});
}

TEST(Decoding, what_may_be_absent_is_told_from_a_zero) {
  UpdateJob update;
  update.job = {1, 2};
  update.deadline_ms = 0;
  update.where = std::vector<std::string>{};
  const auto read = decode(std::string_view(encode(update)));
  ASSERT_TRUE(read.has_value()) << read.error().what;
  const auto& back = std::get<UpdateJob>(read->message);
  EXPECT_EQ(back, update);
  EXPECT_EQ(back.deadline_ms.value_or(-1), 0);
  EXPECT_FALSE(back.not_before_ms.has_value());
  const auto nil = decode(std::string_view(head(TypeNumber<UpdateJob>::value) + bytes({0x81, 0xA8}) + "priority" + bytes({0xC0})));
  ASSERT_TRUE(nil.has_value()) << nil.error().what;
  EXPECT_EQ(std::get<UpdateJob>(nil->message), UpdateJob{});
}

TEST(Decoding, the_bounds_of_what_may_be_absent_hold_as_well) {
  UpdateJob update;
  update.priority = 10;
  EXPECT_EQ(refused(encode(update)).what, "message UpdateJob, field priority: out of range");
  update = {};
  update.on_preempt = 4;
  EXPECT_EQ(refused(encode(update)).what, "message UpdateJob, field on_preempt: out of range");
  Command command;
  command.jobs.resize(257);
  EXPECT_EQ(refused(encode(command)).what, "message Command, field jobs: more elements than allowed");
}

TEST(Versions, a_newer_peer_that_we_can_read_is_read_and_one_that_we_cannot_is_told_so) {
  std::string newer = encode(Beat{3}, 9);
  newer[1] = 5;  // v
  ASSERT_TRUE(decode(std::string_view(newer)).has_value());
  newer[2] = 5;  // min
  const Error error = refused(newer);
  EXPECT_EQ(error.code, Errc::protocol);
  EXPECT_EQ(error.what, "peer speaks protocol 5 and needs a reader of 5 or newer; this program reads 1");
  const auto header = decode_header(std::string_view(newer));
  ASSERT_TRUE(header.has_value());
  EXPECT_EQ(header->id, 9U);  // so that the refusal can be answered
}

TEST(Versions, an_unknown_type_is_no_error_but_carries_its_header) {
  const auto read = decode(std::string_view(head(999) + bytes({0x80})));
  ASSERT_TRUE(read.has_value());
  EXPECT_TRUE(std::holds_alternative<std::monostate>(read->message));
  EXPECT_EQ(read->header.type, 999);
  EXPECT_EQ(read->header.id, 7U);
}

TEST(Payloads, are_cut_where_the_items_say) {
  std::vector<NotifyItem> items(3);
  items[0].payload_bytes = 2;
  items[2].payload_bytes = 3;
  const auto parts = split_payloads(items, "abcde");
  ASSERT_TRUE(parts.has_value());
  EXPECT_EQ(*parts, (std::vector<std::string_view>{"ab", "", "cde"}));
}

TEST(Payloads, that_do_not_add_up_exactly_are_refused) {
  std::vector<SubmitItem> items(2);
  items[0].payload_bytes = 4;
  EXPECT_EQ(split_payloads(items, "abc").error().code, Errc::bad_message);
  EXPECT_EQ(split_payloads(items, "abcde").error().code, Errc::bad_message);
  items[1].payload_bytes = 0xFFFFFFFF;
  items[0].payload_bytes = 0xFFFFFFFF;
  EXPECT_EQ(split_payloads(items, "abc").error().code, Errc::bad_message);
}

TEST(Failures, an_error_crosses_the_wire_and_an_unknown_code_stays_readable) {
  const Error error{Errc::queue_full, "the queue is full", "wait"};
  EXPECT_EQ(to_error(failure(error)), error);
  EXPECT_EQ(to_error(Failure{"NEW_CODE", "something", "do"}), (Error{Errc::internal, "NEW_CODE: something", "do"}));
}

TEST(Bodies, an_empty_payload_is_an_empty_body_and_noise_is_refused) {
  EXPECT_TRUE(decode_job_body({}) == JobBody{});
  const std::string noise = "\x91\x91";
  EXPECT_EQ(decode_job_body(std::as_bytes(std::span(noise))).error().code, Errc::bad_message);
  EXPECT_EQ(decode_result_body(std::as_bytes(std::span(noise))).error().code, Errc::bad_message);
}

TEST(Bodies, a_part_may_hold_any_bytes_up_to_a_frame) {
  JobBody body;
  body.parts.push_back({"image", "image/png", std::string(1'000'000, '\xFE'), {}, 0, ""});
  const std::string sent = encode(body);
  EXPECT_TRUE(decode_job_body(std::as_bytes(std::span(sent))) == body);
}

}  // namespace
}  // namespace gq::wire
