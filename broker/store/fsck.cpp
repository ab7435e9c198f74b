// fsck.cpp - one look at every job, then at what stands beside the jobs.
#include "broker/store/fsck.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <tuple>

namespace gq::store {

namespace {

constexpr std::array<std::string_view, 24> kNames{
    "no_term", "bad_batch", "foreign_type", "bad_member", "no_record", "bad_record", "no_state", "bad_state", "in_no_set", "in_wrong_set", "in_two_sets", "wrong_score",
    "seq_twice", "no_body", "no_result", "bad_model", "bad_setting", "bad_tombstone", "bad_unique", "no_blob", "bad_blob", "scheduler_refuses", "unknown_key", "quarantined"};
static_assert(kNames.size() == static_cast<std::size_t>(FindingKind::quarantined) + 1);

constexpr std::uint8_t kPriorityMax = 9;

bool is_number(const std::string& text, char end = '\0') {
  std::uint64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && (stop == text.data() + text.size() || (end != '\0' && *stop == end));
}

/// "training job of key 'night', label 'epoch 3'": who must be told.
std::string described(const core::JobFixed& f) {
  std::string text = std::string(to_string(f.needs.job_class)) + " job '" + std::string(kKinds[f.needs.kind].name) + "' of key '" + f.owner + "'";
  if (!f.label.empty()) text += ", label '" + f.label.substr(0, 60) + "'";
  return text;
}

class Examiner {
 public:
  Examiner(const RawNamespace& raw, const Keys& keys, std::string_view stamp)
      : raw_(raw), keys_(keys), prefix_(keys.term.substr(0, keys.term.size() - 4)), aside_(prefix_ + "quarantine:" + std::string(stamp) + ":") {}

  Examined run() {
    look_at_heads();
    for (const auto& [id, job] : raw_.jobs) look_at(id, job);
    sequence_numbers();
    beside();
    auto& all = out_.findings;
    std::stable_sort(all.begin(), all.end(), [](const Finding& a, const Finding& b) { return std::tie(a.note, a.kind) < std::tie(b.note, b.kind); });
    return std::move(out_);
  }

 private:
  Finding& found(FindingKind kind, std::string where, std::string what, std::string repair = {}) {
    return out_.findings.emplace_back(Finding{kind, std::move(where), std::move(what), std::move(repair), {}, {}, false});
  }
  void note(FindingKind kind, std::string where, std::string what) { found(kind, std::move(where), std::move(what)).note = true; }
  Command put_aside(const std::string& key) const { return {"RENAME", key, aside_ + key.substr(prefix_.size())}; }

  // ---- term, batch number, whole keys
  void look_at_heads() {
    const bool holds_anything = !raw_.jobs.empty() || !raw_.models.empty() || !raw_.tombs.empty() || !raw_.settings.empty();
    if (!raw_.term.there && holds_anything)
      found(FindingKind::no_term, keys_.term, "there is data, and nobody ever led it: the namespace was restored or emptied in part", "a term is written")
          .commands = {{"SET", keys_.term, "1 fsck"}};
    if (raw_.term.there && (!raw_.term.bytes || !is_number(*raw_.term.bytes, ' ')))
      found(FindingKind::foreign_type, keys_.term, "it holds no term: another program may use this namespace");   // not ours to touch
    if (raw_.batch.there && (!raw_.batch.bytes || !is_number(*raw_.batch.bytes)))
      found(FindingKind::bad_batch, keys_.batch, "it holds no batch number, so no broker starts", "put aside; the next broker counts from 0").commands = {put_aside(keys_.batch)};
    for (const std::string& key : raw_.odd_types)
      found(FindingKind::foreign_type, key, "it is of another type than gpuq writes", "put aside").commands = {put_aside(key)};
    for (const auto& [set, member] : raw_.odd_members) {
      const std::string& key = keys_.set(set);
      found(FindingKind::bad_member, key, "member '" + member.substr(0, 40) + "' is no job id", "put aside").commands = {
          {"SADD", aside_ + "members:" + key.substr(prefix_.size()), member}, {"ZREM", key, member}};
    }
    for (const std::string& key : raw_.unknown_keys) note(FindingKind::unknown_key, key, "no key of this gpuq; no broker reads it");
    if (raw_.quarantined > 0)
      note(FindingKind::quarantined, prefix_ + "quarantine:*", std::to_string(raw_.quarantined) + " keys that earlier repairs put aside; UNLINK them when nobody misses them");
  }

