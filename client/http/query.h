// query.h - the address of a request: decoded once, each query parameter known and of its type. Pure; its input is hostile.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/vocabulary/errors.h"

namespace gq::http {

struct Target {
  std::vector<std::string> path;                    ///< segments, decoded
  std::map<std::string, std::string> query;
};

/// "/api/v1/jobs?wait=3". BAD_MESSAGE: a wrong %-escape, one that hides a '/' or NUL, a parameter that stands there twice.
Result<Target> read_target(std::string_view target);

/// What a route takes of a query; every failure is thrown as BAD_MESSAGE. Keeps a reference to the map.
class Query {
 public:
  Query(const std::map<std::string, std::string>& query, const std::vector<std::string>& known);
  [[nodiscard]] std::string text(const std::string& name) const;   ///< "" when it is not there
  [[nodiscard]] std::int64_t number(const std::string& name, std::int64_t fallback, std::int64_t low, std::int64_t high) const;
  /// Seconds with fractions, 0..high.
  [[nodiscard]] std::chrono::milliseconds seconds(const std::string& name, std::chrono::milliseconds fallback, std::chrono::milliseconds high) const;
  [[nodiscard]] bool truth(const std::string& name) const;         ///< false when it is not there

 private:
  const std::map<std::string, std::string>& query_;
};

}  // namespace gq::http
