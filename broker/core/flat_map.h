// flat_map.h - a hash table in one array, for keys by the million: linear probing, at most half full, erasing shifts back, so a
// look-up is one cache line as a rule and there are no graves.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace gq::core {

/// Key{} marks an empty cell: it is never found, never erased, and putting it does nothing.
template <class Key, class Value>
class FlatMap {
 public:
  [[nodiscard]] const Value* find(const Key& key) const {
    if (key == Key{}) return nullptr;
    for (std::size_t i = home(key);; i = next(i)) {
      if (cells_[i].key == key) return &cells_[i].value;
      if (cells_[i].key == Key{}) return nullptr;
    }
  }
  [[nodiscard]] bool contains(const Key& key) const { return find(key) != nullptr; }
  void put(const Key& key, Value value) {
    if (key == Key{}) return;
    if (2 * (size_ + 1) > cells_.size()) grow();
    std::size_t i = home(key);
    while (cells_[i].key != Key{} && cells_[i].key != key) i = next(i);
    if (cells_[i].key == Key{}) ++size_;
    cells_[i] = {key, std::move(value)};
  }
  bool erase(const Key& key) {
    if (key == Key{}) return false;
    std::size_t hole = home(key);
    while (cells_[hole].key != key) {
      if (cells_[hole].key == Key{}) return false;
      hole = next(hole);
    }
    for (std::size_t i = next(hole); cells_[i].key != Key{}; i = next(i)) {
      const std::size_t wish = home(cells_[i].key);
      // the cell may move into the hole unless its home lies behind the hole, cyclically in (hole, i]
      if ((hole <= i) ? (wish > hole && wish <= i) : (wish > hole || wish <= i)) continue;
      cells_[hole] = std::move(cells_[i]);
      hole = i;
    }
    cells_[hole] = {};
    --size_;
    return true;
  }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t bytes() const { return cells_.capacity() * sizeof(Cell); }

 private:
  struct Cell {
    Key key{};
    Value value{};
  };
  [[nodiscard]] std::size_t home(const Key& key) const {
    return (std::hash<Key>{}(key) * 0x9E3779B97F4A7C15ULL >> 20U) & (cells_.size() - 1);
  }
  [[nodiscard]] std::size_t next(std::size_t i) const { return (i + 1) & (cells_.size() - 1); }
  void grow() {
    std::vector<Cell> old(cells_.size() * 2);
    old.swap(cells_);
    size_ = 0;
    for (Cell& cell : old)
      if (cell.key != Key{}) put(cell.key, std::move(cell.value));
  }

  std::vector<Cell> cells_ = std::vector<Cell>(64);
  std::size_t size_{};
};

}  // namespace gq::core
