#include "worker/executors/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "worker/executors/json.h"
#include "worker/executors/tensor_file.h"

namespace gq::exec {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kMagic = "GPUQCKPT";
constexpr std::uint32_t kVersion = 1;
constexpr std::string_view kSuffix = ".gpuqckpt";
constexpr std::size_t kFixedBefore = 16, kFixedAfter = 16;

template <class T>
void put(std::string& out, T value) {
  char raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  out.append(raw, sizeof(T));
}
template <class T>
T get(std::string_view bytes, std::size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

Failure corrupt(const std::string& why) { return {"CHECKPOINT_CORRUPT", why, "the one before it is used, or training starts from zero"}; }

std::string failed(const std::string& what, const std::string& path) { return what + " " + path + ": " + std::strerror(errno); }

bool fsync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool ok = ::fsync(fd) == 0;
  ::close(fd);
  return ok;
}

std::vector<fs::path> files_in(const std::string& folder) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == kSuffix) out.push_back(it->path());
  std::sort(out.begin(), out.end(), [](const fs::path& a, const fs::path& b) { return a.filename() > b.filename(); });   // newest first
  return out;
}

}  // namespace

std::string encode_checkpoint(const CheckpointHeader& header, std::string_view payload) {
  const std::string json = Json(Json::Object{{"job", header.job}, {"attempt", header.attempt}, {"step", header.step}}).dump();
  std::string out(kMagic);
  put(out, kVersion);
  put(out, static_cast<std::uint32_t>(json.size()));
  out += json;
  put(out, static_cast<std::uint64_t>(payload.size()));
  const std::uint64_t sum = checksum(out) ^ checksum(payload);
  put(out, sum);
  out += payload;
  return out;
}

Expected<Checkpoint> decode_checkpoint(std::string_view bytes) {
  if (bytes.size() < kFixedBefore || bytes.substr(0, 8) != kMagic) return corrupt("it does not begin as a checkpoint");
  if (const auto version = get<std::uint32_t>(bytes, 8); version != kVersion) return corrupt("version " + std::to_string(version) + " is unknown");
  const std::size_t header_bytes = get<std::uint32_t>(bytes, 12);
  const std::size_t payload_at = kFixedBefore + header_bytes + kFixedAfter;
  if (header_bytes > 4096 || bytes.size() < payload_at) return corrupt("it ends inside its header");
  const auto payload_bytes = get<std::uint64_t>(bytes, kFixedBefore + header_bytes);
  if (bytes.size() - payload_at != payload_bytes)
    return corrupt("it has " + std::to_string(bytes.size() - payload_at) + " bytes of " + std::to_string(payload_bytes));
  const std::string_view payload = bytes.substr(payload_at);
  if ((checksum(bytes.substr(0, payload_at - 8)) ^ checksum(payload)) != get<std::uint64_t>(bytes, payload_at - 8)) return corrupt("its checksum is wrong");
  const auto json = parse_json(bytes.substr(kFixedBefore, header_bytes));
  const Json* job = json ? json->find("job") : nullptr;
  const Json* attempt = json ? json->find("attempt") : nullptr;
  const Json* step = json ? json->find("step") : nullptr;
  if (job == nullptr || attempt == nullptr || step == nullptr || job->text() == nullptr || !attempt->number() || !step->number())
    return corrupt("its header lacks job, attempt or step");
  return Checkpoint{.header = {*job->text(), static_cast<std::int64_t>(*attempt->number()), static_cast<std::int64_t>(*step->number())},
                    .payload = std::string(payload), .path = {}};
}

Expected<Done> write_durably(const std::string& path, std::string_view bytes) {
  const std::string temporary = path + ".tmp." + std::to_string(::getpid());
  const auto give_up = [&](const std::string& what) {
    const std::string why = failed(what, temporary);
    ::unlink(temporary.c_str());
    return Failure{errno == ENOSPC ? "STORAGE_FULL" : "INTERNAL", why, "make room or writable: " + fs::path(path).parent_path().string()};
  };
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return give_up("cannot create");
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t n = ::write(fd, bytes.data() + at, std::min<std::size_t>(bytes.size() - at, std::size_t{1} << 30U));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const auto failure = give_up("cannot write");
      ::close(fd);
      return failure;
    }
    at += static_cast<std::size_t>(n);
  }
  const bool synced = ::fsync(fd) == 0;
  ::close(fd);
  if (!synced) return give_up("cannot fsync");
  if (::rename(temporary.c_str(), path.c_str()) != 0) return give_up("cannot rename");
  if (!fsync_folder(fs::path(path).parent_path().string())) return give_up("cannot fsync the folder of");
  return Done{};
}

Expected<std::string> write_checkpoint(const std::string& folder, const CheckpointHeader& header, std::string_view payload) {
  std::error_code error;
  fs::create_directories(folder, error);
  char name[48];
  std::snprintf(name, sizeof name, "step-%012lld", static_cast<long long>(header.step));
  const std::string path = (fs::path(folder) / (std::string(name) + std::string(kSuffix))).string();
  if (auto ok = write_durably(path, encode_checkpoint(header, payload)); !ok) return ok.failure();
  // Older ones than the last two go; so do those of a later step, which an earlier life of this job left behind.
  std::size_t kept = 0;
  for (const auto& file : files_in(folder)) {
    if (file.filename() > fs::path(path).filename() || ++kept > kCheckpointsKept) fs::remove(file, error);
  }
  return path;
}

std::optional<Checkpoint> find_checkpoint(const std::string& folder, const std::string& resume, const std::string& job,
                                          std::vector<std::string>& warnings) {
  std::vector<fs::path> candidates;
  std::error_code error;
  if (!resume.empty()) {
    if (fs::is_directory(resume, error)) {
      candidates = files_in(resume);
    } else {
      candidates.emplace_back(resume);
    }
  }
  if (!folder.empty())
    for (auto& file : files_in(folder)) candidates.push_back(std::move(file));

  std::optional<Checkpoint> best;
  std::vector<fs::path> seen;
  for (const auto& file : candidates) {
    const auto real = fs::weakly_canonical(file, error);
    if (std::find(seen.begin(), seen.end(), real) != seen.end()) continue;
    seen.push_back(real);
    std::ifstream in(file, std::ios::binary);
    std::ostringstream bytes;
    bytes << in.rdbuf();
    if (!in) {
      warnings.push_back("checkpoint " + file.string() + " cannot be read");
      continue;
    }
    auto found = decode_checkpoint(bytes.str());
    if (!found) {
      warnings.push_back("checkpoint " + file.string() + " is not used: " + found.failure().what);
      continue;
    }
    if (!job.empty() && !found->header.job.empty() && found->header.job != job) {
      warnings.push_back("checkpoint " + file.string() + " is not used: it belongs to job " + found->header.job);
      continue;
    }
    found->path = file.string();
    if (!best || found->header.step > best->header.step) best = std::move(*found);
  }
  return best;
}

}  // namespace gq::exec
