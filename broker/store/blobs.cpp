// blobs.cpp - who names what, how full it is, and handing the file work to the one thread that may block.
#include "broker/store/blobs.h"

#include <cstdio>
#include <unordered_map>
#include <unordered_set>

#include "broker/store/blob_files.h"
#include "broker/store/work_thread.h"
#include "common/net/asio.h"

namespace gq::store {

namespace {

constexpr std::size_t kRemovedAtOnce = 256, kBriefRemovedAtOnce = 4096;   // by one collect()
constexpr Duration kLookAtAll = 60s;                                       // in between only brief ones are looked at

std::string in_words(std::uint64_t bytes) {
  char text[40];
  if (bytes >= 1ULL << 30U) std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  else if (bytes >= 1ULL << 20U) std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  else std::snprintf(text, sizeof text, "%llu B", static_cast<unsigned long long>(bytes));
  return text;
}

class Blobs final : public BlobStore {
 public:
  Blobs(asio::io_context& io, BlobOptions options) : io_(io), options_(std::move(options)), files_(options_.dir) {
    if (!options_.clock)
      options_.clock = [] {
        return Instant(std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()));
      };
  }
  ~Blobs() override { *alive_ = false; }

  void open(std::function<void(Result<void>)> done) override {
    work([this] { return files_.open(); },
         [this, done = std::move(done)](Result<std::vector<BlobFiles::Found>> found) {
           if (!found) return done(tl::unexpected<Error>(found.error()));
           blobs_.clear();
           briefs_.clear();
           uploads_.clear();
           used_ = upload_bytes_ = 0;
           const Instant now =
               options_.clock();  // the grace starts anew: a client may be about to name what it uploaded
           for (const auto& f : *found) blobs_[f.digest] = {f.size, now, false}, used_ += f.size;
           done({});
         });
  }

  void begin_upload(BlobDigest digest, std::uint64_t size, std::function<void(Result<UploadState>)> done, bool brief) override {
    if (const auto it = blobs_.find(digest); it != blobs_.end()) {
      it->second.since = options_.clock();   // whoever asks is about to name it
      if (it->second.brief && !brief)
        return promote(digest, [done = std::move(done), whole = it->second.size](Result<void> kept) {
          done(kept.map([whole] { return UploadState{whole, true}; }));
        });
      return answer(done, UploadState{it->second.size, true});
    }
    const auto it = uploads_.find(digest);
    if (it == uploads_.end()) {
      if (auto room = room_for(size); !room) return answer(done, Result<UploadState>(tl::unexpected<Error>(room.error())));
      uploads_[digest] = {size, options_.clock(), brief};
      upload_bytes_ += size;
    } else if (it->second.size != size) {
      return answer(
          done, Result<UploadState>(fail(Errc::bad_message, "blob " + to_string(digest) + " was announced with " +
                                                                std::to_string(it->second.size) + " bytes, now with " +
                                                                std::to_string(size))));
    } else {
      it->second.touched = options_.clock();
      it->second.brief = it->second.brief && brief;
    }
    work([this, digest] { return files_.begin(digest); },
         [this, digest, done = std::move(done)](Result<std::uint64_t> offset) {
           if (!offset) forget_upload(digest);
           done(offset.map([](std::uint64_t at) { return UploadState{at, false}; }));
         });
  }

  void append(BlobDigest digest, std::uint64_t offset, std::string chunk,
              std::function<void(Result<UploadState>)> done, bool brief) override {
    if (const auto it = blobs_.find(digest); it != blobs_.end() && (brief || !it->second.brief)) return answer(done, UploadState{it->second.size, true});
    const auto it = uploads_.find(digest);
    if (it == uploads_.end())
      return answer(
          done, Result<UploadState>(fail(Errc::not_found, "no upload of blob " + to_string(digest) + " is under way",
                                         "begin it again")));
    if (offset > it->second.size || chunk.size() > it->second.size - offset)
      return answer(
          done, Result<UploadState>(fail(Errc::bad_message, "more bytes than the " + std::to_string(it->second.size) +
                                                                " announced for blob " + to_string(digest))));
    it->second.touched = options_.clock();
    bytes_in_ += chunk.size();
    work([this, digest, offset,
          bytes = std::make_shared<std::string>(std::move(chunk))] { return files_.append(digest, offset, *bytes); },
         [this, digest, done = std::move(done)](Result<std::uint64_t> at) {
           if (!at) forget_upload(digest);
           done(at.map([](std::uint64_t next) { return UploadState{next, false}; }));
         });
  }

