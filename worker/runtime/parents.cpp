#include "worker/runtime/parents.h"

namespace gq::worker {
namespace {

constexpr int kSilentTicks = 10;   // then the question is asked again

}  // namespace

void ParentResults::say(std::uint64_t id, Question& question) {
  question.silent = 0;
  question.asked = send_(question.query, id, {});
}

void ParentResults::ask(const JobId& parent, const JobId& child, Answered done) {
  const std::uint64_t id = next_id_++;
  Question& question = open_[id];
  question.query = {parent, child};
  question.done = std::move(done);
  if (up_) say(id, question);
}

void ParentResults::link_up() {
  up_ = true;
  for (auto& [id, question] : open_) say(id, question);
}

void ParentResults::tick() {
  if (!up_) return;
  for (auto& [id, question] : open_)
    if (!question.asked || ++question.silent >= kSilentTicks) say(id, question);
}

void ParentResults::received(std::uint64_t id, const wire::Message& message, std::string_view body) {
  const auto it = open_.find(id);
  if (it == open_.end()) return;   // answered twice: it had been asked twice
  const auto answer = [&](Result<std::string> result) {
    const Answered done = std::move(it->second.done);
    open_.erase(it);
    done(std::move(result));
  };
  if (const auto* reply = std::get_if<wire::ResultReply>(&message)) {
    if (reply->item.code == to_string(Errc::result_expired)) return answer(fail(Errc::result_expired, "it has been dropped", "gpuq retry " + to_string(reply->item.id)));
    return answer(std::string(body));
  }
  const auto* failure = std::get_if<wire::Failure>(&message);
  if (failure == nullptr) return;
  Errc code = Errc::internal;
  if (!parse_errc(failure->code, code)) code = Errc::internal;
  if (code != Errc::unavailable) return answer(tl::unexpected(Error{code, failure->what, failure->next}));
  it->second.asked = false;   // the next tick asks again
}

}  // namespace gq::worker
