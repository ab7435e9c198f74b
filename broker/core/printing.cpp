// printing.cpp - effects as one line each, for failing tests and for debugging by eye.
#include <ostream>

#include "broker/core/effects.h"

namespace gq::core {

namespace {

std::ostream& operator<<(std::ostream& out, const JobId& id) { return out << to_string(id).substr(18); }  // the tail tells them apart
std::ostream& operator<<(std::ostream& out, const Grant& g) { return out << g.job << '#' << g.attempt << '/' << std::hex << g.nonce << std::dec; }
std::ostream& operator<<(std::ostream& out, const Error& e) { return out << to_string(e.code) << " \"" << e.what << '"'; }

std::ostream& operator<<(std::ostream& out, const JobDynamic& d) {
  out << to_string(d.state) << " attempt=" << d.attempt << '/' << std::hex << d.nonce << std::dec;
  if (d.failures != 0) out << " failures=" << d.failures;
  if (d.losses != 0) out << " losses=" << d.losses;
  if (d.own_losses != 0) out << " own_losses=" << d.own_losses;
  if (d.preemptions != 0) out << " preemptions=" << d.preemptions;
  if (!d.worker.empty()) out << " worker=" << d.worker;
  for (const std::string& device : d.devices) out << " device=" << device;
  if (d.granted.value != 0) out << " granted=" << d.granted.value;
  if (d.evictions != 0) out << " evictions=" << d.evictions;
  if (d.cancel_asked) out << " cancel_asked";
  if (d.held) out << " held";
  if (d.due.ms != 0) out << " due=" << d.due.ms;
  if (d.started.ms != 0) out << " started=" << d.started.ms;
  if (d.ended.ms != 0) out << " ended=" << d.ended.ms;
  if (!(d.checkpoint == Checkpoint{})) out << " checkpoint=" << to_string(d.checkpoint.blob).substr(0, 8) << '@' << d.checkpoint.step;
  if (!d.model_version.empty()) out << " version=" << d.model_version;
  if (!d.error_text.empty()) out << ' ' << to_string(d.error) << " \"" << d.error_text << '"';
  if (d.result_bytes != 0) out << " result_bytes=" << d.result_bytes;
  if (!d.result_blobs.empty()) out << " result_blobs=" << d.result_blobs.size();
  if (d.fetched) out << " fetched";
  if (!d.leave_reason.empty()) out << " left: '" << d.leave_reason << '\'';
  if (!d.leave_for.empty()) out << " for " << d.leave_for;
  return out;
}

std::ostream& operator<<(std::ostream& out, const SubmitOutcome& o) {
  out << o.id;
  if (!o.ok) return out << " refused " << o.error;
  return out << (o.existing ? " existing" : " ok");
}
std::string_view to_string(CancelResult r) {
  constexpr std::string_view words[] = {"cancelled", "asked", "already_final", "unknown", "refused"};
  return words[static_cast<std::size_t>(r)];
}
std::string_view to_string(EndVerdict v) {
  constexpr std::string_view words[] = {"accepted", "stale", "gone"};
  return words[static_cast<std::size_t>(v)];
}
std::ostream& operator<<(std::ostream& out, PeerId peer) { return out << "peer " << peer.value; }

void print(std::ostream& out, const JobCreated& m) {
  out << "created " << m.record.fixed.id << " seq=" << m.record.fixed.seq << ' ' << kKinds[m.record.fixed.needs.kind].name
      << " priority=" << int{m.record.fixed.priority} << ' ' << m.record.dynamic;
  if (m.body != 0) out << " body=" << m.body;
  if (!m.body_of.empty()) out << " body_of=" << m.body_of;
}
void print(std::ostream& out, const JobChanged& m) {
  out << "changed " << m.id << ' ' << gq::to_string(m.from) << " -> " << m.now << " seq=" << m.seq;
}
void print(std::ostream& out, const PayloadRead& m) { out << "read payload " << m.id; }
void print(std::ostream& out, const ResultStored& m) { out << "store result " << m.id << '#' << m.attempt << " token=" << m.result << " bytes=" << m.bytes; }
void print(std::ostream& out, const ResultDropped& m) { out << "drop result " << m.id; }
void print(std::ostream& out, const JobForgotten& m) { out << "forget " << m.id << " from " << gq::to_string(m.from) << (m.tombstone ? " tombstone" : ""); }
void print(std::ostream& out, const TombstoneDropped& m) { out << "drop tombstone " << m.id; }
void print(std::ostream& out, const UniqueTaken& m) { out << "take key '" << m.key << "' for " << m.id; }
void print(std::ostream& out, const UniqueReleased& m) { out << "release key '" << m.key << '\''; }
void print(std::ostream& out, const ModelStored& m) { out << "store model " << m.record.name << '@' << m.record.version << (m.record.promoted ? " promoted" : ""); }
void print(std::ostream& out, const ModelRemoved& m) { out << "remove model " << m.name << '@' << m.version; }
void print(std::ostream& out, const JobRevised& m) {
  out << "revise " << m.fixed.id << ' ' << kKinds[m.fixed.needs.kind].name << ' ' << gq::to_string(m.fixed.needs.job_class) << " priority=" << int{m.fixed.priority};
}
std::string_view to_string(OperatorSetting::Kind kind) {
  constexpr std::string_view words[] = {"drain worker", "drain device", "pause class"};
  return words[static_cast<std::size_t>(kind)];
}
void print(std::ostream& out, const SettingStored& m) { out << "store setting: " << to_string(m.setting.kind) << ' ' << m.setting.target; }
void print(std::ostream& out, const SettingDropped& m) { out << "drop setting: " << to_string(m.kind) << ' ' << m.target; }

void print(std::ostream& out, const SubmitAnswer& m) {
  out << "submit answer " << m.request << " to " << m.peer << ':';
  for (const auto& item : m.items) out << ' ' << item << ';';
}
void print(std::ostream& out, const JobNotice& m) {
  out << "notice to " << m.peer << ": " << m.job << ' ' << m.now;
  if (m.result != 0) out << " token=" << m.result;
}
void print(std::ostream& out, const WatchAnswer& m) {
  out << "watch answer " << m.request << " to " << m.peer << ", unknown:";
  for (const JobId& id : m.unknown) out << ' ' << id;
}
void print(std::ostream& out, const CancelAnswer& m) {
  out << "cancel answer " << m.request << " to " << m.peer << ':';
  for (const CancelResult r : m.items) out << ' ' << to_string(r);
}
void print(std::ostream& out, const RetryAnswer& m) { out << "retry answer " << m.request << " to " << m.peer << ": " << m.item; }
void print(std::ostream& out, const ModelAnswer& m) {
  out << "model answer " << m.request << " to " << m.peer << ": ";
  if (!m.ok) out << "refused " << m.error;
  else out << m.record.name << '@' << m.record.version << " dropped=" << m.dropped.size();
}
void print(std::ostream& out, const Assign& m) {
  out << "assign no " << m.number << " to " << m.peer << " lane " << m.lane << ": " << m.grant << ' ' << kKinds[m.needs.kind].name;
  for (const std::string& device : m.devices) out << " device=" << device;
  if (m.granted.value != 0) out << " granted=" << m.granted.value;
  if (!m.model.name.empty()) out << " model=" << m.model.name << '@' << m.model.version;
  if (!m.resume.blob.empty()) out << " resume@" << m.resume.step;
  if (m.pause_for != 0) out << " pauses_for=" << int{m.pause_for};
  for (const JobId& parent : m.after) out << " after=" << parent;
}
void print(std::ostream& out, const Preempt& m) { out << "preempt no " << m.number << " to " << m.peer << ": " << m.grant << " (" << m.reason << ')'; }
void print(std::ostream& out, const Cancel& m) { out << "cancel no " << m.number << " to " << m.peer << ": " << m.grant << " (" << m.reason << ')'; }
void print(std::ostream& out, const EndsAnswer& m) {
  out << "ends answer " << m.request << " to " << m.peer << ':';
  for (std::size_t i = 0; i < m.grants.size() && i < m.verdicts.size(); ++i) out << ' ' << m.grants[i] << ' ' << to_string(m.verdicts[i]) << ';';
}
void print_revoked(std::ostream& out, const std::vector<Grant>& revoke) {
  for (const Grant& g : revoke) out << " revoke " << g << ';';
}
void print(std::ostream& out, const WorkerWelcome& m) {
  out << "welcome " << m.peer;
  if (m.numbered != 0) out << " numbered to " << m.numbered;
  print_revoked(out, m.revoke);
}
void print(std::ostream& out, const BeatAnswer& m) {
  out << "beat answer to " << m.peer;
  print_revoked(out, m.revoke);
  for (const Cancel& c : m.cancels) out << " [", print(out, c), out << ']';
  for (const Preempt& p : m.preempts) out << " [", print(out, p), out << ']';
  for (const EvictModel& e : m.evictions) out << " [evict " << e.model << " from " << e.device << ']';
}
void print(std::ostream& out, const CommandAnswer& m) {
  out << "command answer " << m.request << " to " << m.peer << ':';
  for (const CommandOutcome& item : m.items) {
    if (item.ok) out << " ok \"" << item.text << "\";";
    else out << " refused " << item.error << ';';
  }
}
void print(std::ostream& out, const EvictModel& m) { out << "evict " << m.model << " from " << m.device << ", to " << m.peer; }
void print(std::ostream& out, const WorkerRejected& m) { out << "reject " << m.peer << ": " << m.error; }

}  // namespace

std::ostream& operator<<(std::ostream& out, const Effect& effect) {
  std::visit(overloaded{[&](const Commit& c) {
                          out << (c.durable ? "COMMIT " : "KEEP ");
                          std::visit([&](const auto& m) { print(out, m); }, c.mutation);
                        },
                        [&](const Send& s) {
                          out << "SEND ";
                          std::visit([&](const auto& m) { print(out, m); }, s.message);
                        },
                        [&](const SendNow& s) {
                          out << "SEND NOW ";
                          std::visit([&](const auto& m) { print(out, m); }, s.message);
                        }},
             effect);
  return out;
}

std::ostream& operator<<(std::ostream& out, const Effects& effects) {
  for (const Effect& effect : effects) out << "\n  " << effect;
  return out;
}

}  // namespace gq::core
