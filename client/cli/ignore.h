// ignore.h - which files of a folder stay behind: lines as in .gitignore. Pure.
//
// "#" comments, "!" takes back, "/" in front or in the middle binds to the root, "/" at the end means folders; * ? [a-z] within a name,
// ** across folders. The last line that matches decides; what lies in a folder that stays behind stays behind.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gq::cli {

class Ignore {
 public:
  /// Begins with what no job needs: version control, caches, environments; the lines may take each back.
  explicit Ignore(std::string_view lines = {});
  void add(std::string_view lines);
  /// `path`: relative, without "/" at its ends.
  [[nodiscard]] bool leaves_out(std::string_view path, bool is_folder) const;

 private:
  struct Rule {
    std::string pattern;
    bool keeps{}, folders_only{}, bound{};
  };
  std::vector<Rule> rules_;
};

/// The pattern language of one rule; exposed for tests.
bool matches_glob(std::string_view pattern, std::string_view path);

}  // namespace gq::cli
