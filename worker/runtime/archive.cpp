#include "worker/runtime/archive.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "worker/runtime/attempt.h"

namespace gq::worker {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kBlock = 512;
constexpr std::size_t kLongNameMax = 4096;
using Block = std::array<char, kBlock>;

void put_octal(char* field, std::size_t width, std::uint64_t value) {
  for (std::size_t i = width - 1; i-- > 0; value >>= 3U) field[i] = static_cast<char>('0' + (value & 7U));
}

bool read_octal(const char* field, std::size_t width, std::uint64_t& value) {
  value = 0;
  for (std::size_t i = 0; i < width && field[i] != '\0' && field[i] != ' '; ++i) {
    if (field[i] < '0' || field[i] > '7') return false;
    value = value * 8 + static_cast<std::uint64_t>(field[i] - '0');
  }
  return true;
}

unsigned checksum(Block block) {
  std::fill_n(block.begin() + 148, 8, ' ');
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  return sum;
}

bool make_header(const std::string& name, char type, unsigned mode, std::uint64_t size, Block& block) {
  block.fill('\0');
  std::string base = name;
  std::string prefix;
  if (base.size() > 100) {   // ustar: up to 155 characters of leading folders, 100 of the rest
    const auto cut = base.rfind('/', 155);
    if (cut == std::string::npos || base.size() - cut - 1 > 100) return false;
    prefix = base.substr(0, cut);
    base = base.substr(cut + 1);
  }
  std::memcpy(block.data(), base.data(), base.size());
  put_octal(&block[100], 8, mode);
  put_octal(&block[108], 8, 0);
  put_octal(&block[116], 8, 0);
  put_octal(&block[124], 12, size);
  put_octal(&block[136], 12, 0);   // no times: equal folders make equal archives
  block[156] = type;
  std::memcpy(&block[257], "ustar\00000", 8);
  std::memcpy(&block[345], prefix.data(), prefix.size());
  put_octal(&block[148], 7, checksum(block));
  block[155] = ' ';
  return true;
}

}  // namespace

Result<void> pack_folder(const std::string& folder, const std::string& archive) {
  std::vector<fs::path> paths;
  std::error_code ec;
  for (auto it = fs::recursive_directory_iterator(folder, ec); !ec && it != fs::recursive_directory_iterator(); it.increment(ec))
    if (const auto type = it->symlink_status(ec).type(); type == fs::file_type::regular || type == fs::file_type::directory) paths.push_back(it->path());
  if (ec) return fail(Errc::internal, "reading " + folder + ": " + ec.message());
  std::sort(paths.begin(), paths.end());
  std::ofstream out(archive, std::ios::binary | std::ios::trunc);
  std::vector<char> buffer(1U << 20U);
  Block block;
  for (const fs::path& path : paths) {
    const bool is_folder = fs::is_directory(path, ec);
    const std::uint64_t size = is_folder ? 0 : fs::file_size(path, ec);
    const std::string name = path.lexically_relative(folder).string();
    const bool is_program = (fs::status(path, ec).permissions() & fs::perms::owner_exec) != fs::perms::none;
    if (size >= (std::uint64_t{1} << 33U) || !make_header(name, is_folder ? '5' : '0', is_program ? 0700 : 0600, size, block))
      return fail(Errc::too_large, "cannot pack " + name.substr(0, 100) + ": its name is too long or it has 8 GiB or more");
    out.write(block.data(), kBlock);
    if (is_folder) continue;
    std::ifstream in(path, std::ios::binary);
    std::uint64_t left = size;
    while (left > 0 && in) {
      in.read(buffer.data(), static_cast<std::streamsize>(std::min<std::uint64_t>(buffer.size(), left)));
      if (in.gcount() <= 0) break;
      out.write(buffer.data(), in.gcount());
      left -= static_cast<std::uint64_t>(in.gcount());
    }
    if (left != 0) return fail(Errc::internal, name + " changed while it was packed", "write checkpoints to a temporary name and rename them");
    block.fill('\0');
    if (size % kBlock != 0) out.write(block.data(), static_cast<std::streamsize>(kBlock - size % kBlock));
  }
  block.fill('\0');
  out.write(block.data(), kBlock);
  out.write(block.data(), kBlock);
  out.flush();
  if (!out) return fail(Errc::storage_full, "cannot write " + archive, "look at the worker's --scratch folder");
  return {};
}

Result<void> unpack_folder(const std::string& archive, const std::string& folder, ArchiveWords words) {
  const auto damaged = [&](const std::string& why) { return fail(words.damaged, std::string(words.what) + " is damaged: " + why); };
  std::ifstream in(archive, std::ios::binary);
  if (!in) return damaged("it cannot be opened");
  std::vector<char> buffer(1U << 20U);
  Block block;
  std::string long_name;   // of the next entry
  for (;;) {
    in.read(block.data(), kBlock);
    if (in.gcount() != static_cast<std::streamsize>(kBlock)) return damaged("it is cut off");
    if (std::all_of(block.begin(), block.end(), [](char c) { return c == '\0'; })) return {};
    std::uint64_t sum{};
    std::uint64_t size{};
    std::uint64_t mode{};
    if (!read_octal(&block[148], 8, sum) || sum != checksum(block) || !read_octal(&block[124], 12, size) || !read_octal(&block[100], 8, mode)) return damaged("a header does not add up");
    if (block[156] == 'L') {   // GNU: the content is the name
      if (size == 0 || size > kLongNameMax) return damaged("a name of " + std::to_string(size) + " bytes");
      long_name.resize((size + kBlock - 1) / kBlock * kBlock);
      if (!in.read(long_name.data(), static_cast<std::streamsize>(long_name.size()))) return damaged("it is cut off");
      long_name.resize(::strnlen(long_name.data(), size));
      continue;
    }
    std::string name(block.data(), ::strnlen(block.data(), 100));
    if (block[345] != '\0') name = std::string(&block[345], ::strnlen(&block[345], 155)) + "/" + name;
    if (!long_name.empty()) name = std::exchange(long_name, {});
    if (!name.empty() && name.back() == '/') name.pop_back();
    if (!is_safe_path(name)) return damaged("it holds the name '" + name.substr(0, 60) + "'");
    const fs::path target = fs::path(folder) / name;
    std::error_code ec;
    if (block[156] == '5') {
      fs::create_directories(target, ec);
      continue;
    }
    if (block[156] != '0' && block[156] != '\0') return damaged("it holds something that is neither file nor folder");
    fs::create_directories(target.parent_path(), ec);
    std::ofstream out(target, std::ios::binary | std::ios::trunc);
    std::uint64_t left = size;
    while (left > 0) {
      in.read(buffer.data(), static_cast<std::streamsize>(std::min<std::uint64_t>(buffer.size(), left)));
      if (in.gcount() <= 0) return damaged("a file in it is cut off");
      out.write(buffer.data(), in.gcount());
      left -= static_cast<std::uint64_t>(in.gcount());
    }
    if (!out.flush()) return fail(Errc::storage_full, "cannot write " + target.string(), "look at the worker's --scratch folder");
    if ((mode & 0100U) != 0) fs::permissions(target, fs::perms::owner_exec, fs::perm_options::add, ec);
    if (size % kBlock != 0) in.ignore(static_cast<std::streamsize>(kBlock - size % kBlock));
  }
}

}  // namespace gq::worker
