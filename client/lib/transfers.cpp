// transfers.cpp - see transfers.h.
#include "client/lib/transfers.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "common/files/write_all.h"

namespace gq::client {

namespace {
Error misfit(const char* what) { return {Errc::protocol, what, "update gpuq on both sides"}; }
}  // namespace

// ---- put

void Transfers::upload(BlobSourcePtr source, Done done, bool brief) {
  const auto [it, is_new] = uploads_.try_emplace({source->digest, brief});
  if (is_new) {
    it->second = std::make_shared<Upload>();
    it->second->brief = brief;
    it->second->source = std::move(source);
  }
  it->second->done.push_back(std::move(done));
  if (is_new) begin(it->second);
}

void Transfers::begin(const UploadPtr& upload) {
  if (!hand_over(upload)) probe(upload);
}

/// To a broker on this machine, of this user: its file instead of its bytes.
bool Transfers::hand_over(const UploadPtr& upload) {
  const BlobSource& source = *upload->source;
  if (!upload->brief || !is_brief_name(source.digest) || source.fd >= 0 || source.total > kNearMax || engine_.near_folder().empty()) return false;
  const std::string file = to_string(source.digest), path = engine_.near_folder() + "/" + file;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  const bool written = fd >= 0 && files::write_all(fd, source.bytes);
  if (fd >= 0) ::close(fd);
  if (!written) {
    if (fd >= 0) ::unlink(path.c_str());
    engine_.near_fails();
    return false;
  }
  engine_.ask(wire::BlobPut{source.digest, source.total, 0, true, file}, {}, engine_.settings().timeout, [this, upload, path](Result<Answer>&& answer) {
    const auto* reply = answer ? std::get_if<wire::BlobPutReply>(&answer->message) : nullptr;
    if (reply != nullptr && reply->complete) return finish(upload, {});
    ::unlink(path.c_str());
    if (!answer && answer.error().code == Errc::timed_out) return finish(upload, tl::unexpected(answer.error()));
    if (!answer && answer.error().code == Errc::not_found) engine_.near_fails();   // swept by a restart, or that folder is not the broker's
    probe(upload);
  });
  return true;
}

void Transfers::probe(const UploadPtr& upload) {
  engine_.ask(wire::BlobPut{upload->source->digest, upload->source->total, 0, upload->brief}, {}, engine_.settings().timeout,
              [this, upload](Result<Answer>&& answer) {
                if (!answer) return finish(upload, tl::unexpected(answer.error()));
                const auto* reply = std::get_if<wire::BlobPutReply>(&answer->message);
                if (reply == nullptr || reply->next > upload->source->total) return finish(upload, tl::unexpected(misfit("the broker answered an upload with something else")));
                if (reply->complete) return finish(upload, {});
                upload->next = upload->best = reply->next;
                pump(upload);
              });
}

void Transfers::pump(const UploadPtr& upload) {
  const std::uint64_t total = upload->source->total;
  while (!upload->finished && !upload->rewinding && upload->under_way < kWindow && upload->next < total) {
    auto bytes = upload->source->read(upload->next, engine_.chunk_bytes());
    if (!bytes) return finish(upload, tl::unexpected(bytes.error()));
    const wire::BlobPut message{upload->source->digest, total, upload->next, upload->brief};
    upload->next += bytes->size();
    ++upload->under_way;
    engine_.ask(message, std::move(*bytes), engine_.settings().timeout,
                [this, upload, sent_to = upload->next](Result<Answer>&& answer) { chunk_answered(upload, sent_to, std::move(answer)); });
  }
}

void Transfers::chunk_answered(const UploadPtr& upload, std::uint64_t sent_to, Result<Answer>&& answer) {
  --upload->under_way;
  if (upload->finished) return;
  if (!answer) return finish(upload, tl::unexpected(answer.error()));
  const auto* reply = std::get_if<wire::BlobPutReply>(&answer->message);
  if (reply == nullptr || reply->next > upload->source->total) return finish(upload, tl::unexpected(misfit("the broker answered an upload with something else")));
  if (reply->complete) return finish(upload, {});
  if (reply->next > upload->best) upload->best = reply->next, upload->rewinds = 0;
  if (reply->next < sent_to) {   // it has less than we thought: let the rest of the window come back, then go on from there
    upload->rewinding = true;
    upload->rewind_to = reply->next;
  }
  if (upload->under_way > 0) return pump(upload);
  if (upload->rewinding || upload->next >= upload->source->total) {
    if (++upload->rewinds > 16)
      return finish(upload, fail(Errc::unavailable, "the broker does not complete an upload of " + std::to_string(upload->source->total) + " bytes", "look at the broker's log, then try again"));
    upload->rewinding = false;
    upload->next = upload->best;
    if (upload->next >= upload->source->total) return probe(upload);
    upload->next = std::min(upload->next, upload->rewind_to);
  }
  pump(upload);
}

void Transfers::finish(const UploadPtr& upload, Result<void> result) {
  if (upload->finished) return;
  upload->finished = true;
  uploads_.erase({upload->source->digest, upload->brief});
  const auto done = std::move(upload->done);
  for (const Done& one : done) one(result);
}

// ---- get

void Transfers::download(const BlobDigest& blob, Take take, Done done) {
  auto download = std::make_shared<Download>();
  download->blob = blob;
  download->take = std::move(take);
  download->done = std::move(done);
  ask(download, 0);
}

void Transfers::ask(const DownloadPtr& download, std::uint64_t offset) {
  ++download->under_way;
  const wire::BlobGet message{download->blob, offset, static_cast<std::uint32_t>(engine_.chunk_bytes())};
  engine_.ask(message, {}, engine_.settings().timeout,
              [this, download, offset](Result<Answer>&& answer) { chunk_arrived(download, offset, std::move(answer)); });
}

void Transfers::pump(const DownloadPtr& download) {
  while (!download->finished && download->under_way < kWindow && download->next < download->total) {
    const std::uint64_t offset = download->next;
    download->next += std::min<std::uint64_t>(engine_.chunk_bytes(), download->total - offset);
    ask(download, offset);
  }
}

void Transfers::chunk_arrived(const DownloadPtr& download, std::uint64_t offset, Result<Answer>&& answer) {
  --download->under_way;
  if (download->finished) return;
  if (!answer) return finish(download, tl::unexpected(answer.error()));
  const auto* reply = std::get_if<wire::BlobGetReply>(&answer->message);
  const std::size_t bytes = answer->body.size();
  if (reply == nullptr || reply->offset != offset || reply->total > kLimits.blob_bytes_max || bytes > reply->total - std::min(reply->total, offset) ||
      (download->sized && reply->total != download->total))
    return finish(download, tl::unexpected(misfit("the broker answered a download with something else")));
  const std::uint64_t total = reply->total;
  if (!download->sized) {
    download->sized = true;
    download->total = total;
    download->next = bytes;
  }
  if (auto ok = download->take(total, offset, answer->body); !ok) return finish(download, std::move(ok));
  download->received += bytes;
  if (download->received >= total) return finish(download, {});
  if (bytes == 0) return finish(download, tl::unexpected(misfit("the broker sent an empty piece of a blob")));
  // A shorter piece than asked for (the broker's own limit): ask for what is missing of this one.
  const std::uint64_t wanted = offset == 0 ? bytes : std::min<std::uint64_t>(engine_.chunk_bytes(), total - offset);
  if (bytes < wanted) ask(download, offset + bytes);
  pump(download);
}

void Transfers::finish(const DownloadPtr& download, Result<void> result) {
  if (download->finished) return;
  download->finished = true;
  const Done done = std::move(download->done);
  done(std::move(result));
}

}  // namespace gq::client
