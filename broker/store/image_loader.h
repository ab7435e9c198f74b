// image_loader.h - reading the whole image, page by page, over a connection that holds the term (so nothing moves underneath).
#pragma once

#include <functional>
#include <memory>

#include "broker/store/layout.h"
#include "broker/store/redis_connection.h"

namespace gq::store {

class ImageLoader : public std::enable_shared_from_this<ImageLoader> {
 public:
  using Send = std::function<void(std::string bytes, std::size_t replies, RedisConnection::Replies done)>;
  using Done = std::function<void(Result<core::Image>)>;
  ImageLoader(const Keys& keys, Send send, Done done) : keys_(keys), send_(std::move(send)), done_(std::move(done)) {}
  void start();
  void cancel() { done_ = nullptr; }

 private:
  void next_page();
  void on_ids(std::vector<Reply> replies);
  void on_records(const std::vector<JobId>& ids, std::vector<Reply> replies);
  void load_models();
  void load_settings();
  void load_tombs(std::string cursor);
  void fail_with(Error why);
  void corrupt(const std::string& key, const std::string& why);
  bool refused(const Reply& reply, Reply::Type wanted, const std::string& key);

  const Keys& keys_;
  Send send_;
  Done done_;
  core::Image image_;
  std::vector<JobId> seen_;
  std::size_t set_{};
  std::size_t at_{};
};

}  // namespace gq::store
