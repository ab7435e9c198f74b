// selectors.cpp - see selectors.h.
#include "client/cli/selectors.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/vocabulary/ids.h"

namespace gq::cli {

namespace {

std::string xdg(const char* variable, const char* below_home) {
  if (const char* dir = std::getenv(variable); dir != nullptr && *dir == '/') return std::string(dir) + "/gpuq";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr && *home != '\0' ? home : "/tmp") + "/" + below_home + "/gpuq";
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
  return text;
}

}  // namespace

std::string state_dir() { return xdg("XDG_STATE_HOME", ".local/state"); }
std::string data_dir() { return xdg("XDG_DATA_HOME", ".local/share"); }
std::string config_dir() { return xdg("XDG_CONFIG_HOME", ".config"); }

void remember_last(const std::string& id) {
  std::error_code ignored;   // a convenience: a read-only home is no reason to fail a submit
  std::filesystem::create_directories(state_dir(), ignored);
  std::ofstream(state_dir() + "/last") << id << '\n';
}

std::string last_job() {
  std::string id;
  std::ifstream(state_dir() + "/last") >> id;
  if (!parse_job_id(id)) throw gpuq::Error("NOT_FOUND", "no job was submitted from here yet, so there is no 'last'", "gpuq list");
  return id;
}

std::string resolve_job(Cli& cli, const std::string& word) {
  if (word == "last") return last_job();
  if (const auto id = parse_job_id(word)) return to_string(*id);
  if (word.size() < 4 || word.size() >= 26 || !std::all_of(word.begin(), word.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }))
    throw gpuq::Error("USAGE", "'" + word + "' is no job id: 26 characters, at least 4 of its beginning or end, or 'last'", "gpuq list");
  const std::string part = upper(word);
  gpuq::ListFilter filter;
  filter.limit = 1000;
  std::vector<std::string> matches;
  for (const gpuq::JobStatus& job : cli.client().list(filter))
    if (job.id.starts_with(part) || job.id.ends_with(part)) matches.push_back(job.id);
  if (matches.empty()) throw gpuq::Error("NOT_FOUND", "no job's id begins or ends with '" + word + "' (the newest 1000 were looked at)", "gpuq list");
  if (matches.size() > 1)
    throw gpuq::Error("USAGE", "'" + word + "' could be any of " + std::to_string(matches.size()) + " jobs", "type more of it; the ends differ most: " + matches[0] + ", " + matches[1]);
  return matches.front();
}

std::vector<std::string> resolve_jobs(Cli& cli, const std::vector<std::string>& words) {
  std::vector<std::string> ids;
  ids.reserve(words.size());
  for (const std::string& word : words) ids.push_back(resolve_job(cli, word));
  return ids;
}

}  // namespace gq::cli