  void finish(BlobDigest digest, std::function<void(Result<void>)> done, bool brief) override {
    if (const auto known = blobs_.find(digest); known != blobs_.end()) {
      if (known->second.brief && !brief) return promote(digest, std::move(done));
      return answer(done, Result<void>());
    }
    const auto it = uploads_.find(digest);
    if (it == uploads_.end())
      return answer(done, Result<void>(fail(Errc::not_found, "no upload of blob " + to_string(digest) + " is under way",
                                            "begin it again")));
    const std::uint64_t size = it->second.size;
    const bool briefly = it->second.brief;
    work([this, digest, size, briefly] { return files_.finish(digest, size, briefly); },
         [this, digest, size, briefly, done = std::move(done)](Result<void> finished) {
           if (!finished && finished.error().code == Errc::bad_message)
             return done(finished);  // incomplete: it may go on
           if (!finished && finished.error().code == Errc::not_found && blobs_.contains(digest))
             return done({});  // another sender was first
           forget_upload(digest);
           if (finished) {
             if (blobs_.insert_or_assign(digest, Blob{size, options_.clock(), briefly}).second) used_ += size;
             if (briefly) briefs_.insert(digest);
             ++stored_;
           } else if (finished.error().code == Errc::bad_input) {
             ++mismatches_;
           }
           done(finished);
         });
  }

  void abandon(BlobDigest digest) override {
    if (!uploads_.contains(digest)) return;
    forget_upload(digest);
    thread_.add([this, digest] { files_.abandon(digest); });
  }

  void adopt(BlobDigest name, std::uint64_t size, const std::string& file, std::function<void(Result<void>)> done) override {
    const bool is_name = !file.empty() && file.size() <= 64 && file.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!is_name || !is_brief_name(name)) return answer(done, Result<void>(fail(Errc::bad_message, "'" + file.substr(0, 64) + "' is no file to be taken over", "send its bytes")));
    if (blobs_.contains(name)) return answer(done, Result<void>());   // the answer was lost, asked again
    if (auto room = room_for(size); !room) return answer(done, std::move(room));
    upload_bytes_ += size;
    work([this, name, size, file] { return files_.adopt(name, size, file); },
         [this, name, size, done = std::move(done)](Result<void> adopted) {
           upload_bytes_ -= size;
           if (adopted) {
             bytes_in_ += size;
             ++stored_;
             if (blobs_.insert_or_assign(name, Blob{size, options_.clock(), true}).second) used_ += size;
             briefs_.insert(name);
           }
           done(std::move(adopted));
         });
  }
  [[nodiscard]] std::filesystem::path near_folder() const override { return files_.near_folder(); }

  void put(std::string bytes, std::function<void(Result<BlobDigest>)> done) override {
    const auto shared = std::make_shared<std::string>(std::move(bytes));
    work([shared] { return Result<BlobDigest>(digest_of(*shared)); },
         [this, shared, done = std::move(done)](Result<BlobDigest> digest) {
           begin_upload(*digest, shared->size(), [this, shared, digest = *digest, done](Result<UploadState> state) {
             if (!state) return done(tl::unexpected<Error>(state.error()));
             if (state->complete) return done(digest);
             append(digest, 0, *shared, [this, digest, done](Result<UploadState> appended) {
               if (!appended) return done(tl::unexpected<Error>(appended.error()));
               finish(digest, [digest, done](Result<void> finished) {
                 if (!finished) return done(tl::unexpected<Error>(finished.error()));
                 done(digest);
               }, false);
             }, false);
           }, false);
         });
  }

  void read(BlobDigest digest, std::uint64_t offset, std::size_t length,
            std::function<void(Result<BlobChunk>)> done) override {
    if (!blobs_.contains(digest))
      return answer(done, Result<BlobChunk>(fail(Errc::unknown_blob, "there is no blob " + to_string(digest),
                                                 "it may have been collected: send it again")));
    work([this, digest, offset, length] { return files_.read(digest, offset, length); },
         [this, done = std::move(done)](Result<BlobChunk> chunk) {
           if (chunk) bytes_out_ += chunk->bytes.size();
           done(std::move(chunk));
         });
  }