  // ---- one job
  std::vector<Command> leave_all(const RawJob& job, const std::string& id) const {
    std::vector<Command> commands;
    for (const auto& place : job.places) commands.push_back({"ZREM", keys_.set(place.set), id});
    return commands;
  }
  void quarantine(FindingKind kind, const std::string& where, std::string what, const RawJob& job, const std::string& id) {
    Finding& f = found(kind, where, std::move(what), "the job and all of its keys are put aside; it will not run");
    for (const auto& [prefix, there] : {std::pair{&keys_.fixed, job.fixed.there}, {&keys_.dynamic, job.dynamic.there}, {&keys_.body, job.body}, {&keys_.result, job.result}})
      if (there) f.commands.push_back(put_aside(*prefix + id));
    for (Command& command : leave_all(job, id)) f.commands.push_back(std::move(command));
  }
  std::string places(const RawJob& job) const {
    std::string text;
    for (const auto& place : job.places) text += (text.empty() ? "" : ", ") + keys_.set(place.set).substr(prefix_.size());
    return text;
  }

  void look_at(const JobId& job_id, const RawJob& job) {
    const std::string id = to_string(job_id);
    if (!job.fixed.there) {
      const std::string left = std::string(job.dynamic.there ? " state" : "") + (job.body ? " body" : "") + (job.result ? " result" : "") +
                               (job.places.empty() ? "" : " a place in " + places(job));
      return quarantine(FindingKind::no_record, keys_.fixed + id, "the record is missing, though there is:" + left, job, id);
    }
    if (!job.fixed.bytes) return quarantine(FindingKind::bad_record, keys_.fixed + id, "it is of another type than gpuq writes", job, id);
    auto fixed = decode_fixed(job_id, *job.fixed.bytes);
    if (!fixed) return quarantine(FindingKind::bad_record, keys_.fixed + id, "the record cannot be read: " + fixed.error().what, job, id);
    if (fixed->priority > kPriorityMax)
      return quarantine(FindingKind::bad_record, keys_.fixed + id,
                        "priority " + std::to_string(fixed->priority) + " is not 0.." + std::to_string(kPriorityMax) + ": a broker passes over this " + described(*fixed), job, id);
    core::JobRecord record{std::move(*fixed), {}};
    const core::JobFixed& f = record.fixed;
    if (job.dynamic.there) {
      auto dynamic = job.dynamic.bytes ? decode_dynamic(*job.dynamic.bytes) : Result<core::JobDynamic>(fail(Errc::redis_corrupt, "it is of a foreign type"));
      if (!dynamic)
        return quarantine(FindingKind::bad_state, keys_.dynamic + id,
                          "the state cannot be read (" + dynamic.error().what + "), so this " + described(f) + " may have run or not", job, id);
      record.dynamic = std::move(*dynamic);
    } else {
      // No state means ready and never started. A place in any other set says that there was one.
      const auto elsewhere = std::find_if(job.places.begin(), job.places.end(), [](const RawJob::Place& p) {
        return p.set != StateSet::ready_inference && p.set != StateSet::ready_training && p.set != StateSet::ready_synthesis;
      });
      if (elsewhere != job.places.end() || (job.result && job.places.empty()))
        return quarantine(FindingKind::no_state, keys_.dynamic + id,
                          "the state is missing, though " + (elsewhere != job.places.end() ? "the job stands in " + places(job) : std::string("there is a result")) +
                              ": this " + described(f) + " may have run or not", job, id);
    }
    const bool placed = in_one_set(record, job, id);
    contents(record, job, id);
    by_seq_.insert({f.seq, !placed, f.id, out_.image.jobs.size()});
    last_seq_ = std::max(last_seq_, f.seq);
    if (!is_terminal(record.dynamic.state) && !f.unique.empty()) unique_.emplace(f.unique, f.id);
    out_.image.jobs.push_back(std::move(record));
  }

