// blob_requests.cpp - large bytes, in chunks, in both directions. Disk work is on the blob store's own thread; answers come back to
// the loop and find their peer gone or not.
#include <algorithm>
#include <filesystem>

#include "broker/shell/broker_state.h"

namespace gq::broker {

namespace {
constexpr std::uint32_t kChunkMax = 1U << 20U;
}

/// Without bytes: from where to go on. With bytes: the next piece. A gap or an upload nobody began is answered with where to go on.
void Broker::State::on_blob_put(Peer& peer, std::uint64_t request, const wire::BlobPut& put, std::string_view body) {
  const PeerId id = peer.id;
  const BlobDigest blob = put.blob;
  if (blob.empty()) return refuse(peer, request, {Errc::bad_message, "an upload without a digest", "name the blob by its SHA-256"});
  if (put.offset > put.total || body.size() > put.total - put.offset)
    return refuse(peer, request, {Errc::bad_message, "a piece of blob " + to_string(blob) + " lies beyond its size", {}});

  if (is_brief_name(blob) && !put.brief) return refuse(peer, request, {Errc::bad_message, "blob " + to_string(blob) + " has a name and no digest: it cannot be kept", "name it by its SHA-256"});

  const auto answer = [this, id, request, blob](Result<store::UploadState> state) {
    Peer* asker = stopped ? nullptr : find(id);
    if (asker == nullptr) return;
    if (!state) return refuse(*asker, request, state.error());
    say(*asker, wire::BlobPutReply{.blob = blob, .next = state->offset, .complete = state->complete}, request);
  };
  const bool brief = put.brief;
  if (!put.near.empty())
    return blobs.adopt(blob, put.total, put.near, [answer, total = put.total](Result<void> adopted) {
      if (adopted) answer(store::UploadState{.offset = total, .complete = true});
      else answer(tl::unexpected(adopted.error()));
    });
  const auto finish = [this, answer, blob, brief, total = put.total] {
    blobs.finish(blob, [answer, total](Result<void> done) {
      if (done) answer(store::UploadState{.offset = total, .complete = true});
      else answer(tl::unexpected(done.error()));
    }, brief);
  };
  const auto begin = [this, answer, finish, blob, brief, total = put.total] {
    blobs.begin_upload(blob, total, [answer, finish, total](Result<store::UploadState> state) {
      if (state && !state->complete && state->offset == total) finish();   // nothing to send, or all was here when we went away
      else answer(std::move(state));
    }, brief);
  };
  if (body.empty()) return begin();
  if (brief ? blobs.holds(blob) : blobs.contains(blob)) return answer(store::UploadState{.offset = put.total, .complete = true});

  const std::size_t bytes = body.size();
  blob_bytes_waiting += bytes;
  blobs.append(blob, put.offset, std::string(body), [this, answer, finish, begin, bytes, total = put.total](Result<store::UploadState> state) {
    blob_bytes_waiting -= bytes;
    update_reading();
    if (!state && (state.error().code == Errc::unknown_blob || state.error().code == Errc::not_found)) return begin();
    if (state && !state->complete && state->offset == total) return finish();
    answer(std::move(state));
  }, brief);
}

void Broker::State::on_blob_get(Peer& peer, std::uint64_t request, const wire::BlobGet& get) {
  const std::uint32_t wanted = std::clamp<std::uint32_t>(get.bytes_max == 0 ? static_cast<std::uint32_t>(kLimits.blob_chunk_bytes) : get.bytes_max, 1, kChunkMax);
  if (!blobs.holds(get.blob))
    return refuse(peer, request, {Errc::unknown_blob, "blob " + to_string(get.blob) + " is not stored", "it was never uploaded, or nothing named it any more"});
  if (get.near && get.offset == 0)   // on this machine the file itself is nearer than its bytes
    return say(peer, wire::BlobGetReply{.blob = get.blob, .total = blobs.size_of(get.blob).value_or(0), .offset = 0, .path = std::filesystem::absolute(blobs.path_of(get.blob)).string()}, request);
  blob_bytes_waiting += wanted;
  blobs.read(get.blob, get.offset, wanted, [this, id = peer.id, request, blob = get.blob, offset = get.offset, wanted](Result<store::BlobChunk> chunk) {
    blob_bytes_waiting -= wanted;
    update_reading();
    Peer* asker = stopped ? nullptr : find(id);
    if (asker == nullptr) return;
    if (!chunk) return refuse(*asker, request, chunk.error());
    say(*asker, wire::BlobGetReply{.blob = blob, .total = chunk->total, .offset = offset}, request, chunk->bytes);
  });
}

}  // namespace gq::broker
