// wire_page.cpp - PROTOCOL.md, messages.h and the tables of fields say the same; and a peer in another language agrees.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <regex>
#include <sstream>

#include "tests/unit/wire_samples.h"

namespace gq::wire {
namespace {

const std::string kRoot = GPUQ_SOURCE_DIR;

std::string slurp(const std::string& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in.good()) << path;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

/// "struct Name { … };" of a header -> names of its data members, in order.
std::map<std::string, std::vector<std::string>> structs_of(const std::string& path) {
  std::string text = std::regex_replace(slurp(path), std::regex("//[^\n]*"), "");
  std::map<std::string, std::vector<std::string>> found;
  const std::regex head("struct (\\w+) \\{");
  for (std::sregex_iterator at(text.begin(), text.end(), head), end; at != end; ++at) {
    std::size_t from = static_cast<std::size_t>(at->position() + at->length()), to = from;
    for (int depth = 1; depth > 0; ++to) depth += text[to] == '{' ? 1 : text[to] == '}' ? -1 : 0;
    std::string body = text.substr(from, to - 1 - from);
    body = std::regex_replace(body, std::regex("(bool|auto) operator[^;]*;"), "");
    body = std::regex_replace(body, std::regex("\\{[^{}]*\\}"), "");  // defaults
    body = std::regex_replace(body, std::regex("<[^<>]*>"), "");      // template arguments, inner first
    body = std::regex_replace(body, std::regex("<[^<>]*>"), "");
    std::vector<std::string>& names = found[(*at)[1]];
    std::istringstream statements(body);
    std::string statement;
    while (std::getline(statements, statement, ';')) {
      const std::regex declarators("^\\s*[\\w:]+\\s+(.*)$", std::regex::ECMAScript);
      std::smatch match;
      std::string line = std::regex_replace(statement, std::regex("\\s+"), " ");
      if (!std::regex_match(line, match, declarators)) continue;
      std::istringstream list(match[1]);
      std::string one;
      while (std::getline(list, one, ',')) {
        std::smatch name;
        if (std::regex_search(one, name, std::regex("\\w+"))) names.push_back(name[0]);
      }
    }
  }
  found.erase("TypeNumber");
  return found;
}

/// "### [number] Name" of the page -> number and the fields of its table, in order.
struct Section {
  std::string number;
  std::vector<std::string> fields;
};
std::map<std::string, Section> sections_of(const std::string& path) {
  std::map<std::string, Section> found;
  Section* now = nullptr;
  std::istringstream lines(slurp(path));
  std::string line;
  while (std::getline(lines, line)) {
    std::smatch match;
    if (std::regex_match(line, match, std::regex("### (?:(\\d+) )?(\\w+)"))) {
      now = &found[match[2]];
      now->number = match[1];
    } else if (line.starts_with("#")) {
      now = nullptr;
    } else if (now != nullptr && std::regex_search(line, match, std::regex("^\\|(?: \\d+ \\|)? `(\\w+)` \\|"))) {
      now->fields.push_back(match[1]);
    }
  }
  return found;
}

template <class T>
std::vector<std::string> table_of() {
  std::vector<std::string> names;
  std::apply([&](const auto&... f) { (names.emplace_back(f.name), ...); }, Shape<T>::fields);
  return names;
}

struct Row {
  std::string name;
  std::uint16_t number;
  std::vector<std::string> fields;
};
std::vector<Row> all_tables() {
  std::vector<Row> rows;
#define GQ_ROW(number, Struct) rows.push_back({#Struct, number, table_of<Struct>()});
  GQ_WIRE_MESSAGES(GQ_ROW)
#undef GQ_ROW
#define GQ_ROW(Struct) rows.push_back({#Struct, 0, table_of<Struct>()});
  GQ_ROW(Header) GQ_ROW(Grant) GQ_ROW(Lane) GQ_ROW(Credit) GQ_ROW(Model) GQ_ROW(Device) GQ_ROW(SubmitItem) GQ_ROW(SubmittedItem) GQ_ROW(NotifyItem)
  GQ_ROW(AssignItem) GQ_ROW(EndedItem) GQ_ROW(JobStatus) GQ_ROW(CommandItem) GQ_ROW(PlaceVerdict) GQ_ROW(RefusalCount) GQ_ROW(Remedy)
  GQ_ROW(Explanation) GQ_ROW(PlanChange) GQ_ROW(ConfigSetting) GQ_ROW(Eviction) GQ_ROW(DeviceStatus) GQ_ROW(WorkerStatus) GQ_ROW(Part) GQ_ROW(JobBody) GQ_ROW(ResultBody)
#undef GQ_ROW
  return rows;
}

TEST(Page, every_struct_of_the_headers_has_a_table_with_all_its_fields) {
  auto declared = structs_of(kRoot + "/common/wire/messages.h");
  declared.merge(structs_of(kRoot + "/common/wire/job_body.h"));
  std::map<std::string, std::vector<std::string>> tabled;
  for (const Row& row : all_tables()) tabled[row.name] = row.fields;
  for (auto& [name, fields] : declared) {
    ASSERT_TRUE(tabled.contains(name)) << name << " has no table in fields.h";
    auto wanted = fields, got = tabled[name];
    std::sort(wanted.begin(), wanted.end());
    std::sort(got.begin(), got.end());
    EXPECT_EQ(got, wanted) << name;
  }
  EXPECT_EQ(declared.size(), tabled.size());
}

TEST(Page, PROTOCOL_md_has_every_message_with_its_number_and_its_fields_in_wire_order) {
  const auto page = sections_of(kRoot + "/common/wire/PROTOCOL.md");
  for (const Row& row : all_tables()) {
    const auto section = page.find(row.name);
    ASSERT_NE(section, page.end()) << row.name << " is not on the page";
    EXPECT_EQ(section->second.number, row.number == 0 ? "" : std::to_string(row.number)) << row.name;
    EXPECT_EQ(section->second.fields, row.fields) << row.name;
  }
}

/// The first python3 that has msgpack; empty when none has.
std::string python() {
  for (const char* one : {"python3", "/usr/bin/python3"})
    if (std::system((std::string(one) + " -c 'import msgpack' 2>/dev/null").c_str()) == 0) return one;
  return {};
}

TEST(Page, a_peer_in_python_reads_all_golden_bytes_and_its_submit_is_read_here) {
  const std::string interpreter = python();
  if (interpreter.empty()) GTEST_SKIP() << "no python3 with msgpack here; install python3-msgpack to run this";
  const std::string command = interpreter + " " + kRoot + "/tests/unit/wire_peer.py " + kRoot + "/tests/unit/golden/v1";
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  ASSERT_NE(pipe, nullptr);
  std::string output;
  std::array<char, 4096> chunk{};
  while (const std::size_t n = fread(chunk.data(), 1, chunk.size(), pipe.get())) output.append(chunk.data(), n);
  std::map<std::string, std::string> said;
  std::istringstream lines(output);
  std::string line;
  while (std::getline(lines, line)) said[line.substr(0, line.find(' '))] = line.substr(line.find(' ') + 1);
#define GQ_READ(number, Struct)                                                                               \
  {                                                                                                           \
    auto names = table_of<Struct>();                                                                          \
    std::sort(names.begin(), names.end());                                                                    \
    std::string wanted = std::to_string(number);                                                              \
    if (Shape<Struct>::form == Form::array) wanted += " " + std::to_string(names.size());                     \
    else for (const std::string& name : names) wanted += " " + name;                                          \
    EXPECT_EQ(said[#Struct], wanted);                                                                         \
  }
  GQ_WIRE_MESSAGES(GQ_READ)
#undef GQ_READ
  std::istringstream submit(said["SUBMIT"]);
  std::string head, payload;
  submit >> head >> payload;
  EXPECT_TRUE(head.starts_with("9401010a07" "91" "91" "96")) << head;  // as PROTOCOL.md spells it out
  const std::string frame = from_hex(head), body = from_hex(payload);
  const auto read = decode(std::string_view(frame));
  ASSERT_TRUE(read.has_value()) << read.error().what;
  const auto& items = std::get<Submit>(read->message).items;
  ASSERT_EQ(items.size(), 1U);
  SubmitItem wanted;
  wanted.id = {0x0001020304050607, 0x08090A0B0C0D0E0F};
  wanted.digest = {0x1011121314151617, 0x18191A1B1C1D1E1F};
  wanted.kind = "echo";
  wanted.payload_bytes = 12;
  EXPECT_EQ(items[0], wanted);
  EXPECT_EQ(encode(std::get<Submit>(read->message), 7), frame);  // byte for byte what we would have sent
  const auto cut = split_payloads(items, body);
  ASSERT_TRUE(cut.has_value());
  const auto job = decode_job_body(std::as_bytes(std::span((*cut)[0])));
  ASSERT_TRUE(job.has_value());
  EXPECT_EQ(job->params, (std::map<std::string, std::string>{{"k", ""}}));
}

}  // namespace
}  // namespace gq::wire
