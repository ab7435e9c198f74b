// blobs_link.cpp - answers find their transfer; a link that breaks, and one that stands again.
#include "worker/runtime/transfers.h"

namespace gq::worker {

namespace {
constexpr int kSilentTicks = 10;   // then the request is made again
}

void Blobs::received(std::uint64_t id, const wire::Message& message, std::string_view body) {
  if (const auto found = get_ids_.find(id); found != get_ids_.end()) {
    const std::shared_ptr<Get> get = found->second;
    get_ids_.erase(found);
    std::erase(get->ids, id);
    if (const auto* reply = std::get_if<wire::BlobGetReply>(&message)) return got(get, *reply, body);
    if (const auto* failure = std::get_if<wire::Failure>(&message)) {
      Error error{Errc::internal, failure->what, failure->next};
      parse_errc(failure->code, error.code);
      if (error.code == Errc::unavailable) return;   // tick() asks again
      return finish(get, tl::unexpected(std::move(error)));
    }
    return;
  }
  if (const auto found = put_ids_.find(id); found != put_ids_.end()) {
    const std::shared_ptr<Put> put = found->second;
    put_ids_.erase(found);
    std::erase(put->ids, id);
    if (const auto* reply = std::get_if<wire::BlobPutReply>(&message)) return stored(put, *reply);
    if (const auto* failure = std::get_if<wire::Failure>(&message)) {
      Error error{Errc::internal, failure->what, failure->next};
      parse_errc(failure->code, error.code);
      if (error.code == Errc::unavailable || error.code == Errc::storage_full) return;   // results are kept until there is room
      return finish(put, tl::unexpected(std::move(error)));
    }
  }
}

void Blobs::link_up(std::uint64_t chunk_bytes, bool near) {
  near_ = near;
  if (chunk_bytes > 0) chunk_bytes_ = std::min<std::uint64_t>(chunk_bytes, 1U << 20U);
  up_ = true;
  evict();
  const auto gets = gets_;   // pump may finish one
  for (const auto& [digest, get] : gets) pump(get);
  const auto puts = puts_;
  for (const auto& [digest, put] : puts) pump(put);
}

void Blobs::link_down() {
  up_ = false;
  get_ids_.clear();
  put_ids_.clear();
  for (auto& [digest, get] : gets_) {
    get->ids.clear();
    get->asked = get->received;
    get->silent = 0;
  }
  for (auto& [digest, put] : puts_) {
    put->ids.clear();
    put->asked_where = put->answered_where = false;
    put->silent = 0;
  }
}

void Blobs::tick() {
  forget_brief();
  if (!up_) return;
  const auto gets = gets_;
  for (const auto& [digest, get] : gets) {
    if (!get->ids.empty() && ++get->silent < kSilentTicks) continue;
    for (const std::uint64_t id : get->ids) get_ids_.erase(id);
    get->ids.clear();
    get->asked = get->received;
    get->silent = 0;
    pump(get);
  }
  const auto puts = puts_;
  for (const auto& [digest, put] : puts) {
    if (!put->ids.empty() && ++put->silent < kSilentTicks) continue;
    for (const std::uint64_t id : put->ids) put_ids_.erase(id);
    put->ids.clear();
    put->asked_where = put->answered_where = false;
    put->silent = 0;
    pump(put);
  }
}

}  // namespace gq::worker
