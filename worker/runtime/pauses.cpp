#include "worker/runtime/pauses.h"

#include <algorithm>

#include "common/config/clock.h"

namespace gq::worker {

bool PauseGate::step(Instant now, bool wanted) {
  const Duration passed = std::max(Duration{}, now - since_);
  since_ = std::max(since_, now);
  if (held_) stood_ += passed, total_ += passed;
  else ran_ += passed;
  if (!held_ && ran_ >= terms_.slice) {
    ran_ = stood_ = {};
    owed_ = false;
  }
  const Duration longest = std::max(Duration{}, terms_.period - terms_.slice);
  if (held_ && terms_.slice > Duration{} && stood_ >= longest) owed_ = true;
  held_ = wanted && !owed_;
  next_.reset();
  if (wanted && owed_) next_ = since_ + (terms_.slice - ran_);
  if (held_ && terms_.slice > Duration{}) next_ = since_ + (longest - stood_);
  return held_;
}

// ---- who has work

void Pauses::work_begins(const wire::Grant& grant, JobClass of_class, const std::vector<std::string>& devices) {
  if (devices.empty()) return;
  const auto [it, is_new] = work_.try_emplace(grant, Work{of_class, devices});
  if (!is_new) return;
  for (const std::string& device : devices) ++counts_[device][static_cast<std::size_t>(of_class)];
  look_at_all();
}

void Pauses::work_ends(const wire::Grant& grant) {
  const auto it = work_.find(grant);
  if (it == work_.end()) return;
  for (const std::string& device : it->second.devices) --counts_[device][static_cast<std::size_t>(it->second.of_class)];
  work_.erase(it);
  look_at_all();
}

bool Pauses::has_work(const std::vector<std::string>& devices, std::uint8_t classes) const {
  for (const std::string& device : devices)
    if (const auto counts = counts_.find(device); counts != counts_.end())
      for (std::size_t c = 0; c < kJobClasses; ++c)
        if ((classes & (1U << c)) != 0 && counts->second[c] > 0) return true;
  return false;
}

void Pauses::look_at_all() {
  const std::vector<Place*> all = *places_;
  for (Place* place : all)
    if (std::find(places_->begin(), places_->end(), place) != places_->end()) place->look();   // one may have ended another
}

// ---- places

std::unique_ptr<Pauses::Place> Pauses::join(std::vector<std::string> devices, std::uint8_t classes, std::function<void(bool)> change) {
  std::unique_ptr<Place> place(new Place(*this, std::move(devices), classes, std::move(change)));
  places_->push_back(place.get());
  asio::post(io_, [alive = place->alive_, raw = place.get()] {   // not from here: who joins is not ready to be called
    if (*alive) raw->look();
  });
  return place;
}

Pauses::Place::Place(Pauses& all, std::vector<std::string> devices, std::uint8_t classes, std::function<void(bool)> change)
    : all_(all), devices_(std::move(devices)), classes_(classes), change_(std::move(change)), gate_(all.terms_, now().steady), timer_(all.io_), alive_(std::make_shared<bool>(true)), list_(all.places_) {}

Pauses::Place::~Place() {
  *alive_ = false;
  std::erase(*list_, this);
}

void Pauses::Place::leave() {
  std::erase(*list_, this);
  *alive_ = false;
  timer_.cancel();
  if (gate_.held()) {
    gate_.step(now().steady, false);
    change_(false);
  }
}

Duration Pauses::Place::paused() const {
  PauseGate copy = gate_;
  copy.step(now().steady, gate_.held());
  return copy.paused();
}

void Pauses::Place::look() {
  if (!*alive_) return;
  const bool before = gate_.held();
  const bool after = gate_.step(now().steady, all_.has_work(devices_, classes_));
  timer_.cancel();
  if (gate_.next()) {
    timer_.expires_after(std::max<Duration>(1ms, *gate_.next() - now().steady));
    timer_.async_wait([this, alive = alive_](const ErrorCode& ec) {
      if (!ec && *alive) look();
    });
  }
  if (before == after) return;
  const auto change = change_;   // it may end this place
  change(after);
}

}  // namespace gq::worker
