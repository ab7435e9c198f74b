// frame.h - the child protocol's frames: flat, typed fields, in any language in an afternoon. CHILD_PROTOCOL.md explains it.
//
// A supervisor and one child talk over a SEQPACKET socketpair (the child's end is fd 3). One packet = one frame:
//   u8 version(1) | u8 type | u16 field count | u32 reserved(0) | u64 id       little endian, 16 bytes, then the fields:
//   u8 key length | key | u8 kind ('i' s64, 'f' f64, 's' text, 'b' bytes) | u32 length | value
// A key may repeat (lists). A frame is at most 64 KiB; larger values lie in a memfd passed with the same packet (SCM_RIGHTS)
// and are named by a 'b'-kind field "fd:<key>" holding u32 index of the descriptor, u64 offset, u64 length.
// This file and frame.cpp use the standard library only: executors build without ZeroMQ, Asio, Redis or msgpack.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace gq::child {

inline constexpr std::size_t kFrameBytesMax = 64U << 10U;
inline constexpr std::size_t kInlineValueMax = 32U << 10U;   ///< larger values go to a memfd

enum class Type : std::uint8_t {
  // supervisor -> child
  hello = 1,    ///< role, device, device_kind, vram_mib, threads, scratch (folder)
  load = 2,     ///< model (NAME@VERSION), path, runtime, name; answered loaded or failed with the same id
  unload = 3,   ///< model; answered unloaded with the same id when its memory is free
  run = 4,      ///< id = one job: kind, model, param.<k>…, part.<name> (bytes), part_media.<name>, file.<name> (path); trainer: resume (path), checkpoint_dir, output_dir
  cancel = 5,   ///< id
  preempt = 6,  ///< id, deadline_ms
  stop = 7,     ///< finish what runs, then exit 0
  ping = 8,     ///< id: answer pong with the same id from the loop that reads this socket
  hold = 9,     ///< id: stand still before the next micro-step until go, preempt, cancel or stop; told to trainers only
  go = 10,      ///< id
  // child -> supervisor
  ready = 32,   ///< protocol, pid, device_name, context_mib, kinds…
  loaded = 33,  ///< used_mib, batch_max, metadata
  failed = 34,  ///< code, what: of the load or run with that id
  started = 35, ///< id: execution really began ("now executing")
  done = 36,    ///< id: out.<name> (bytes), out_media.<name>, out_file.<name> (path), value.<k>
  progress = 37,///< id, step, total, metric.<k> ('f')
  released = 38,///< id: device memory is free
  checkpoint = 39, ///< id, step, path: durable on disk
  yielded = 40, ///< id, step: left on request
  log = 41,     ///< id (0 = the child itself), text
  pong = 42,    ///< id of the ping
  unloaded = 43,///< id of the unload
};

struct Field {
  std::string key;
  std::variant<std::int64_t, double, std::string> value;
  bool is_bytes{};               ///< a string value that is not text
};

struct Frame {
  Type type{};
  std::uint64_t id{};
  std::vector<Field> fields;

  Frame& add(std::string_view key, std::int64_t v);
  Frame& add(std::string_view key, double v);
  Frame& add(std::string_view key, std::string_view text);
  Frame& add_bytes(std::string_view key, std::string bytes);
  [[nodiscard]] std::int64_t number(std::string_view key, std::int64_t fallback = 0) const;
  [[nodiscard]] double real(std::string_view key, double fallback = 0) const;
  [[nodiscard]] std::string_view text(std::string_view key) const;      ///< empty when absent
  [[nodiscard]] bool has(std::string_view key) const;
  /// All fields whose key begins with `prefix` ("param."), the prefix cut off.
  [[nodiscard]] std::map<std::string, std::string> with_prefix(std::string_view prefix) const;
};

/// Pure codec; values above kInlineValueMax must have been moved out before (Channel does it).
std::string encode(const Frame& frame);
std::optional<Frame> decode(std::string_view packet, std::string& error);

/// A blocking or polled end of the socketpair; moves large values through memfds (copied out on receive, so a peer cannot change
/// them under the reader). Sends are safe from several threads.
class Channel {
 public:
  explicit Channel(int fd);   ///< takes ownership
  ~Channel();
  Channel(Channel&&) noexcept;
  Channel& operator=(Channel&&) noexcept;
  [[nodiscard]] int fd() const;
  /// False: the peer is gone (EPIPE, ECONNRESET) or, for a non-blocking fd, the socket is full (errno EAGAIN).
  bool send(const Frame& frame);
  enum class Got { frame, nothing, closed, malformed };
  /// Blocks unless the fd is non-blocking (then `nothing`).
  Got receive(Frame& frame, std::string& error);
  static std::pair<int, int> make_pair();   ///< {parent, child}, CLOEXEC both

 private:
  struct State;
  State* state_;
};

}  // namespace gq::child
