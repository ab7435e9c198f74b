// selectors.h - how a person names a job: its id in either case, a unique beginning or end of it, or `last`.
#pragma once

#include <string>
#include <vector>

#include "client/cli/cli.h"

namespace gq::cli {

/// Full ids need no round trip; a part of one is looked up in the list. NOT_FOUND, or USAGE when several match.
std::string resolve_job(Cli& cli, const std::string& word);
std::vector<std::string> resolve_jobs(Cli& cli, const std::vector<std::string>& words);

/// `last`: remembered in $XDG_STATE_HOME/gpuq/last.
void remember_last(const std::string& id);
std::string last_job();
std::string state_dir();   ///< $XDG_STATE_HOME/gpuq, ~/.local/state/gpuq
std::string data_dir();    ///< $XDG_DATA_HOME/gpuq, ~/.local/share/gpuq
std::string config_dir();  ///< $XDG_CONFIG_HOME/gpuq, ~/.config/gpuq

}  // namespace gq::cli
