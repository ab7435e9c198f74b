// findings.cpp - see findings.h.
#include "tests/checker/findings.h"

#include <algorithm>
#include <cstdio>

namespace gq::checker {
namespace {

std::string seconds(std::int64_t us) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f s", static_cast<double>(us) / 1e6);
  return text;
}

}  // namespace

std::string_view to_string(Note note) {
  static constexpr std::string_view names[] = {
      "submit sent", "submit acknowledged", "submit refused", "cancel sent", "cancel answered", "retry sent", "noticed", "fetched",
      "created", "changed", "forgotten", "result stored", "assign left", "assign seen", "assign doubled", "refused", "started",
      "ended", "killed", "verdict", "revoked", "preempt seen", "cancel seen", "hello", "welcomed", "beat", "worker killed",
      "worker frozen", "worker thawed", "link torn", "broker killed", "broker loaded", "store down", "store up", "committed",
      "dropped", "goodbye", "payload missing", "model asked out", "checkpoint saved", "commanded", "policy loaded", "device changed"};
  return names[static_cast<std::size_t>(note)];
}

Findings::Findings(std::uint64_t seed, std::size_t ring_size) : seed_(seed), mask_(ring_size - 1), ring_(ring_size) {}

void Findings::violation(std::string_view rule, JobNumber job, std::string what) {
  ++violations_;
  if (std::find(rules_.begin(), rules_.end(), rule) == rules_.end()) rules_.emplace_back(rule);
  if (kept_.size() >= kept_max) return;
  std::string text = "violation of '" + std::string(rule) + "' at " + seconds(now_us_) + ", seed " + std::to_string(seed_);
  if (job != kNoJob) text += ", job #" + std::to_string(job);
  text += ": " + what;
  if (job != kNoJob) text += "\n" + story(job);
  kept_.push_back(std::move(text));
}

bool Findings::broke(std::string_view rule) const { return std::find(rules_.begin(), rules_.end(), rule) != rules_.end(); }

std::string Findings::story(JobNumber job, std::size_t notes_max) const {
  return told([job](const Noted& n) { return n.job == job; }, notes_max);
}

std::string Findings::story_of_worker(std::uint32_t worker, std::size_t notes_max) const {
  return told([worker](const Noted& n) {
    return n.who == worker && (n.job == kNoJob || n.note == Note::started || n.note == Note::ended || n.note == Note::killed) && n.note != Note::committed; }, notes_max);
}

template <class Which>
std::string Findings::told(Which which, std::size_t notes_max) const {
  std::vector<Noted> found;
  const std::uint64_t oldest = next_ > ring_.size() ? next_ - ring_.size() : 0;
  for (std::uint64_t i = next_; i > oldest && found.size() < notes_max; --i)
    if (which(ring_[(i - 1) & mask_])) found.push_back(ring_[(i - 1) & mask_]);
  std::string text;
  for (auto it = found.rbegin(); it != found.rend(); ++it)
    text += "    " + seconds(it->at_us) + "  " + std::string(to_string(it->note)) + "  who " + std::to_string(it->who) + "  value " +
            std::to_string(it->value) + "\n";
  return text;
}

}  // namespace gq::checker
