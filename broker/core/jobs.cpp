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
  const std::size_t mask = table_.size() - 1;
  const std::uint32_t hash = hash_of(id);
  for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
    const Cell& cell = table_[at];
    if (cell.slot == kNone || (cell.hash == hash && pool_[cell.slot].id == id)) return cell.slot;
  }
}

Index JobTable::add(const JobId& id) {
  if ((pool_.live() + 1) * 10 > table_.size() * 7) grow();
  const Index slot = pool_.make();
  pool_[slot].id = id;
  place({hash_of(id), slot});
  return slot;
}

void JobTable::place(Cell cell) {
  const std::size_t mask = table_.size() - 1;
  std::size_t at = cell.hash & mask;
  while (table_[at].slot != kNone) at = (at + 1) & mask;
  table_[at] = cell;
}

void JobTable::drop(Index slot) {
  const std::size_t mask = table_.size() - 1;
  std::size_t hole = hash_of(pool_[slot].id) & mask;
  while (table_[hole].slot != slot) hole = (hole + 1) & mask;
  // Close the gap: whatever stands behind it and belongs at or before it moves up.
  for (std::size_t at = (hole + 1) & mask; table_[at].slot != kNone; at = (at + 1) & mask) {
    const std::size_t want = table_[at].hash & mask;
    if (((at - want) & mask) >= ((at - hole) & mask)) {
      table_[hole] = table_[at];
      hole = at;
    }
  }
  table_[hole] = {};
  pool_.drop(slot);
}

void JobTable::grow() {
  std::vector<Cell> old(table_.size() * 2);
  old.swap(table_);
  for (const Cell& cell : old)
    if (cell.slot != kNone) place(cell);
}

}  // namespace gq::core
