// key_files.h - single key files, for the Authority. Internal to common/net.
#pragma once

#include <string>
#include <vector>

#include "common/net/keys.h"

namespace gq::net {

Result<void> check_public_key(const std::string& key, const std::string& where);
Result<std::vector<std::string>> allowed_names(const std::string& key_dir);
Result<AllowedKey> read_allowed_key(const std::string& path, const std::string& name);

}  // namespace gq::net
