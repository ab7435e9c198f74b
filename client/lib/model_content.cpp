#include "client/lib/model_content.h"

#include <algorithm>
#include <cstdint>
#include <fstream>

namespace gq::client {
namespace {

constexpr std::string_view kZip = "PK\3\4", kZipEnd = "PK\5\6";
constexpr std::size_t kZipEndBytes = 22, kZipCommentMax = 65535;
constexpr std::size_t kZip64EndBytes = 76;   // what a zip64 puts between the directory and its end

std::string export_it() { return "export it: torch.jit.trace(model, example).save('model.pt'), or yolo export model=best.pt format=torchscript; then push that file"; }

std::string folder_with(const std::string& entry) {
  return "put it into a folder with a model.toml that says interpreter = \"…/bin/python\" and entry = \"" + entry + "\", then gpuq model push NAME FOLDER";
}

bool has(std::string_view text, std::string_view word) { return text.find(word) != std::string_view::npos; }
bool starts(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

/// The start without blanks and a byte order mark, in small letters: how pages and scripts begin.
std::string as_text(std::string_view head) {
  if (starts(head, "\xEF\xBB\xBF")) head.remove_prefix(3);
  const std::size_t begin = std::min(head.find_first_not_of(" \t\r\n"), head.size());
  std::string out(head.substr(begin, 64));
  std::transform(out.begin(), out.end(), out.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return out;
}

/// A protobuf whose first field is a small ir_version, followed by a producer's name, a domain or a model version: as exporters write it.
bool is_onnx(const std::string& path, std::string_view head) {
  if (head.size() < 3 || head[0] != '\x08' || head[1] < 1 || head[1] > 32) return false;
  return path.ends_with(".onnx") || head[2] == '\x12' || head[2] == '\x1a' || head[2] == '\x22' || head[2] == '\x28';
}

std::string_view saved_by(std::string_view head) { return has(head, "sklearn") ? "gpuq:sklearn" : has(head, "ultralytics") ? "gpuq:ultralytics" : "module:Class"; }

std::optional<std::string> directory_of(std::ifstream& file, std::uint64_t size) {
  const auto read = [&](std::uint64_t at, std::uint64_t count) {
    std::string out(count, '\0');
    file.clear();
    file.seekg(static_cast<std::streamoff>(at));
    file.read(out.data(), static_cast<std::streamsize>(count));
    out.resize(static_cast<std::size_t>(std::max<std::streamsize>(file.gcount(), 0)));
    return out;
  };
  const std::uint64_t tail_bytes = std::min<std::uint64_t>(size, kZipEndBytes + kZipCommentMax);
  const std::string tail = read(size - tail_bytes, tail_bytes);
  const std::size_t end = tail.rfind(kZipEnd);
  if (end == std::string::npos || tail.size() - end < kZipEndBytes) return std::nullopt;
  std::uint64_t bytes = 0;
  for (std::size_t i = 4; i-- > 0;) bytes = bytes << 8U | static_cast<unsigned char>(tail[end + 12 + i]);
  const std::uint64_t directory_end = size - tail_bytes + end;
  if (bytes > kZipDirectoryMax || bytes > directory_end) return std::nullopt;
  const std::uint64_t begin = directory_end - std::min(directory_end, bytes + kZip64EndBytes);
  return read(begin, directory_end - begin);
}

}  // namespace

std::optional<Error> not_servable(const std::string& path, std::string_view head, const std::optional<std::string>& entries) {
  const auto bad = [&](const std::string& what, std::string next) { return Error{Errc::bad_model, path + " is " + what, std::move(next)}; };
  if (head.empty()) return bad("empty", "push a TorchScript file");
  const std::string text = as_text(head);
  if (starts(text, "<!doctype html") || starts(text, "<html") || starts(text, "<?xml")) return bad("a web page or XML, not a model", "look into it: a download that failed often leaves its error page");
  if (starts(text, "version https://git-lfs")) return bad("a Git LFS pointer, not the file it stands for", "git lfs pull, then push it again");
  if (starts(head, kZip)) {
    if (!entries || has(*entries, "/constants.pkl") || has(*entries, "/code/")) return std::nullopt;
    if (has(*entries, "/data.pkl"))
      return bad("a Python pickle (torch.save), which needs its Python classes and can run any code", has(head, "ultralytics") ? "yolo export model=" + path + " format=torchscript, and push that file; or " + folder_with("gpuq:ultralytics") : export_it());
    if (has(*entries, "model.weights.h5")) return bad("a Keras model", folder_with("module:Class"));
    return bad("a zip archive without a TorchScript model", "a Python model is pushed as the folder itself, with its model.toml: gpuq model push NAME FOLDER");
  }
  if (starts(head, "\x80")) return bad("a Python pickle, which needs its Python classes and can run any code", saved_by(head) == "module:Class" ? export_it() : folder_with(std::string(saved_by(head))));
  if (starts(head, "\x89HDF\r\n\x1a\n")) return bad("an HDF5 file (Keras weights)", folder_with("module:Class"));
  if (is_onnx(path, head)) return bad("an ONNX model", folder_with("gpuq:onnx"));
  if (starts(head, "\x1f\x8b")) return bad("a gzip archive", "unpack it, and push the TorchScript file or the folder with model.toml");
  if (path.ends_with(".safetensors") && !has(head, "gpuq-detector")) return bad("weights without their network (safetensors)", export_it());
  return std::nullopt;
}

std::optional<Error> not_servable(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return std::nullopt;
  const auto size = static_cast<std::uint64_t>(std::max<std::streamoff>(file.tellg(), 0));
  std::string head(std::min<std::uint64_t>(size, kContentHead), '\0');
  file.seekg(0);
  if (!file.read(head.data(), static_cast<std::streamsize>(head.size())) && !head.empty()) return std::nullopt;
  return not_servable(path, head, starts(head, kZip) ? directory_of(file, size) : std::nullopt);
}

}  // namespace gq::client
