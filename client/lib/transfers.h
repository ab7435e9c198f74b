// transfers.h - blobs to and from the broker, in chunks, with a small window and resume. Loop thread only.
//
// Put: a first BlobPut without bytes asks from where to go on (or learns that the broker has it already); then chunks in order,
// several under way. An answer that names another offset than expected rewinds. Two uploads of the same content are one.
// Get: the first chunk tells the size, the rest follows in a window; each lands at its own offset.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "client/lib/engine.h"
#include "client/lib/prepare.h"

namespace gq::client {

class Transfers {
 public:
  using Done = std::function<void(Result<void>)>;
  /// Called with (total, offset, bytes); total is the same each time. false = the taker cannot go on.
  using Take = std::function<Result<void>(std::uint64_t total, std::uint64_t offset, std::string_view bytes)>;

  explicit Transfers(Engine& engine) : engine_(engine) {}

  /// `brief`: only jobs with durability none name it, so it need not be on disk.
  void upload(BlobSourcePtr source, Done done, bool brief = false);
  void download(const BlobDigest& blob, Take take, Done done);

 private:
  struct Upload {
    BlobSourcePtr source;
    std::vector<Done> done;
    std::uint64_t next{};              ///< first byte not sent
    std::uint64_t best{};              ///< furthest the broker has confirmed
    unsigned under_way{}, rewinds{};
    bool brief{}, rewinding{}, finished{};
    std::uint64_t rewind_to{};
  };
  struct Download {
    BlobDigest blob;
    Take take;
    Done done;
    std::uint64_t total{}, next{}, received{};
    unsigned under_way{};
    bool sized{}, finished{};
  };
  using UploadPtr = std::shared_ptr<Upload>;
  using DownloadPtr = std::shared_ptr<Download>;

  void begin(const UploadPtr& upload);
  bool hand_over(const UploadPtr& upload);
  void probe(const UploadPtr& upload);
  void pump(const UploadPtr& upload);
  void chunk_answered(const UploadPtr& upload, std::uint64_t sent_to, Result<Answer>&& answer);
  void finish(const UploadPtr& upload, Result<void> result);
  void pump(const DownloadPtr& download);
  void ask(const DownloadPtr& download, std::uint64_t offset);
  void chunk_arrived(const DownloadPtr& download, std::uint64_t offset, Result<Answer>&& answer);
  void finish(const DownloadPtr& download, Result<void> result);

  static constexpr std::uint64_t kNearMax = 32U << 20U;   // written on the loop's thread: more goes in chunks
  static constexpr unsigned kWindow = 6;

  Engine& engine_;
  std::map<std::pair<BlobDigest, bool>, UploadPtr> uploads_;   ///< by content and brief
};

}  // namespace gq::client
