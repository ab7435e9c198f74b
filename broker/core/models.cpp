// models.cpp - the registry: NAME alone means the promoted version at the time of the grant. What was promoted when is kept in the
// records, so that a rollback finds its way back after a restart, too.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

Index Core::State::version_for(std::string_view text) {
  const auto [it, is_new] = version_of.try_emplace(std::string(text), kNone);
  if (is_new) {
    it->second = static_cast<Index>(versions.size());
    ModelVersion& v = versions.emplace_back();
    v.text = text;
    const std::size_t at = text.find('@');
    v.name = text.substr(0, at);
    v.record.name = v.name;
    if (at != std::string_view::npos) v.record.version = text.substr(at + 1);
  }
  return it->second;
}

void Core::State::store_model(const ModelRecord& record) { commit(ModelStored{record}); }

void Core::State::promote(Index version) {
  const auto [it, is_new] = promoted.try_emplace(versions[version].name, version);
  if (!is_new && it->second != version) {
    ModelRecord& before = versions[it->second].record;
    if (versions[it->second].registered && before.promoted) {
      before.promoted = false;
      store_model(before);
    }
    it->second = version;
  }
  ModelRecord& record = versions[version].record;
  if (!record.promoted || record.promoted_at.ms == 0) record.promoted_at = std::max(now.wall, WallTime{1});
  record.promoted = true;
  ++models_epoch;
}

void Core::State::on_model_pushed(ModelPushed& e) {
  ModelRecord& r = e.record;
  ModelAnswer answer{e.peer, e.request, false, {}, {}, {}};
  const auto refuse = [&](Errc code, std::string what, std::string next) {
    answer.error = {code, std::move(what), std::move(next)};
    answer.record = r;
    send(std::move(answer));
  };
  if (r.name.empty() || r.name.size() > config.limits.name_chars_max || r.name.find('@') != std::string::npos)
    return refuse(Errc::bad_message, "a model's name has 1 to 64 characters and no @", "gpuq model push NAME PATH");
  if (r.blob.empty()) return refuse(Errc::bad_message, "model " + r.name + " names no content", "upload the file first");
  if (r.budget.value < 0 || r.budget > kRestOfDevice) return refuse(Errc::bad_message, "the budget of model " + r.name + " is negative or too large", "--vram 2GiB");
  if (r.version.empty()) r.version = to_string(r.blob).substr(0, 12);
  if (r.version.size() > config.limits.name_chars_max) return refuse(Errc::bad_message, "the version of model " + r.name + " is too long", "leave it out");
  r.pushed = now.wall;
  const Index version = version_for(r.name + "@" + r.version);
  const ModelRecord before = versions[version].registered ? versions[version].record : ModelRecord{};
  const auto current = promoted.find(r.name);
  const bool is_first = current == promoted.end() || !versions[current->second].registered;
  versions[version].registered = true;
  r.promoted = before.promoted;
  r.promoted_at = before.promoted_at;
  versions[version].record = r;
  if (e.promote || is_first) promote(version);
  store_model(versions[version].record);
  wake_all_parked();
  answer.ok = true;
  answer.record = versions[version].record;
  send(std::move(answer));
}

void Core::State::on_model_command(const ModelCommand& e) {
  ModelAnswer answer{e.peer, e.request, false, {}, {}, {}};
  const auto refuse = [&](Errc code, std::string what, std::string next) {
    answer.error = {code, std::move(what), std::move(next)};
    answer.record.name = e.name;
    answer.record.version = e.version;
    send(std::move(answer));
  };
  Index chosen = kNone;
  for (Index v = 0; v < versions.size(); ++v) {
    const ModelVersion& one = versions[v];
    if (!one.registered || one.name != e.name) continue;
    if (e.verb == ModelVerb::promote ? one.record.version == e.version : !one.record.promoted && one.record.promoted_at.ms != 0 && (chosen == kNone || one.record.promoted_at > versions[chosen].record.promoted_at)) chosen = v;
  }
  if (chosen == kNone && e.verb == ModelVerb::promote) return refuse(Errc::unknown_model, "model " + e.name + "@" + e.version + " is not registered", "gpuq model list");
  if (chosen == kNone) return refuse(Errc::not_found, "model " + e.name + " has no version that was promoted before", "gpuq model list");
  if (e.verb == ModelVerb::rollback) {
    const Index left = promoted.at(e.name);
    const WallTime then = versions[chosen].record.promoted_at;
    versions[left].record.promoted_at = {};   // out of the way back: the next rollback goes further
    promote(chosen);
    versions[chosen].record.promoted_at = then;
  } else if (!versions[chosen].record.promoted) {
    promote(chosen);
  }
  store_model(versions[chosen].record);
  wake_all_parked();
  answer.ok = true;
  answer.record = versions[chosen].record;
  send(std::move(answer));
}

void Core::State::on_model_removed(ModelRemoveReceived& e) {
  ModelAnswer answer{e.peer, e.request, false, {}, {}, {}};
  std::vector<Index> going;
  for (Index v = 0; v < versions.size(); ++v)
    if (versions[v].registered && versions[v].name == e.name && (e.version.empty() || versions[v].record.version == e.version))
      going.push_back(v);
  if (going.empty()) {
    const std::string text = e.version.empty() ? e.name : e.name + "@" + e.version;
    answer.error = {Errc::unknown_model, "model " + text + " is not registered", "gpuq model list"};
    send(std::move(answer));
    return;
  }
  for (const Index v : going) {
    versions[v].registered = false;
    answer.record = versions[v].record;
    commit(ModelRemoved{versions[v].name, versions[v].record.version});
  }
  for (const Index v : going) {
    const BlobDigest& blob = versions[v].record.blob;
    const bool named = std::any_of(versions.begin(), versions.end(), [&](const ModelVersion& o) { return o.registered && o.record.blob == blob; });
    if (!named && std::find(answer.dropped.begin(), answer.dropped.end(), blob) == answer.dropped.end()) answer.dropped.push_back(blob);
  }
  if (const auto it = promoted.find(e.name); it != promoted.end() && !versions[it->second].registered) {
    promoted.erase(it);
    // The one promoted before; only where none ever was, the newest: a version that was never promoted may be one that failed to load.
    const auto rank = [&](Index v) { return std::pair(versions[v].record.promoted_at, versions[v].record.pushed); };
    Index next = kNone;
    for (Index v = 0; v < versions.size(); ++v)
      if (versions[v].registered && versions[v].name == e.name && (next == kNone || rank(v) >= rank(next))) next = v;
    if (next != kNone) {
      promote(next);
      store_model(versions[next].record);
    }
  }
  ++models_epoch;
  wake_all_parked();
  answer.ok = true;
  send(std::move(answer));
}

}  // namespace gq::core
