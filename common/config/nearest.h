// nearest.h - "did you mean …": the word that was most likely meant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gq {

/// How many letters must be changed, added or left out to make `b` of `a`.
std::size_t letters_apart(std::string_view a, std::string_view b);
/// The nearest of `words`, when near enough to be meant; else empty.
std::string nearest(const std::vector<std::string>& words, std::string_view wanted);

}  // namespace gq
