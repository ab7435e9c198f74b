// pack.cpp - see pack.h.
#include "client/cli/pack.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace gq::cli {

namespace fs = std::filesystem;

namespace {

void append_entry(std::string& tar, const std::string& name, std::string_view bytes, TarEntry entry) {
  char header[512] = {};
  std::memcpy(header, name.data(), std::min<std::size_t>(name.size(), 100));
  std::snprintf(header + 100, 8, "%07o", entry.mode);
  std::snprintf(header + 108, 8, "%07o", 0U);
  std::snprintf(header + 116, 8, "%07o", 0U);
  std::snprintf(header + 124, 12, "%011llo", static_cast<unsigned long long>(bytes.size()));
  std::snprintf(header + 136, 12, "%011o", 0U);   // no times: equal folders, equal bytes, one blob
  std::memset(header + 148, ' ', 8);
  header[156] = entry.type;
  std::memcpy(header + 257, "ustar\0" "00", 8);
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  std::snprintf(header + 148, 8, "%06o", sum);
  tar.append(header, sizeof header);
  tar.append(bytes);
  tar.append((512 - bytes.size() % 512) % 512, '\0');
}

}  // namespace

void append_tar(std::string& tar, const std::string& name, std::string_view bytes, TarEntry entry) {
  if (name.size() > 100) append_entry(tar, "././@LongLink", name + '\0', {.type = 'L'});
  append_entry(tar, name, bytes, entry);
}

Result<std::string> pack_folder(const std::string& folder, std::size_t bytes_max) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->is_regular_file(error) && !it->is_symlink(error)) files.push_back(it->path());
  if (error) return fail(Errc::bad_input, "cannot read folder " + folder + ": " + error.message(), "check its permissions");
  if (files.empty()) return fail(Errc::bad_input, "folder " + folder + " holds no files", "name the folder with the data");
  std::sort(files.begin(), files.end());
  std::string tar;
  for (const fs::path& path : files) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(in), {});
    if (!in.is_open() || in.bad()) return fail(Errc::bad_input, "cannot read " + path.string(), "check its permissions");
    if (tar.size() + bytes.size() > bytes_max) return fail(Errc::too_large, "folder " + folder + " is larger than 2 GiB", "give the worker a path it can read");
    const std::string name = path.lexically_relative(folder).generic_string();
    append_tar(tar, name, bytes);
  }
  tar.append(1024, '\0');
  return tar;
}

bool is_inside(const std::string& name) {
  if (name.empty() || name.front() == '/' || name.find('\0') != std::string::npos) return false;
  const fs::path path(name);
  return std::none_of(path.begin(), path.end(), [](const fs::path& piece) { return piece == ".." || piece.empty(); });
}

std::vector<std::string> save_parts(gpuq::Client& client, const gpuq::JobResult& result, const std::string& dir, const std::string& only) {
  std::vector<std::string> written;
  for (const gpuq::Part& part : result.parts) {
    if (!only.empty() && part.name != only) continue;
    if (!is_inside(part.name)) throw gpuq::Error("BAD_INPUT", "a part of job " + result.id + " is called '" + part.name + "', which would leave " + dir, "gpuq result " + result.id + " --part NAME > FILE");
    const fs::path path = fs::path(dir) / part.name;
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    if (error) throw gpuq::Error("BAD_INPUT", "cannot make folder " + path.parent_path().string() + ": " + error.message(), "choose a folder you may write to");
    client.fetch_to(part, path.string());
    written.push_back(path.string());
  }
  return written;
}

}  // namespace gq::cli
