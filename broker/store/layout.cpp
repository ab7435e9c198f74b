// layout.cpp - packing and unpacking.
#include "broker/store/layout.h"

#include <bit>
#include <cstring>
#include <limits>

namespace gq::store {

namespace {

class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) { u8(kRecordVersion); }
  void u8(std::uint8_t v) { out_.push_back(static_cast<char>(v)); }
  void u(std::uint64_t v) {
    while (v >= 0x80U) {
      u8(static_cast<std::uint8_t>(v | 0x80U));
      v >>= 7U;
    }
    u8(static_cast<std::uint8_t>(v));
  }
  void i(std::int64_t v) { u((static_cast<std::uint64_t>(v) << 1U) ^ static_cast<std::uint64_t>(v >> 63)); }
  void u64(std::uint64_t v) {   // random bits: a varint would only be longer
    for (int shift = 0; shift < 64; shift += 8) u8(static_cast<std::uint8_t>(v >> shift));
  }
  void text(std::string_view s) {
    u(s.size());
    out_.append(s);
  }
  void texts(const std::vector<std::string>& list) {
    u(list.size());
    for (const auto& s : list) text(s);
  }
  void blob(const BlobDigest& d) { out_.append(reinterpret_cast<const char*>(d.bytes.data()), d.bytes.size()); }
  void blobs(const std::vector<BlobDigest>& list) {
    u(list.size());
    for (const auto& d : list) blob(d);
  }
  void id(const JobId& v) { u64(v.hi), u64(v.lo); }

 private:
  std::string& out_;
};

/// Remembers the first oddity; reads after it give zeros, so that a decoder reads straight through and asks once at the
/// end.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {
    if (const auto version = u8(); version != kRecordVersion && odd_.empty())
      odd_ = "record version " + std::to_string(version) + " is not " + std::to_string(kRecordVersion);
  }
  std::uint8_t u8() {
    if (rest_.empty()) return spoil("it ends early"), std::uint8_t{0};
    const auto v = static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return v;
  }
  std::uint64_t u() {
    std::uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const std::uint8_t byte = u8();
      v |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
      if ((byte & 0x80U) == 0) return v;
    }
    spoil("a number is too long");
    return 0;
  }
  template <class N>
  N small() {
    const std::uint64_t v = u();
    if (v > std::numeric_limits<N>::max()) return spoil("a number is too large"), N{};
    return static_cast<N>(v);
  }
  std::int64_t i() {
    const std::uint64_t v = u();
    return static_cast<std::int64_t>(v >> 1U) ^ -static_cast<std::int64_t>(v & 1U);
  }
  std::uint64_t u64() {
    std::uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 8) v |= static_cast<std::uint64_t>(u8()) << shift;
    return v;
  }
  std::string_view raw(std::size_t n) {
    if (n > rest_.size()) return spoil("a text ends early"), std::string_view{};
    const auto s = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return s;
  }
  std::string text() { return std::string(raw(static_cast<std::size_t>(u()))); }
  std::vector<std::string> texts() {
    std::vector<std::string> list;
    for (std::uint64_t n = count(1); n > 0; --n) list.push_back(text());
    return list;
  }
  BlobDigest blob() {
    BlobDigest d;
    const auto s = raw(d.bytes.size());
    if (s.size() == d.bytes.size()) std::memcpy(d.bytes.data(), s.data(), s.size());
    return d;
  }
  std::vector<BlobDigest> blobs() {
    std::vector<BlobDigest> list;
    for (std::uint64_t n = count(32); n > 0; --n) list.push_back(blob());
    return list;
  }
  JobId id() {
    JobId v;
    v.hi = u64();
    v.lo = u64();
    return v;
  }
  /// A list's length, refused when the rest cannot hold that many: a flipped bit must not allocate.
  std::uint64_t count(std::size_t bytes_each) {
    const std::uint64_t n = u();
    if (n > rest_.size() / bytes_each) return spoil("a list is longer than the record"), 0;
    return n;
  }
  template <class Enum>
  Enum enumerated(std::size_t values) {
    const std::uint8_t v = u8();
    if (v >= values) spoil("an enumeration has an unknown value");
    return static_cast<Enum>(v);
  }
  void spoil(std::string why) {
    if (odd_.empty()) odd_ = std::move(why);
    rest_ = {};
  }
  template <class T>
  Result<T> finish(T value) {
    if (odd_.empty() && !rest_.empty()) odd_ = std::to_string(rest_.size()) + " bytes too many";
    if (!odd_.empty()) return fail(Errc::redis_corrupt, odd_);
    return value;
  }

 private:
  std::string_view rest_;
  std::string odd_;
};

}  // namespace

