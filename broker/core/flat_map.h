// flat_map.h - a hash table for keys by the million: linear probing, at most half full, erasing shifts back, so a look-up is one
// cache line as a rule and there are no graves. It is cut into a thousand small tables, so that none ever takes a noticeable time to grow.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace gq::core {

/// Key{} marks an empty cell: it is never found, never erased, and putting it does nothing.
template <class Key, class Value, unsigned kShardBits = 10>
class FlatMap {
 public:
  [[nodiscard]] const Value* find(const Key& key) const {
    if (key == Key{}) return nullptr;
    const std::uint64_t hash = hash_of(key);
    const std::vector<Cell>& cells = shard_of(hash);
    if (cells.empty()) return nullptr;
    for (std::size_t i = home(hash, cells);; i = next(i, cells)) {
      if (cells[i].key == key) return &cells[i].value;
      if (cells[i].key == Key{}) return nullptr;
    }
  }
  [[nodiscard]] bool contains(const Key& key) const { return find(key) != nullptr; }
  void put(const Key& key, Value value) {
    if (key == Key{}) return;
    const std::uint64_t hash = hash_of(key);
    Shard& shard = shards_[hash >> (64U - kShardBits)];
    if (2 * (shard.size + 1) > shard.cells.size()) grow(shard);
    std::vector<Cell>& cells = shard.cells;
    std::size_t i = home(hash, cells);
    while (cells[i].key != Key{} && cells[i].key != key) i = next(i, cells);
    if (cells[i].key == Key{}) {
      ++shard.size;
      ++size_;
    }
    cells[i] = {key, std::move(value)};
  }
  bool erase(const Key& key) {
    if (key == Key{}) return false;
    const std::uint64_t hash = hash_of(key);
    Shard& shard = shards_[hash >> (64U - kShardBits)];
    std::vector<Cell>& cells = shard.cells;
    if (cells.empty()) return false;
    std::size_t hole = home(hash, cells);
    while (cells[hole].key != key) {
      if (cells[hole].key == Key{}) return false;
      hole = next(hole, cells);
    }
    for (std::size_t i = next(hole, cells); cells[i].key != Key{}; i = next(i, cells)) {
      const std::size_t wish = home(hash_of(cells[i].key), cells);
      // the cell may move into the hole unless its home lies behind the hole, cyclically in (hole, i]
      if ((hole <= i) ? (wish > hole && wish <= i) : (wish > hole || wish <= i)) continue;
      cells[hole] = std::move(cells[i]);
      hole = i;
    }
    cells[hole] = {};
    --shard.size;
    --size_;
    return true;
  }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t bytes() const { return shards_.size() * sizeof(Shard) + cells_ * sizeof(Cell); }

 private:
  struct Cell {
    Key key{};
    Value value{};
  };
  struct Shard {
    std::vector<Cell> cells;
    std::size_t size{};
  };
  [[nodiscard]] static std::uint64_t hash_of(const Key& key) { return std::hash<Key>{}(key) * 0x9E3779B97F4A7C15ULL; }
  [[nodiscard]] const std::vector<Cell>& shard_of(std::uint64_t hash) const { return shards_[hash >> (64U - kShardBits)].cells; }
  [[nodiscard]] static std::size_t home(std::uint64_t hash, const std::vector<Cell>& cells) { return hash >> 20U & (cells.size() - 1); }
  [[nodiscard]] static std::size_t next(std::size_t i, const std::vector<Cell>& cells) { return (i + 1) & (cells.size() - 1); }
  void grow(Shard& shard) {
    cells_ += std::max<std::size_t>(4, shard.cells.size());
    std::vector<Cell> old(std::max<std::size_t>(4, shard.cells.size() * 2));
    old.swap(shard.cells);
    for (Cell& cell : old) {
      if (cell.key == Key{}) continue;
      std::size_t i = home(hash_of(cell.key), shard.cells);
      while (shard.cells[i].key != Key{}) i = next(i, shard.cells);
      shard.cells[i] = std::move(cell);
    }
  }

  std::vector<Shard> shards_ = std::vector<Shard>(std::size_t{1} << kShardBits);
  std::size_t size_{}, cells_{};
};

}  // namespace gq::core
