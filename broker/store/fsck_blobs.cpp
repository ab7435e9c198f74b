// fsck_blobs.cpp - are the files there that records name, and do they hold what their names say?
#include <array>
#include <filesystem>
#include <fstream>

#include "broker/store/blob_files.h"
#include "broker/store/fsck_session.h"

namespace gq::store {

namespace {

namespace fs = std::filesystem;

/// nullopt: it cannot be read to its end.
std::optional<BlobDigest> digest_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  Sha256 hash;
  std::array<char, 1 << 16> buffer;
  while (in.read(buffer.data(), buffer.size()) || in.gcount() > 0) hash.update({buffer.data(), static_cast<std::size_t>(in.gcount())});
  if (!in.eof()) return std::nullopt;
  return hash.finish();
}

}  // namespace

std::vector<Finding> look_at_blobs(const std::string& dir, const std::vector<NamedBlob>& named, bool deep) {
  std::vector<Finding> findings;
  const BlobFiles files(dir);
  for (const NamedBlob& blob : named) {
    const fs::path file = files.path_of(blob.digest);
    std::error_code error;
    const bool ended = blob.needed.empty();
    const std::string without = ended ? "; it can no longer be fetched" : ": " + blob.needed;
    if (!fs::is_regular_file(file, error)) {
      findings.push_back({FindingKind::no_blob, file.string(), "the blob that " + blob.by + " names is missing" + without, {}, {}, {}, ended});
      continue;
    }
    if (!deep || digest_of(file) == blob.digest) continue;
    Finding bad{FindingKind::bad_blob, file.string(), "the file is not what its name says (a disk that lies?); " + blob.by + " names it" + without,
                "the file is put aside; the same content may then be sent again", {}, {}, false};
    bad.moves.emplace_back(file.string(), (fs::path(dir) / "quarantine" / file.filename()).string());
    findings.push_back(std::move(bad));
  }
  return findings;
}

}  // namespace gq::store
