// core_flat_map.cpp - the flat table against std::map: any sequence of puts and erasures leaves the same content.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "broker/core/flat_map.h"

namespace gq::core {
namespace {

TEST(FlatMap, any_sequence_of_puts_and_erasures_leaves_what_a_map_would_hold) {
  for (unsigned seed = 1; seed <= 40; ++seed) {
    std::mt19937_64 random(seed);
    FlatMap<std::uint64_t, int, 1> flat;   // two small tables only: else every key would have one to itself
    std::map<std::uint64_t, int> model;
    for (int i = 0; i < 4000; ++i) {
      const std::uint64_t key = 1 + random() % 700;   // few keys: long runs, much shifting back
      if (random() % 5 < 3) {
        flat.put(key, i);
        model[key] = i;
      } else {
        ASSERT_EQ(flat.erase(key), model.erase(key) == 1) << "seed " << seed << " step " << i;
      }
      ASSERT_EQ(flat.size(), model.size()) << "seed " << seed << " step " << i;
    }
    for (std::uint64_t key = 0; key <= 700; ++key) {
      const int* found = flat.find(key);
      const auto expected = model.find(key);
      ASSERT_EQ(found != nullptr, expected != model.end()) << "seed " << seed << " key " << key;
      if (found != nullptr) {
        ASSERT_EQ(*found, expected->second);
      }
    }
  }
}

TEST(FlatMap, a_hundred_thousand_keys_are_all_found_again_and_all_gone_when_erased) {
  FlatMap<std::uint64_t, std::uint64_t> flat;
  for (std::uint64_t key = 1; key <= 100'000; ++key) flat.put(key * 7919, key);
  ASSERT_EQ(flat.size(), 100'000U);
  for (std::uint64_t key = 1; key <= 100'000; ++key) ASSERT_EQ(*flat.find(key * 7919), key);
  for (std::uint64_t key = 1; key <= 100'000; key += 2) ASSERT_TRUE(flat.erase(key * 7919));
  for (std::uint64_t key = 1; key <= 100'000; ++key) ASSERT_EQ(flat.contains(key * 7919), key % 2 == 0);
}

TEST(FlatMap, the_empty_key_is_never_there) {
  FlatMap<std::uint64_t, int> flat;
  flat.put(0, 7);
  EXPECT_EQ(flat.find(0), nullptr);
  EXPECT_FALSE(flat.erase(0));
  EXPECT_EQ(flat.size(), 0U);
}

}  // namespace
}  // namespace gq::core
