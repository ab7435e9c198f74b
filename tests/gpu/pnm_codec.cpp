// pnm_codec.cpp - image.h's codec where libjpeg and libpng are missing: binary PGM and PPM behind the same functions.
#include <cstdio>
#include <fstream>
#include <sstream>

#include "common/image/image.h"

namespace gq::image {

bool peek(std::string_view encoded, int& width, int& height, std::string& error) {
  int maximum = 0, channels = encoded.substr(0, 2) == "P6" ? 3 : 1;
  if (encoded.size() > 8 && (encoded.substr(0, 2) == "P5" || channels == 3) &&
      std::sscanf(std::string(encoded.substr(2, 60)).c_str(), "%d %d %d", &width, &height, &maximum) == 3 && width > 0 && height > 0 && maximum == 255)
    return true;
  error = "not a PNM (this build has no JPEG or PNG)";
  return false;
}

bool decode(std::string_view encoded, Image& out, std::string& error) {
  int width = 0, height = 0;
  if (!peek(encoded, width, height, error)) return false;
  out = Image(width, height, encoded[1] == '6' ? 3 : 1);
  if (encoded.size() < out.pixels.size()) {
    error = "truncated PNM";
    return false;
  }
  const std::string_view pixels = encoded.substr(encoded.size() - out.pixels.size());
  out.pixels.assign(pixels.begin(), pixels.end());
  return true;
}

std::string encode_png(const Image& image) {
  std::ostringstream out;
  out << (image.channels == 3 ? "P6 " : "P5 ") << image.width << ' ' << image.height << " 255\n";
  return out.str() + std::string(image.pixels.begin(), image.pixels.end());
}
std::string encode_jpeg(const Image& image, int /*quality*/) { return encode_png(image); }

Image to_rgb(const Image& image) {
  if (image.channels == 3) return image;
  Image out(image.width, image.height, 3);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) out.pixels[3 * i] = out.pixels[3 * i + 1] = out.pixels[3 * i + 2] = image.pixels[i];
  return out;
}

bool read_file(const std::string& path, std::string& bytes, std::string& error) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream all;
  all << in.rdbuf();
  bytes = all.str();
  if (!in) error = "cannot read " + path;
  return static_cast<bool>(in);
}
bool write_file(const std::string& path, std::string_view bytes, std::string& error) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) error = "cannot write " + path;
  return static_cast<bool>(out);
}

}  // namespace gq::image
