// image_loader.cpp - ZRANGE a page of ids, MGET their records; models, settings and tombstones last; then the one-set invariant.
#include "broker/store/image_loader.h"

#include "broker/store/command.h"

#include <algorithm>


namespace gq::store {

namespace {
constexpr std::size_t kPage = 2048;
}

void ImageLoader::start() { next_page(); }

void ImageLoader::fail_with(Error why) {
  if (auto done = std::exchange(done_, nullptr)) done(tl::unexpected<Error>(std::move(why)));
}
void ImageLoader::corrupt(const std::string& key, const std::string& why) {
  fail_with({Errc::redis_corrupt, "key " + key + ": " + why,
             "gpuq fsck tells all that is odd and, with --repair, puts it aside; or restore Redis' data directory from a backup"});
}

bool ImageLoader::refused(const Reply& reply, Reply::Type wanted, const std::string& key) {
  if (reply.is(wanted)) return false;
  if (!reply.is(Reply::Type::error)) corrupt(key, "an unexpected kind of reply");
  else if (Error why = classify(reply.text); why.code == Errc::redis_corrupt) corrupt(key, reply.text);
  else fail_with(std::move(why));
  return true;
}

void ImageLoader::next_page() {
  if (set_ == kStateSets) return load_models();
  CommandBuffer commands;
  commands.add("ZRANGE", keys_.sets[set_], at_, at_ + kPage - 1);
  send_(commands.take(), 1,
        [self = shared_from_this()](std::vector<Reply> replies) { self->on_ids(std::move(replies)); });
}

void ImageLoader::on_ids(std::vector<Reply> replies) {
  if (!done_) return;
  const std::string& set = keys_.sets[set_];
  if (refused(replies[0], Reply::Type::array, set)) return;
  auto& members = replies[0].items;
  if (members.empty()) {
    ++set_;
    at_ = 0;
    return next_page();
  }
  std::vector<JobId> ids;
  ids.reserve(members.size());
  CommandBuffer commands;
  for (const std::string* prefix : {&keys_.fixed, &keys_.dynamic}) {
    commands.begin(1 + members.size());
    commands.arg("MGET");
    for (const Reply& member : members) commands.arg(*prefix, member.text);
  }
  for (const Reply& member : members) {
    const auto id = parse_job_id(member.text);
    if (!id) return corrupt(set, "member '" + member.text.substr(0, 40) + "' is no job id");
    ids.push_back(*id);
  }
  send_(commands.take(), 2, [self = shared_from_this(), ids = std::move(ids)](std::vector<Reply> records) {
    self->on_records(ids, std::move(records));
  });
}

void ImageLoader::on_records(const std::vector<JobId>& ids, std::vector<Reply> replies) {
  if (!done_) return;
  for (const std::size_t i : {0U, 1U})
    if (refused(replies[i], Reply::Type::array, keys_.fixed + "*")) return;
  const auto set = static_cast<StateSet>(set_);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Reply &fixed = replies[0].items[i], &dynamic = replies[1].items[i];
    if (!fixed.is(Reply::Type::string))
      return corrupt(keys_.fixed + to_string(ids[i]),
                     "missing or of a foreign type, though " + keys_.set(set) + " names it");
    core::JobRecord record;
    auto f = decode_fixed(ids[i], fixed.text);
    if (!f) return corrupt(keys_.fixed + to_string(ids[i]), f.error().what);
    record.fixed = std::move(*f);
    if (dynamic.is(Reply::Type::string)) {
      auto d = decode_dynamic(dynamic.text);
      if (!d) return corrupt(keys_.dynamic + to_string(ids[i]), d.error().what);
      record.dynamic = std::move(*d);
    }
    if (set_of(record.dynamic.state, record.fixed.needs.job_class) != set)
      return corrupt(keys_.dynamic + to_string(ids[i]),
                     "the job is " + std::string(to_string(record.dynamic.state)) + " but stands in " + keys_.set(set));
    image_.jobs.push_back(std::move(record));
  }
  seen_.insert(seen_.end(), ids.begin(), ids.end());
  at_ += ids.size();
  if (ids.size() < kPage) {   // the last page of this set
    ++set_;
    at_ = 0;
  }
  next_page();
}

void ImageLoader::load_models() {
  std::sort(seen_.begin(), seen_.end());
  if (const auto twice = std::adjacent_find(seen_.begin(), seen_.end()); twice != seen_.end())
    return corrupt(keys_.fixed + to_string(*twice), "the job stands in two sets");
  seen_ = {};
  CommandBuffer commands;
  commands.add("HGETALL", keys_.models);
  send_(commands.take(), 1, [self = shared_from_this()](std::vector<Reply> replies) {
    if (!self->done_ || self->refused(replies[0], Reply::Type::array, self->keys_.models)) return;
    const auto& items = replies[0].items;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      auto model = decode_model(items[i + 1].text);
      if (!model) return self->corrupt(self->keys_.models, "field " + items[i].text + ": " + model.error().what);
      self->image_.models.push_back(std::move(*model));
    }
    self->load_settings();
  });
}

void ImageLoader::load_settings() {
  CommandBuffer commands;
  commands.add("HGETALL", keys_.settings);
  send_(commands.take(), 1, [self = shared_from_this()](std::vector<Reply> replies) {
    if (!self->done_ || self->refused(replies[0], Reply::Type::array, self->keys_.settings)) return;
    const auto& items = replies[0].items;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      auto setting = decode_setting(items[i + 1].text);
      if (!setting) return self->corrupt(self->keys_.settings, "field " + items[i].text + ": " + setting.error().what);
      self->image_.settings.push_back(std::move(*setting));
    }
    self->load_tombs("0");
  });
}

void ImageLoader::load_tombs(std::string cursor) {
  CommandBuffer commands;
  commands.add("HSCAN", keys_.tombs, cursor, "COUNT", kPage);
  send_(commands.take(), 1, [self = shared_from_this()](std::vector<Reply> replies) {
    if (!self->done_ || self->refused(replies[0], Reply::Type::array, self->keys_.tombs)) return;
    const auto& items = replies[0].items.at(1).items;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      const auto id = parse_job_id(items[i].text);
      if (!id) return self->corrupt(self->keys_.tombs, "field '" + items[i].text.substr(0, 40) + "' is no job id");
      auto tombstone = decode_tombstone(*id, items[i + 1].text);
      if (!tombstone) return self->corrupt(self->keys_.tombs, "field " + items[i].text + ": " + tombstone.error().what);
      self->image_.tombstones.push_back(std::move(*tombstone));
    }
    if (const std::string& next = replies[0].items[0].text; next != "0") return self->load_tombs(next);
    auto& tombs = self->image_.tombstones;   // HSCAN may show a field twice
    std::sort(tombs.begin(), tombs.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
    tombs.erase(std::unique(tombs.begin(), tombs.end(), [](const auto& a, const auto& b) { return a.id == b.id; }),
                tombs.end());
    if (auto done = std::exchange(self->done_, nullptr)) done(std::move(self->image_));
  });
}

}  // namespace gq::store