  /// False: it does not stand where it should, as it should.
  bool in_one_set(const core::JobRecord& record, const RawJob& job, const std::string& id) {
    const core::JobDynamic& d = record.dynamic;
    const StateSet want = set_of(d.state, record.fixed.needs.job_class);
    const std::string score = std::to_string(score_of(d, record.fixed.seq));
    const std::string is = "this " + described(record.fixed) + " is " + std::string(to_string(d.state));
    const std::string name = keys_.set(want).substr(prefix_.size());
    const auto home = std::find_if(job.places.begin(), job.places.end(), [&](const RawJob::Place& p) { return p.set == want; });
    const auto refile = [&](Finding& f) {
      for (const auto& place : job.places)
        if (place.set != want) f.commands.push_back({"ZREM", keys_.set(place.set), id});
      f.commands.push_back({"ZADD", keys_.set(want), score, id});
    };
    const std::string key = keys_.fixed + id;
    if (job.places.empty()) refile(found(FindingKind::in_no_set, key, is + " and stands in no set: no broker would find it", "filed under " + name));
    else if (home == job.places.end()) refile(found(FindingKind::in_wrong_set, key, is + " but stands in " + places(job), "filed under " + name));
    else if (job.places.size() > 1) refile(found(FindingKind::in_two_sets, key, is + " and stands in " + places(job), "kept in " + name + " only"));
    else if (std::to_string(home->score) != score) refile(found(FindingKind::wrong_score, key, is + " and stands in " + name + " at " + std::to_string(home->score), "moved to " + score));
    else return true;
    return false;
  }

  void contents(const core::JobRecord& record, const RawJob& job, const std::string& id) {
    const core::JobDynamic& d = record.dynamic;
    if (!job.body) {
      if (is_terminal(d.state)) note(FindingKind::no_body, keys_.body + id, "the body is missing: this finished job cannot be retried");
      else found(FindingKind::no_body, keys_.body + id, "the body is missing: this " + described(record.fixed) + " will fail with PAYLOAD_LOST when its turn comes; submit it again");
    }
    // A full Redis gives up results that were fetched; age drops the others and says so.
    if (!job.result && is_terminal(d.state) && d.result_bytes > 0 && d.error != Errc::result_expired) {
      if (d.fetched) note(FindingKind::no_result, keys_.result + id, "the result was given up after it had been fetched");
      else found(FindingKind::no_result, keys_.result + id, "the result of this " + described(record.fixed) + " is missing and nobody had fetched it; gpuq retry " + id);
    }
  }

  /// Order and places are by seq: 0, and one of two (that whose place does not bear it out), get a new one behind all others.
  void sequence_numbers() {
    std::uint64_t before = 0;
    for (const auto& place : by_seq_) {
      const std::uint64_t seq = std::get<0>(place);
      const bool odd = seq == 0 || seq == before;
      before = seq;
      if (!odd) continue;
      core::JobRecord& record = out_.image.jobs[std::get<3>(place)];
      record.fixed.seq = ++last_seq_;
      const std::string text = to_string(record.fixed.id);
      Finding& f = found(FindingKind::seq_twice, keys_.fixed + text,
                         "its place in the order of submits, " + std::to_string(seq) + (seq == 0 ? ", is none" : ", is another job's too"),
                         "moved behind all others: " + std::to_string(last_seq_));
      f.commands.push_back({"SET", keys_.fixed + text, encode(record.fixed)});
      const StateSet set = set_of(record.dynamic.state, record.fixed.needs.job_class);
      f.commands.push_back({"ZADD", keys_.set(set), std::to_string(score_of(record.dynamic, record.fixed.seq)), text});
    }
  }

