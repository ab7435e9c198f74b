// codec.cpp - JPEG and PNG through libjpeg-turbo and libpng. Every failure is a sentence; no longjmp crosses a destructor.
#include <csetjmp>
#include <cstdio>   // jpeglib.h needs FILE and says so nowhere
#include <cstdlib>
#include <cstring>

#include <jpeglib.h>
#include <png.h>

#include "common/image/image.h"

namespace gq::image {

namespace {

bool is_png(std::string_view b) { return b.size() >= 8 && std::memcmp(b.data(), "\x89PNG\r\n\x1a\n", 8) == 0; }
bool is_jpeg(std::string_view b) {
  return b.size() >= 3 && std::memcmp(b.data(), "\xFF\xD8\xFF", 3) == 0;
}

bool size_allowed(std::uint64_t width, std::uint64_t height, std::string& error) {
  if (width == 0 || height == 0) {
    error = "an image without pixels";
    return false;
  }
  if (width > kPixelsMax || height > kPixelsMax || width * height > kPixelsMax) {
    error = std::to_string(width) + "x" + std::to_string(height) + " pixels are over the limit of " + std::to_string(kPixelsMax);
    return false;
  }
  return true;
}

// libjpeg reports errors by calling error_exit, which must not return. The jump stays inside functions whose locals are plain.
struct JpegErrors {
  jpeg_error_mgr base{};
  std::jmp_buf back{};
  char text[JMSG_LENGTH_MAX]{};
  bool warned{};
};
void on_jpeg_error(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  (*info->err->format_message)(info, errors->text);
  std::longjmp(errors->back, 1);
}
void on_jpeg_message(j_common_ptr info, int level) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  if (level < 0 && !errors->warned) {   // corrupt data: premature end and the like
    errors->warned = true;
    (*info->err->format_message)(info, errors->text);
  }
}

struct JpegJob {
  jpeg_decompress_struct info{};
  JpegErrors errors{};
  bool header_only{};
};

// Returns 0 ok, 1 libjpeg error (text in errors), 2 too large. `out` lives in the caller, so a jump skips no destructor.
int jpeg_run(JpegJob& job, std::string_view bytes, Image& out, std::string& error) {
  job.info.err = jpeg_std_error(&job.errors.base);
  job.errors.base.error_exit = on_jpeg_error;
  job.errors.base.emit_message = on_jpeg_message;
  if (setjmp(job.errors.back) != 0) return 1;   // NOLINT(cert-err52-cpp): libjpeg's only way
  jpeg_create_decompress(&job.info);
  jpeg_mem_src(&job.info, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
  jpeg_read_header(&job.info, TRUE);
  if (!size_allowed(job.info.image_width, job.info.image_height, error)) return 2;
  out.width = static_cast<int>(job.info.image_width);
  out.height = static_cast<int>(job.info.image_height);
  if (job.header_only) return 0;
  if (job.info.jpeg_color_space == JCS_GRAYSCALE) job.info.out_color_space = JCS_GRAYSCALE;
  else if (job.info.jpeg_color_space == JCS_CMYK || job.info.jpeg_color_space == JCS_YCCK) job.info.out_color_space = JCS_CMYK;
  else job.info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&job.info);
  const int components = job.info.output_components;
  out.channels = components == 1 ? 1 : 3;
  out.pixels.resize(static_cast<std::size_t>(out.width) * static_cast<std::size_t>(out.height) * static_cast<std::size_t>(out.channels));
  JSAMPARRAY line = (*job.info.mem->alloc_sarray)(reinterpret_cast<j_common_ptr>(&job.info), JPOOL_IMAGE,
                                                  job.info.output_width * static_cast<JDIMENSION>(components), 1);
  while (job.info.output_scanline < job.info.output_height) {
    const JDIMENSION y = job.info.output_scanline;
    jpeg_read_scanlines(&job.info, line, 1);
    std::uint8_t* row = out.pixels.data() + out.at(0, static_cast<int>(y));
    if (components == 4) {   // Adobe CMYK is stored inverted
      for (JDIMENSION x = 0; x < job.info.output_width; ++x) {
        const JSAMPLE* p = line[0] + 4 * x;
        for (int c = 0; c < 3; ++c) row[3 * x + static_cast<JDIMENSION>(c)] = static_cast<std::uint8_t>(p[c] * p[3] / 255);
      }
    } else {
      std::memcpy(row, line[0], static_cast<std::size_t>(out.width) * static_cast<std::size_t>(out.channels));
    }
  }
  jpeg_finish_decompress(&job.info);
  return 0;
}

bool jpeg_decode(std::string_view bytes, Image& out, std::string& error, bool header_only) {
  JpegJob job;
  job.header_only = header_only;
  const int outcome = jpeg_run(job, bytes, out, error);
  jpeg_destroy_decompress(&job.info);
  if (outcome == 1) error = std::string("unreadable JPEG: ") + job.errors.text;
  if (outcome == 0 && job.errors.warned && !header_only) {
    error = std::string("damaged JPEG: ") + job.errors.text;   // libjpeg would fill the rest with gray: refuse instead
    return false;
  }
  return outcome == 0;
}

bool png_decode(std::string_view bytes, Image& out, std::string& error) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()) == 0) {
    error = std::string("unreadable PNG: ") + png.message;
    png_image_free(&png);
    return false;
  }
  if (!size_allowed(png.width, png.height, error)) {
    png_image_free(&png);
    return false;
  }
  const bool gray = (png.format & PNG_FORMAT_FLAG_COLOR) == 0;
  png.format = gray ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  out = Image(static_cast<int>(png.width), static_cast<int>(png.height), gray ? 1 : 3);
  const png_color background{0, 0, 0};   // what transparent pixels become
  if (png_image_finish_read(&png, &background, out.pixels.data(), 0, nullptr) == 0 || PNG_IMAGE_FAILED(png)) {
    error = std::string("damaged PNG: ") + png.message;
    png_image_free(&png);
    return false;
  }
  return true;
}

}  // namespace

