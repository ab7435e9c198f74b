// multipart.cpp - see multipart.h. Nothing is copied but the names.
#include "client/http/multipart.h"

#include <algorithm>
#include <optional>

namespace gq::http {

namespace {

constexpr std::size_t kBoundaryMax = 70;   // RFC 2046

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string lowered(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), lower);
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// The value of `; name=value` or `; name="value"`; nullopt when there is none.
std::optional<std::string> parameter(std::string_view header, std::string_view name) {
  std::size_t at = header.find(';');
  while (at < header.size()) {
    ++at;
    while (at < header.size() && (header[at] == ' ' || header[at] == '\t')) ++at;
    const std::size_t equals = header.find_first_of("=;", at);
    if (equals == std::string_view::npos) return std::nullopt;
    if (header[equals] == ';') {
      at = equals;
      continue;
    }
    const std::string key = lowered(trimmed(header.substr(at, equals - at)));
    std::string value;
    at = equals + 1;
    if (at < header.size() && header[at] == '"') {
      for (++at; at < header.size() && header[at] != '"'; ++at) {
        if (header[at] == '\\' && at + 1 < header.size()) ++at;
        value += header[at];
      }
      if (at >= header.size()) return std::nullopt;   // the quote never ends
      at = std::min(header.find(';', at), header.size());
    } else {
      const std::size_t end = std::min(header.find(';', at), header.size());
      value = trimmed(header.substr(at, end - at));
      at = end;
    }
    if (key == name) return value;
  }
  return std::nullopt;
}

auto bad(std::string what) { return fail(Errc::bad_message, std::move(what), "send multipart/form-data as curl -F does"); }

Result<FormPart> part_of(std::string_view headers, std::string_view bytes, const FormLimits& limits) {
  FormPart part;
  part.bytes = bytes;
  part.media = "text/plain";
  bool named = false;
  while (!headers.empty()) {
    const std::size_t end = std::min(headers.find("\r\n"), headers.size());
    const std::string_view line = headers.substr(0, end);
    headers.remove_prefix(std::min(end + 2, headers.size()));
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return bad("a part's header line has no colon");
    const std::string key = lowered(trimmed(line.substr(0, colon)));
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (key == "content-type") part.media = media_type(value);
    if (key == "content-transfer-encoding" && lowered(value) != "binary" && lowered(value) != "8bit" && lowered(value) != "7bit")
      return bad("a part is encoded as " + std::string(value.substr(0, 40)));
    if (key != "content-disposition") continue;
    if (media_type(value) != "form-data") return bad("a part's Content-Disposition is not form-data");
    if (auto name = parameter(value, "name")) {
      part.name = std::move(*name);
      named = !part.name.empty();
    }
    if (auto file = parameter(value, "filename")) {
      part.filename = std::move(*file);
      part.is_file = true;
    }
  }
  if (!named) return bad("a part has no name");
  if (part.name.size() > limits.name_bytes_max || part.filename.size() > limits.name_bytes_max)
    return fail(Errc::over_limit, "the name of a part is longer than " + std::to_string(limits.name_bytes_max) + " bytes", "shorten it");
  return part;
}

}  // namespace

std::string media_type(std::string_view content_type) { return lowered(trimmed(content_type.substr(0, content_type.find(';')))); }

Result<std::vector<FormPart>> parse_form(std::string_view content_type, std::string_view body, const FormLimits& limits) {
  if (media_type(content_type) != "multipart/form-data") return bad("the content type is not multipart/form-data");
  const auto boundary = parameter(content_type, "boundary");
  if (!boundary || boundary->empty() || boundary->size() > kBoundaryMax) return bad("the content type names no boundary of 1.." + std::to_string(kBoundaryMax) + " characters");
  const std::string first = "--" + *boundary, next = "\r\n" + first;
  // What stands before the first boundary is nobody's.
  std::size_t at = 0;
  if (!body.starts_with(first)) {
    at = body.find(next);
    if (at == std::string_view::npos) return bad("the boundary does not stand in the body");
    at += 2;
  }
  at += first.size();
  std::vector<FormPart> parts;
  for (;;) {
    if (body.substr(at, 2) == "--") return parts;
    while (at < body.size() && (body[at] == ' ' || body[at] == '\t')) ++at;
    if (body.substr(at, 2) != "\r\n") return bad("the form is cut in the middle, or its boundary stands inside a part");
    at += 2;
    if (parts.size() == limits.parts_max) return fail(Errc::over_limit, "more than " + std::to_string(limits.parts_max) + " parts in one form", "send them in several requests");
    std::string_view headers;
    if (body.substr(at, 2) == "\r\n") {
      at += 2;
    } else {
      const std::size_t end = body.substr(at, limits.header_bytes_max + 4).find("\r\n\r\n");
      if (end == std::string_view::npos) {
        if (body.size() - at <= limits.header_bytes_max) return bad("the form is cut in the middle of a part's header");
        return fail(Errc::over_limit, "the header of a part has more than " + std::to_string(limits.header_bytes_max) + " bytes", "send a name and a type only");
      }
      headers = body.substr(at, end);
      at += end + 4;
    }
    // An empty part: its boundary's CRLF is the one that ended its header.
    std::size_t end = body.find(next, at >= 2 ? at - 2 : at);
    if (end == std::string_view::npos) return bad("the form is cut in the middle of a part");
    auto part = part_of(headers, end < at ? std::string_view() : body.substr(at, end - at), limits);
    if (!part) return tl::unexpected(std::move(part.error()));
    parts.push_back(std::move(*part));
    at = end + next.size();
  }
}

}  // namespace gq::http
