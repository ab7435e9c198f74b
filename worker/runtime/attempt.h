// attempt.h - the folder of one attempt, its inputs, and what becomes of its outputs.
//
//   SCRATCH/attempts/JOB-ATTEMPT/  (0700)   in/ inputs · out/ artefacts · checkpoint/ · work/ default working directory · log
// Removed when the attempt has been reported. Nothing of one attempt is ever seen by another.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/files/shares.h"
#include "common/wire/job_body.h"
#include "worker/runtime/blobs.h"
#include "worker/runtime/child_paths.h"
#include "worker/runtime/executor.h"

namespace gq::worker {

class AttemptFolder {
 public:
  static Result<std::unique_ptr<AttemptFolder>> make(const std::string& scratch, const Grant& grant, asio::thread_pool& disk);
  ~AttemptFolder();   ///< removes it, on the disk thread
  AttemptFolder(const AttemptFolder&) = delete;
  AttemptFolder& operator=(const AttemptFolder&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string in() const { return path_ + "/in"; }
  [[nodiscard]] std::string out() const { return path_ + "/out"; }
  [[nodiscard]] std::string checkpoint() const { return path_ + "/checkpoint"; }
  [[nodiscard]] std::string work() const { return path_ + "/work"; }

 private:
  AttemptFolder(std::string path, asio::thread_pool& disk) : path_(std::move(path)), disk_(disk) {}
  std::string path_;
  asio::thread_pool& disk_;
};

/// What a job needs from the blob store and from shares before it can start.
struct Gathered {
  wire::JobBody body;
  std::map<std::string, Pinned> files;   ///< by part name; of a parent: "PARENT/part name", so too in `shared`
  std::map<std::string, files::SharedFilePtr> shared;   ///< by part name: open as long as this lives
  Pinned resume;                         ///< null = from the beginning
  std::vector<std::pair<JobId, wire::ResultBody>> parents;   ///< of a command: what the jobs it came after brought, their logs left out
  std::vector<std::string> left_out;                         ///< of it, with the reason: for the job's log
  std::vector<Pinned> snapshot;          ///< packs of the working directory, in order; empty where the submitter's own folder is seen
  bool sees_cwd{};                       ///< body.cwd here is the folder that the submitter meant
  /// Where this part lies; empty = inline.
  [[nodiscard]] std::string path_of(const std::string& part) const;
};
void gather(const Job& job, ChildContext& context, std::function<void(Result<std::shared_ptr<Gathered>>)> done);

using files::is_safe_path;

/// A result in the making: small parts stay inline while they fit together, the rest becomes blobs.
struct Output {
  std::map<std::string, std::string> values;
  struct Item {
    std::string name, media, bytes, file;       ///< file non-empty: content lies there
    bool stays{};                               ///< with the result, whatever becomes of the others
    std::string share{};                        ///< or it was written there
    std::uint64_t share_bytes{};
  };
  std::vector<Item> items;
  std::string outputs;       ///< "NAME/path" on a share: files are written there instead
};
struct Packed {
  std::string body;
  std::vector<BlobDigest> blobs;
};
/// `here`: the blobs stay in this worker's cache, durably, until the session asks for them (see session::Ending::stored_here).
enum class BlobsGo : std::uint8_t { to_broker, here };
void pack(Output output, ChildContext& context, BlobsGo go, std::function<void(Result<Packed>)> done);
/// Every regular file below `folder`, as items named by their relative path (links are not followed), at most 10,000.
Result<std::vector<Output::Item>> artefacts(const std::string& folder);
std::string media_of(std::string_view file_name);

}  // namespace gq::worker
