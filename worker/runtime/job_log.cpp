#include "worker/runtime/job_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace gq::worker {
namespace {
constexpr std::size_t kChunk = 64U << 10U;
constexpr std::size_t kTail = 400;
}  // namespace

JobLog::JobLog(std::string path, std::uint64_t rotate_bytes) : path_(std::move(path)), rotate_bytes_(rotate_bytes) {}
JobLog::~JobLog() {
  if (fd_ >= 0) ::close(fd_);
}

void JobLog::add(std::string_view bytes) {
  if (bytes.empty()) return;
  if (fd_ >= 0 && in_file_ >= rotate_bytes_) {
    ::close(fd_);
    fd_ = -1;
    ::rename(path_.c_str(), (path_ + ".1").c_str());
    rotated_ = true;
    in_file_ = 0;
  }
  if (fd_ < 0) fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  // A full disk must not end the job: what cannot be written is only missing from the artefact.
  if (fd_ >= 0) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n > 0) in_file_ += static_cast<std::uint64_t>(n);
  }
  total_ += bytes.size();
  waiting_ += bytes;
  if (waiting_.size() > kPending) waiting_.erase(0, waiting_.size() - kPending);
  tail_ += bytes;
  if (tail_.size() > kTail) tail_.erase(0, tail_.size() - kTail);
}

std::string JobLog::take(std::uint64_t& offset) {
  offset = total_ - waiting_.size();
  std::string chunk = waiting_.substr(0, kChunk);
  waiting_.erase(0, chunk.size());
  return chunk;
}

std::string JobLog::last_lines() const {
  std::string text;
  for (const char c : tail_) {
    if (c == '\n') text += " | ";
    else if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7F) text += c;
  }
  while (!text.empty() && (text.back() == ' ' || text.back() == '|')) text.pop_back();
  if (text.size() > 220) text = "…" + text.substr(text.size() - 220);
  return text;
}

std::vector<Output::Item> JobLog::as_items() const {
  std::vector<Output::Item> items;
  if (rotated_) items.push_back({"gpuq-log.1.txt", "text/plain", {}, path_ + ".1", true});
  if (fd_ >= 0) items.push_back({"gpuq-log.txt", "text/plain", {}, path_, true});
  return items;
}

}  // namespace gq::worker
