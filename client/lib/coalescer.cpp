// coalescer.cpp - cut the queue into messages.
#include "client/lib/coalescer.h"

namespace gq::client {

std::vector<PreparedPtr> Coalescer::next_message() {
  std::vector<PreparedPtr> items;
  std::size_t bytes = 0;
  while (!queue_.empty() && items.size() < items_max_) {
    PreparedPtr& item = queue_.front();
    if (item->batch->done) {
      queue_.pop_front();
      continue;
    }
    const std::size_t more = item->wire_bytes();
    if (!items.empty() && bytes + more > bytes_max_) break;   // one item alone always goes: its size was judged when made
    bytes += more;
    items.push_back(std::move(item));
    queue_.pop_front();
  }
  return items;
}

SubmitFrames to_frames(const std::vector<PreparedPtr>& items) {
  SubmitFrames frames;
  frames.message.items.reserve(items.size());
  std::size_t bytes = 0;
  for (const PreparedPtr& item : items) bytes += item->payload.size();
  frames.body.reserve(bytes);
  for (const PreparedPtr& item : items) {
    frames.message.items.push_back(item->item);
    frames.body += item->payload;
  }
  return frames;
}

}  // namespace gq::client
