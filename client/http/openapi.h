// openapi.h - the description that GET /api/v1/openapi.json serves: openapi.json of this folder, put in when built.
#pragma once

#include <string_view>

namespace gq::http {

std::string_view openapi();

}  // namespace gq::http
