// tokens.cpp - see tokens.h.
#include "client/cli/tokens.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "client/lib/prepare.h"
#include "common/log.h"

namespace gq::cli {

namespace {

Error refused() { return {Errc::key_refused, "this token lets nobody in", "gpuq keys issue NAME --http on the broker's host makes one; send it as Authorization: Bearer TOKEN"}; }

}  // namespace

std::string token_file(const std::string& folder, const std::string& name) { return folder + "/" + name + ".json"; }

Result<std::string> issue_token(const std::string& folder, const net::AccessFile& access) {
  BlobDigest secret;   // 32 bytes that have a text
  check(RAND_bytes(secret.bytes.data(), static_cast<int>(secret.bytes.size())) == 1, "OpenSSL has no randomness");
  const std::string token = access.name + "." + to_string(secret);
  nlohmann::json json = nlohmann::json::parse(net::to_json(access));
  json["token_sha256"] = to_string(client::sha256(token));
  if (const auto written = net::write_secret_file(token_file(folder, access.name), json.dump(2) + "\n"); !written) return tl::unexpected(written.error());
  return token;
}

Result<net::AccessFile> check_token(const std::string& folder, std::string_view token) {
  const std::size_t dot = token.rfind('.');
  const std::string name(token.substr(0, dot == std::string_view::npos ? 0 : dot));
  if (!net::is_name(name)) return tl::unexpected(refused());
  const std::string path = token_file(folder, name);
  auto access = net::read_access_file(path);
  if (!access && access.error().code == Errc::not_found) return tl::unexpected(refused());
  if (!access) {   // its path is nothing for who asks from outside
    log::warn("token_unreadable", {{"why", access.error().what}, {"next", access.error().next}});
    return fail(Errc::unavailable, "the token of " + name + " cannot be looked up", "look at the log of gpuq-http");
  }
  std::ifstream file(path, std::ios::binary);
  const auto json = nlohmann::json::parse(file, nullptr, false);
  const std::string wanted = json.is_object() ? json.value("token_sha256", "") : "", got = to_string(client::sha256(token));
  if (wanted.size() != got.size() || CRYPTO_memcmp(wanted.data(), got.data(), got.size()) != 0 || access->name != name) return tl::unexpected(refused());
  return access;
}

}  // namespace gq::cli
