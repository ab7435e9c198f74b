// batch_encoder.cpp - fold the mutations of each job, then write the groups.
#include "broker/store/batch_encoder.h"

#include <optional>

namespace gq::store {

namespace {

enum class Key : std::uint8_t { untouched, set, unlink };

/// What one batch does to one job, folded.
struct Net {
  JobId id;
  std::string text;                            ///< of the id
  const core::JobFixed* fixed{};               ///< set when the batch creates it
  const core::JobDynamic* dynamic{};           ///< the last one
  Key fixed_key{}, dynamic_key{}, body_key{}, result_key{};
  bool created{};                              ///< by this batch: nothing of it was in the store before
  bool made{};                                 ///< by this batch, perhaps anew
  bool revised{};                              ///< its class may have changed: as ready it may have stood in any of the three
  bool was{};                                  ///< `from` is known: it was in that set before the batch
  JobState from{};
  JobClass job_class{};
  bool class_known{};
  std::uint64_t seq{};
  bool in_set{};                               ///< after the batch it is in the set of dynamic->state
  std::shared_ptr<const Bytes> body, result;
  JobId body_of;                               ///< COPY from there
  bool read{};
};

class Fold {
 public:
  explicit Fold(const Batch& batch) {
    nets_.reserve(batch.items.size());
    index_.reserve(batch.items.size());
    for (const BatchItem& item : batch.items) take(item);
  }

  std::vector<Net>& nets() { return nets_; }
  std::vector<std::pair<JobId, std::optional<std::string>>> tombs;              ///< packed, nullopt = drop
  std::unordered_map<std::string, std::optional<JobId>> unique;
  std::vector<std::string> unique_order;  ///< deterministic bytes for the same batch
  std::vector<std::pair<std::string, const core::ModelRecord*>> models;         ///< null = remove
  std::vector<std::pair<std::string, const core::OperatorSetting*>> settings;   ///< likewise

 private:
  Net& net(JobId id) {
    const auto [it, fresh] = index_.try_emplace(id, nets_.size());
    if (fresh) {
      nets_.emplace_back();
      nets_.back().id = id;
      nets_.back().text = to_string(id);
    }
    return nets_[it->second];
  }

  void take(const BatchItem& item) {
    std::visit(overloaded{
                   [&](const core::JobCreated& m) { created(m, item.bytes); },
                   [&](const core::JobChanged& m) { changed(m); },
                   [&](const core::PayloadRead& m) { net(m.id).read = true; },
                   [&](const core::ResultStored& m) {
                     static const auto nothing = std::make_shared<const Bytes>();
                     Net& n = net(m.id);
                     n.result = item.bytes ? item.bytes : nothing;
                     n.result_key = Key::set;
                   },
                   [&](const core::ResultDropped& m) {
                     Net& n = net(m.id);
                     n.result.reset();
                     n.result_key = n.created ? Key::untouched : Key::unlink;
                   },
                   [&](const core::JobForgotten& m) { forgotten(m); },
                   [&](const core::TombstoneDropped& m) { tomb(m.id, std::nullopt); },
                   [&](const core::UniqueTaken& m) { set_unique(m.key, m.id); },
                   [&](const core::UniqueReleased& m) { set_unique(m.key, std::nullopt); },
                   [&](const core::ModelStored& m) { put(models, m.record.name + "@" + m.record.version, &m.record); },
                   [&](const core::ModelRemoved& m) { put(models, m.name + "@" + m.version, nullptr); },
                   [&](const core::JobRevised& m) { revised(m); },
                   [&](const core::SettingStored& m) { put(settings, field_of(m.setting.kind, m.setting.target), &m.setting); },
                   [&](const core::SettingDropped& m) { put(settings, field_of(m.kind, m.target), nullptr); },
               },
               item.mutation);
  }

  void created(const core::JobCreated& m, const std::shared_ptr<const Bytes>& bytes) {
    static const auto nothing = std::make_shared<const Bytes>();
    Net& n = net(m.record.fixed.id);
    n.created = !n.was;      // an id forgotten in this very batch may come again: its old keys are still in the store
    n.made = true;
    n.fixed = &m.record.fixed;
    n.dynamic = &m.record.dynamic;
    n.seq = m.record.fixed.seq;
    n.job_class = m.record.fixed.needs.job_class;
    n.class_known = true;
    n.in_set = true;
    n.fixed_key = n.body_key = Key::set;
    n.dynamic_key = Key::set;
    n.body_of = m.body_of;
    if (m.body_of.empty()) {
      n.body = bytes ? bytes : nothing;
    } else if (const auto it = index_.find(m.body_of); it != index_.end()) {
      const Net& source = nets_[it->second];
      if (source.body) n.body = source.body, n.body_of = {};
      else if (!source.body_of.empty()) n.body_of = source.body_of;   // itself a copy made by this batch
    }
  }

