// redis_store.cpp - performs what CommitFsm decides: the connection, the timer, the callbacks.
#include "broker/store/redis_store.h"

#include <random>

#include "broker/store/commit_fsm.h"
#include "broker/store/image_loader.h"
#include "broker/store/redis_connection.h"
#include "broker/store/sentinel.h"
#include "common/net/asio.h"

namespace gq::store {

namespace {

Instant now() {
  return Instant(std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()));
}

class Redis final : public RedisStore {
 public:
  Redis(asio::io_context& io, RedisOptions options, Watcher watcher)
      : io_(io),
        options_(std::move(options)),
        watcher_(std::move(watcher)),
        keys_(options_.name_space),
        fsm_(options_, keys_),
        wake_(io),
        reconnect_(io),
        recheck_(io) {}
  ~Redis() override { shut(); }

  void open(std::function<void(Result<Opened>)> done) override {
    on_opened_ = std::move(done);
    on_committed_ = nullptr;
    drop_loader();
    later([this] { perform(fsm_.open(now())); });
  }

  void commit(Batch batch, std::function<void(Committed)> done) override {
    EncodedBatch encoded = encode_batch(batch, keys_);
    on_committed_ = std::move(done);
    known_ = std::move(encoded.known);
    items_ += batch.items.size();
    perform(fsm_.submit(now(), std::move(encoded)));
  }

  void read_results(std::vector<JobId> jobs, ReadDone done) override { read(keys_.result, jobs, std::move(done)); }
  void read_payloads(std::vector<JobId> jobs, ReadDone done) override { read(keys_.body, jobs, std::move(done)); }

  [[nodiscard]] std::string describe() const override {
    return "redis " + (version_.empty() ? std::string("(not connected yet)") : version_) +
           (options_.managed ? " managed" : " at " + options_.address.describe()) + ", fsync " +
           (options_.durability == Durability::always ? "always" : "every second") +
           (options_.replicas > 0 ? ", " + std::to_string(options_.replicas) + (options_.replicas == 1 ? " replica" : " replicas") : "");
  }

  void close() override { shut(); }

  [[nodiscard]] StoreStatistics statistics() const override {
    StoreStatistics s = const_cast<Redis*>(this)->fsm_.statistics();
    s.items = items_;
    s.bytes_written = written_ + (connection_ ? connection_->bytes_written() : 0);
    s.bytes_read = read_ + (connection_ ? connection_->bytes_read() : 0);
    return s;
  }

 private:
  template <class F>
  void later(F f) {
    asio::post(io_, [alive = alive_, f = std::move(f)] {
      if (*alive) f();
    });
  }

  void shut() {
    fsm_.close();
    *alive_ = false;
    alive_ = std::make_shared<bool>(true);
    lookup_.reset();
    drop_connection();
    drop_loader();
    fail_reads({Errc::unavailable, "the store was closed", ""});
    wake_.cancel();
    reconnect_.cancel();
    recheck_.cancel();
    on_opened_ = nullptr;
    on_committed_ = nullptr;
  }

  void perform(Actions actions) {
    const auto alive = alive_;   // a callback may close or destroy this store
    for (Action& action : actions) {
      if (!*alive) return;
      std::visit([this](auto& a) { act(a); }, action);
    }
  }

  void act(SendCommands& a) {
    if (!connection_) return;
    connection_->send(std::move(a.bytes), a.replies,
                      [this](std::vector<Reply> replies) { perform(fsm_.replied(now(), std::move(replies))); });
  }

  void act(ConnectAgain& a) {
    drop_connection();
    const auto alive = alive_;
    reconnect_.expires_after(a.after);
    reconnect_.async_wait([this, alive](ErrorCode error) {
      if (error || !*alive) return;
      if (options_.address.sentinels.empty()) return connect();
      lookup_ = std::make_unique<SentinelLookup>(io_, options_, [this](Result<RedisAddress> found) {
        lookup_.reset();
        if (!found) return perform(fsm_.disconnected(now(), found.error()));
        options_.address.host = found->host;
        options_.address.port = found->port;
        connect();
      });
    });
  }

  void connect() {
    connection_ = std::make_unique<RedisConnection>(io_, options_);
    connection_->connect([this] { perform(fsm_.connected(now(), random_())); },
                         [this](Error why) {
                           drop_connection();
                           perform(fsm_.disconnected(now(), why));
                         });
  }

  void act(WakeAt& a) {
    const auto alive = alive_;
    wake_.expires_after(std::max(Duration{0}, a.at - now()));
    wake_.async_wait([this, alive](ErrorCode error) {
      if (!error && *alive) perform(fsm_.timer(now()));
    });
  }

  void act(TookOver& a) {
    version_ = a.facts.get("redis_version");
    opened_ = Opened{.term = a.term, .batch = a.batch, .image = {}, .bytes_used = a.facts.number("used_memory"),
                     .bytes_max = bytes_max(a.facts, options_), .brand_new = a.brand_new};
    load();
  }
  void act(OpenFailed& a) {
    drop_connection();
    if (auto done = std::exchange(on_opened_, nullptr)) done(tl::unexpected<Error>(std::move(a.why)));
  }

  void act(BatchApplied& a) {
    Committed committed{.number = a.number, .payloads = std::move(known_)};
    known_ = {};
    for (std::size_t i = 0; i < a.reads.size(); ++i) {
      auto& bytes = committed.payloads[a.reads[i]];
      if (i < a.bodies.items.size() && a.bodies.items[i].is(Reply::Type::string))
        bytes = std::make_shared<const Bytes>(std::move(a.bodies.items[i].text));
    }
    if (auto done = std::exchange(on_committed_, nullptr)) done(std::move(committed));
  }

