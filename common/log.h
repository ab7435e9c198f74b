// log.h - key=value lines on stderr. Never payloads, never keys (a Secret has no way to print itself).
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace gq::log {

enum class Level { debug, info, warn, error };
using Fields = std::initializer_list<std::pair<std::string_view, std::string>>;

void set_level(Level level);               ///< also GPUQ_LOG=debug|info|warn|error
void set_name(std::string_view program);   ///< "gpuq-broker": first word of each line
void write(Level level, std::string_view event, Fields fields);
inline void debug(std::string_view event, Fields fields = {}) { write(Level::debug, event, fields); }
inline void info(std::string_view event, Fields fields = {}) { write(Level::info, event, fields); }
inline void warn(std::string_view event, Fields fields = {}) { write(Level::warn, event, fields); }
inline void error(std::string_view event, Fields fields = {}) { write(Level::error, event, fields); }

}  // namespace gq::log
