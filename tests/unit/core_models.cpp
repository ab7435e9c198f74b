// core_models.cpp - what a model's name means: promotions, ways back, and jobs that finish on the version they began with.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

struct Registry : Story {
  void push(std::uint8_t content, bool promote) {
    ModelRecord m;
    m.name = "yolo";
    m.blob = blob(content);
    m.budget = {1000};
    say(ModelPushed{kClient, ++request, m, promote});
  }
  ModelAnswer order(ModelVerb verb, const std::string& version = {}) {
    forget_effects();
    say(ModelCommand{kClient, ++request, verb, "yolo", version});
    for (const Effect& effect : effects())
      if (const auto* send = std::get_if<Send>(&effect))
        if (const auto* answer = std::get_if<ModelAnswer>(&send->message)) return *answer;
    ADD_FAILURE() << "no answer";
    return {};
  }
  [[nodiscard]] std::string promoted() const {
    std::string out;
    for (const ModelRecord& m : core->models())
      if (m.promoted) out += (out.empty() ? "" : "+") + m.version;
    return out;
  }
};

TEST_F(Registry, the_first_version_is_promoted_and_a_later_one_when_asked) {
  push(1, false);
  EXPECT_EQ(promoted(), version_of(1));
  push(2, false);
  EXPECT_EQ(promoted(), version_of(1));
  after(1s);
  const ModelAnswer answer = order(ModelVerb::promote, version_of(2));
  EXPECT_TRUE(answer.ok);
  EXPECT_TRUE(answer.record.promoted);
  EXPECT_EQ(promoted(), version_of(2));
  push(1, false);   // the same content again changes nothing of that
  EXPECT_EQ(promoted(), version_of(2));
}

TEST_F(Registry, rollbacks_go_back_one_version_after_the_other_and_then_say_that_there_is_none) {
  for (std::uint8_t v = 1; v <= 3; ++v) push(v, true), after(1s);
  EXPECT_EQ(order(ModelVerb::rollback).record.version, version_of(2));
  EXPECT_EQ(order(ModelVerb::rollback).record.version, version_of(1));
  const ModelAnswer end = order(ModelVerb::rollback);
  EXPECT_FALSE(end.ok);
  EXPECT_EQ(end.error.code, Errc::not_found);
  EXPECT_EQ(promoted(), version_of(1));
  EXPECT_TRUE(order(ModelVerb::promote, version_of(3)).ok);
  EXPECT_EQ(order(ModelVerb::rollback).record.version, version_of(1));
}

TEST_F(Registry, an_unknown_version_is_named_and_changes_nothing) {
  push(1, true);
  const ModelAnswer answer = order(ModelVerb::promote, "abc");
  EXPECT_EQ(answer.error.code, Errc::unknown_model);
  EXPECT_EQ(answer.error.what, "model yolo@abc is not registered");
  EXPECT_EQ(promoted(), version_of(1));
}

TEST_F(Registry, what_runs_finishes_on_its_version_and_what_waits_takes_the_new_one) {
  push(1, true);
  const PeerId anna = worker("anna", {.devices = {gpu("G")}, .starts = 100});
  const auto runs = submitted(detect(1));
  started(anna, runs);
  open_warm(anna, 20, "G", "yolo@" + version_of(1), 1);   // no credit left for more
  push(2, false);
  EXPECT_TRUE(order(ModelVerb::promote, version_of(2)).ok);
  EXPECT_EQ(dynamic(runs).model_version, version_of(1));
  const auto later = submitted(detect(2));
  EXPECT_EQ(dynamic(later).model_version, version_of(2));
  ends(anna, runs, Outcome::succeeded);
  EXPECT_EQ(state(runs), JobState::succeeded);
}

TEST_F(Registry, it_is_all_the_same_after_a_restart) {
  for (std::uint8_t v = 1; v <= 3; ++v) push(v, true), after(1s);
  order(ModelVerb::rollback);
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  core->check_invariants();
  batch = 0;
  EXPECT_EQ(promoted(), version_of(2));
  EXPECT_EQ(order(ModelVerb::rollback).record.version, version_of(1));
}

TEST_F(Registry, when_the_promoted_version_is_removed_the_name_means_the_one_before_it_not_the_newest_push) {
  for (std::uint8_t v = 1; v <= 2; ++v) push(v, true), after(1s);
  push(3, false);   // was never promoted: it may not even load
  after(1s);
  say(ModelRemoveReceived{kClient, ++request, "yolo", version_of(2)});
  EXPECT_EQ(promoted(), version_of(1));
  say(ModelRemoveReceived{kClient, ++request, "yolo", version_of(1)});
  EXPECT_EQ(promoted(), version_of(3));
}

TEST_F(Registry, a_version_promoted_before_promotions_were_dated_is_on_the_way_back_too) {
  push(1, true);
  Image image = store.image();
  for (ModelRecord& m : image.models) m.promoted_at = {};
  after(1s);
  core = std::make_unique<Core>(config);
  core->load(image, now);
  batch = 0;
  push(2, true);
  EXPECT_EQ(promoted(), version_of(2));
  EXPECT_EQ(order(ModelVerb::rollback).record.version, version_of(1));
}

}  // namespace
}  // namespace gq::core::story
