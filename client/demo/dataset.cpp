#include "client/demo/dataset.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <stdexcept>

namespace gpuq::demo {

namespace {

using gq::image::Label;

constexpr std::size_t kTarBlock = 512;

void add_to_tar(std::string& tar, const std::string& name, const std::string& bytes) {
  std::array<char, kTarBlock> header{};
  if (name.size() >= 100) throw std::runtime_error("name too long for the archive: " + name);
  std::memcpy(header.data(), name.data(), name.size());
  std::snprintf(header.data() + 100, 8, "%07o", 0644U);
  std::snprintf(header.data() + 108, 8, "%07o", 0U);
  std::snprintf(header.data() + 116, 8, "%07o", 0U);
  std::snprintf(header.data() + 124, 12, "%011llo", static_cast<unsigned long long>(bytes.size()));
  std::snprintf(header.data() + 136, 12, "%011o", 0U);
  header[156] = '0';
  std::memcpy(header.data() + 257, "ustar\00000", 8);
  std::memset(header.data() + 148, ' ', 8);
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  std::snprintf(header.data() + 148, 8, "%06o", sum);
  tar.append(header.data(), header.size());
  tar.append(bytes);
  tar.append((kTarBlock - bytes.size() % kTarBlock) % kTarBlock, '\0');
}

Label to_label(const Detection& d) { return {d.x1, d.y1, d.x2, d.y2, d.label}; }

}  // namespace

std::vector<Sample> draw_samples(std::uint64_t seed, int count, int size) {
  std::vector<Sample> samples;
  for (int i = 0; i < count; ++i) {
    const gq::image::Board board = gq::image::draw_board(seed + static_cast<std::uint64_t>(i), size, 8);
    char name[32];
    std::snprintf(name, sizeof name, "board%05llu", static_cast<unsigned long long>(seed + static_cast<std::uint64_t>(i)));
    samples.push_back({name, gq::image::encode_png(board.test), "png", board.labels});
  }
  return samples;
}

std::vector<Sample> read_samples(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<Sample> samples;
  std::error_code ec;
  for (const auto& entry : fs::recursive_directory_iterator(folder, ec)) {
    const std::string file = entry.path().filename().string(), stem = entry.path().stem().string();
    const std::string extension = entry.path().extension().string();
    if ((extension != ".jpg" && extension != ".png") || stem.size() < 6 || stem.substr(stem.size() - 5) != "_test") continue;
    Sample sample{stem.substr(0, stem.size() - 5), {}, extension.substr(1), {}};
    std::string text, error;
    const std::string label_path = (entry.path().parent_path() / (sample.name + ".txt")).string();
    if (!gq::image::read_file(entry.path().string(), sample.file, error) || !gq::image::read_file(label_path, text, error)) throw std::runtime_error(error);
    if (!gq::image::read_labels(text, sample.labels, error)) throw std::runtime_error(label_path + ": " + error);
    int w = 0, h = 0;
    if (!gq::image::peek(sample.file, w, h, error)) throw std::runtime_error(entry.path().string() + ": " + error);
    samples.push_back(std::move(sample));
  }
  if (ec) throw std::runtime_error("cannot read " + folder + ": " + ec.message());
  if (samples.size() < 4) throw std::runtime_error(folder + ": found " + std::to_string(samples.size()) + " pairs NAME_test.jpg|png + NAME.txt, need at least 4");
  std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.name < b.name; });
  return samples;
}

std::string to_tar(const std::vector<Sample>& samples) {
  std::string tar;
  for (const Sample& s : samples) {
    add_to_tar(tar, s.name + "_test." + s.extension, s.file);
    add_to_tar(tar, s.name + ".txt", gq::image::to_text(s.labels));
  }
  tar.append(2 * kTarBlock, '\0');
  return tar;
}

Score score(const std::vector<Detection>& detections, const std::vector<Label>& labels, float iou_min, std::map<int, Score>* by_type) {
  std::vector<Detection> order = detections;
  std::sort(order.begin(), order.end(), [](const Detection& a, const Detection& b) { return a.score > b.score; });
  std::vector<bool> taken(labels.size());
  Score total;
  for (const Detection& d : order) {
    std::size_t best = labels.size();
    float best_iou = iou_min;
    for (std::size_t i = 0; i < labels.size(); ++i) {
      if (taken[i] || labels[i].type != d.label) continue;
      if (const float overlap = gq::image::iou(labels[i], to_label(d)); overlap >= best_iou) {
        best = i;
        best_iou = overlap;
      }
    }
    const bool hit = best < labels.size();
    if (hit) taken[best] = true;
    ++(hit ? total.found : total.wrong);
    if (by_type != nullptr) ++(hit ? (*by_type)[d.label].found : (*by_type)[d.label].wrong);
  }
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (!taken[i]) {
      ++total.missed;
      if (by_type != nullptr) ++(*by_type)[labels[i].type].missed;
    }
  return total;
}

std::string annotate(const Sample& sample, const std::vector<Detection>& detections) {
  gq::image::Image image;
  std::string error;
  if (!gq::image::decode(sample.file, image, error)) throw std::runtime_error(sample.name + ": " + error);
  image = gq::image::to_rgb(image);
  for (const Label& l : sample.labels) gq::image::draw_box(image, l.x1 - 3, l.y1 - 3, l.x2 + 3, l.y2 + 3, {0, 190, 0}, 2);
  for (const Detection& d : detections) {
    gq::image::draw_box(image, d.x1, d.y1, d.x2, d.y2, {230, 30, 30}, 2);
    char text[64];
    std::snprintf(text, sizeof text, "%s %.2f", d.name.c_str(), static_cast<double>(d.score));
    gq::image::draw_text(image, static_cast<int>(d.x1), static_cast<int>(d.y1) - 11, text, {255, 160, 160}, 1);
  }
  return gq::image::encode_png(image);
}

}  // namespace gpuq::demo