  void changed(const core::JobChanged& m) {
    Net& n = net(m.id);
    if (!n.created && !n.was) {
      n.was = true;
      n.from = m.from;
    }
    n.dynamic = &m.now;
    n.dynamic_key = Key::set;
    n.seq = m.seq;
    n.job_class = m.job_class;
    n.class_known = true;
    n.in_set = true;
  }

  /// A change of class of a job in one of the sets by class is always followed by a JobChanged of the same step.
  void revised(const core::JobRevised& m) {
    Net& n = net(m.fixed.id);
    n.revised = true;
    n.fixed = &m.fixed;
    n.fixed_key = Key::set;
    n.seq = m.fixed.seq;
    n.job_class = m.fixed.needs.job_class;
    n.class_known = true;
  }

  void forgotten(const core::JobForgotten& m) {
    Net& n = net(m.id);
    if (!n.created && !n.was) {
      n.was = true;
      n.from = m.from;
    }
    const Key gone = n.created ? Key::untouched : Key::unlink;
    n.fixed_key = n.dynamic_key = n.body_key = n.result_key = gone;
    n.created = n.made = false;
    n.fixed = nullptr;
    n.dynamic = nullptr;
    n.in_set = false;
    n.result.reset();
    if (m.tombstone) tomb(m.id, encode_tombstone(m.digest, m.ended));
  }

  void tomb(JobId id, std::optional<std::string> packed) {
    for (auto& [known, value] : tombs)
      if (known == id) return void(value = std::move(packed));
    tombs.emplace_back(id, std::move(packed));
  }
  void set_unique(const std::string& key, std::optional<JobId> id) {
    if (unique.insert_or_assign(key, id).second) unique_order.push_back(key);
  }
  template <class Record>
  static void put(std::vector<std::pair<std::string, const Record*>>& list, std::string field, std::type_identity_t<const Record*> record) {
    for (auto& [known, value] : list)
      if (known == field) return void(value = record);
    list.emplace_back(std::move(field), record);
  }

