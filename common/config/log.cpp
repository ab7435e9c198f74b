// log.cpp - common/log.h on spdlog: "gpuq-broker 2025-01-31T22:00:00.123Z warn key_refused peer=10.0.0.7 try="gpuq keys issue …"".
#include "common/log.h"

#include <cstdlib>
#include <memory>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace gq::log {

namespace {

spdlog::level::level_enum spdlog_level(Level level) {
  switch (level) {
    case Level::debug: return spdlog::level::debug;
    case Level::info: return spdlog::level::info;
    case Level::warn: return spdlog::level::warn;
    case Level::error: return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::shared_ptr<spdlog::logger> make(const std::string& name, spdlog::level::level_enum level) {
  auto logger = std::make_shared<spdlog::logger>(name, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_formatter(std::make_unique<spdlog::pattern_formatter>("%n %Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc));
  logger->set_level(level);
  logger->flush_on(spdlog::level::debug);
  return logger;
}

spdlog::level::level_enum level_from_environment() {
  const char* wanted = std::getenv("GPUQ_LOG");
  const std::string_view text = wanted != nullptr ? wanted : "info";
  if (text == "debug") return spdlog::level::debug;
  if (text == "warn") return spdlog::level::warn;
  if (text == "error") return spdlog::level::err;
  return spdlog::level::info;
}

std::shared_ptr<spdlog::logger>& logger() {
  static std::shared_ptr<spdlog::logger> one = make("gpuq", level_from_environment());
  return one;
}

bool plain(std::string_view value) {
  if (value.empty()) return false;
  for (const char c : value)
    if (static_cast<unsigned char>(c) <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7F) return false;
  return true;
}

void append_value(std::string& line, std::string_view value) {
  if (plain(value)) {
    line += value;
    return;
  }
  constexpr std::string_view hex = "0123456789abcdef";
  line += '"';
  for (const char c : value) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') (line += '\\') += c;
    else if (c == '\n') line += "\\n";
    else if (u < ' ' || u == 0x7F) (((line += "\\x") += hex[u >> 4U]) += hex[u & 15U]);
    else line += c;
  }
  line += '"';
}

}  // namespace

void set_level(Level level) { logger()->set_level(spdlog_level(level)); }
void set_name(std::string_view program) { logger() = make(std::string(program), logger()->level()); }

void write(Level level, std::string_view event, Fields fields) {
  const auto at = spdlog_level(level);
  if (!logger()->should_log(at)) return;
  std::string line(event);
  for (const auto& [key, value] : fields) {
    ((line += ' ') += key) += '=';
    append_value(line, value);
  }
  logger()->log(at, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace gq::log
