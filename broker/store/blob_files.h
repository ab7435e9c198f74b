// blob_files.h - the file side of the blob store: blocking, one thread, no bookkeeping beyond the uploads it has open.
#pragma once

#include <openssl/evp.h>

#include <filesystem>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "broker/store/blobs.h"

namespace gq::store {

class Sha256 {
 public:
  Sha256();
  void update(std::string_view bytes);
  BlobDigest finish();

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

class BlobFiles {
 public:
  explicit BlobFiles(std::filesystem::path dir) : dir_(std::move(dir)) {}

  struct Found { BlobDigest digest; std::uint64_t size{}; };
  Result<std::vector<Found>> open();                                  ///< make folders, sweep tmp/, brief/ and near/, list what is whole
  Result<std::uint64_t> begin(const BlobDigest& digest);              ///< offset to go on from
  Result<std::uint64_t> append(const BlobDigest& digest, std::uint64_t offset, std::string_view chunk);
  /// Afterwards it is durable under its name (briefly: only whole, in brief/), or gone.
  Result<void> finish(const BlobDigest& digest, std::uint64_t size, bool brief);
  Result<void> promote(const BlobDigest& digest);                     ///< from brief/ to its place, durably; fine when it is there
  void abandon(const BlobDigest& digest);
  Result<void> adopt(const BlobDigest& name, std::uint64_t size, const std::string& file);   ///< from near/ to brief/
  void sweep_near(std::chrono::milliseconds older_than);
  [[nodiscard]] std::filesystem::path near_folder() const { return dir_ / "near"; }
  Result<BlobChunk> read(const BlobDigest& digest, std::uint64_t offset, std::size_t length);
  void remove(const BlobDigest& digest);
  [[nodiscard]] std::filesystem::path path_of(const BlobDigest& digest) const;
  [[nodiscard]] std::filesystem::path brief_of(const BlobDigest& digest) const;

 private:
  struct Upload {
    Descriptor file;
    Sha256 hash;
    std::uint64_t offset{};
  };
  struct Open { BlobDigest digest; Descriptor file; std::uint64_t size{}; };
  [[nodiscard]] std::filesystem::path tmp_of(const BlobDigest& digest) const;
  Result<void> make_folder_of(const BlobDigest& digest);
  Result<void> settle(const Descriptor& file, const std::filesystem::path& from, const BlobDigest& digest);

  std::filesystem::path dir_;
  std::unordered_map<BlobDigest, Upload> uploads_;
  std::list<Open> reading_;   ///< the last few, newest first: a download is many chunks of one file
};

}  // namespace gq::store
