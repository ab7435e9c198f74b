// image.h - 8-bit images in memory, and JPEG/PNG in and out. Standard library only in this header, so that executors and tools
// share it; libjpeg-turbo and libpng do the work in codec.cpp. Without them (a bare GPU box) board.cpp and draw.cpp still build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gq::image {

/// Row-major, interleaved, 8 bits; channels 1 (gray) or 3 (RGB). pixels.size() == width * height * channels.
struct Image {
  int width{};
  int height{};
  int channels{1};
  std::vector<std::uint8_t> pixels;

  Image() = default;
  Image(int w, int h, int c, std::uint8_t fill = 0)
      : width(w), height(h), channels(c),
        pixels(static_cast<std::size_t>(w) * static_cast<std::size_t>(h) * static_cast<std::size_t>(c), fill) {}
  [[nodiscard]] std::size_t at(int x, int y) const {
    return (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)) *
           static_cast<std::size_t>(channels);
  }
};

inline constexpr std::size_t kPixelsMax = std::size_t{64} << 20U;   ///< 8192 x 8192; the header is judged before any allocation
inline constexpr std::size_t kEncodedBytesMax = std::size_t{64} << 20U;

/// JPEG or PNG, by content; gray stays 1 channel, everything else (palette, alpha, 16 bit, CMYK) becomes RGB.
/// On failure returns false and says what is wrong in `error` ("truncated JPEG", "neither JPEG nor PNG", "9000x9000 is over …").
bool decode(std::string_view encoded, Image& out, std::string& error);
/// Width and height from the header alone.
bool peek(std::string_view encoded, int& width, int& height, std::string& error);
std::string encode_png(const Image& image);
std::string encode_jpeg(const Image& image, int quality = 92);

Image to_rgb(const Image& image);
bool read_file(const std::string& path, std::string& bytes, std::string& error);
bool write_file(const std::string& path, std::string_view bytes, std::string& error);

// ---- draw.cpp: what annotated pictures need

struct Color { std::uint8_t r{}, g{}, b{}; };
void draw_box(Image& rgb, float x1, float y1, float x2, float y2, Color color, int thickness = 2);
void draw_text(Image& rgb, int x, int y, std::string_view text, Color color, int scale = 1);   ///< 5x7 letters, ASCII

}  // namespace gq::image
