// containers.h - the flat containers the core keeps a million jobs in.
//
// Pool: things with a small number for a name. Slots are reused, addresses never move, growth never copies.
// Strings: every text that many records share, once. Index 0 is the empty text.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace gq::core {

using Index = std::uint32_t;
inline constexpr Index kNone = UINT32_MAX;

/// A job in some list. Slots are reused, seqs never: an entry whose job has another seq by now is skipped.
struct Entry {
  std::uint64_t seq{};
  Index job{kNone};
};

template <class T, unsigned kBits = 10>
class Pool {
 public:
  Index make() {
    if (!free_.empty()) {
      const Index i = free_.back();
      free_.pop_back();
      return i;
    }
    if ((extent_ >> kBits) == chunks_.size()) chunks_.push_back(std::make_unique<T[]>(std::size_t{1} << kBits));
    return extent_++;
  }
  void drop(Index i) {
    (*this)[i] = T{};
    free_.push_back(i);
  }
  T& operator[](Index i) { return chunks_[i >> kBits][i & ((1U << kBits) - 1U)]; }
  const T& operator[](Index i) const { return chunks_[i >> kBits][i & ((1U << kBits) - 1U)]; }
  /// One more than the highest index ever made; dropped ones in between look default-constructed.
  [[nodiscard]] Index extent() const { return extent_; }
  [[nodiscard]] std::size_t live() const { return extent_ - free_.size(); }
  [[nodiscard]] std::uint64_t bytes() const {
    return chunks_.size() * ((std::uint64_t{1} << kBits) * sizeof(T) + sizeof(void*)) + free_.size() * sizeof(Index);
  }

 private:
  std::vector<std::unique_ptr<T[]>> chunks_;
  std::deque<Index> free_;  // not a vector: a million of them would be copied at once when it grows
  Index extent_{};
};

class Strings {
 public:
  Strings() {
    by_text_.reserve(std::size_t{1} << 16U);  // a large fleet's names: not to be moved in the middle of some step
    (void)intern("");
  }
  Index intern(std::string_view text) {
    if (const auto it = by_text_.find(text); it != by_text_.end()) return it->second;
    const auto i = static_cast<Index>(texts_.size());
    const std::string& kept = texts_.emplace_back(text);
    by_text_.emplace(kept, i);
    bytes_ += sizeof(std::string) + (kept.size() > 15 ? kept.capacity() + 1 : 0) + 48;
    return i;
  }
  [[nodiscard]] Index find(std::string_view text) const {
    const auto it = by_text_.find(text);
    return it == by_text_.end() ? kNone : it->second;
  }
  const std::string& operator[](Index i) const { return texts_[i]; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  std::deque<std::string> texts_;
  std::unordered_map<std::string_view, Index> by_text_;
  std::uint64_t bytes_{(std::uint64_t{1} << 16U) * sizeof(void*)};
};

/// A set of small numbers to take turns in. The member says itself where it stands (`at`), so joining and leaving are O(1).
struct Ring {
  std::vector<Index> members;
  std::size_t cursor{};

  void join(Index member, Index& at) {
    at = static_cast<Index>(members.size());
    members.push_back(member);
  }
  template <class AtOf>
  void leave(Index& at, AtOf at_of) {
    const Index last = members.back();
    members[at] = last;
    at_of(last) = at;
    members.pop_back();
    at = kNone;
    if (cursor >= members.size()) cursor = 0;
  }
};

}  // namespace gq::core
