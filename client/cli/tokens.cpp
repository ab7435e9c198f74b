// tokens.cpp - see tokens.h.
#include "client/cli/tokens.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>

namespace gq::cli {

namespace {

constexpr std::size_t kSecretBytes = 32;

std::string hex(const unsigned char* bytes, std::size_t n) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < n; ++i) {
    text += kDigits[bytes[i] >> 4U];
    text += kDigits[bytes[i] & 15U];
  }
  return text;
}

std::string sha256(std::string_view text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return hex(digest.data(), digest.size());
}

Error refused() { return {Errc::key_refused, "this token lets nobody in", "gpuq keys issue NAME --http on the broker's host makes one; send it as Authorization: Bearer TOKEN"}; }

}  // namespace

std::string token_file(const std::string& folder, const std::string& name) { return folder + "/" + name + ".json"; }

Result<std::string> issue_token(const std::string& folder, const net::AccessFile& access) {
  std::array<unsigned char, kSecretBytes> secret{};
  check(RAND_bytes(secret.data(), static_cast<int>(secret.size())) == 1, "OpenSSL has no randomness");
  const std::string token = access.name + "." + hex(secret.data(), secret.size());
  nlohmann::json json = nlohmann::json::parse(net::to_json(access));
  json["token_sha256"] = sha256(token);
  if (const auto written = net::write_secret_file(token_file(folder, access.name), json.dump(2) + "\n"); !written) return tl::unexpected(written.error());
  return token;
}

Result<net::AccessFile> check_token(const std::string& folder, std::string_view token) {
  const std::size_t dot = token.rfind('.');
  const std::string name(token.substr(0, dot == std::string_view::npos ? 0 : dot));
  if (!net::is_name(name)) return tl::unexpected(refused());
  const std::string path = token_file(folder, name);
  auto access = net::read_access_file(path);
  if (!access) return tl::unexpected(access.error().code == Errc::not_found ? refused() : Error{Errc::unavailable, "the token of " + name + " cannot be looked up", "look at the HTTP door's log"});
  std::ifstream file(path, std::ios::binary);
  const auto json = nlohmann::json::parse(file, nullptr, false);
  const std::string wanted = json.is_object() ? json.value("token_sha256", "") : "", got = sha256(token);
  if (wanted.size() != got.size() || CRYPTO_memcmp(wanted.data(), got.data(), got.size()) != 0 || access->name != name) return tl::unexpected(refused());
  return access;
}

}  // namespace gq::cli
