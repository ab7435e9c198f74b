// failure.h - how executors say that something did not work: a stable code, a sentence, the next step. Standard library only, so
// that the folder builds on a bare GPU machine; the codes are those of common/vocabulary/errors.h, by name.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace gq::exec {

struct Failure {
  std::string code;   ///< BAD_IMAGE, BAD_MODEL, BAD_INPUT, OOM, CHECKPOINT_CORRUPT, CANCELLED, TOO_LARGE, UNKNOWN_MODEL, INTERNAL …
  std::string what;   ///< what happened, to what
  std::string next;   ///< what to do; may be empty
  bool operator==(const Failure&) const = default;
};

/// A value or the reason why there is none.
template <class T>
class Expected {
 public:
  Expected(T value) : state_(std::move(value)) {}                 // NOLINT: implicit on purpose, as in std::expected
  Expected(Failure failure) : state_(std::move(failure)) {}       // NOLINT
  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() { return std::get<0>(state_); }
  const T& operator*() const { return std::get<0>(state_); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  [[nodiscard]] const Failure& failure() const { return std::get<1>(state_); }

 private:
  std::variant<T, Failure> state_;
};
struct Done {};   ///< Expected<Done>: worked, nothing to hand back

inline Failure bad_image(std::string what, std::string next = {}) { return {"BAD_IMAGE", std::move(what), std::move(next)}; }
inline Failure bad_model(std::string what, std::string next = {}) { return {"BAD_MODEL", std::move(what), std::move(next)}; }
inline Failure bad_input(std::string what, std::string next = {}) { return {"BAD_INPUT", std::move(what), std::move(next)}; }

}  // namespace gq::exec
