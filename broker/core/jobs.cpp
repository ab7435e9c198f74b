// jobs.cpp - the job table's index.
#include "broker/core/jobs.h"

namespace gq::core {

std::size_t JobTable::home(const JobId& id) const {
  std::uint64_t h = id.lo ^ (id.hi * 0x9E3779B97F4A7C15ULL);
  h ^= h >> 32U;
  h *= 0xD6E8FEB86659FD93ULL;
  h ^= h >> 32U;
  return static_cast<std::size_t>(h) & (table_.size() - 1);
}

Index JobTable::find(const JobId& id) const {
  const std::size_t mask = table_.size() - 1;
  for (std::size_t at = home(id);; at = (at + 1) & mask) {
    const Index slot = table_[at];
    if (slot == kNone || pool_[slot].id == id) return slot;
  }
}

Index JobTable::add(const JobId& id) {
  if ((pool_.live() + 1) * 10 > table_.size() * 7) grow();
  const Index slot = pool_.make();
  pool_[slot].id = id;
  const std::size_t mask = table_.size() - 1;
  std::size_t at = home(id);
  while (table_[at] != kNone) at = (at + 1) & mask;
  table_[at] = slot;
  return slot;
}

void JobTable::drop(Index slot) {
  const std::size_t mask = table_.size() - 1;
  std::size_t hole = home(pool_[slot].id);
  while (table_[hole] != slot) hole = (hole + 1) & mask;
  // Close the gap: whatever stands behind it and belongs at or before it moves up.
  for (std::size_t at = (hole + 1) & mask; table_[at] != kNone; at = (at + 1) & mask) {
    const std::size_t want = home(pool_[table_[at]].id);
    if (((at - want) & mask) >= ((at - hole) & mask)) {
      table_[hole] = table_[at];
      hole = at;
    }
  }
  table_[hole] = kNone;
  pool_.drop(slot);
}

void JobTable::grow() {
  std::vector<Index> old(table_.size() * 2, kNone);
  old.swap(table_);
  const std::size_t mask = table_.size() - 1;
  for (const Index slot : old) {
    if (slot == kNone) continue;
    std::size_t at = home(pool_[slot].id);
    while (table_[at] != kNone) at = (at + 1) & mask;
    table_[at] = slot;
  }
}

}  // namespace gq::core
