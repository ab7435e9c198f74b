// prepare.cpp - judge a spec before it travels, so that a mistake is a sentence here and not a round trip.
#include "client/lib/prepare.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "client/lib/convert.h"
#include "common/files/shares.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/limits.h"
#include "common/wire/job_body.h"

namespace gq::client {

BlobSource::~BlobSource() {
  if (fd >= 0) ::close(fd);
}

Result<std::string> BlobSource::read(std::uint64_t offset, std::size_t bytes_max) const {
  const std::size_t want = static_cast<std::size_t>(std::min<std::uint64_t>(bytes_max, total - std::min(total, offset)));
  if (fd < 0) return bytes.substr(static_cast<std::size_t>(offset), want);
  std::string out(want, '\0');
  for (std::size_t have = 0; have < want;) {
    const ssize_t n = ::pread(fd, out.data() + have, want - have, static_cast<off_t>(offset + have));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(Errc::bad_input, "a file became shorter while it was uploaded", "leave the file alone until the command ends, then try again");
    have += static_cast<std::size_t>(n);
  }
  return out;
}

std::size_t Prepared::wire_bytes() const {
  std::size_t bytes = payload.size() + 160 + item.kind.size() + item.model.size() + item.unique.size() + item.label.size();
  bytes += 18 * item.after.size() + 36 * item.blobs.size();
  for (const std::string& label : item.where) bytes += label.size() + 3;
  return bytes;
}

namespace {

void append(std::string& out, std::string_view text) {
  const auto size = static_cast<std::uint32_t>(text.size());
  out.append(reinterpret_cast<const char*>(&size), sizeof size);
  out.append(text);
}
template <class T>
void append_number(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::uint64_t random64() {
  std::uint64_t value = 0;
  while (::getrandom(&value, sizeof value, 0) != static_cast<ssize_t>(sizeof value)) {}
  return value;
}

Result<JobId> job_id(const std::string& text, std::string_view whose) {
  const auto id = parse_job_id(text);
  if (!id || id->empty())
    return fail(Errc::usage, std::string(whose) + " '" + text + "' is not a job id (26 characters, as printed by submit)", "gpuq list");
  return *id;
}

Result<void> judge(const gpuq::JobSpec& spec) {
  if (spec.kind.empty()) return fail(Errc::usage, "a job needs a kind", "one of: " + kinds_text());
  if (!kind_index(spec.kind)) {
    const std::string near = closest(spec.kind, kind_names());
    return fail(Errc::unknown_kind, "there is no kind '" + spec.kind + "'" + (near.empty() ? "" : ", did you mean '" + near + "'?"),
                "use one of: " + kinds_text());
  }
  if (spec.kind == "command" && spec.argv.empty()) return fail(Errc::usage, "a command job needs a command", "gpuq submit -- python train.py");
  if (spec.priority < 0 || spec.priority > 9)
    return fail(Errc::over_limit, "priority " + std::to_string(spec.priority) + " is not 0..9", "9 is served first, 5 is the default");
  if (spec.devices < 1 || spec.devices > 64) return fail(Errc::over_limit, "devices must be 1..64", "");
  if (spec.vram_min_mib < 0 || spec.vram_max_mib < 0 || (spec.vram_max_mib != 0 && spec.vram_max_mib < spec.vram_min_mib))
    return fail(Errc::usage, "the memory range is upside down", "for example 2GiB..8GiB");
  if (spec.retries < 0 || static_cast<std::uint32_t>(spec.retries) > kLimits.retries_max)
    return fail(Errc::over_limit, "retries must be 0.." + std::to_string(kLimits.retries_max), "");
  if (spec.per_device && spec.kind != "command") return fail(Errc::usage, "a process for each device is for commands, not for " + spec.kind, "leave per_device out");
  if (!spec.durability.empty() && spec.durability != "none" && spec.durability != "always")
    return fail(Errc::usage, "durability '" + spec.durability.substr(0, 40) + "' is neither always nor none", "leave it out: on disk before the answer");
  if (spec.where.size() > kLimits.where_max) return fail(Errc::over_limit, "more than " + std::to_string(kLimits.where_max) + " labels asked for", "");
  if (spec.after.size() > kLimits.after_max) return fail(Errc::over_limit, "a job may come after at most " + std::to_string(kLimits.after_max) + " others", "");
  if (spec.unique.size() > 256 || spec.label.size() > 256) return fail(Errc::over_limit, "unique key and label are at most 256 bytes", "");
  return {};
}

/// The job goes only where this share is.
Result<void> need_share(std::string_view reference, wire::SubmitItem& item) {
  const auto ref = files::parse_share_ref(reference);
  if (!ref) return tl::unexpected(ref.error());
  const std::string label = files::share_label(ref->name);
  if (std::find(item.where.begin(), item.where.end(), label) == item.where.end()) item.where.push_back(label);
  return {};
}

/// Moves the largest parts into the blob store until the rest fits inline.
/// `brief`: nobody needs them again under a name that follows from their content.
Result<void> set_aside_large(wire::JobBody& body, Prepared& job, bool brief) {
  std::size_t fixed = 64;
  for (const auto& [k, v] : body.params) fixed += k.size() + v.size() + 8;
  for (const auto& [k, v] : body.env) fixed += k.size() + v.size() + 8;
  for (const auto& a : body.argv) fixed += a.size() + 5;
  fixed += body.cwd.size() + body.cwd_identity.size();
  std::size_t inline_bytes = 0;
  std::vector<wire::Part*> parts;
  for (wire::Part& part : body.parts) {
    fixed += part.name.size() + part.media.size() + 64;
    if (!part.blob.empty()) job.item.blobs.push_back(part.blob);
    inline_bytes += part.bytes.size();
    parts.push_back(&part);
  }
  if (fixed > kLimits.inline_bytes_max)
    return fail(Errc::too_large, "the job's parameters, command and environment are " + std::to_string(fixed >> 10U) + " KiB, more than " +
                std::to_string(kLimits.inline_bytes_max >> 10U) + " KiB", "pass large data as a file or part");
  std::sort(parts.begin(), parts.end(), [](const wire::Part* a, const wire::Part* b) { return a->bytes.size() > b->bytes.size(); });
  for (wire::Part* part : parts) {
    if (inline_bytes + fixed <= kLimits.inline_bytes_max) break;
    inline_bytes -= part->bytes.size();
    if (part->bytes.size() > kLimits.blob_bytes_max) return fail(Errc::too_large, "part '" + part->name + "' is larger than 8 GiB", "");
    BlobSourcePtr source = brief ? brief_blob_of(std::move(part->bytes)) : blob_of(std::move(part->bytes));
    part->bytes.clear();
    part->blob = source->digest;
    part->blob_bytes = source->total;
    job.item.blobs.push_back(source->digest);
    job.uploads.push_back(std::move(source));
  }
  return {};
}

}  // namespace

JobId new_job_id() {
  // 80 random bits per id from a per-thread generator seeded by the kernel: ids must not collide, they guard nothing.
  thread_local std::uint64_t s0 = random64(), s1 = random64() | 1U;
  const auto next = [&] {   // xorshift128+
    std::uint64_t x = s0;
    const std::uint64_t y = s1;
    s0 = y;
    x ^= x << 23U;
    s1 = x ^ y ^ (x >> 17U) ^ (y >> 26U);
    return s1 + y;
  };
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  const std::uint64_t hi = next() & 0xFFFFU;
  return make_job_id(static_cast<std::uint64_t>(ms), hi, next());
}

Digest128 digest_of(const wire::SubmitItem& item, std::string_view payload) {
  thread_local std::string scratch;
  scratch.clear();
  append(scratch, item.kind);
  append_number(scratch, item.job_class);
  append_number(scratch, item.priority);
  append(scratch, item.model);
  append_number(scratch, item.budget_min_mib);
  append_number(scratch, item.budget_max_mib);
  append_number(scratch, item.devices);
  append_number(scratch, item.on_preempt);
  append_number(scratch, static_cast<std::uint8_t>(item.exclusive));
  for (const std::string& label : item.where) append(scratch, label);
  append_number(scratch, item.not_before_ms);
  append_number(scratch, item.deadline_ms);
  append_number(scratch, item.timeout_us);
  append_number(scratch, item.retries);
  append(scratch, item.unique);
  append_number(scratch, static_cast<std::uint32_t>(item.after.size()));
  for (const JobId& id : item.after) append_number(scratch, id.hi), append_number(scratch, id.lo);
  append(scratch, item.label);
  append(scratch, payload);
  const XXH128_hash_t hash = XXH3_128bits(scratch.data(), scratch.size());
  return {hash.high64, hash.low64};
}

Result<PreparedPtr> prepare(gpuq::JobSpec&& spec) {
  if (auto ok = judge(spec); !ok) return tl::unexpected(ok.error());
  const KindTraits& kind = kKinds[*kind_index(spec.kind)];
  auto job = std::make_shared<Prepared>();
  wire::SubmitItem& item = job->item;
  const bool has_own_id = !spec.id.empty();   // said again by another process it must be the same job, so its content gives the names
  if (!has_own_id) {
    item.id = new_job_id();
  } else {
    auto id = job_id(spec.id, "id");
    if (!id) return tl::unexpected(id.error());
    item.id = *id;
  }
  item.kind = std::move(spec.kind);
  item.job_class = static_cast<std::uint8_t>(kind.default_class);
  if (!spec.job_class.empty()) {
    const auto c = parse_job_class(spec.job_class);
    if (!c) return fail(Errc::usage, "there is no class '" + spec.job_class + "'", "use inference, training or synthesis");
    item.job_class = static_cast<std::uint8_t>(*c);
  }
  item.on_preempt = static_cast<std::uint8_t>(kind.on_preempt);
  if (!spec.on_preempt.empty()) {
    const auto p = parse_on_preempt(spec.on_preempt);
    if (!p) return fail(Errc::usage, "there is no --on-preempt '" + spec.on_preempt + "'", "use checkpoint, pause, restart or never");
    item.on_preempt = static_cast<std::uint8_t>(*p);
  }
  item.priority = static_cast<std::uint8_t>(spec.priority);
  item.model = std::move(spec.model);
  item.budget_min_mib = spec.vram_min_mib;
  item.budget_max_mib = spec.vram_max_mib == 0 ? spec.vram_min_mib : std::min(spec.vram_max_mib, kRestOfDevice.value);
  item.devices = static_cast<std::uint16_t>(spec.devices);
  item.exclusive = spec.exclusive;
  item.durability = spec.durability == "none" ? 1 : spec.durability == "always" ? 2 : 0;
  item.strict = spec.strict;   // how it is judged at the door is no part of what it is: not in the digest
  item.where = std::move(spec.where);
  item.not_before_ms = spec.not_before_ms;
  item.deadline_ms = spec.deadline_ms;
  item.timeout_us = std::chrono::duration_cast<std::chrono::microseconds>(spec.timeout).count();
  item.retries = static_cast<std::uint32_t>(spec.retries);
  item.unique = std::move(spec.unique);
  item.label = std::move(spec.label);
  item.after.reserve(spec.after.size());
  for (const std::string& text : spec.after) {
    auto id = job_id(text, "--after");
    if (!id) return tl::unexpected(id.error());
    item.after.push_back(*id);
  }

  wire::JobBody body;
  body.params = std::move(spec.params);
  body.argv = std::move(spec.argv);
  body.env = std::move(spec.env);
  body.cwd = std::move(spec.cwd);
  body.cwd_identity = std::move(spec.cwd_identity);
  body.per_device = spec.per_device;
  body.parts.reserve(spec.parts.size());
  for (gpuq::Part& part : spec.parts) {
    wire::Part out;
    out.name = std::move(part.name);
    out.media = std::move(part.media);
    out.bytes = std::move(part.bytes);
    if (!part.blob.empty()) {
      const auto digest = parse_blob_digest(part.blob);
      if (!digest) return fail(Errc::usage, "part '" + out.name + "' names a blob that is no digest", "a blob is 64 hexadecimal digits, as upload() returns");
      out.blob = *digest;
      out.blob_bytes = part.size;
      out.bytes.clear();
    }
    if (!part.share.empty()) {
      if (auto needed = need_share(part.share, item); !needed) return tl::unexpected(needed.error());
      out.share = std::move(part.share);
      out.share_bytes = part.size;
      out.share_mtime_ms = part.share_mtime_ms;
      out.bytes.clear();
    }
    body.parts.push_back(std::move(out));
  }
  if (!spec.outputs.empty()) {
    if (auto needed = need_share(spec.outputs, item); !needed) return tl::unexpected(needed.error());
    body.outputs = std::move(spec.outputs);
  }
  if (item.where.size() > kLimits.where_max) return fail(Errc::over_limit, "labels and shares together are more than " + std::to_string(kLimits.where_max), "put the files on fewer shares");
  std::sort(item.where.begin(), item.where.end());
  if (auto ok = set_aside_large(body, *job, item.durability == 1 && !has_own_id); !ok) return tl::unexpected(ok.error());
  job->payload = wire::encode(body);
  item.payload_bytes = static_cast<std::uint32_t>(job->payload.size());
  item.watch = true;
  item.digest = digest_of(item, job->payload);
  return job;
}

// ---- hashing

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  check(context_ != nullptr && EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), EVP_sha256(), nullptr) == 1, "OpenSSL has no SHA-256");
}
Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_)); }
void Sha256::update(std::string_view bytes) { EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), bytes.data(), bytes.size()); }
BlobDigest Sha256::finish() {
  BlobDigest digest;
  unsigned size = 0;
  EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), digest.bytes.data(), &size);
  return digest;
}

