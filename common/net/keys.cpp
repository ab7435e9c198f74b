// keys.cpp - see keys.h. Every file with a secret is 0600, written to a temporary name, synced and renamed.
#include "common/net/keys.h"

#include <dirent.h>
#include <fcntl.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>  // key arithmetic, which cppzmq does not wrap

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "common/net/key_files.h"
#include "common/vocabulary/limits.h"

namespace gq::net {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kKeyFileBytesMax = 16U << 10U;

// Printed in the ZeroMQ manual, so everybody has their secret halves.
constexpr std::array<std::string_view, 2> kPublishedKeys{"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"};

Error file_error(std::string_view doing, const std::string& path, int error_number) {
  const Errc code = error_number == ENOENT ? Errc::not_found : error_number == EACCES || error_number == EPERM ? Errc::refused : Errc::unavailable;
  return {code, std::string(doing) + " " + path + ": " + std::strerror(error_number), ""};
}

struct Descriptor {
  int fd{-1};
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

/// Whole file; `secret` = refuse it when group or others could read it.
Result<std::string> read_file(const std::string& path, bool secret) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return tl::unexpected(file_error("cannot read", path, errno));
  struct stat about {};
  if (fstat(file.fd, &about) != 0 || !S_ISREG(about.st_mode)) return fail(Errc::refused, path + " is no plain file");
  if (secret && (about.st_mode & 077U) != 0)
    return fail(Errc::refused, path + " holds a secret key and can be read by others", "chmod 600 " + path);
  std::string text;
  char chunk[4096];
  for (;;) {
    const ssize_t n = ::read(file.fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return tl::unexpected(file_error("cannot read", path, errno));
    if (n == 0) return text;
    text.append(chunk, static_cast<std::size_t>(n));
    if (text.size() > kKeyFileBytesMax) return fail(Errc::too_large, path + " is too large for a key file");
  }
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

Result<void> write_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp." + std::to_string(::getpid());
  ::unlink(temporary.c_str());
  {
    const Descriptor file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
    if (file.fd < 0) return tl::unexpected(file_error("cannot write", path, errno));
    std::size_t done = 0;
    while (done < text.size()) {
      const ssize_t n = ::write(file.fd, text.data() + done, text.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        const int why = errno;
        ::unlink(temporary.c_str());
        return tl::unexpected(file_error("cannot write", path, why));
      }
      done += static_cast<std::size_t>(n);
    }
    if (::fsync(file.fd) != 0) return tl::unexpected(file_error("cannot sync", path, errno));
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) return tl::unexpected(file_error("cannot write", path, errno));
  const Descriptor folder{::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.fd >= 0) ::fsync(folder.fd);
  return {};
}

Result<void> make_folder(const std::string& path) {
  for (std::size_t at = 1; at <= path.size(); ++at) {
    if (at != path.size() && path[at] != '/') continue;
    if (::mkdir(path.substr(0, at).c_str(), 0700) != 0 && errno != EEXIST) return tl::unexpected(file_error("cannot make", path.substr(0, at), errno));
  }
  return {};
}

Result<Json> parse(const std::string& text, const std::string& path) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return fail(Errc::refused, path + " is no key file: not a JSON object", "make it again: gpuq keys issue (or init)");
  return json;
}
std::string text_of(const Json& json, const char* key) {
  const auto at = json.find(key);
  return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
}
std::int64_t number_of(const Json& json, const char* key) {
  const auto at = json.find(key);
  return at != json.end() && at->is_number_integer() ? at->get<std::int64_t>() : 0;
}

struct Pair {
  std::string public_key;
  Secret secret_key;
};
Pair make_pair_of_keys() {
  char public_key[41] = {}, secret_key[41] = {};
  check(zmq_curve_keypair(public_key, secret_key) == 0, "libzmq makes no CURVE keys");
  Pair pair{public_key, Secret(secret_key)};
  explicit_bzero(secret_key, sizeof secret_key);
  return pair;
}

Result<void> check_pair(const std::string& public_key, const Secret& secret_key, const std::string& path) {
  char derived[41] = {};
  if (secret_key.reveal().size() != 40 || zmq_curve_public(derived, secret_key.reveal().c_str()) != 0 || public_key != derived)
    return fail(Errc::refused, path + ": the public key does not belong to the secret key", "make it again: gpuq keys issue (or init)");
  return check_public_key(public_key, path);
}

std::string server_file(const std::string& key_dir) { return key_dir + "/server.json"; }
std::string allowed_folder(const std::string& key_dir) { return key_dir + "/allowed"; }
std::string allowed_file(const std::string& key_dir, const std::string& name) { return allowed_folder(key_dir) + "/" + name + ".json"; }

}  // namespace