StateSet set_of(JobState state, JobClass job_class) {
  switch (state) {
    case JobState::blocked: return StateSet::blocked;
    case JobState::waiting: return StateSet::waiting;
    case JobState::ready:
      return static_cast<StateSet>(static_cast<std::uint8_t>(StateSet::ready_inference) +
                                   static_cast<std::uint8_t>(job_class));
    case JobState::running:
    case JobState::yielding: return StateSet::running;
    default: return StateSet::final;
  }
}

std::int64_t score_of(const core::JobDynamic& dynamic, std::uint64_t seq) {
  switch (set_of(dynamic.state, {})) {
    case StateSet::waiting: return dynamic.due.ms;
    case StateSet::running: return dynamic.started.ms;
    case StateSet::final: return dynamic.ended.ms;
    default: return static_cast<std::int64_t>(seq);
  }
}

Keys::Keys(const std::string& name_space) {
  const std::string p = "gpuq:{" + name_space + "}:";
  term = p + "term", leader = p + "leader", batch = p + "batch", tombs = p + "tombs", unique = p + "unique",
  models = p + "models", settings = p + "settings";
  fixed = p + "j:", dynamic = p + "d:", body = p + "b:", result = p + "r:";
  sets = {p + "blocked", p + "waiting", p + "ready:inference", p + "ready:training", p + "ready:synthesis",
          p + "running", p + "final"};
}

void append_encoded(const core::JobFixed& f, std::string& out) {
  Writer w(out);
  w.u(f.seq), w.i(f.submitted.ms), w.u64(f.digest.hi), w.u64(f.digest.lo);
  w.text(kKinds[f.needs.kind].name), w.u8(static_cast<std::uint8_t>(f.needs.job_class)), w.text(f.needs.model);
  w.i(f.needs.budget_min.value), w.i(f.needs.budget_max.value), w.u(f.needs.devices);
  w.u8(static_cast<std::uint8_t>(f.needs.on_preempt)), w.u8(f.needs.exclusive ? 1 : 0), w.texts(f.needs.where);
  w.u8(f.priority), w.i(f.not_before.ms), w.i(f.deadline.ms), w.i(f.timeout.count()), w.u(f.retries), w.text(f.unique);
  w.u(f.after.size());
  for (const auto& id : f.after) w.id(id);
  w.blobs(f.blobs);
  w.u8(f.retry_of.empty() ? 0 : 1);
  if (!f.retry_of.empty()) w.id(f.retry_of);
  w.text(f.owner), w.text(f.label), w.u(f.body_bytes);
}

namespace {
bool has_left(const core::JobDynamic& d) { return d.evictions != 0 || !d.leave_reason.empty() || !d.leave_for.empty(); }
constexpr std::array<std::string_view, 3> kSettingKinds{"drain_worker", "drain_device", "pause_class"};
}  // namespace

void append_encoded(const core::JobDynamic& d, std::string& out) {
  Writer w(out);
  w.u8(static_cast<std::uint8_t>(d.state)), w.u(d.attempt), w.u64(d.nonce);
  w.u(d.failures), w.u(d.losses), w.u(d.own_losses), w.u(d.preemptions);
  w.text(d.worker), w.texts(d.devices), w.i(d.granted.value);
  w.u8(static_cast<std::uint8_t>((d.cancel_asked ? 1U : 0U) | (d.fetched ? 2U : 0U) |
                                 (d.checkpoint.blob.empty() ? 0U : 4U) | (d.held ? 8U : 0U) | (has_left(d) ? 16U : 0U)));
  w.i(d.due.ms), w.i(d.started.ms), w.i(d.ended.ms);
  if (!d.checkpoint.blob.empty()) w.blob(d.checkpoint.blob);
  w.u(d.checkpoint.step), w.text(d.model_version);
  w.text(d.error == Errc::internal ? std::string_view{} : to_string(d.error));   // the text is stable, the number is not
  w.text(d.error_text), w.u(d.result_bytes), w.blobs(d.result_blobs);
  if (has_left(d)) w.u(d.evictions), w.text(d.leave_reason), w.id(d.leave_for);
}

std::string encode(const core::JobFixed& fixed) {
  std::string out;
  append_encoded(fixed, out);
  return out;
}
std::string encode(const core::JobDynamic& dynamic) {
  std::string out;
  append_encoded(dynamic, out);
  return out;
}
std::string encode(const core::ModelRecord& m) {
  std::string out;
  Writer w(out);
  w.text(m.name), w.text(m.version), w.blob(m.blob), w.u(m.bytes), w.text(m.runtime), w.i(m.budget.value),
      w.text(m.metadata);
  w.i(m.pushed.ms), w.text(m.owner), w.u8((m.promoted ? 1 : 0) | (m.promoted_at.ms != 0 ? 2 : 0));
  if (m.promoted_at.ms != 0) w.i(m.promoted_at.ms);
  return out;
}
std::string field_of(core::OperatorSetting::Kind kind, const std::string& target) {
  return std::string(kSettingKinds[static_cast<std::size_t>(kind)]) + " " + target;
}
std::string encode(const core::OperatorSetting& s) {
  std::string out;
  Writer w(out);
  w.u8(static_cast<std::uint8_t>(s.kind)), w.text(s.target), w.i(s.deadline.ms), w.text(s.reason), w.text(s.by), w.i(s.at.ms);
  return out;
}
std::string encode_tombstone(const Digest128& digest, WallTime ended) {
  std::string out;
  Writer w(out);
  w.u64(digest.hi), w.u64(digest.lo), w.i(ended.ms);
  return out;
}

