#include "worker/executors/dataset.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>

#include "worker/executors/tar.h"

namespace gq::exec {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kPixelsTotalMax = std::size_t{8} << 30U;
const std::vector<std::string> kDeepPcbNames{"open", "short", "mousebite", "spur", "copper", "pinhole"};

Expected<std::vector<StoredFile>> list_folder(const std::string& folder) {
  std::vector<StoredFile> out;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (!it->is_regular_file(error)) continue;
    out.push_back({.path = fs::relative(it->path(), folder).generic_string(), .file = it->path().string(), .offset = 0,
                   .size = it->file_size(error)});
  }
  if (error) return bad_input("data set folder " + folder + " cannot be read: " + error.message());
  return out;
}

struct Pair {
  const StoredFile* image{};
  const StoredFile* labels{};
};

bool is_image(const std::string& extension) { return extension == ".jpg" || extension == ".jpeg" || extension == ".png"; }

/// NAME -> its image and labels, in either layout.
std::map<std::string, Pair> pair_up(const std::vector<StoredFile>& files) {
  std::map<std::string, Pair> out;
  for (const auto& f : files) {
    const fs::path path(f.path);
    std::string stem = path.stem().string();
    const std::string extension = path.extension().string();
    const std::string folder = path.parent_path().filename().string();
    if (is_image(extension)) {
      const bool deep = stem.size() > 5 && stem.ends_with("_test");
      if (!deep && folder != "images") continue;
      if (deep) stem.resize(stem.size() - 5);
      out[stem].image = &f;
    } else if (extension == ".txt" && path.filename() != "classes.txt") {
      out[stem].labels = &f;
    }
  }
  std::erase_if(out, [](const auto& entry) { return entry.second.image == nullptr || entry.second.labels == nullptr; });
  return out;
}

image::Image to_gray(image::Image source) {
  if (source.channels == 1) return source;
  image::Image out(source.width, source.height, 1);
  for (std::size_t i = 0; i < out.pixels.size(); ++i) {
    const std::uint8_t* p = source.pixels.data() + 3 * i;
    out.pixels[i] = static_cast<std::uint8_t>((299 * p[0] + 587 * p[1] + 114 * p[2] + 500) / 1000);
  }
  return out;
}

std::vector<std::string> read_names(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) out.push_back(line);
  }
  return out;
}

}  // namespace

Expected<std::vector<Box>> parse_labels(const std::string& text, int width, int height) {
  std::vector<Box> out;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream words(line);
    double v[5];
    int count = 0;
    while (count < 5 && words >> v[count]) ++count;
    if (count == 0 && line.find_first_not_of(" \t\r") == std::string::npos) continue;
    std::string rest;
    if (count != 5 || words >> rest) return bad_input("line " + std::to_string(number) + " is not 'x1 y1 x2 y2 type': " + line.substr(0, 80));
    Box box;
    const bool fractions = v[1] <= 1 && v[2] <= 1 && v[3] <= 1 && v[4] <= 1;
    if (fractions) {
      box = {static_cast<float>((v[1] - v[3] / 2) * width), static_cast<float>((v[2] - v[4] / 2) * height),
             static_cast<float>((v[1] + v[3] / 2) * width), static_cast<float>((v[2] + v[4] / 2) * height), 0, static_cast<int>(v[0])};
    } else {
      box = {static_cast<float>(v[0]), static_cast<float>(v[1]), static_cast<float>(v[2]), static_cast<float>(v[3]), 0, static_cast<int>(v[4]) - 1};
    }
    box.x1 = std::max(box.x1, 0.0F);
    box.y1 = std::max(box.y1, 0.0F);
    box.x2 = std::min(box.x2, static_cast<float>(width));
    box.y2 = std::min(box.y2, static_cast<float>(height));
    if (box.label < 0 || box.label > 999 || box.x2 - box.x1 < 1 || box.y2 - box.y1 < 1)
      return bad_input("line " + std::to_string(number) + " is no box inside the image: " + line.substr(0, 80));
    out.push_back(box);
  }
  return out;
}

Expected<Dataset> read_dataset(const std::string& path) {
  std::error_code error;
  auto files = fs::is_directory(path, error) ? list_folder(path) : list_tar(path);
  if (!files) return files.failure();
  const auto pairs = pair_up(*files);
  if (pairs.empty())
    return bad_input("data set " + path + " holds no labelled image",
                     "expected NAME_test.jpg with NAME.txt (DeepPCB), or images/NAME.png with labels/NAME.txt");
  Dataset out;
  std::size_t pixels = 0;
  int classes = 0;
  for (const auto& [name, pair] : pairs) {
    auto encoded = read_stored(*pair.image);
    auto text = read_stored(*pair.labels);
    if (!encoded) return encoded.failure();
    if (!text) return text.failure();
    Sample sample{.name = name, .image = {}, .labels = {}};
    std::string why;
    if (!image::decode(*encoded, sample.image, why)) return bad_image(pair.image->path + ": " + why);
    sample.image = to_gray(std::move(sample.image));
    pixels += sample.image.pixels.size();
    if (pixels > kPixelsTotalMax) return Failure{"TOO_LARGE", "data set " + path + " holds more than 8 Gpixel", "train on a part of it"};
    auto labels = parse_labels(*text, sample.image.width, sample.image.height);
    if (!labels) return bad_input(pair.labels->path + ", " + labels.failure().what);
    sample.labels = std::move(*labels);
    for (const Box& b : sample.labels) classes = std::max(classes, b.label + 1);
    out.samples.push_back(std::move(sample));
  }
  for (const auto& f : *files) {
    if (fs::path(f.path).filename() != "classes.txt") continue;
    if (auto text = read_stored(f)) out.names = read_names(*text);
  }
  if (classes == 0) return bad_input("data set " + path + " has no box in any label file");
  if (out.names.empty() && classes <= static_cast<int>(kDeepPcbNames.size())) out.names = kDeepPcbNames;
  if (!out.names.empty() && static_cast<std::size_t>(classes) > out.names.size())
    return bad_input("data set " + path + " uses class " + std::to_string(classes - 1) + ", classes.txt names " + std::to_string(out.names.size()));
  while (out.names.size() < static_cast<std::size_t>(classes)) out.names.push_back("class " + std::to_string(out.names.size()));
  return out;
}

}  // namespace gq::exec
