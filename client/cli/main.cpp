// main.cpp - gpuq, the command line.
#include <iostream>
#include <unistd.h>

#include "client/cli/cli.h"

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  gq::cli::watch_interrupts();
  const int code = gq::cli::run({argv + 1, argv + argc}, {std::cout, std::cerr, ::isatty(STDOUT_FILENO) == 1, ::isatty(STDERR_FILENO) == 1});
  std::cout.flush();
  return code;
}