Result<core::JobFixed> decode_fixed(JobId id, std::string_view bytes) {
  Reader r(bytes);
  core::JobFixed f;
  f.id = id;
  f.seq = r.u(), f.submitted.ms = r.i(), f.digest.hi = r.u64(), f.digest.lo = r.u64();
  const std::string kind = r.text();
  if (const auto index = kind_index(kind)) f.needs.kind = *index;
  else r.spoil("unknown kind '" + kind + "' (written by a newer gpuq?)");
  f.needs.job_class = r.enumerated<JobClass>(kJobClasses), f.needs.model = r.text();
  f.needs.budget_min.value = r.i(), f.needs.budget_max.value = r.i(), f.needs.devices = r.small<std::uint16_t>();
  f.needs.on_preempt = r.enumerated<OnPreempt>(4), f.needs.exclusive = r.u8() != 0, f.needs.where = r.texts();
  f.priority = r.u8(), f.not_before.ms = r.i(), f.deadline.ms = r.i(), f.timeout = Duration(r.i());
  f.retries = r.small<std::uint32_t>(), f.unique = r.text();
  for (std::uint64_t n = r.count(16); n > 0; --n) f.after.push_back(r.id());
  f.blobs = r.blobs();
  if (r.u8() != 0) f.retry_of = r.id();
  f.owner = r.text(), f.label = r.text(), f.body_bytes = r.small<std::uint32_t>();
  return r.finish(std::move(f));
}

Result<core::JobDynamic> decode_dynamic(std::string_view bytes) {
  Reader r(bytes);
  core::JobDynamic d;
  d.state = r.enumerated<JobState>(kJobStates), d.attempt = r.small<std::uint32_t>(), d.nonce = r.u64();
  d.failures = r.small<std::uint32_t>(), d.losses = r.small<std::uint32_t>(), d.own_losses = r.small<std::uint32_t>();
  d.preemptions = r.small<std::uint32_t>(), d.worker = r.text(), d.devices = r.texts(), d.granted.value = r.i();
  const std::uint8_t flags = r.u8();
  if (flags > 31) r.spoil("unknown flags (written by a newer gpuq?)");
  d.cancel_asked = (flags & 1U) != 0, d.fetched = (flags & 2U) != 0, d.held = (flags & 8U) != 0;
  d.due.ms = r.i(), d.started.ms = r.i(), d.ended.ms = r.i();
  if ((flags & 4U) != 0) d.checkpoint.blob = r.blob();
  d.checkpoint.step = r.u(), d.model_version = r.text();
  if (const std::string error = r.text(); !error.empty() && !parse_errc(error, d.error))
    r.spoil("unknown error code '" + error + "'");
  d.error_text = r.text(), d.result_bytes = r.small<std::uint32_t>(), d.result_blobs = r.blobs();
  if ((flags & 16U) != 0) d.evictions = r.small<std::uint32_t>(), d.leave_reason = r.text(), d.leave_for = r.id();
  return r.finish(std::move(d));
}

Result<core::ModelRecord> decode_model(std::string_view bytes) {
  Reader r(bytes);
  core::ModelRecord m;
  m.name = r.text(), m.version = r.text(), m.blob = r.blob(), m.bytes = r.u(), m.runtime = r.text(),
  m.budget.value = r.i();
  m.metadata = r.text(), m.pushed.ms = r.i(), m.owner = r.text();
  const std::uint8_t flags = r.u8();
  m.promoted = (flags & 1U) != 0;
  if ((flags & 2U) != 0) m.promoted_at.ms = r.i();
  return r.finish(std::move(m));
}

Result<core::OperatorSetting> decode_setting(std::string_view bytes) {
  Reader r(bytes);
  core::OperatorSetting s;
  s.kind = r.enumerated<core::OperatorSetting::Kind>(kSettingKinds.size()), s.target = r.text(), s.deadline.ms = r.i();
  s.reason = r.text(), s.by = r.text(), s.at.ms = r.i();
  return r.finish(std::move(s));
}

Result<core::Image::Tombstone> decode_tombstone(JobId id, std::string_view bytes) {
  Reader r(bytes);
  core::Image::Tombstone t{.id = id, .digest = {}, .ended = {}};
  t.digest.hi = r.u64(), t.digest.lo = r.u64(), t.ended.ms = r.i();
  return r.finish(t);
}

}  // namespace gq::store
