#include "worker/executors/batcher.h"

namespace gq::exec {

std::vector<int> batch_buckets(int max) {
  std::vector<int> out;
  for (int size = 1; size <= std::max(1, max); size *= 2) out.push_back(size);
  return out;
}

int choose_bucket(int count, int cap, bool padded) {
  int bucket = 1;
  while (bucket * 2 <= cap && (padded ? bucket < count : bucket * 2 <= count)) bucket *= 2;
  return bucket;
}

int run_with_ladder(int count, const std::function<bool(int, int)>& forward, const std::function<void(int)>& give_up) {
  int largest = 0;
  const auto run = [&](const auto& self, int begin, int size) -> void {
    if (forward(begin, size)) {
      largest = std::max(largest, size);
    } else if (size == 1) {
      if (forward(begin, 1)) {   // the cache is free now and everything else of the batch is gone
        largest = std::max(largest, 1);
      } else {
        give_up(begin);
      }
    } else {
      self(self, begin, size / 2);
      self(self, begin + size / 2, size - size / 2);
    }
  };
  if (count > 0) run(run, 0, count);
  return largest;
}

}  // namespace gq::exec
