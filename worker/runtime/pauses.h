// pauses.h - lower classes stand still on a device while a higher one has work there, so that shared compute does not slow it down.
//
// Needs no broker: what was assigned to this worker and has not ended, queued or running, counts as work. A run that may be paused says for
// which classes; it is held as long as one of its devices has such work, but never starved: in each period it runs at least a slice.
// Time it runs anyway, between two requests, counts, so a hold is immediate unless the run is owed its slice.
// One loop; nothing blocks. Pausing frees no memory: that is preemption's business.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/net/asio.h"
#include "common/vocabulary/job.h"
#include "common/wire/messages.h"

namespace gq::worker {

struct PauseTerms {
  Duration period = 2s;
  Duration slice = 200ms;   ///< of each period it runs, whatever waits; 0 = held for as long as there is work
};

/// One run's turns. Pure.
class PauseGate {
 public:
  PauseGate(PauseTerms terms, Instant now) : terms_(terms), since_(now) {}
  /// Says whether it is held from now on. To be asked when `wanted` changes and at next().
  bool step(Instant now, bool wanted);
  [[nodiscard]] bool held() const { return held_; }
  [[nodiscard]] std::optional<Instant> next() const { return next_; }
  [[nodiscard]] Duration paused() const { return total_; }   ///< up to the last step

 private:
  PauseTerms terms_;
  Instant since_;
  Duration ran_{}, stood_{}, total_{};   ///< ran and stood since it last had a whole slice
  bool held_{}, owed_{};
  std::optional<Instant> next_;
};

class Pauses {
 public:
  Pauses(asio::io_context& io, PauseTerms terms) : io_(io), terms_(terms) {}

  /// A job of this worker, from its assignment to its end.
  void work_begins(const wire::Grant& grant, JobClass of_class, const std::vector<std::string>& devices);
  void work_ends(const wire::Grant& grant);

  /// A run that may be held. It leaves by leave() or with this object; leave() lets it go first, the destructor says nothing.
  class Place {
   public:
    ~Place();
    void leave();
    [[nodiscard]] bool held() const { return gate_.held(); }
    [[nodiscard]] Duration paused() const;

   private:
    friend class Pauses;
    Place(Pauses& all, std::vector<std::string> devices, std::uint8_t classes, std::function<void(bool held)> change);
    void look();
    Pauses& all_;
    std::vector<std::string> devices_;
    std::uint8_t classes_;
    std::function<void(bool)> change_;
    PauseGate gate_;
    asio::steady_timer timer_;
    std::shared_ptr<bool> alive_;
    std::shared_ptr<std::vector<Place*>> list_;   ///< a run may outlive Pauses: handlers die with the loop
  };
  /// `classes`: bit n = JobClass n, as in AssignItem. `change` is called on the loop, never from here.
  std::unique_ptr<Place> join(std::vector<std::string> devices, std::uint8_t classes, std::function<void(bool held)> change);

 private:
  struct GrantHash {
    std::size_t operator()(const wire::Grant& g) const noexcept { return std::hash<JobId>{}(g.job) ^ (std::size_t{g.attempt} << 20U); }
  };
  struct Work {
    JobClass of_class{};
    std::vector<std::string> devices;
  };
  [[nodiscard]] bool has_work(const std::vector<std::string>& devices, std::uint8_t classes) const;
  void look_at_all();
  asio::io_context& io_;
  PauseTerms terms_;
  std::unordered_map<wire::Grant, Work, GrantHash> work_;
  std::map<std::string, std::array<std::uint32_t, kJobClasses>> counts_;   ///< by device
  std::shared_ptr<std::vector<Place*>> places_ = std::make_shared<std::vector<Place*>>();
};

}  // namespace gq::worker
