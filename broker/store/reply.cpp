// reply.cpp - redisReader with object functions that build Reply values in place.
#include "broker/store/reply.h"

#include <hiredis/read.h>

#include <cstdlib>

namespace gq::store {

namespace {

constexpr int kItemsMax = 4 << 20;   // far above any page we ask for; a hostile length must not allocate

Reply* place(const redisReadTask* task) {
  if (task->parent == nullptr) return new Reply;
  auto* parent = static_cast<Reply*>(task->parent->obj);
  return &parent->items[static_cast<std::size_t>(task->idx)];
}
void* make_string(const redisReadTask* task, char* text, std::size_t length) {
  Reply* reply = place(task);
  reply->type = task->type == REDIS_REPLY_ERROR    ? Reply::Type::error
                : task->type == REDIS_REPLY_STATUS ? Reply::Type::status
                                                   : Reply::Type::string;
  reply->text.assign(text, length);
  return reply;
}
void* make_array(const redisReadTask* task, int elements) {
  if (elements > kItemsMax) return nullptr;
  Reply* reply = place(task);
  reply->type = Reply::Type::array;
  reply->items.resize(static_cast<std::size_t>(elements));
  return reply;
}
void* make_integer(const redisReadTask* task, long long value) {
  Reply* reply = place(task);
  reply->type = Reply::Type::integer;
  reply->integer = value;
  return reply;
}
void* make_nil(const redisReadTask* task) { return place(task); }
void release(void* object) { delete static_cast<Reply*>(object); }   // only ever the root: items live inside it

redisReplyObjectFunctions functions{make_string, make_array, make_integer, make_nil, release};

}  // namespace

struct ReplyReader::State {
  redisReader* reader = redisReaderCreateWithFunctions(&functions);
  State() {
    check(reader != nullptr, "redisReader could not be made");
    reader->maxbuf = 0;   // keep the buffer: batches come one after another
  }
  ~State() { redisReaderFree(reader); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

ReplyReader::ReplyReader() : state_(std::make_unique<State>()) {}
ReplyReader::~ReplyReader() = default;

void ReplyReader::feed(std::string_view bytes) { redisReaderFeed(state_->reader, bytes.data(), bytes.size()); }

Result<std::optional<Reply>> ReplyReader::next() {
  void* object = nullptr;
  if (redisReaderGetReply(state_->reader, &object) != REDIS_OK)
    return fail(Errc::protocol, std::string("Redis sent what is no reply: ") + state_->reader->errstr,
                "is this address really a Redis?");
  if (object == nullptr) return std::optional<Reply>{};
  const std::unique_ptr<Reply> owned(static_cast<Reply*>(object));
  return std::optional<Reply>(std::move(*owned));
}

bool is_out_of_memory(const std::string& text) { return text.starts_with("OOM") || text.find("OOM command") != std::string::npos; }

Error classify(const std::string& text) {
  const auto starts = [&](std::string_view word) { return text.starts_with(word); };
  if (starts("OOM"))
    return {Errc::storage_full, "Redis has reached its maxmemory: " + text,
            "raise maxmemory, or remove finished jobs and results; nothing acknowledged is lost"};
  if (starts("MISCONF"))
    return {Errc::storage_full, "Redis cannot write its append-only file (disk full?): " + text,
            "free space on the disk of Redis' dir; nothing acknowledged is lost"};
  if (starts("READONLY") || starts("MASTERDOWN"))
    return {Errc::redis_role, "this Redis is a read-only replica: " + text, "point --redis at the primary"};
  if (starts("NOREPLICAS"))
    return {Errc::unavailable, "Redis has too few replicas: " + text,
            "bring the replicas back or lower min-replicas-to-write"};
  if (starts("LOADING")) return {Errc::unavailable, "Redis is loading its data: " + text, "gpuq waits for it"};
  if (starts("BUSY") || starts("UNKILLABLE"))
    return {Errc::unavailable, "Redis is busy with somebody's script: " + text, "SCRIPT KILL, or wait"};
  if (starts("NOAUTH") || starts("WRONGPASS") || text.find("AUTH") != std::string::npos)
    return {Errc::refused, "Redis refused the password: " + text, "give it in the URL: redis://user:password@host/"};
  if (starts("NOPERM"))
    return {Errc::refused, "this Redis user may not run a command: " + text, "ACL SETUSER <user> +@all ~gpuq:*"};
  if (starts("WRONGTYPE")) return {Errc::redis_corrupt, "a key of gpuq holds a foreign type: " + text, ""};
  if (text.find("unknown command") != std::string::npos)
    return {Errc::redis_version, "this server lacks a command: " + text, "gpuq needs Redis 7.0 or newer"};
  return {Errc::unavailable, "Redis answered: " + text, ""};
}

}  // namespace gq::store