  std::vector<Net> nets_;
  std::unordered_map<JobId, std::size_t> index_;
};

/// ZREM and ZADD of one set: members by index into the folded jobs.
struct SetChange {
  std::vector<std::size_t> leave, enter;
};

void add_string_writes(const std::vector<Net>& nets, const Keys& keys, CommandBuffer& out) {
  // JobDynamic{} is what absence means: a job submitted as ready costs no third key. But an absent key must be made so
  // if the job is not new.
  static const core::JobDynamic kDefault;
  std::size_t sets = 0, unlinks = 0;
  const auto needs_dynamic = [](const Net& n) {
    return n.dynamic_key == Key::set && !(n.created && *n.dynamic == kDefault);
  };
  for (const Net& n : nets) {
    sets +=
        (n.fixed_key == Key::set) + needs_dynamic(n) + (n.body_key == Key::set && n.body) + (n.result_key == Key::set);
    unlinks += (n.fixed_key == Key::unlink) + (n.dynamic_key == Key::unlink) + (n.body_key == Key::unlink) +
               (n.result_key == Key::unlink);
  }
  if (sets > 0) {
    std::string packed;
    out.begin(1 + 2 * sets);
    out.arg("MSET");
    for (const Net& n : nets) {
      if (n.fixed_key == Key::set) {
        packed.clear();
        append_encoded(*n.fixed, packed);
        out.arg(keys.fixed, n.text).arg(packed);
      }
      if (needs_dynamic(n)) {
        packed.clear();
        append_encoded(*n.dynamic, packed);
        out.arg(keys.dynamic, n.text).arg(packed);
      }
      if (n.body_key == Key::set && n.body) out.arg(keys.body, n.text).arg(*n.body);
      if (n.result_key == Key::set) out.arg(keys.result, n.text).arg(*n.result);
    }
  }
  for (const Net& n : nets)
    if (n.body_key == Key::set && !n.body) {
      out.begin(4);
      out.arg("COPY").arg(keys.body, to_string(n.body_of)).arg(keys.body, n.text).arg("REPLACE");
    }
  if (unlinks > 0) {
    out.begin(1 + unlinks);
    out.arg("UNLINK");
    for (const Net& n : nets) {
      if (n.fixed_key == Key::unlink) out.arg(keys.fixed, n.text);
      if (n.dynamic_key == Key::unlink) out.arg(keys.dynamic, n.text);
      if (n.body_key == Key::unlink) out.arg(keys.body, n.text);
      if (n.result_key == Key::unlink) out.arg(keys.result, n.text);
    }
  }
}

void add_set_moves(const std::vector<Net>& nets, const Keys& keys, CommandBuffer& out) {
  std::array<SetChange, kStateSets> changes;
  for (std::size_t i = 0; i < nets.size(); ++i) {
    const Net& n = nets[i];
    const bool enters = n.in_set && n.dynamic != nullptr;
    const auto to = enters ? set_of(n.dynamic->state, n.job_class) : StateSet{};
    const bool stays = enters && n.was && !n.made && !n.revised && n.class_known && set_of(n.from, n.job_class) == to;
    const bool rescored = to == StateSet::waiting || to == StateSet::running;   // elsewhere the score never changes
    if (enters && (!stays || rescored)) changes[static_cast<std::size_t>(to)].enter.push_back(i);
    if (!n.was) continue;
    if (n.from == JobState::ready && (!n.class_known || n.revised)) {  // which of the three it stood in is not told: look in all
      for (const auto s : {StateSet::ready_inference, StateSet::ready_training, StateSet::ready_synthesis})
        if (!enters || s != to) changes[static_cast<std::size_t>(s)].leave.push_back(i);
      continue;
    }
    const auto old = set_of(n.from, n.job_class);
    if (!enters || old != to) changes[static_cast<std::size_t>(old)].leave.push_back(i);
  }
  for (std::size_t s = 0; s < kStateSets; ++s) {
    if (!changes[s].leave.empty()) {
      out.begin(2 + changes[s].leave.size());
      out.arg("ZREM").arg(keys.sets[s]);
      for (const auto i : changes[s].leave) out.arg(nets[i].text);
    }
    if (!changes[s].enter.empty()) {
      out.begin(2 + 2 * changes[s].enter.size());
      out.arg("ZADD").arg(keys.sets[s]);
      for (const auto i : changes[s].enter) out.arg(score_of(*nets[i].dynamic, nets[i].seq)).arg(nets[i].text);
    }
  }
}

/// HSET of those with a value, HDEL of those without.
template <class List, class Value>
void add_hash(const std::string& key, const List& list, CommandBuffer& out, Value value) {
  std::size_t sets = 0, drops = 0;
  for (const auto& entry : list) ++(value(entry).second ? sets : drops);
  if (sets > 0) {
    out.begin(2 + 2 * sets);
    out.arg("HSET").arg(key);
    for (const auto& entry : list)
      if (const auto [field, packed] = value(entry); packed) out.arg(field).arg(*packed);
  }
  if (drops > 0) {
    out.begin(2 + drops);
    out.arg("HDEL").arg(key);
    for (const auto& entry : list)
      if (const auto [field, packed] = value(entry); !packed) out.arg(field);
  }
}

}  // namespace

EncodedBatch encode_batch(const Batch& batch, const Keys& keys) {
  using Entry = std::pair<std::string, std::optional<std::string>>;
  Fold fold(batch);
  const auto& nets = fold.nets();
  EncodedBatch encoded;
  encoded.number = batch.number;

  std::size_t bytes = 1024;
  std::vector<const Net*> reads;
  for (const Net& n : nets) {
    bytes += 700 + (n.body ? n.body->size() : 0) + (n.result ? n.result->size() : 0);
    if (!n.read) continue;
    if (n.body) encoded.known.emplace(n.id, n.body);
    else reads.push_back(&n);
  }
  encoded.commands.reserve(bytes);
  if (!reads.empty()) {
    encoded.commands.begin(1 + reads.size());
    encoded.commands.arg("MGET");
    for (const Net* n : reads) {   // the body of a retry is still under its origin's name when this runs
      encoded.commands.arg(keys.body, n->body_of.empty() ? n->text : to_string(n->body_of));
      encoded.reads.push_back(n->id);
    }
  }
  add_string_writes(nets, keys, encoded.commands);
  add_set_moves(nets, keys, encoded.commands);
  add_hash(keys.tombs, fold.tombs, encoded.commands, [](const auto& t) { return Entry{to_string(t.first), t.second}; });
  add_hash(keys.unique, fold.unique_order, encoded.commands, [&](const std::string& key) {
    const auto& id = fold.unique.at(key);
    return Entry{key, id ? std::optional(to_string(*id)) : std::nullopt};
  });
  add_hash(keys.models, fold.models, encoded.commands,
           [](const auto& m) { return Entry{m.first, m.second ? std::optional(encode(*m.second)) : std::nullopt}; });
  add_hash(keys.settings, fold.settings, encoded.commands,
           [](const auto& s) { return Entry{s.first, s.second ? std::optional(encode(*s.second)) : std::nullopt}; });
  return encoded;
}

std::string describe_command(std::string_view bytes, std::size_t index) {
  const auto number = [&](char mark) -> std::optional<std::size_t> {
    const auto end = bytes.find("\r\n");
    if (bytes.empty() || bytes.front() != mark || end == std::string_view::npos) return std::nullopt;
    std::size_t value = 0;
    std::from_chars(bytes.data() + 1, bytes.data() + end, value);
    bytes.remove_prefix(end + 2);
    return value;
  };
  for (std::size_t at = 0;; ++at) {
    const auto arguments = number('*');
    if (!arguments) return "?";
    std::string text;
    for (std::size_t a = 0; a < *arguments; ++a) {
      const auto length = number('$');
      if (!length || bytes.size() < *length + 2) return "?";
      if (at == index && a < 2) text += (a > 0 ? " " : "") + std::string(bytes.substr(0, *length));
      bytes.remove_prefix(*length + 2);
    }
    if (at == index) return text;
  }
}

}  // namespace gq::store
