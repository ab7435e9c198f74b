#include "worker/runtime/attempt.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>

namespace gq::worker {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kInlineTotal = 48U << 10U;   // of one result: leaves room for names and values below inline_bytes_max
constexpr std::size_t kArtefactsMax = 10'000;

}  // namespace

Result<std::unique_ptr<AttemptFolder>> AttemptFolder::make(const std::string& scratch, const Grant& grant, asio::thread_pool& disk) {
  const std::string path = scratch + "/attempts/" + to_string(grant.job) + "-" + std::to_string(grant.attempt);
  std::error_code ec;
  fs::remove_all(path, ec);
  for (const char* sub : {"", "/in", "/out", "/checkpoint", "/work"})
    if (::mkdir((path + sub).c_str(), 0700) != 0)
      return fail(errno == ENOSPC ? Errc::storage_full : Errc::internal, "cannot make " + path + sub + ": " + std::strerror(errno), "look at the worker's --scratch folder");
  return std::unique_ptr<AttemptFolder>(new AttemptFolder(path, disk));
}

AttemptFolder::~AttemptFolder() {
  asio::post(disk_, [path = path_] {
    std::error_code ec;
    fs::remove_all(path, ec);
  });
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.front() == '/' || path.back() == '/' || path.size() > 1024 || path.find('\0') != std::string_view::npos) return false;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    const std::string_view component = path.substr(0, end);
    if (component.empty() || component == "." || component == "..") return false;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return true;
}

void gather(const Job& job, Blobs& blobs, std::function<void(Result<std::shared_ptr<Gathered>>)> done) {
  auto body = wire::decode_job_body(std::as_bytes(std::span(job.body)));
  if (!body) return done(tl::unexpected(body.error()));
  struct Progress {
    std::shared_ptr<Gathered> gathered = std::make_shared<Gathered>();
    std::size_t open{1};
    bool failed{};
    std::function<void(Result<std::shared_ptr<Gathered>>)> done;
    void arrived() {
      if (--open == 0 && !failed) done(gathered);
    }
    void broke(Error error) {
      if (!std::exchange(failed, true)) done(tl::unexpected(std::move(error)));
    }
  };
  auto progress = std::make_shared<Progress>();
  progress->done = std::move(done);
  progress->gathered->body = std::move(*body);
  const auto want = [&](const BlobDigest& digest, std::function<void(Pinned)> put) {
    ++progress->open;
    blobs.fetch(digest, [progress, put = std::move(put)](Result<Pinned> file) {
      if (!file) return progress->broke(file.error());
      put(std::move(*file));
      progress->arrived();
    });
  };
  Gathered& gathered = *progress->gathered;
  for (const wire::Part& part : gathered.body.parts) {
    if (!part.share.empty())
      return progress->broke({Errc::not_here, "part '" + part.name + "' lies behind share '" + part.share + "', which this worker does not have", "upload the file instead"});
    if (!part.blob.empty()) want(part.blob, [&gathered, name = part.name](Pinned file) { gathered.files[name] = std::move(file); });
  }
  if (!job.item.resume.empty()) want(job.item.resume, [&gathered](Pinned file) { gathered.resume = std::move(file); });
  progress->arrived();
}

std::string media_of(std::string_view name) {
  const auto ends = [&](std::string_view tail) { return name.size() >= tail.size() && name.substr(name.size() - tail.size()) == tail; };
  if (ends(".png")) return "image/png";
  if (ends(".jpg") || ends(".jpeg")) return "image/jpeg";
  if (ends(".json")) return "application/json";
  if (ends(".txt") || ends(".log") || ends(".csv")) return "text/plain";
  return "application/octet-stream";
}

Result<std::vector<Output::Item>> artefacts(const std::string& folder) {
  std::vector<Output::Item> items;
  std::error_code ec;
  for (auto it = fs::recursive_directory_iterator(folder, ec); !ec && it != fs::recursive_directory_iterator(); it.increment(ec)) {
    if (!fs::is_regular_file(it->symlink_status(ec))) continue;
    if (items.size() == kArtefactsMax)
      return fail(Errc::too_large, "more than 10000 files in GPUQ_OUTPUT_DIR", "pack them into one archive");
    const std::string name = fs::relative(it->path(), folder, ec).string();
    items.push_back({name, media_of(name), {}, it->path().string()});
  }
  if (ec) return fail(Errc::internal, "reading " + folder + ": " + ec.message());
  std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return items;
}

void pack(Output output, Blobs& blobs, BlobsGo go, std::function<void(Result<Packed>)> done) {
  struct Progress {
    wire::ResultBody body;
    Packed packed;
    std::size_t open{1};
    bool failed{};
    std::function<void(Result<Packed>)> done;
    void arrived() {
      if (--open != 0 || failed) return;
      for (const wire::Part& part : body.parts)
        if (!part.blob.empty()) packed.blobs.push_back(part.blob);
      std::sort(packed.blobs.begin(), packed.blobs.end());
      packed.blobs.erase(std::unique(packed.blobs.begin(), packed.blobs.end()), packed.blobs.end());
      packed.body = wire::encode(body);
      if (packed.body.size() > kLimits.inline_bytes_max)
        return done(fail(Errc::too_large, "the result's names and values alone take " + std::to_string(packed.body.size()) + " bytes", "write fewer files, or one archive"));
      done(std::move(packed));
    }
  };
  auto progress = std::make_shared<Progress>();
  progress->done = std::move(done);
  progress->body.values = std::move(output.values);
  progress->body.parts.resize(output.items.size());
  std::size_t room = kInlineTotal;
  for (std::size_t i = 0; i < output.items.size(); ++i) {
    Output::Item& item = output.items[i];
    wire::Part& part = progress->body.parts[i];
    part.name = std::move(item.name);
    part.media = std::move(item.media);
    if (!item.file.empty()) {
      std::error_code ec;
      const auto size = fs::file_size(item.file, ec);
      if (!ec && size <= room) {
        std::ifstream in(item.file, std::ios::binary);
        item.bytes.assign(std::istreambuf_iterator<char>(in), {});
        item.file.clear();
      }
    }
    if (item.file.empty() && item.bytes.size() <= room) {
      room -= item.bytes.size();
      part.bytes = std::move(item.bytes);
      continue;
    }
    ++progress->open;
    auto stored = [progress, i](Result<Pinned> file) {
      if (!file) {
        if (!std::exchange(progress->failed, true)) progress->done(tl::unexpected(file.error()));
        return;
      }
      progress->body.parts[i].blob = (*file)->digest;
      progress->body.parts[i].blob_bytes = (*file)->bytes;
      progress->arrived();
    };
    if (go == BlobsGo::here) {
      if (item.file.empty()) blobs.keep_bytes(std::move(item.bytes), std::move(stored));
      else blobs.keep_file(item.file, std::move(stored));
    } else {
      if (item.file.empty()) blobs.store_bytes(std::move(item.bytes), std::move(stored));
      else blobs.store_file(item.file, std::move(stored));
    }
  }
  progress->arrived();
}

}  // namespace gq::worker
