// user_id.h - what ZAP returns for a key and every message of its link carries: "role:name:first characters of the key". The
// last part makes a reissued key another user than the one it replaces. Internal to common/net.
#pragma once

#include <string>
#include <string_view>

#include "common/net/port.h"

namespace gq::net {

inline constexpr std::size_t kKeyMark = 12;

inline std::string make_user_id(Role role, std::string_view name, std::string_view public_key) {
  std::string id(to_string(role));
  ((id += ':') += name) += ':';
  return id += public_key.substr(0, kKeyMark);
}
inline bool parse_user_id(std::string_view id, std::string& name, Role& role) {
  const std::size_t first = id.find(':');
  const std::size_t second = first == std::string_view::npos ? first : id.find(':', first + 1);
  if (second == std::string_view::npos) return false;
  const auto parsed = parse_role(id.substr(0, first));
  if (!parsed) return false;
  role = *parsed;
  name = std::string(id.substr(first + 1, second - first - 1));
  return !name.empty();
}

/// PORT_IN_USE with who holds it, or what else a failed bind means.
Error bind_error(const std::string& endpoint, int error_number);

}  // namespace gq::net
