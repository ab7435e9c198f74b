// results.cpp - see results.h.
#include "client/cli/results.h"

#include <chrono>
#include <future>
#include <nlohmann/json.hpp>

#include "client/cli/text.h"

namespace gq::cli {

using Json = nlohmann::ordered_json;

std::optional<std::vector<gpuq::JobResult>> wait_for(gpuq::Client& client, const std::vector<std::string>& ids, std::optional<std::chrono::milliseconds> patience) {
  const auto until = std::chrono::steady_clock::now() + patience.value_or(std::chrono::hours(24 * 365));
  std::vector<std::future<gpuq::JobResult>> futures;
  futures.reserve(ids.size());
  for (const std::string& id : ids) futures.push_back(client.result_async(id));
  std::vector<gpuq::JobResult> results;
  results.reserve(ids.size());
  for (std::size_t i = 0; i < futures.size(); ++i) {
    while (futures[i].wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) {
      if (interrupted()) return std::nullopt;
      if (std::chrono::steady_clock::now() < until) continue;
      if (!client.connected()) throw gpuq::Error("UNREACHABLE", "the broker cannot be reached; job " + ids[i] + " goes on without us", "gpuq doctor");
      throw gpuq::Error("TIMED_OUT", "job " + ids[i] + " is not final yet; it goes on", "gpuq status " + ids[i]);
    }
    results.push_back(futures[i].get());
  }
  return results;
}

void show_result(Cli& cli, const gpuq::JobResult& result) {
  std::ostream& out = cli.io.out;
  for (const auto& [key, value] : result.values) out << key << '=' << value << '\n';
  for (const gpuq::Part& part : result.parts) {
    if (part.blob.empty() && part.share.empty() && is_text(part.bytes)) {
      if (result.parts.size() > 1 && part.name != "stdout") out << "--- " << part.name << '\n';
      out << part.bytes;
      if (!part.bytes.empty() && part.bytes.back() != '\n') out << '\n';
    } else if (!part.share.empty()) {
      out << "part " << part.name << "  " << part.media << "  " << bytes_text(part.size) << "  share:" << part.share << '\n';
    } else {
      out << "part " << part.name << "  " << part.media << "  " << bytes_text(part.blob.empty() ? part.bytes.size() : part.size)
          << "  (gpuq result " << result.id << " -d DIR)\n";
    }
  }
}

std::string detection_line(const std::string& file, const gpuq::JobResult& result) {
  Json line{{"schema_version", kSchemaVersion}, {"file", file}, {"id", result.id}, {"state", result.state}};
  if (!result.model_version.empty()) line["model_version"] = result.model_version;
  if (!result.ok()) line["error"] = {{"code", result.code}, {"what", result.what}};
  else line["detections"] = to_json(gpuq::parse_detections(result));
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

int judge(Cli& cli, const std::vector<gpuq::JobResult>& results) {
  std::size_t failed = 0;
  const gpuq::JobResult* first = nullptr;
  for (const gpuq::JobResult& result : results)
    if (!result.ok()) {
      ++failed;
      if (first == nullptr) first = &result;
      if (failed <= 20) cli.note("job " + result.id + " " + result.state + (result.code.empty() ? "" : " [" + result.code + "]") + (result.what.empty() ? "" : ": " + result.what));
    }
  if (failed > 20) cli.note("… and " + std::to_string(failed - 20) + " more");
  if (first != nullptr) cli.note("  try: gpuq logs " + first->id + "   or gpuq retry " + first->id);
  return failed == 0 ? 0 : 1;
}

bool follow(Cli& cli, gpuq::Client& client, const std::string& id) {
  bool ended = false;
  std::uint64_t seen = 0;
  client.follow_logs(id, 0, [&](const gpuq::LogChunk& chunk) {
    if (chunk.offset > seen && !chunk.bytes.empty()) cli.note("(" + std::to_string(chunk.offset - seen) + " bytes were dropped: the broker keeps the newest 256 KiB)");
    seen = chunk.next;
    if (!chunk.bytes.empty()) {
      cli.io.out << chunk.bytes;
      cli.io.out.flush();
    }
    ended = chunk.end;
    return !interrupted() && cli.io.out.good();
  });
  return ended;
}

}  // namespace gq::cli