Secret::~Secret() { explicit_bzero(text_.data(), text_.size()); }

std::string_view to_string(Role role) {
  switch (role) {
    case Role::client: return "client";
    case Role::worker: return "worker";
    case Role::admin: return "admin";
  }
  return "?";
}
std::optional<Role> parse_role(std::string_view text) {
  for (const Role role : {Role::client, Role::worker, Role::admin})
    if (to_string(role) == text) return role;
  return std::nullopt;
}

bool is_name(std::string_view name) {
  const auto letter_or_digit = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= kLimits.name_chars_max && letter_or_digit(name.front()) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return letter_or_digit(c) || c == '.' || c == '_' || c == '-'; });
}

Result<void> check_public_key(const std::string& key, const std::string& where) {
  std::uint8_t raw[32];
  if (key.size() != 40 || zmq_z85_decode(raw, key.c_str()) == nullptr)
    return fail(Errc::refused, where + ": no CURVE public key (40 characters of Z85)", "make it again: gpuq keys issue");
  if (std::find(kPublishedKeys.begin(), kPublishedKeys.end(), key) != kPublishedKeys.end())
    return fail(Errc::refused, where + ": a key printed in the ZeroMQ manual, its secret half is public", "make a new one: gpuq keys issue");
  return {};
}

Result<ServerKeys> keys_load(const std::string& key_dir) {
  const std::string path = server_file(key_dir);
  auto text = read_file(path, true);
  if (!text) {
    Error error = text.error();
    if (error.next.empty()) error.next = "make the keys first: gpuq keys init --keys " + key_dir;
    return tl::unexpected(error);
  }
  const auto json = parse(*text, path);
  explicit_bzero(text->data(), text->size());
  if (!json) return tl::unexpected(json.error());
  ServerKeys keys{text_of(*json, "public"), Secret(text_of(*json, "secret"))};
  if (const auto good = check_pair(keys.public_key, keys.secret_key, path); !good) return tl::unexpected(good.error());
  return keys;
}

Result<ServerKeys> keys_init(const std::string& key_dir) {
  if (const auto made = make_folder(allowed_folder(key_dir)); !made) return tl::unexpected(made.error());
  struct stat about {};
  if (::stat(server_file(key_dir).c_str(), &about) == 0) return keys_load(key_dir);
  const Pair pair = make_pair_of_keys();
  const Json json{{"public", pair.public_key}, {"secret", pair.secret_key.reveal()}};
  if (const auto written = write_file(server_file(key_dir), json.dump(2) + "\n"); !written) return tl::unexpected(written.error());
  return keys_load(key_dir);
}

Result<AccessFile> keys_issue(const std::string& key_dir, const std::string& name, Role role, const std::string& broker_endpoint, WallTime now,
                              WallTime expires) {
  if (!is_name(name))
    return fail(Errc::usage, "'" + name + "' is no name for a key", "use up to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit");
  const auto server = keys_load(key_dir);
  if (!server) return tl::unexpected(server.error());
  if (expires.ms != 0 && expires <= now) return fail(Errc::usage, "key " + name + " would expire before it is issued", "name a time to come");
  struct stat about {};
  if (::stat(allowed_file(key_dir, name).c_str(), &about) == 0)
    return fail(Errc::duplicate, "there is a key named " + name + " already", "choose another name, or first: gpuq keys revoke " + name);
  Pair pair = make_pair_of_keys();
  const Json allowed{{"name", name},         {"role", std::string(to_string(role))}, {"public", pair.public_key},
                     {"issued_ms", now.ms},  {"expires_ms", expires.ms}};
  if (const auto made = make_folder(allowed_folder(key_dir)); !made) return tl::unexpected(made.error());
  if (const auto written = write_file(allowed_file(key_dir, name), allowed.dump(2) + "\n"); !written) return tl::unexpected(written.error());
  return AccessFile{broker_endpoint, server->public_key, name, role, pair.public_key, pair.secret_key};
}

Result<AllowedKey> read_allowed_key(const std::string& path, const std::string& name) {
  const auto text = read_file(path, false);
  if (!text) return tl::unexpected(text.error());
  const auto json = parse(*text, path);
  if (!json) return tl::unexpected(json.error());
  const auto role = parse_role(text_of(*json, "role"));
  AllowedKey key{text_of(*json, "name"), role.value_or(Role::client), text_of(*json, "public"), {number_of(*json, "issued_ms")}, {number_of(*json, "expires_ms")}};
  if (!role) return fail(Errc::refused, path + ": unknown role '" + text_of(*json, "role") + "'", "roles are client, worker and admin");
  if (!is_name(key.name) || key.name != name) return fail(Errc::refused, path + ": the file's name and the key's name differ", "make it again: gpuq keys issue");
  if (const auto good = check_public_key(key.public_key, path); !good) return tl::unexpected(good.error());
  return key;
}

