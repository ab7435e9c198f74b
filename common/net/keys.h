// keys.h - CURVE keys on disk: one server pair, one access file per peer, a folder of who may enter.
//
//   KEYDIR/server.json        {"public": z85, "secret": z85}                        0600
//   KEYDIR/allowed/NAME.json  {"name", "role", "public", "issued_ms", "expires_ms"}  what the broker re-reads on change
// An access file (0600, refused when readable by group or others) is all a peer needs:
//   {"broker": "tcp://host:7700" (clients, admins) or ":7701" (workers), "server": z85, "name", "role", "public", "secret"}
// Revoking = removing allowed/NAME.json; live links close within a beat.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/net/port.h"
#include "common/vocabulary/errors.h"
#include "common/vocabulary/units.h"

namespace gq::net {

/// Holds a secret; has no stream operator, is wiped on destruction.
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string text) : text_(std::move(text)) {}
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  ~Secret();
  [[nodiscard]] const std::string& reveal() const { return text_; }
 private:
  std::string text_;
};

struct ServerKeys { std::string public_key; Secret secret_key; };
struct AllowedKey { std::string name; Role role{}; std::string public_key; WallTime issued{}; WallTime expires{}; };
struct AccessFile { std::string broker; std::string server_key; std::string name; Role role{}; std::string public_key; Secret secret_key; };

bool is_name(std::string_view name);                                            ///< [A-Za-z0-9][A-Za-z0-9._-]{0,63}
Result<ServerKeys> keys_init(const std::string& key_dir);                       ///< makes or loads
Result<ServerKeys> keys_load(const std::string& key_dir);
Result<AccessFile> keys_issue(const std::string& key_dir, const std::string& name, Role role, const std::string& broker_endpoint, WallTime now, WallTime expires = {});
Result<std::vector<AllowedKey>> keys_list(const std::string& key_dir);
Result<void> keys_revoke(const std::string& key_dir, const std::string& name);
Result<AccessFile> read_access_file(const std::string& path);
Result<void> write_access_file(const std::string& path, const AccessFile& access);   ///< 0600, tmp + rename
Result<void> write_secret_file(const std::string& path, const std::string& text);   ///< the same, of any text
std::string to_json(const AccessFile& access);                                  ///< the file's text, for `gpuq keys issue > FILE`
/// --access-file, then $GPUQ_ACCESS_FILE, then $XDG_CONFIG_HOME/gpuq/<role>.json (~/.config), then /etc/gpuq/<role>.json.
std::string default_access_path(Role role);

}  // namespace gq::net
