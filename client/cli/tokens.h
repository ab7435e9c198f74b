// tokens.h - bearer tokens of the HTTP door. A token stands for a key of its own: who it is, and what it may, is decided by the broker.
//
//   KEYDIR/http/NAME.json   the access file of NAME and "token_sha256": the token itself is shown once and kept nowhere   0600
// A token is NAME.<64 hexadecimal digits>. Revoking the key (gpuq keys revoke NAME) ends the token; so does removing its file.
#pragma once

#include <string>
#include <string_view>

#include "common/net/keys.h"
#include "common/vocabulary/errors.h"

namespace gq::cli {

/// Makes the token for a key just issued. DUPLICATE is keys_issue's business: a file that is there is replaced.
Result<std::string> issue_token(const std::string& folder, const net::AccessFile& access);
/// Whose it is. KEY_REFUSED: none, another, or of nobody any more.
Result<net::AccessFile> check_token(const std::string& folder, std::string_view token);
std::string token_file(const std::string& folder, const std::string& name);

}  // namespace gq::cli