Result<std::vector<std::string>> allowed_names(const std::string& key_dir) {
  DIR* folder = opendir(allowed_folder(key_dir).c_str());
  if (folder == nullptr) return tl::unexpected(file_error("cannot read", allowed_folder(key_dir), errno));
  std::vector<std::string> names;
  while (const dirent* entry = readdir(folder)) {
    const std::string_view file = entry->d_name;
    if (file.size() > 5 && file.ends_with(".json") && is_name(file.substr(0, file.size() - 5))) names.emplace_back(file.substr(0, file.size() - 5));
  }
  closedir(folder);
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::vector<AllowedKey>> keys_list(const std::string& key_dir) {
  const auto names = allowed_names(key_dir);
  if (!names) return tl::unexpected(names.error());
  std::vector<AllowedKey> keys;
  for (const std::string& name : *names) {
    auto key = read_allowed_key(allowed_file(key_dir, name), name);
    if (!key) return tl::unexpected(key.error());
    keys.push_back(std::move(*key));
  }
  return keys;
}

Result<void> keys_revoke(const std::string& key_dir, const std::string& name) {
  if (!is_name(name)) return fail(Errc::usage, "'" + name + "' is no name of a key", "see them with: gpuq keys list");
  if (::unlink(allowed_file(key_dir, name).c_str()) != 0) {
    if (errno == ENOENT) return fail(Errc::not_found, "there is no key named " + name, "see them with: gpuq keys list");
    return tl::unexpected(file_error("cannot remove", allowed_file(key_dir, name), errno));
  }
  const Descriptor folder{::open(allowed_folder(key_dir).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.fd >= 0) ::fsync(folder.fd);
  return {};
}

Result<AccessFile> read_access_file(const std::string& path) {
  auto text = read_file(path, true);
  if (!text) {
    Error error = text.error();
    if (error.next.empty()) error.next = "make one on the broker's host: gpuq keys issue --role ROLE --name NAME > " + path;
    return tl::unexpected(error);
  }
  const auto json = parse(*text, path);
  explicit_bzero(text->data(), text->size());
  if (!json) return tl::unexpected(json.error());
  const auto role = parse_role(text_of(*json, "role"));
  if (!role) return fail(Errc::refused, path + ": unknown role '" + text_of(*json, "role") + "'", "roles are client, worker and admin");
  AccessFile access{text_of(*json, "broker"), text_of(*json, "server"), text_of(*json, "name"), *role, text_of(*json, "public"), Secret(text_of(*json, "secret"))};
  if (access.broker.empty()) return fail(Errc::refused, path + ": names no broker", "make it again: gpuq keys issue");
  if (!is_name(access.name)) return fail(Errc::refused, path + ": names no key", "make it again: gpuq keys issue");
  if (const auto good = check_public_key(access.server_key, path + " (server)"); !good) return tl::unexpected(good.error());
  if (const auto good = check_pair(access.public_key, access.secret_key, path); !good) return tl::unexpected(good.error());
  return access;
}

std::string to_json(const AccessFile& access) {
  return Json{{"broker", access.broker}, {"server", access.server_key}, {"name", access.name}, {"role", std::string(to_string(access.role))},
              {"public", access.public_key}, {"secret", access.secret_key.reveal()}}
             .dump(2) + "\n";
}

Result<void> write_secret_file(const std::string& path, const std::string& text) {
  if (const auto made = make_folder(folder_of(path)); !made) return tl::unexpected(made.error());
  return write_file(path, text);
}

Result<void> write_access_file(const std::string& path, const AccessFile& access) { return write_secret_file(path, to_json(access)); }

std::string default_access_path(Role role) {
  if (const char* named = std::getenv("GPUQ_ACCESS_FILE"); named != nullptr && *named != '\0') return named;
  const std::string file = "/gpuq/" + std::string(to_string(role)) + ".json";
  std::string own;
  if (const char* config = std::getenv("XDG_CONFIG_HOME"); config != nullptr && *config != '\0') own = config + file;
  else if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') own = std::string(home) + "/.config" + file;
  if (!own.empty() && ::access(own.c_str(), F_OK) == 0) return own;
  const std::string shared = "/etc" + file;
  if (::access(shared.c_str(), F_OK) == 0 || own.empty()) return shared;
  return own;
}

}  // namespace gq::net
