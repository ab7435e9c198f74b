// draw.cpp - boxes and small letters on RGB pictures, files, gray to RGB.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>

#include "common/image/image.h"

namespace gq::image {

namespace {

// 5x7 letters, a bit per pixel, five columns of seven rows (bit 0 = top), ASCII 32..126; lower case is drawn as upper case.
struct Glyph { char c; std::array<std::uint8_t, 5> columns; };
constexpr Glyph kGlyphs[] = {
    {'A', {0x7E, 0x11, 0x11, 0x11, 0x7E}}, {'B', {0x7F, 0x49, 0x49, 0x49, 0x36}}, {'C', {0x3E, 0x41, 0x41, 0x41, 0x22}},
    {'D', {0x7F, 0x41, 0x41, 0x22, 0x1C}}, {'E', {0x7F, 0x49, 0x49, 0x49, 0x41}}, {'F', {0x7F, 0x09, 0x09, 0x09, 0x01}},
    {'G', {0x3E, 0x41, 0x49, 0x49, 0x7A}}, {'H', {0x7F, 0x08, 0x08, 0x08, 0x7F}}, {'I', {0x00, 0x41, 0x7F, 0x41, 0x00}},
    {'J', {0x20, 0x40, 0x41, 0x3F, 0x01}}, {'K', {0x7F, 0x08, 0x14, 0x22, 0x41}}, {'L', {0x7F, 0x40, 0x40, 0x40, 0x40}},
    {'M', {0x7F, 0x02, 0x0C, 0x02, 0x7F}}, {'N', {0x7F, 0x04, 0x08, 0x10, 0x7F}}, {'O', {0x3E, 0x41, 0x41, 0x41, 0x3E}},
    {'P', {0x7F, 0x09, 0x09, 0x09, 0x06}}, {'Q', {0x3E, 0x41, 0x51, 0x21, 0x5E}}, {'R', {0x7F, 0x09, 0x19, 0x29, 0x46}},
    {'S', {0x46, 0x49, 0x49, 0x49, 0x31}}, {'T', {0x01, 0x01, 0x7F, 0x01, 0x01}}, {'U', {0x3F, 0x40, 0x40, 0x40, 0x3F}},
    {'V', {0x1F, 0x20, 0x40, 0x20, 0x1F}}, {'W', {0x3F, 0x40, 0x38, 0x40, 0x3F}}, {'X', {0x63, 0x14, 0x08, 0x14, 0x63}},
    {'Y', {0x07, 0x08, 0x70, 0x08, 0x07}}, {'Z', {0x61, 0x51, 0x49, 0x45, 0x43}}, {'0', {0x3E, 0x51, 0x49, 0x45, 0x3E}},
    {'1', {0x00, 0x42, 0x7F, 0x40, 0x00}}, {'2', {0x42, 0x61, 0x51, 0x49, 0x46}}, {'3', {0x21, 0x41, 0x45, 0x4B, 0x31}},
    {'4', {0x18, 0x14, 0x12, 0x7F, 0x10}}, {'5', {0x27, 0x45, 0x45, 0x45, 0x39}}, {'6', {0x3C, 0x4A, 0x49, 0x49, 0x30}},
    {'7', {0x01, 0x71, 0x09, 0x05, 0x03}}, {'8', {0x36, 0x49, 0x49, 0x49, 0x36}}, {'9', {0x06, 0x49, 0x49, 0x29, 0x1E}},
    {'.', {0x00, 0x60, 0x60, 0x00, 0x00}}, {'-', {0x08, 0x08, 0x08, 0x08, 0x08}}, {'_', {0x40, 0x40, 0x40, 0x40, 0x40}},
    {':', {0x00, 0x36, 0x36, 0x00, 0x00}}, {'%', {0x23, 0x13, 0x08, 0x64, 0x62}}, {'/', {0x20, 0x10, 0x08, 0x04, 0x02}},
};

const Glyph* glyph_of(char c) {
  if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  for (const Glyph& g : kGlyphs)
    if (g.c == c) return &g;
  return nullptr;
}

void put(Image& rgb, int x, int y, Color color) {
  if (x < 0 || y < 0 || x >= rgb.width || y >= rgb.height) return;
  std::uint8_t* p = rgb.pixels.data() + rgb.at(x, y);
  p[0] = color.r;
  p[1] = color.g;
  p[2] = color.b;
}

struct CloseFile {
  void operator()(std::FILE* f) const { std::fclose(f); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

}  // namespace

Image to_rgb(const Image& image) {
  if (image.channels == 3) return image;
  Image rgb(image.width, image.height, 3);
  for (std::size_t i = 0; i < image.pixels.size(); ++i)
    std::fill_n(rgb.pixels.begin() + static_cast<std::ptrdiff_t>(3 * i), 3, image.pixels[i]);
  return rgb;
}

void draw_box(Image& rgb, float x1, float y1, float x2, float y2, Color color, int thickness) {
  const int left = static_cast<int>(std::floor(x1)), top = static_cast<int>(std::floor(y1));
  const int right = static_cast<int>(std::ceil(x2)) - 1, bottom = static_cast<int>(std::ceil(y2)) - 1;
  for (int t = 0; t < thickness; ++t) {
    for (int x = left - t; x <= right + t; ++x) {
      put(rgb, x, top - t, color);
      put(rgb, x, bottom + t, color);
    }
    for (int y = top - t; y <= bottom + t; ++y) {
      put(rgb, left - t, y, color);
      put(rgb, right + t, y, color);
    }
  }
}

void draw_text(Image& rgb, int x, int y, std::string_view text, Color color, int scale) {
  const int width = static_cast<int>(text.size()) * 6 * scale;
  x = std::clamp(x, 0, std::max(0, rgb.width - width));
  y = std::clamp(y, 0, std::max(0, rgb.height - 8 * scale));
  for (int yy = -1; yy < 8 * scale; ++yy)   // dark ground: readable on white copper
    for (int xx = -1; xx < width; ++xx) put(rgb, x + xx, y + yy, {0, 0, 0});
  for (const char c : text) {
    if (const Glyph* glyph = glyph_of(c)) {
      for (int column = 0; column < 5; ++column)
        for (int row = 0; row < 7; ++row)
          if ((glyph->columns[static_cast<std::size_t>(column)] >> row) & 1)
            for (int sy = 0; sy < scale; ++sy)
              for (int sx = 0; sx < scale; ++sx) put(rgb, x + column * scale + sx, y + row * scale + sy, color);
    }
    x += 6 * scale;
  }
}

bool read_file(const std::string& path, std::string& bytes, std::string& error) {
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) {
    error = "cannot open " + path;
    return false;
  }
  bytes.clear();
  std::array<char, 1 << 16> chunk{};
  while (const std::size_t n = std::fread(chunk.data(), 1, chunk.size(), file.get())) bytes.append(chunk.data(), n);
  if (std::ferror(file.get()) != 0) {
    error = "cannot read " + path;
    return false;
  }
  return true;
}

bool write_file(const std::string& path, std::string_view bytes, std::string& error) {
  const File file(std::fopen(path.c_str(), "wb"));
  if (!file || std::fwrite(bytes.data(), 1, bytes.size(), file.get()) != bytes.size() || std::fflush(file.get()) != 0) {
    error = "cannot write " + path;
    return false;
  }
  return true;
}

}  // namespace gq::image
