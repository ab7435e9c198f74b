#include "worker/executors/tar.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <optional>

namespace gq::exec {
namespace {

constexpr std::size_t kBlock = 512;
constexpr std::size_t kFilesMax = 1'000'000;
constexpr std::size_t kLongNameMax = 64U << 10U;
using Header = std::array<char, kBlock>;

std::string field(const Header& h, std::size_t at, std::size_t length) {
  const char* begin = h.data() + at;
  return {begin, std::find(begin, begin + length, '\0')};
}

/// Octal text, or base 256 with the high bit set (files over 8 GiB).
std::optional<std::uint64_t> number(const Header& h, std::size_t at, std::size_t length) {
  std::uint64_t value = 0;
  if ((static_cast<unsigned char>(h[at]) & 0x80U) != 0) {
    for (std::size_t i = length - 8; i < length; ++i) value = (value << 8U) | static_cast<unsigned char>(h[at + i]);
    return value;
  }
  bool any = false;
  for (std::size_t i = 0; i < length; ++i) {
    const char c = h[at + i];
    if (c == ' ' && !any) continue;
    if (c == ' ' || c == '\0') break;
    if (c < '0' || c > '7') return std::nullopt;
    value = value * 8 + static_cast<std::uint64_t>(c - '0');
    any = true;
  }
  return value;
}

bool checksum_fits(const Header& h) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < kBlock; ++i) sum += i >= 148 && i < 156 ? std::uint64_t{' '} : static_cast<unsigned char>(h[i]);
  const auto written = number(h, 148, 8);
  return written && *written == sum;
}

bool honest(const std::string& path) {
  if (path.empty() || path.front() == '/' || path.find('\0') != std::string::npos) return false;
  std::size_t begin = 0;
  while (begin <= path.size()) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    if (path.compare(begin, end - begin, "..") == 0) return false;
    begin = end + 1;
  }
  return true;
}

/// The path= record of a pax header: "LENGTH path=VALUE\n".
std::string pax_path(const std::string& records) {
  std::size_t at = 0;
  std::string found;
  while (at < records.size()) {
    const std::size_t space = records.find(' ', at), newline = records.find('\n', at);
    if (space == std::string::npos || newline == std::string::npos || space > newline) break;
    const std::string record = records.substr(space + 1, newline - space - 1);
    if (record.rfind("path=", 0) == 0) found = record.substr(5);
    at = newline + 1;
  }
  return found;
}

}  // namespace

Expected<std::vector<StoredFile>> list_tar(const std::string& file) {
  const auto broken = [&](const std::string& why) {
    return bad_input("data set " + file + " is no readable tar: " + why, "make one with: tar -cf boards.tar -C FOLDER .");
  };
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return bad_input("data set " + file + " cannot be opened");
  const auto total = static_cast<std::uint64_t>(in.tellg());
  std::vector<StoredFile> out;
  std::string long_name;
  std::uint64_t at = 0;
  while (at + kBlock <= total) {
    Header h{};
    in.seekg(static_cast<std::streamoff>(at));
    if (!in.read(h.data(), kBlock)) return broken("it ends early");
    at += kBlock;
    if (std::all_of(h.begin(), h.end(), [](char c) { return c == '\0'; })) break;
    if (!checksum_fits(h)) return broken("a header's checksum is wrong at byte " + std::to_string(at - kBlock));
    const auto size = number(h, 124, 12);
    if (!size || *size > total - at) return broken("a file reaches past its end");
    const char kind = h[156];
    if (kind == 'L' || kind == 'x') {
      if (*size > kLongNameMax) return broken("a name longer than 64 KiB");
      std::string text(*size, '\0');
      if (!in.read(text.data(), static_cast<std::streamsize>(*size))) return broken("it ends early");
      long_name = kind == 'L' ? std::string(text.c_str()) : pax_path(text);
    } else if (kind == '0' || kind == '\0') {
      std::string path = field(h, 0, 100);
      if (std::memcmp(h.data() + 257, "ustar\0", 6) == 0 && h[345] != '\0') path = field(h, 345, 155) + "/" + path;
      if (!long_name.empty()) path = long_name;
      long_name.clear();
      while (path.rfind("./", 0) == 0) path.erase(0, 2);
      if (!honest(path)) return broken("it names '" + path + "', which leaves the folder");
      if (out.size() == kFilesMax) return broken("more than a million files");
      out.push_back({.path = path, .file = file, .offset = at, .size = *size});
    } else {
      long_name.clear();
    }
    at += (*size + kBlock - 1) / kBlock * kBlock;
  }
  if (out.empty()) return broken("it holds no file");
  return out;
}

Expected<std::string> read_stored(const StoredFile& stored) {
  std::ifstream in(stored.file, std::ios::binary);
  std::string bytes(stored.size, '\0');
  if (!in || !in.seekg(static_cast<std::streamoff>(stored.offset)) ||
      !in.read(bytes.data(), static_cast<std::streamsize>(stored.size)))
    return bad_input(stored.path + " in " + stored.file + " cannot be read");
  return bytes;
}

}  // namespace gq::exec