  [[nodiscard]] bool contains(const BlobDigest& digest) const override {
    const auto it = blobs_.find(digest);
    return it != blobs_.end() && !it->second.brief;
  }
  [[nodiscard]] bool holds(const BlobDigest& digest) const override { return blobs_.contains(digest); }
  [[nodiscard]] std::optional<std::uint64_t> size_of(const BlobDigest& digest) const override {
    const auto it = blobs_.find(digest);
    return it == blobs_.end() ? std::nullopt : std::optional(it->second.size);
  }
  [[nodiscard]] std::filesystem::path path_of(const BlobDigest& digest) const override {
    const auto it = blobs_.find(digest);
    return it != blobs_.end() && it->second.brief ? files_.brief_of(digest) : files_.path_of(digest);
  }

  void load(const core::Image& image) override {
    references_.clear();
    jobs_.clear();
    models_.clear();
    for (const auto& job : image.jobs) name_job(job.fixed.id, &job.fixed, job.dynamic);
    for (const auto& model : image.models) name_model(model.name + "@" + model.version, model.blob);
  }

  void observe(const core::Mutation& mutation) override {
    std::visit(overloaded{
                   [&](const core::JobCreated& m) { name_job(m.record.fixed.id, &m.record.fixed, m.record.dynamic); },
                   [&](const core::JobChanged& m) { name_job(m.id, nullptr, m.now); },
                   [&](const core::JobForgotten& m) {
                     const auto it = jobs_.find(m.id);
                     if (it == jobs_.end()) return;
                     for (const auto& list : {it->second.fixed, it->second.dynamic})
                       for (const auto& digest : list) release(digest);
                     jobs_.erase(it);
                   },
                   [&](const core::ModelStored& m) { name_model(m.record.name + "@" + m.record.version, m.record.blob); },
                   [&](const core::ModelRemoved& m) { name_model(m.name + "@" + m.version, {}); },
                   [](const auto&) {},
               },
               mutation);
  }

  [[nodiscard]] std::uint32_t references(const BlobDigest& digest) const override {
    const auto it = references_.find(digest);
    return it == references_.end() ? 0 : it->second;
  }

  void collect(std::function<void(std::size_t)> done) override {
    const Instant now = options_.clock();
    std::vector<BlobDigest> stale;
    for (const auto& [digest, upload] : uploads_)
      if (now - upload.touched >= options_.upload_patience) stale.push_back(digest);
    for (const auto& digest : stale) abandon(digest);

    std::vector<BlobDigest> unnamed;
    std::size_t most = kRemovedAtOnce;
    const auto look_at = [&](const BlobDigest& digest, const Blob& blob) {
      if (unnamed.size() < most && references(digest) == 0 && now - blob.since >= (blob.brief ? options_.brief_grace : options_.grace)) unnamed.push_back(digest);
    };
    if (!looked_at_all_ || now - *looked_at_all_ >= kLookAtAll) {   // there may be a million of them
      looked_at_all_ = now;
      for (const auto& [digest, blob] : blobs_) look_at(digest, blob);
    } else {
      most = kBriefRemovedAtOnce;
      for (const auto& digest : briefs_) look_at(digest, blobs_.at(digest));
    }
    for (const auto& digest : unnamed) {   // gone from the index at once; an upload begun now queues behind the unlink
      used_ -= blobs_.at(digest).size;
      blobs_.erase(digest);
      briefs_.erase(digest);
    }
    collected_ += unnamed.size();
    work([this, unnamed, patience = options_.near_patience] {
           files_.sweep_near(patience);
           for (const auto& digest : unnamed) files_.remove(digest);
           return unnamed.size();
         },
         std::move(done));
  }

  [[nodiscard]] BlobStatistics statistics() const override {
    BlobStatistics s{.blobs = blobs_.size(),
                     .bytes = used_,
                     .uploads = uploads_.size(),
                     .upload_bytes = upload_bytes_,
                     .quota_bytes = options_.quota_bytes,
                     .stored = stored_,
                     .collected = collected_,
                     .bytes_in = bytes_in_,
                     .bytes_out = bytes_out_,
                     .digest_mismatches = mismatches_};
    for (const auto& [digest, count] : references_)
      if (const auto it = blobs_.find(digest); it != blobs_.end()) ++s.referenced, s.referenced_bytes += it->second.size;
    return s;
  }

 private:
  struct Blob { std::uint64_t size{}; Instant since{}; bool brief{}; };   ///< since: uploaded, or last unreferenced
  struct Upload { std::uint64_t size{}; Instant touched{}; bool brief{}; };   ///< brief: nobody who sends it needs it durable
  struct Named { std::vector<BlobDigest> fixed, dynamic; };

