// session_print.cpp - actions as one line each, for tests and debug logs. Grants print as job.attempt with a short job id.
#include <sstream>

#include "worker/session/session.h"

namespace gq::session {
namespace {

std::string show(const Grant& grant) {
  return std::to_string(grant.job.lo) + "." + std::to_string(grant.attempt);
}

template <class List, class F>
std::string join(const List& list, F&& f) {
  std::string out;
  for (const auto& item : list) out += (out.empty() ? "" : " ") + f(item);
  return "[" + out + "]";
}

std::string show_credit(const wire::Credit& c) { return std::to_string(c.lane) + ":" + std::to_string(c.limit); }

std::string show(const wire::Message& message) {
  return std::visit(
      overloaded{
          [](const wire::WorkerHello& m) { return "HELLO " + m.name + " credit=" + join(m.credit, show_credit) + " running=" + join(m.running, [](const Grant& g) { return show(g); }); },
          [](const wire::Pull& m) {
            return "PULL opened=" + join(m.opened, [](const wire::Lane& l) { return std::to_string(l.lane); }) +
                   " closed=" + join(m.closed, [](std::uint16_t l) { return std::to_string(l); }) + " credit=" + join(m.credit, show_credit);
          },
          [](const wire::Started& m) { return "STARTED " + join(m.grants, [](const Grant& g) { return show(g); }); },
          [](const wire::Refused& m) { return "REFUSED " + show(m.grant) + " " + m.code; },
          [](const wire::Ended& m) {
            return "ENDED " + join(m.items, [](const wire::EndedItem& e) {
                     return show(e.grant) + "=" + std::string(gq::to_string(static_cast<Outcome>(e.outcome))) + (e.started ? "" : "/never-started") +
                            (e.checkpoint_step != 0 ? "@" + std::to_string(e.checkpoint_step) : "");
                   });
          },
          [](const wire::WorkerBeat& m) { return "BEAT last=" + std::to_string(m.last_number) + " running=" + join(m.running, [](const Grant& g) { return show(g); }); },
          [](const wire::Progress& m) { return "PROGRESS " + show(m.grant) + " " + std::to_string(m.step) + "/" + std::to_string(m.total); },
          [](const wire::Log& m) { return "LOG " + show(m.grant) + " @" + std::to_string(m.offset); },
          [](const wire::ModelLog& m) { return "MODEL LOG " + m.model; },
          [](const wire::CheckpointSaved& m) { return "CHECKPOINT " + show(m.grant) + " step " + std::to_string(m.step); },
          [](const wire::MemoryReleased& m) { return "RELEASED " + show(m.grant); },
          [](const wire::Goodbye&) { return std::string("GOODBYE"); },
          [](const auto&) { return std::string("?"); },
      },
      message);
}

}  // namespace

std::string_view to_string(StopCause cause) {
  switch (cause) {
    case StopCause::cancel: return "cancel";
    case StopCause::timeout: return "timeout";
    case StopCause::shutdown: return "shutdown";
    case StopCause::fenced: return "fenced";
    case StopCause::revoked: return "revoked";
    case StopCause::orphaned: return "orphaned";
  }
  return "?";
}

std::string to_string(const Action& action) {
  return std::visit(
      overloaded{
          [](const Connect&) { return std::string("connect"); },
          [](const Hangup&) { return std::string("hang up"); },
          [](const Send& s) { return "send " + show(s.message); },
          [](const StartJob& s) { return "start " + show(s.item.grant) + " " + s.item.kind; },
          [](const StopJob& s) { return "stop " + show(s.grant) + " " + std::string(to_string(s.cause)); },
          [](const PreemptJob& p) { return "preempt " + show(p.grant) + " " + std::to_string(p.deadline / 1ms) + "ms"; },
          [](const EvictIdle& e) { return "evict " + e.model + " from " + e.device; },
          [](const JournalEnd& j) { return "journal " + show(j.end.grant); },
          [](const ForgetEnd& f) { return "forget " + show(f.grant); },
          [](const UploadAgain& u) { return "upload again " + show(u.grant); },
          [](const Welcomed& w) { return "welcomed term " + std::to_string(w.terms.term); },
          [](const Note& n) { return "note " + n.event; },
          [](const Exit& e) { return "exit " + std::to_string(e.code); },
      },
      action);
}

}  // namespace gq::session