bool decode(std::string_view encoded, Image& out, std::string& error) {
  if (encoded.empty()) {
    error = "an empty file";
    return false;
  }
  if (encoded.size() > kEncodedBytesMax) {
    error = "an image file of " + std::to_string(encoded.size()) + " bytes is over the limit of " + std::to_string(kEncodedBytesMax);
    return false;
  }
  if (is_jpeg(encoded)) return jpeg_decode(encoded, out, error, false);
  if (is_png(encoded)) return png_decode(encoded, out, error);
  error = "neither JPEG nor PNG";
  return false;
}

bool peek(std::string_view encoded, int& width, int& height, std::string& error) {
  if (is_jpeg(encoded)) {
    Image header;
    if (!jpeg_decode(encoded, header, error, true)) return false;
    width = header.width;
    height = header.height;
    return true;
  }
  if (is_png(encoded) && encoded.size() >= 24) {   // IHDR is the first chunk, big endian at 16 and 20
    const auto word = [&](std::size_t i) {
      std::uint32_t v = 0;
      for (std::size_t k = 0; k < 4; ++k) v = (v << 8U) | static_cast<std::uint8_t>(encoded[i + k]);
      return v;
    };
    if (!size_allowed(word(16), word(20), error)) return false;
    width = static_cast<int>(word(16));
    height = static_cast<int>(word(20));
    return true;
  }
  error = is_png(encoded) ? "truncated PNG" : "neither JPEG nor PNG";
  return false;
}

std::string encode_png(const Image& image) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = image.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  if (png_image_write_to_memory(&png, nullptr, &size, 0, image.pixels.data(), 0, nullptr) == 0) return {};
  std::string bytes(size, '\0');
  if (png_image_write_to_memory(&png, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) == 0) return {};
  bytes.resize(size);
  return bytes;
}

std::string encode_jpeg(const Image& image, int quality) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = image.channels;
  info.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = const_cast<JSAMPROW>(image.pixels.data() + image.at(0, static_cast<int>(info.next_scanline)));
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  std::string bytes(reinterpret_cast<const char*>(buffer), size);
  jpeg_destroy_compress(&info);
  std::free(buffer);
  return bytes;
}

}  // namespace gq::image
