// channel.cpp - frames over a SEQPACKET socket; values above kInlineValueMax travel in one memfd per frame.
//
// Received memfds are read with pread into our own memory: a mapping could be truncated by the peer under the reader (SIGBUS) or
// changed after it was checked.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "worker/child/frame.h"

namespace gq::child {
namespace {

constexpr std::size_t kDescriptorsMax = 16;
constexpr std::uint64_t kLargeBytesMax = std::uint64_t{1} << 30U;  ///< of all memfd values of one frame together
constexpr std::string_view kPrefix = "fd:";
constexpr std::size_t kReferenceBytes = 20;

/// Closes on every path: a peer may pass descriptors we did not ask for.
struct Descriptors {
  std::array<int, kDescriptorsMax> fds{};
  std::size_t count{};
  Descriptors() = default;
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;
  ~Descriptors() {
    for (std::size_t i = 0; i < count; ++i) ::close(fds[i]);
  }
};

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

bool read_all(int fd, std::uint64_t offset, std::string& into) {
  std::size_t done = 0;
  while (done < into.size()) {
    const ssize_t n = ::pread(fd, into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

std::string reference(std::uint64_t offset, std::uint64_t length) {
  std::string out(kReferenceBytes, '\0');  // u32 index = 0: we only ever send one descriptor
  std::memcpy(out.data() + 4, &offset, 8);
  std::memcpy(out.data() + 12, &length, 8);
  return out;
}

std::size_t value_bytes(const Field& field) {
  const auto* text = std::get_if<std::string>(&field.value);
  return text == nullptr ? 8 : text->size();
}

/// Which fields must leave the frame: all above the inline limit, then the largest until the rest fits.
std::vector<bool> choose_large(const Frame& frame) {
  std::vector<bool> large(frame.fields.size());
  std::size_t total = 16;
  for (std::size_t i = 0; i < frame.fields.size(); ++i) {
    large[i] = value_bytes(frame.fields[i]) > kInlineValueMax;
    total += 6 + frame.fields[i].key.size() + (large[i] ? kPrefix.size() + kReferenceBytes : value_bytes(frame.fields[i]));
  }
  while (total > kFrameBytesMax) {
    std::size_t best = frame.fields.size();
    for (std::size_t i = 0; i < frame.fields.size(); ++i)
      if (!large[i] && value_bytes(frame.fields[i]) > 64 &&
          (best == frame.fields.size() || value_bytes(frame.fields[i]) > value_bytes(frame.fields[best])))
        best = i;
    if (best == frame.fields.size()) break;  // cannot be made to fit; encode says so
    large[best] = true;
    total -= value_bytes(frame.fields[best]) - kReferenceBytes - kPrefix.size();
  }
  return large;
}

}  // namespace

struct Channel::State {
  int fd{-1};
  std::mutex sending;
  std::string packet;  ///< receive buffer, one byte longer than a legal frame
};

Channel::Channel(int fd) : state_(new State) {
  state_->fd = fd;
  state_->packet.resize(kFrameBytesMax + 1);
}
Channel::~Channel() {
  if (state_ == nullptr) return;
  if (state_->fd >= 0) ::close(state_->fd);
  delete state_;
}
Channel::Channel(Channel&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
Channel& Channel::operator=(Channel&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}
int Channel::fd() const { return state_ == nullptr ? -1 : state_->fd; }

bool Channel::send(const Frame& frame) {
  const std::vector<bool> large = choose_large(frame);
  int memory = -1;
  std::string packet;
  if (std::find(large.begin(), large.end(), true) == large.end()) {
    packet = encode(frame);
  } else {
    memory = ::memfd_create("gpuq-frame", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0) return false;
    Frame small{frame.type, frame.id, {}};
    small.fields.reserve(frame.fields.size());
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < frame.fields.size(); ++i) {
      const Field& field = frame.fields[i];
      if (!large[i]) {
        small.fields.push_back(field);
        continue;
      }
      const std::string& bytes = std::get<std::string>(field.value);
      if (!write_all(memory, bytes)) {
        ::close(memory);
        return false;
      }
      small.add_bytes(std::string(kPrefix) + field.key, reference(offset, bytes.size()));
      offset += bytes.size();
    }
    // A courtesy to peers that map it: the content can no longer change. Our own receiver copies anyway.
    ::fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    packet = encode(small);
  }
  if (packet.empty()) {
    if (memory >= 0) ::close(memory);
    errno = EMSGSIZE;
    return false;
  }

  iovec part{packet.data(), packet.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (memory >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &memory, sizeof memory);
  }
  ssize_t sent = -1;
  int why = 0;
  {
    const std::lock_guard lock(state_->sending);
    do {
      sent = ::sendmsg(state_->fd, &message, MSG_NOSIGNAL);
      why = errno;
    } while (sent < 0 && why == EINTR);
  }
  if (memory >= 0) ::close(memory);
  errno = why;
  return sent == static_cast<ssize_t>(packet.size());
}

namespace {

bool collect_descriptors(msghdr& message, Descriptors& into) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < n; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      if (into.count < kDescriptorsMax) into.fds[into.count++] = fd;
      else ::close(fd);
    }
  }
  return (message.msg_flags & MSG_CTRUNC) == 0;
}

bool resolve_large(Frame& frame, const Descriptors& passed, std::string& error) {
  std::uint64_t total = 0;
  for (Field& field : frame.fields) {
    if (!field.is_bytes || field.key.compare(0, kPrefix.size(), kPrefix) != 0) continue;
    std::string key = field.key.substr(kPrefix.size());
    const std::string& raw = std::get<std::string>(field.value);
    std::uint32_t index{};
    std::uint64_t offset{};
    std::uint64_t length{};
    if (raw.size() != kReferenceBytes) return error = "'" + field.key + "' is no reference of 20 bytes", false;
    std::memcpy(&index, raw.data(), 4);
    std::memcpy(&offset, raw.data() + 4, 8);
    std::memcpy(&length, raw.data() + 12, 8);
    if (index >= passed.count) return error = "'" + field.key + "' names a descriptor that was not passed", false;
    struct stat status {};
    if (::fstat(passed.fds[index], &status) != 0 || !S_ISREG(status.st_mode))
      return error = "'" + field.key + "' is not in a memfd", false;
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (offset > size || length > size - offset || (total += length) > kLargeBytesMax)
      return error = "'" + field.key + "' is larger than its memfd or than 1 GiB", false;
    std::string value(static_cast<std::size_t>(length), '\0');
    if (!read_all(passed.fds[index], offset, value)) return error = "'" + field.key + "' cannot be read", false;
    field.key = std::move(key);
    field.value = std::move(value);
  }
  return true;
}

}  // namespace

Channel::Got Channel::receive(Frame& frame, std::string& error) {
  iovec part{state_->packet.data(), state_->packet.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kDescriptorsMax)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = -1;
  do got = ::recvmsg(state_->fd, &message, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? Got::nothing : Got::closed;
  Descriptors passed;
  const bool whole_control = collect_descriptors(message, passed);
  if (got == 0) return Got::closed;
  if ((message.msg_flags & MSG_TRUNC) != 0) return error = "longer than 64 KiB", Got::malformed;
  if (!whole_control) return error = "more than 16 descriptors in one frame", Got::malformed;
  std::optional<Frame> decoded = decode(std::string_view(state_->packet.data(), static_cast<std::size_t>(got)), error);
  if (!decoded || !resolve_large(*decoded, passed, error)) return Got::malformed;
  frame = std::move(*decoded);
  return Got::frame;
}

std::pair<int, int> Channel::make_pair() {
  std::array<int, 2> ends{-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) return {-1, -1};
  return {ends[0], ends[1]};
}

}  // namespace gq::child
