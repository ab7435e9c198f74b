// fsck.cpp - lock, connect, read, examine, repair, read again, say.
#include "broker/shell/fsck.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "broker/core/core.h"
#include "broker/store/fsck_session.h"
#include "broker/store/managed_redis.h"
#include "common/net/asio.h"

namespace gq::broker {

namespace {

namespace fs = std::filesystem;
using store::Examined;
using store::Finding;

constexpr int kDamaged = 1;

std::int64_t wall_ms() { return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count(); }

class Fsck {
 public:
  explicit Fsck(const Options& options) : options_(options), asked_(*options.fsck), stamp_(std::to_string(wall_ms())) {}
  ~Fsck() {
    session_.reset();
    if (managed_) managed_->stop();
    if (lock_ >= 0) close(lock_);
  }
  Fsck(const Fsck&) = delete;
  Fsck& operator=(const Fsck&) = delete;

  Result<int> run() {
    if (auto opened = open(); !opened) return tl::unexpected(opened.error());
    auto before = look();
    if (!before) return tl::unexpected(before.error());
    std::size_t repaired = 0;
    std::size_t left = before->damages();
    if (asked_.repair && left > 0) {
      auto done = repair(*before);
      if (!done) return tl::unexpected(done.error());
      repaired = *done;
      auto again = look();
      if (!again) return tl::unexpected(again.error());
      left = again->damages();
    }
    if (asked_.json) say_json(*before, repaired, left);
    else say_lines(*before, repaired, left);
    return left == 0 ? 0 : kDamaged;
  }

 private:
  Result<void> open() {
    if (options_.memory_store) return fail(Errc::usage, "--memory-store keeps nothing that could be looked at", "gpuq-broker fsck --data-dir DIR");
    std::error_code error;
    const fs::path data = options_.data_dir;
    has_blobs_ = fs::is_directory(data / "blobs", error);
    store::RedisOptions redis;
    redis.name_space = options_.space;
    redis.durability = options_.durability;
    redis.budget_bytes = options_.redis_budget_bytes;
    if (options_.redis.empty()) {
      if (!fs::is_directory(data / "redis", error)) return fail(Errc::not_found, "there is no gpuq data in " + data.string(), "--data-dir DIR, or --redis URL for a Redis of your own");
      auto address = start_managed();
      if (!address) return tl::unexpected(address.error());
      redis.address = std::move(*address);
      redis.managed = true;
    } else {
      auto address = store::parse_redis_url(options_.redis);
      if (!address) return tl::unexpected(address.error());
      if (!address->sentinels.empty()) return fail(Errc::usage, "fsck does not ask sentinels", "name the primary itself: --redis redis://HOST:PORT");
      redis.address = std::move(*address);
      if (auto locked = lock_blobs(); !locked) return locked;
    }
    where_ = options_.redis.empty() ? data.string() : redis.address.describe();
    session_.emplace(io_, std::move(redis));
    return session_->open();
  }

  /// Its lock is the broker's own: DATA_DIR_IN_USE while one runs.
  Result<store::RedisAddress> start_managed() {
    store::ManagedRedisOptions managed;
    managed.data_dir = options_.data_dir;
    managed.maxmemory_bytes = options_.redis_memory_bytes;
    managed.durability = options_.durability;
    managed.lock_patience = std::chrono::milliseconds(500);
    managed_ = store::make_managed_redis(io_, std::move(managed));
    std::optional<Result<store::RedisAddress>> started;
    managed_->start([&](Result<store::RedisAddress> address) { started = std::move(address); });
    while (!started && io_.run_one() > 0) {}
    if (!started) return fail(Errc::internal, "the managed Redis never answered", "look at " + options_.data_dir + "/redis/redis.log");
    return std::move(*started);
  }

