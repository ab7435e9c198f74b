// multipart.h - multipart/form-data (RFC 7578) out of a body that is already here. Pure; its input is hostile.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "common/vocabulary/errors.h"

namespace gq::http {

struct FormLimits {
  std::size_t parts_max = 64;
  std::size_t header_bytes_max = 8192;   // of one part
  std::size_t name_bytes_max = 256;      // of a field or a file
};

struct FormPart {
  std::string name, filename;
  std::string media;                     ///< without parameters, lower case; "text/plain" when the part names none
  std::string_view bytes;                ///< lies in the body
  bool is_file{};                        ///< it came with a filename, an empty one too
};

/// Errors: BAD_MESSAGE (not of that form, cut in the middle), OVER_LIMIT.
Result<std::vector<FormPart>> parse_form(std::string_view content_type, std::string_view body, const FormLimits& limits = {});

/// "multipart/form-data; boundary=x" → "multipart/form-data"
std::string media_type(std::string_view content_type);

}  // namespace gq::http
