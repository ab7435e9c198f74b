// format.h - printf into a string, for tables and pictures: a line of at most 1023 characters.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <string>

namespace gq::sim {

[[gnu::format(printf, 1, 2)]] inline std::string format(const char* text, ...) {
  char line[1024];
  va_list args;
  va_start(args, text);
  std::vsnprintf(line, sizeof line, text, args);
  va_end(args);
  return line;
}

}  // namespace gq::sim