  void act(WentDown& a) {
    if (watcher_.down && !on_opened_) watcher_.down(a.why);
  }
  void act(CameUp&) {
    if (loader_) return load();   // the link was lost while reading the image: the term is still ours, read it anew
    if (watcher_.up && !on_opened_) watcher_.up();
  }
  void act(Deposed& a) {
    drop_connection();
    drop_loader();
    on_committed_ = nullptr;
    if (auto done = std::exchange(on_opened_, nullptr)) return done(tl::unexpected<Error>(a.why));   // while loading
    if (watcher_.fenced) watcher_.fenced(a.why);
  }
  void act(MustReload& a) {
    drop_connection();
    on_committed_ = nullptr;
    if (on_opened_) {   // the link was lost while loading, and the store went back: take over afresh
      drop_loader();
      return perform(fsm_.open(now()));
    }
    if (watcher_.reload) watcher_.reload(a.why);
  }

  void load() {
    drop_loader();
    loader_ = std::make_shared<ImageLoader>(
        keys_,
        [this](std::string bytes, std::size_t replies, RedisConnection::Replies done) {
          if (connection_) connection_->send(std::move(bytes), replies, std::move(done));
        },
        [this](Result<core::Image> image) {
          drop_loader();
          const auto done = std::exchange(on_opened_, nullptr);
          if (!image) {
            fsm_.close();
            drop_connection();
            if (done) done(tl::unexpected<Error>(image.error()));
            return;
          }
          opened_.image = std::move(*image);
          schedule_recheck();
          if (done) done(std::move(opened_));
        });
    loader_->start();
  }

  void drop_loader() {
    if (loader_) loader_->cancel();
    loader_.reset();
  }

  /// Only on a live connection; a request that is out when the link goes is answered UNAVAILABLE.
  void read(const std::string& prefix, const std::vector<JobId>& jobs, ReadDone done) {
    if (jobs.empty()) return later([done = std::move(done)] { done(std::vector<std::shared_ptr<const Bytes>>{}); });
    if (!connection_ || !fsm_.readable())
      return later([done = std::move(done)] {
        done(fail(Errc::unavailable, "Redis cannot be reached now", "ask again in a moment"));
      });
    CommandBuffer commands;
    commands.begin(1 + jobs.size());
    commands.arg("MGET");
    for (const JobId id : jobs) commands.arg(prefix, to_string(id));
    const std::uint64_t number = ++reads_made_;
    reads_.emplace(number, std::move(done));
    connection_->send(commands.take(), 1, [this, number, wanted = jobs.size()](std::vector<Reply> replies) {
      const auto it = reads_.find(number);
      if (it == reads_.end()) return;
      const ReadDone answer = std::move(it->second);
      reads_.erase(it);
      if (!replies[0].is(Reply::Type::array) || replies[0].items.size() != wanted)
        return answer(tl::unexpected<Error>(classify(replies[0].text)));
      std::vector<std::shared_ptr<const Bytes>> found;
      found.reserve(wanted);
      for (Reply& item : replies[0].items)
        found.push_back(item.is(Reply::Type::string) ? std::make_shared<const Bytes>(std::move(item.text)) : nullptr);
      answer(std::move(found));
    });
  }

  void fail_reads(const Error& why) {
    auto reads = std::exchange(reads_, {});
    if (!reads.empty())
      asio::post(io_, [reads = std::move(reads), why] {
        for (const auto& [number, done] : reads) done(tl::unexpected<Error>(why));
      });
  }

  void drop_connection() {
    if (connection_) {
      written_ += connection_->bytes_written();
      read_ += connection_->bytes_read();
      // Its destructor may run inside its own callback: the state behind it lives on until that returns.
      connection_.reset();
      fail_reads({Errc::unavailable, "the link to Redis was lost", "ask again in a moment"});
    }
  }

  /// CONFIG may be changed under us: look again now and then, beside the batches.
  void schedule_recheck() {
    const auto alive = alive_;
    recheck_.expires_after(options_.recheck);
    recheck_.async_wait([this, alive](ErrorCode error) {
      if (error || !*alive) return;
      schedule_recheck();
      if (!connection_ || !fsm_.readable()) return;
      CommandBuffer commands;
      append_fact_commands(commands);
      connection_->send(commands.take(), kFactReplies, [this](std::vector<Reply> replies) {
        const auto facts = parse_facts(replies.data());
        const auto why = facts ? check_server(*facts, options_) : std::nullopt;
        if (why &&
            why->code !=
                Errc::storage_full) {  // connecting again repeats the check and keeps batches back until it passes
          drop_connection();
          perform(fsm_.disconnected(now(), *why));
        }
      });
    });
  }

  asio::io_context& io_;
  RedisOptions options_;
  Watcher watcher_;
  Keys keys_;
  CommitFsm fsm_;
  asio::steady_timer wake_, reconnect_, recheck_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unique_ptr<RedisConnection> connection_;
  std::unique_ptr<SentinelLookup> lookup_;
  std::shared_ptr<ImageLoader> loader_;
  std::function<void(Result<Opened>)> on_opened_;
  std::function<void(Committed)> on_committed_;
  std::unordered_map<JobId, std::shared_ptr<const Bytes>> known_;
  std::unordered_map<std::uint64_t, ReadDone> reads_;
  std::uint64_t reads_made_{}, items_{}, written_{}, read_{};
  Opened opened_;
  std::string version_;
  std::mt19937_64 random_{(static_cast<std::uint64_t>(std::random_device{}()) << 32U) | std::random_device{}()};
};

}  // namespace

std::unique_ptr<RedisStore> make_redis_store(asio::io_context& io, RedisOptions options, Watcher watcher) {
  return std::make_unique<Redis>(io, std::move(options), std::move(watcher));
}

}  // namespace gq::store