BlobDigest sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

BlobSourcePtr brief_blob_of(std::string bytes) {
  auto source = std::make_shared<BlobSource>();
  std::copy(kBriefName.begin(), kBriefName.end(), source->digest.bytes.begin());
  check(RAND_bytes(source->digest.bytes.data() + kBriefName.size(), static_cast<int>(source->digest.bytes.size() - kBriefName.size())) == 1, "no random bytes");
  source->total = bytes.size();
  source->bytes = std::move(bytes);
  return source;
}

BlobSourcePtr blob_of(std::string bytes) {
  auto source = std::make_shared<BlobSource>();
  source->digest = sha256(bytes);
  source->total = bytes.size();
  source->bytes = std::move(bytes);
  return source;
}

Result<BlobSourcePtr> open_blob_file(const std::string& path) {
  auto source = std::make_shared<BlobSource>();
  source->fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (source->fd < 0)
    return fail(errno == ENOENT ? Errc::not_found : Errc::bad_input, "cannot read " + path + ": " + std::strerror(errno), "check the path and its permissions");
  struct stat status {};
  if (::fstat(source->fd, &status) != 0 || !S_ISREG(status.st_mode))
    return fail(Errc::bad_input, path + " is not a regular file", "name a file");
  source->total = static_cast<std::uint64_t>(status.st_size);
  if (source->total > kLimits.blob_bytes_max) return fail(Errc::too_large, path + " is larger than 8 GiB", "");
  Sha256 hash;
  for (std::uint64_t at = 0; at < source->total;) {
    auto chunk = source->read(at, std::size_t{1} << 20U);
    if (!chunk) return tl::unexpected(chunk.error());
    hash.update(*chunk);
    at += chunk->size();
  }
  source->digest = hash.finish();
  return BlobSourcePtr(std::move(source));
}

}  // namespace gq::client