  /// `job` on the thread, then `then(result)` on the loop.
  template <class Job, class Then>
  void work(Job job, Then then) {
    thread_.add([this, job = std::move(job), then = std::move(then), alive = alive_]() mutable {
      auto result = std::make_shared<decltype(job())>(job());
      asio::post(io_, [then = std::move(then), result, alive] {
        if (*alive) then(std::move(*result));
      });
    });
  }
  template <class Done, class Value>
  void answer(const Done& done, Value value) {
    asio::post(io_, [done, value = std::move(value), alive = alive_] {
      if (*alive) done(value);
    });
  }

  [[nodiscard]] Result<void> room_for(std::uint64_t size) const {
    if (size > options_.blob_bytes_max)
      return fail(Errc::too_large, "a blob of " + in_words(size) + " is larger than the limit of " + in_words(options_.blob_bytes_max), "split it, or pass it by reference with share:");
    if (used_ + upload_bytes_ + size > options_.quota_bytes)
      return fail(Errc::storage_full, "the blob store is full: " + in_words(used_ + upload_bytes_) + " of " + in_words(options_.quota_bytes) + " used, " + in_words(size) + " asked",
                  "forget finished jobs or old models, or raise --blob-quota");
    return {};
  }

  void promote(const BlobDigest& digest, std::function<void(Result<void>)> done) {
    work([this, digest] { return files_.promote(digest); },
         [this, digest, done = std::move(done)](Result<void> kept) {
           if (const auto it = blobs_.find(digest); kept && it != blobs_.end()) it->second.brief = false, briefs_.erase(digest);
           done(std::move(kept));
         });
  }

  void forget_upload(const BlobDigest& digest) {
    const auto it = uploads_.find(digest);
    if (it == uploads_.end()) return;
    upload_bytes_ -= it->second.size;
    uploads_.erase(it);
  }

  void take(const BlobDigest& digest) { ++references_[digest]; }
  void release(const BlobDigest& digest) {
    const auto it = references_.find(digest);
    if (it == references_.end() || --it->second > 0) return;
    references_.erase(it);
    if (const auto blob = blobs_.find(digest); blob != blobs_.end()) blob->second.since = options_.clock();
  }

  /// Most jobs name none; those cost nothing here.
  void name_job(JobId id, const core::JobFixed* fixed, const core::JobDynamic& dynamic) {
    const bool any = !dynamic.result_blobs.empty() || !dynamic.checkpoint.blob.empty() ||
                     (fixed != nullptr && !fixed->blobs.empty());
    const auto it = any ? jobs_.try_emplace(id).first : jobs_.find(id);
    if (it == jobs_.end()) return;
    Named& named = it->second;
    std::vector<BlobDigest> now = dynamic.result_blobs;
    if (!dynamic.checkpoint.blob.empty()) now.push_back(dynamic.checkpoint.blob);
    for (const auto& digest : now) take(digest);   // take before release: what stays named never looks unnamed
    for (const auto& digest : named.dynamic) release(digest);
    named.dynamic = std::move(now);
    if (fixed == nullptr) return;
    for (const auto& digest : fixed->blobs) take(digest);
    for (const auto& digest : named.fixed) release(digest);
    named.fixed = fixed->blobs;
  }
  void name_model(const std::string& model, const BlobDigest& digest) {
    const auto it = models_.find(model);
    if (!digest.empty()) take(digest);
    if (it != models_.end()) {
      release(it->second);
      models_.erase(it);
    }
    if (!digest.empty()) models_[model] = digest;
  }

  asio::io_context& io_;
  BlobOptions options_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unordered_map<BlobDigest, Blob> blobs_;
  std::unordered_set<BlobDigest> briefs_;      ///< of these: brief ones
  std::optional<Instant> looked_at_all_;
  std::unordered_map<BlobDigest, Upload> uploads_;
  std::unordered_map<BlobDigest, std::uint32_t> references_;
  std::unordered_map<JobId, Named> jobs_;
  std::unordered_map<std::string, BlobDigest> models_;
  std::uint64_t used_{}, upload_bytes_{}, stored_{}, collected_{}, bytes_in_{}, bytes_out_{}, mismatches_{};
  BlobFiles files_;       ///< touched by the thread only, path_of excepted
  WorkThread thread_;     ///< last: ends before what it works on
};

}  // namespace

std::unique_ptr<BlobStore> make_blob_store(asio::io_context& io, BlobOptions options) {
  return std::make_unique<Blobs>(io, std::move(options));
}

}  // namespace gq::store
