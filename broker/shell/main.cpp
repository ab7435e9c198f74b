// main.cpp - gpuq-broker.
#include <csignal>
#include <cstdio>
#include <exception>

#include "broker/shell/daemon.h"
#include "broker/shell/fsck.h"
#include "common/log.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  gq::log::set_name("gpuq-broker");
  const auto options = gq::broker::parse_options(argc, argv);
  if (!options) {
    std::fprintf(stderr, "error[%s]: %s\n  next: %s\n", std::string(gq::to_string(options.error().code)).c_str(), options.error().what.c_str(), options.error().next.c_str());
    return gq::exit_code(options.error().code);
  }
  if (!*options) return 0;
  try {
    return (*options)->fsck ? gq::broker::run_fsck(**options) : gq::broker::run_daemon(**options);
  } catch (const std::exception& broken) {   // nothing of ours throws; a broker never dies silently
    std::fprintf(stderr, "error[INTERNAL]: %s\n  next: report this with the lines above\n", broken.what());
    return gq::exit_code(gq::Errc::internal);
  }
}
