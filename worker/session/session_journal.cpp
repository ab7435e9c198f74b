// session_journal.cpp - the way of an end: written down, its blobs sent, said, judged, forgotten. Ends of short jobs begin at "said".
#include "worker/session/session.h"

namespace gq::session {

/// What took long to make and could not be made again at no cost.
bool Session::is_journaled(const Held& held, Outcome outcome) {
  return is_long(held.kind) && outcome != Outcome::cancelled && outcome != Outcome::lost && outcome != Outcome::crashed;
}

void Session::send_blobs_then_end(const Grant& grant, Actions& out) {
  Held& held = held_.at(grant);
  if (held.here.empty()) return queue_end(grant);
  held.waiting_upload = true;
  out.emplace_back(UploadAgain{grant, held.here});
}

void Session::journaled(const Grant& grant, Actions& out) {
  const auto it = held_.find(grant);
  if (it == held_.end()) {
    out.emplace_back(ForgetEnd{grant});   // given up while it was being written
    return;
  }
  if (!std::exchange(it->second.waiting_journal, false)) return;
  it->second.journaled = true;
  send_blobs_then_end(grant, out);
}

void Session::restore(wire::EndedItem end, std::string body, std::vector<BlobDigest> here, Actions& out) {
  const Grant grant = end.grant;
  if (held_.contains(grant)) return;
  Held held;
  held.lane_charged = false;
  held.started = end.started;
  held.ended = held.journaled = true;
  held.here = std::move(here);
  held.end = std::move(end);
  held.body = std::move(body);
  held_.emplace(grant, std::move(held));
  send_blobs_then_end(grant, out);
}

void Session::drop_end(HeldMap::iterator held, Actions& out) {
  if (held->second.journaled) out.emplace_back(ForgetEnd{held->first});
  held_.erase(held);
}

void Session::result_stored(const Grant& grant) {
  const auto it = held_.find(grant);
  if (it == held_.end() || !it->second.waiting_upload) return;
  it->second.waiting_upload = false;
  queue_end(grant);
}

void Session::result_missing(const Grant& grant) {
  const auto it = held_.find(grant);
  if (it == held_.end() || !it->second.waiting_upload) return;
  wire::EndedItem& end = it->second.end;
  end.outcome = static_cast<std::uint8_t>(Outcome::lost);
  end.code = to_string(Errc::worker_lost);
  end.what = "the broker lost a stored result and this worker has no copy left";
  end.blobs.clear();
  end.checkpoint = {};   // the broker goes on from the newest one it has
  end.checkpoint_step = 0;
  end.payload_bytes = 0;
  it->second.body.clear();
  result_stored(grant);
}

}  // namespace gq::session