  // ---- models, settings, tombstones, unique keys
  void field_aside(FindingKind kind, const std::string& key, const std::string& field, const std::string& value, const std::string& why) {
    found(kind, key, "field '" + field.substr(0, 80) + "': " + why, "put aside").commands = {{"HSET", aside_ + key.substr(prefix_.size()), field, value}, {"HDEL", key, field}};
  }
  void beside() {
    for (const auto& [field, value] : raw_.models) {
      auto model = decode_model(value);
      if (!model) field_aside(FindingKind::bad_model, keys_.models, field, value, model.error().what);
      else if (model->name + "@" + model->version != field) field_aside(FindingKind::bad_model, keys_.models, field, value, "it holds " + model->name + "@" + model->version);
      else out_.image.models.push_back(std::move(*model));
    }
    for (const auto& [field, value] : raw_.settings) {
      auto setting = decode_setting(value);
      if (!setting) field_aside(FindingKind::bad_setting, keys_.settings, field, value, setting.error().what);
      else if (field_of(setting->kind, setting->target) != field) field_aside(FindingKind::bad_setting, keys_.settings, field, value, "it holds another switch");
      else out_.image.settings.push_back(std::move(*setting));
    }
    for (const auto& [field, value] : raw_.tombs) {
      const auto id = parse_job_id(field);
      auto tomb = id ? decode_tombstone(*id, value) : Result<core::Image::Tombstone>(fail(Errc::redis_corrupt, "no job id"));
      if (!tomb) field_aside(FindingKind::bad_tombstone, keys_.tombs, field, value, tomb.error().what);
      else out_.image.tombstones.push_back(*tomb);
    }
    unique_keys();
  }

  /// The hash repeats what unfinished jobs say; brokers go by the jobs.
  void unique_keys() {
    for (const auto& [key, id] : unique_) {
      const std::string text = to_string(id);
      const auto it = raw_.unique.find(key);
      if (it != raw_.unique.end() && it->second == text) continue;
      const std::string listed = it == raw_.unique.end() ? ", and it is not listed" : ", listed for " + it->second.substr(0, 40);
      found(FindingKind::bad_unique, keys_.unique, "job " + text + " has taken '" + key.substr(0, 60) + "'" + listed, "listed for this job")
          .commands = {{"HSET", keys_.unique, key, text}};
    }
    for (const auto& [key, holder] : raw_.unique)
      if (!unique_.contains(key))
        found(FindingKind::bad_unique, keys_.unique, "'" + key.substr(0, 60) + "' is listed for " + holder.substr(0, 40) + ", which is not unfinished or has not taken it",
              "taken off the list")
            .commands = {{"HDEL", keys_.unique, key}};
  }

  const RawNamespace& raw_;
  const Keys& keys_;
  const std::string prefix_, aside_;
  Examined out_;
  std::set<std::tuple<std::uint64_t, bool, JobId, std::size_t>> by_seq_;   ///< with its place in the image
  std::uint64_t last_seq_{};
  std::map<std::string, JobId> unique_;
};

}  // namespace

std::string_view to_string(FindingKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

std::size_t Examined::damages() const {
  return static_cast<std::size_t>(std::count_if(findings.begin(), findings.end(), [](const Finding& f) { return !f.note; }));
}

Examined examine(const RawNamespace& raw, const Keys& keys, std::string_view stamp) { return Examiner(raw, keys, stamp).run(); }

std::vector<NamedBlob> blobs_named_by(const core::Image& image) {
  std::map<BlobDigest, NamedBlob> named;
  const auto add = [&](const BlobDigest& digest, const std::string& by, const std::string& without) {
    if (digest.empty()) return;
    NamedBlob& blob = named.try_emplace(digest, NamedBlob{digest, by, without}).first->second;
    if (blob.needed.empty() && !without.empty()) blob.by = by, blob.needed = without;
  };
  for (const core::JobRecord& job : image.jobs) {
    const std::string by = "job " + to_string(job.fixed.id);
    const bool ended = is_terminal(job.dynamic.state);
    for (const BlobDigest& digest : job.fixed.blobs) add(digest, by, ended ? "" : "the job will fail with UNKNOWN_BLOB: cancel it and submit it again");
    for (const BlobDigest& digest : job.dynamic.result_blobs) add(digest, by, job.dynamic.fetched ? "" : "that part of its result is lost: gpuq retry " + to_string(job.fixed.id));
    add(job.dynamic.checkpoint.blob, by, ended ? "" : "the job cannot go on from its checkpoint");
  }
  for (const core::ModelRecord& model : image.models) add(model.blob, "model " + model.name + "@" + model.version, "jobs on this model will fail: push it again");
  std::vector<NamedBlob> list;
  for (auto& [digest, blob] : named) list.push_back(std::move(blob));
  return list;
}

}  // namespace gq::store
