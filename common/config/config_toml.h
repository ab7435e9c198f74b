// config_toml.h - walks a parsed document; every leaf becomes one value of a Config. For config.cpp and config_toml.cpp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/config/config.h"

namespace gq {

std::string_view expected(SettingType type);   ///< "a whole number"

struct TomlReader {
  Config& config;
  const std::string& name;   ///< of the file

  Result<void> read(std::string_view text) const;

 private:
  struct Walk;
};

}  // namespace gq
