#include "worker/runtime/attempt.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>

#include "common/config/folder_identity.h"
#include "worker/runtime/job_log.h"
#include "worker/runtime/parents.h"

namespace gq::worker {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kInlineTotal = 48U << 10U;   // of one result: leaves room for names and values below inline_bytes_max
constexpr std::size_t kArtefactsMax = 10'000;
constexpr std::size_t kSharedNamed = 256;          // artefacts on a share that a result names one by one; beyond, their folder

Result<files::SharedFilePtr> open_shared(const wire::Part& part, const files::Shares& shares) {
  auto file = shares.find(part.share);
  if (!file || (*file)->is_folder || part.share_mtime_ms == 0) return file;
  if ((*file)->bytes == part.share_bytes && (*file)->mtime_ms == part.share_mtime_ms) return file;
  const std::string how = (*file)->bytes == part.share_bytes ? "changed at another time" : std::to_string((*file)->bytes) + " bytes, not " + std::to_string(part.share_bytes);
  return fail(Errc::bad_input, "share:" + part.share + " is another file here than the one submitted (" + how + ")", "it changed after the submit, or that share is another folder on this host");
}

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

std::string Gathered::path_of(const std::string& part) const {
  if (const auto file = files.find(part); file != files.end()) return file->second->path;
  if (const auto file = shared.find(part); file != shared.end()) return file->second->path;
  return {};
}

void gather(const Job& job, ChildContext& context, std::function<void(Result<std::shared_ptr<Gathered>>)> done) {
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
  const auto want = [progress, &blobs = context.blobs](const BlobDigest& digest, std::function<void(Pinned)> put) {
    ++progress->open;
    blobs.fetch(digest, [progress, put = std::move(put)](Result<Pinned> file) {
      if (!file) return progress->broke(file.error());
      put(std::move(*file));
      progress->arrived();
    });
  };
  const auto share = [progress, &context](const wire::Part& part, const std::string& name, bool needed) {
    ++progress->open;
    asio::post(context.disk, [progress, &io = context.io, &shares = context.shares, part, name, needed] {   // a share may be a slow network's
      auto file = open_shared(part, shares);
      asio::post(io, [progress, name, needed, file = std::move(file)]() mutable {
        if (!file && needed) return progress->broke(file.error());
        if (file) progress->gathered->shared[name] = std::move(*file);
        else progress->gathered->left_out.push_back(name + " is not in GPUQ_INPUT_DIR: " + file.error().what);
        progress->arrived();
      });
    });
  };
  Gathered& gathered = *progress->gathered;
  gathered.sees_cwd = gathered.body.cwd_identity.empty() || config::is_same_folder(gathered.body.cwd, gathered.body.cwd_identity);
  std::size_t packs = 0;
  for (const wire::Part& part : gathered.body.parts) {
    if (part.media == wire::kSnapshotMedia) {
      if (part.blob.empty()) return progress->broke({Errc::bad_message, "pack '" + part.name + "' of the working directory names no blob", "submit it again"});
      if (gathered.sees_cwd && !gathered.body.cwd_identity.empty()) continue;
      gathered.snapshot.resize(++packs);
      want(part.blob, [&gathered, at = packs - 1](Pinned file) { gathered.snapshot[at] = std::move(file); });
      continue;
    }
    if (!part.share.empty()) share(part, part.name, true);
    if (!part.blob.empty()) want(part.blob, [&gathered, name = part.name](Pinned file) { gathered.files[name] = std::move(file); });
  }
  if (job.item.kind == "command")
    for (const JobId& parent : job.item.after) {
      ++progress->open;
      context.parents.ask(parent, job.item.grant.job, [progress, parent, share, want](Result<std::string> result) {
        if (!result) return progress->broke({result.error().code, "the result of job " + to_string(parent) + ", which it came after: " + result.error().what, result.error().next});
        auto brought = result->empty() ? Result<wire::ResultBody>(wire::ResultBody{}) : wire::decode_result_body(std::as_bytes(std::span(*result)));
        if (!brought) return progress->broke(brought.error());
        std::erase_if(brought->parts, [](const wire::Part& part) { return JobLog::is_log(part.name); });
        for (const wire::Part& part : brought->parts) {
          const std::string name = to_string(parent) + "/" + part.name;
          if (!part.share.empty()) share(part, name, false);   // who wrote there may have been on another host
          if (!part.blob.empty()) want(part.blob, [progress, name](Pinned file) { progress->gathered->files[name] = std::move(file); });
        }
        progress->gathered->parents.emplace_back(parent, std::move(*brought));
        progress->arrived();
      });
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

namespace {

/// Files of the output go to its share. On the disk thread: every one of them, or none is named in the result.
Result<void> write_to_share(Output& output, const files::Shares& shares) {
  for (Output::Item& item : output.items) {
    if (item.file.empty() || item.stays) continue;
    const std::string reference = output.outputs + "/" + item.name;
    std::error_code ec;
    item.share_bytes = fs::file_size(item.file, ec);
    if (auto put = shares.put(reference, item.file); !put) return put;
    item.share = reference;
    item.file.clear();
  }
  if (std::count_if(output.items.begin(), output.items.end(), [](const auto& i) { return !i.share.empty(); }) > static_cast<std::ptrdiff_t>(kSharedNamed)) {
    std::erase_if(output.items, [](const auto& i) { return !i.share.empty(); });
    Output::Item folder{"outputs", "inode/directory", {}, {}};
    folder.share = output.outputs;
    output.items.push_back(std::move(folder));
  }
  return {};
}

void pack_items(Output output, Blobs& blobs, BlobsGo go, std::function<void(Result<Packed>)> done) {
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
    if (!item.share.empty()) {
      part.share = std::move(item.share);
      part.share_bytes = item.share_bytes;
      continue;
    }
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

}  // namespace

void pack(Output output, ChildContext& context, BlobsGo go, std::function<void(Result<Packed>)> done) {
  if (output.outputs.empty()) return pack_items(std::move(output), context.blobs, go, std::move(done));
  asio::post(context.disk, [&context, go, output = std::move(output), done = std::move(done)]() mutable {
    auto written = write_to_share(output, context.shares);
    asio::post(context.io, [&context, go, output = std::move(output), written = std::move(written), done = std::move(done)]() mutable {
      if (!written) return done(tl::unexpected(written.error()));
      pack_items(std::move(output), context.blobs, go, std::move(done));
    });
  });
}

}  // namespace gq::worker
