// nearest.cpp - see nearest.h.
#include "common/config/nearest.h"

#include <algorithm>
#include <utility>

namespace gq {

std::size_t letters_apart(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j)
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)}));
  }
  return row[b.size()];
}

std::string nearest(const std::vector<std::string>& words, std::string_view wanted) {
  std::string best;
  if (wanted.size() > 256) return best;   // nobody meant that
  std::size_t least = wanted.size() / 3 + 1;
  for (const std::string& word : words) {
    if (word.size() > 256) continue;
    if (const std::size_t apart = letters_apart(word, wanted); apart < least) {
      least = apart;
      best = word;
    }
  }
  return best;
}

}  // namespace gq
