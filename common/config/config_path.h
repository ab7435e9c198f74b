// config_path.h - keys as paths: class.training.window, device."host1/0".headroom, class.inference.reserve[0].vram.
//
// A name that is no bare key of toml stands in quotes, as it does in the file, so a dot inside a host's name is no border.
// In a declared key `*` stands for any one name, and `reserve[]` for each table of a list of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gq::config {

std::string quoted(std::string_view name);                       ///< as it stands between two dots
std::vector<std::string> split_path(std::string_view key);       ///< without the quotes
bool matches(const std::vector<std::string>& pattern, const std::vector<std::string>& path);
/// The pattern with the path's own names where it has `*` or `[]`, for messages; of another length: the pattern as it is.
std::string filled(const std::vector<std::string>& pattern, const std::vector<std::string>& path);
inline bool is_pattern(std::string_view key) { return key.find('*') != std::string_view::npos || key.find("[]") != std::string_view::npos; }

}  // namespace gq::config
