// jobs.cpp - the job table's index.
#include "broker/core/jobs.h"

namespace gq::core {

std::uint32_t JobTable::hash_of(const JobId& id) {
  std::uint64_t h = id.lo ^ (id.hi * 0x9E3779B97F4A7C15ULL);
  h ^= h >> 32U;
  h *= 0xD6E8FEB86659FD93ULL;
  return static_cast<std::uint32_t>(h >> 32U);
}

Index JobTable::find(const JobId& id) const {
  const std::uint32_t hash = hash_of(id);
  const auto& cells = shard_of(hash).cells;
  const std::size_t mask = cells.size() - 1;
  for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
    const Cell& cell = cells[at];
    if (cell.slot == kNone || (cell.hash == hash && pool_[cell.slot].id == id)) return cell.slot;
  }
}

Index JobTable::add(const JobId& id) {
  const std::uint32_t hash = hash_of(id);
  Shard& shard = shard_of(hash);
  if ((shard.used + 1) * std::size_t{10} > shard.cells.size() * 7) grow(shard);
  const Index slot = pool_.make();
  pool_[slot].id = id;
  place(shard.cells, {hash, slot});
  ++shard.used;
  return slot;
}

void JobTable::place(std::vector<Cell>& cells, Cell cell) {
  const std::size_t mask = cells.size() - 1;
  std::size_t at = cell.hash & mask;
  while (cells[at].slot != kNone) at = (at + 1) & mask;
  cells[at] = cell;
}

void JobTable::drop(Index slot) {
  const std::uint32_t hash = hash_of(pool_[slot].id);
  Shard& shard = shard_of(hash);
  auto& cells = shard.cells;
  const std::size_t mask = cells.size() - 1;
  std::size_t hole = hash & mask;
  while (cells[hole].slot != slot) hole = (hole + 1) & mask;
  // Close the gap: whatever stands behind it and belongs at or before it moves up.
  for (std::size_t at = (hole + 1) & mask; cells[at].slot != kNone; at = (at + 1) & mask) {
    const std::size_t want = cells[at].hash & mask;
    if (((at - want) & mask) >= ((at - hole) & mask)) {
      cells[hole] = cells[at];
      hole = at;
    }
  }
  cells[hole] = {};
  --shard.used;
  pool_.drop(slot);
}

void JobTable::grow(Shard& shard) {
  bytes_ += shard.cells.size() * sizeof(Cell);
  std::vector<Cell> old(shard.cells.size() * 2);
  old.swap(shard.cells);
  for (const Cell& cell : old)
    if (cell.slot != kNone) place(shard.cells, cell);
}

}  // namespace gq::core
