// wire_fuzz_replay.cpp - the fuzzer's entry over what is kept: golden messages, bombs, and every cut, flip and splice of them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "tests/unit/wire_samples.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace gq::wire {
namespace {

void feed(const std::string& bytes) { LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()); }

/// Golden files hold one frame over several lines; the corpus one input per line, '#' begins a comment.
std::vector<std::string> inputs() {
  std::vector<std::string> all;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(GPUQ_SOURCE_DIR) + "/tests/unit/golden/v1")) {
    std::ifstream in(entry.path());
    all.push_back(from_hex(std::string(std::istreambuf_iterator<char>(in), {})));
  }
  for (const auto& entry : std::filesystem::directory_iterator(std::string(GPUQ_SOURCE_DIR) + "/tests/fuzz/corpus/wire")) {
    std::ifstream in(entry.path());
    std::string line;
    while (std::getline(in, line)) all.push_back(from_hex(line.substr(0, line.find('#'))));
  }
  std::sort(all.begin(), all.end());
  return all;
}

TEST(WireCorpus, holds_every_golden_message_and_every_bomb) { EXPECT_GT(inputs().size(), 60U); }

TEST(WireCorpus, as_it_is_cut_at_every_byte_and_followed_by_more) {
  for (const std::string& input : inputs()) {
    feed(input);
    feed(input + input);
    for (std::size_t n = 0; n < input.size(); ++n) feed(input.substr(0, n));
  }
}

TEST(WireCorpus, with_every_byte_replaced_by_each_kind_of_tag) {
  const unsigned tags[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC3, 0xC4, 0xC6, 0xC7, 0xC9, 0xCB, 0xCF, 0xD3, 0xD4, 0xD8, 0xDB, 0xDD, 0xDF, 0xE0, 0xFF};
  for (const std::string& input : inputs())
    for (std::size_t n = 0; n < input.size(); ++n)
      for (const unsigned tag : tags) {
        std::string changed = input;
        changed[n] = static_cast<char>(tag);
        feed(changed);
      }
}

TEST(WireCorpus, spliced_at_random_places_from_a_fixed_seed) {
  const auto all = inputs();
  std::mt19937 random(20'240'229);
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : random() % n; };
  for (int i = 0; i < 20'000; ++i) {
    const std::string &a = all[below(all.size())], &b = all[below(all.size())];
    feed(a.substr(0, below(a.size() + 1)) + b.substr(below(b.size() + 1)));
  }
}

}  // namespace
}  // namespace gq::wire