  Result<void> lock_blobs() {
    if (!has_blobs_) return {};
    lock_ = ::open((options_.data_dir + "/broker.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_ >= 0 && flock(lock_, LOCK_EX | LOCK_NB) == 0) return {};
    return fail(Errc::data_dir_in_use, "a broker uses the data directory " + options_.data_dir, "stop it first: what changes meanwhile would look like damage");
  }

  Result<Examined> look() {
    auto raw = session_->read();
    if (!raw) return tl::unexpected(raw.error());
    Examined found = store::examine(*raw, store::Keys(options_.space), stamp_);
    empty_ = !raw->term.there && raw->jobs.empty() && raw->models.empty();
    if (has_blobs_) {
      auto blobs = store::look_at_blobs(options_.data_dir + "/blobs", store::blobs_named_by(found.image), asked_.deep);
      std::move(blobs.begin(), blobs.end(), std::back_inserter(found.findings));
    }
    if (asked_.deep) try_in_scheduler(found);
    return found;
  }

  /// What a broker would load, in a process of its own: a broken invariant ends that one only.
  void try_in_scheduler(Examined& found) {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      core::Core core(core::CoreConfig{});
      const Moment now{.steady = Instant{std::chrono::hours(1)}, .wall = WallTime{wall_ms()}};
      core.load(found.image, now);
      core::Effects effects;
      core.step(now, 1, core::TimerFired{}, effects);
      core.check_invariants();
      _exit(0);
    }
    int status = 0;
    if (child > 0) waitpid(child, &status, 0);
    if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    found.findings.push_back({store::FindingKind::scheduler_refuses, where_, "a scheduler cannot work with these records; its reason stands above: please report it with this output",
                              {}, {}, {}, false});
  }

  Result<std::size_t> repair(const Examined& found) {
    if (auto taken = session_->take_term(); !taken) return tl::unexpected(taken.error());
    std::size_t repaired = 0;
    for (const Finding& finding : found.findings) {
      if (finding.commands.empty() && finding.moves.empty()) continue;
      if (finding.kind == store::FindingKind::no_term) {   // taking the term has written one
        ++repaired;
        continue;
      }
      if (auto done = session_->apply(finding.commands); !done) return tl::unexpected(done.error());
      for (const auto& [from, to] : finding.moves) {
        std::error_code error;
        fs::create_directories(fs::path(to).parent_path(), error);
        fs::rename(from, to, error);
        if (error) return fail(Errc::unavailable, "cannot move " + from + " to " + to + ": " + error.message(), "look at the folder's permissions");
      }
      ++repaired;
    }
    return repaired;
  }

  // ---- what it says
  static std::string plural(std::size_t n, const std::string& what) { return std::to_string(n) + " " + what + (n == 1 ? "" : "s"); }

  std::string contents(const Examined& found) const {
    std::array<std::size_t, kJobStates> states{};
    for (const core::JobRecord& job : found.image.jobs) ++states[static_cast<std::size_t>(job.dynamic.state)];
    std::string text = plural(found.image.jobs.size(), "job");
    std::string list;
    for (std::size_t s = 0; s < states.size(); ++s)
      if (states[s] > 0) list += (list.empty() ? "" : ", ") + std::to_string(states[s]) + " " + std::string(to_string(static_cast<JobState>(s)));
    if (!list.empty()) text += " (" + list + ")";
    return text + ", " + plural(found.image.models.size(), "model") + ", " + plural(found.image.tombstones.size(), "tombstone");
  }

  void say_lines(const Examined& before, std::size_t repaired, std::size_t left) const {
    std::printf("gpuq fsck: namespace '%s' in %s: %s%s\n", options_.space.c_str(), where_.c_str(), contents(before).c_str(), empty_ ? "; nothing was ever kept here" : "");
    if (!has_blobs_) std::printf("blobs: not looked at, there is no %s/blobs\n", options_.data_dir.c_str());
    for (const Finding& f : before.findings) {
      std::printf("%s[%s] %s: %s\n", f.note ? "note" : "damage", std::string(to_string(f.kind)).c_str(), f.where.c_str(), f.what.c_str());
      if (!f.note && !f.repair.empty()) std::printf("  %s: %s\n", asked_.repair ? "repaired" : "--repair", f.repair.c_str());
    }
    const std::size_t damages = before.damages();
    if (damages == 0) std::printf("whole: no damage%s\n", asked_.deep ? ", every blob read, the scheduler accepts it" : "");
    else if (!asked_.repair) std::printf("%s; nothing was changed. Copy the data directory, then: gpuq fsck --repair\n", plural(damages, "damage").c_str());
    else if (left == 0) std::printf("%s, %zu repaired; read again: whole\n", plural(damages, "damage").c_str(), repaired);
    else std::printf("%s, %zu repaired, %zu left: no command can bring back what is gone; each line above says what to do\n", plural(damages, "damage").c_str(), repaired, left);
  }

  void say_json(const Examined& before, std::size_t repaired, std::size_t left) const {
    nlohmann::ordered_json findings = nlohmann::ordered_json::array();
    for (const Finding& f : before.findings)
      findings.push_back({{"kind", to_string(f.kind)}, {"damage", !f.note}, {"where", f.where}, {"what", f.what}, {"repair", f.repair}});
    const nlohmann::ordered_json all{{"schema_version", 1}, {"namespace", options_.space}, {"where", where_}, {"jobs", before.image.jobs.size()}, {"models", before.image.models.size()},
                                     {"blobs_looked_at", has_blobs_}, {"damages", before.damages()}, {"repaired", repaired}, {"left", left}, {"findings", findings}};
    std::printf("%s\n", all.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  }

  const Options& options_;
  const FsckOptions asked_;
  const std::string stamp_;
  asio::io_context io_{1};
  std::unique_ptr<store::ManagedRedis> managed_;
  std::optional<store::FsckSession> session_;
  std::string where_;
  bool has_blobs_{}, empty_{};
  int lock_{-1};
};

}  // namespace

int run_fsck(const Options& options) {
  const Result<int> done = Fsck(options).run();
  if (done) return *done;
  std::fprintf(stderr, "error[%s]: %s\n", std::string(to_string(done.error().code)).c_str(), done.error().what.c_str());
  if (!done.error().next.empty()) std::fprintf(stderr, "  next: %s\n", done.error().next.c_str());
  return exit_code(done.error().code);
}

}  // namespace gq::broker
