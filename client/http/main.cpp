// main.cpp - gpuq-http: jobs by plain HTTP, for whoever has curl and no client library.
#include <algorithm>
#include <csignal>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>

#include "client/cli/selectors.h"
#include "client/http/door.h"
#include "client/lib/version.h"
#include "common/log.h"
#include "common/net/tcp_listener.h"

namespace {

int give_up(const gq::Error& error) {
  std::cerr << "error[" << gq::to_string(error.code) << "]: " << error.what << '\n';
  if (!error.next.empty()) std::cerr << "  try: " << error.next << '\n';
  return gq::exit_code(error.code);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace gq;
  http::Settings settings;
  http::DoorLimits limits;
  std::string listen = "127.0.0.1:7703";
  double patience_s = 30;
  std::size_t body_mib = limits.body_bytes_max >> 20U, bodies_mib = limits.bodies_bytes_max >> 20U;
  int ready_fd = -1;
  CLI::App app{"gpuq-http - submit jobs by HTTP and get their results as JSON; a client of the broker like any other.\n"
               "Tokens are made on the broker's host: gpuq keys issue NAME --http"};
  app.name("gpuq-http");
  app.set_version_flag("--version", std::string("gpuq-http ") + client::kVersion);
  app.add_option("--listen", listen, "ADDRESS:PORT (127.0.0.1:7703); beyond loopback put a proxy with TLS in front: tokens travel as they are");
  app.add_option("--tokens", settings.tokens, "the folder of tokens (KEYDIR/http); else $GPUQ_TOKENS, ~/.local/state/gpuq/keys/http")->envname("GPUQ_TOKENS");
  app.add_option("--broker", settings.broker, "tcp://HOST:7700; else what each token's file names")->envname("GPUQ_BROKER");
  app.add_flag("--insecure", settings.insecure, "no tokens, to a broker that is --insecure too; on loopback only");
  app.add_option("--timeout", patience_s, "seconds that /detect and /infer wait without ?timeout= (30)")->check(CLI::Range(0.001, 600.0));
  app.add_option("--connections-max", limits.connections_max, "open at once, each with a thread (256)")->check(CLI::Range(1, 10'000));
  app.add_option("--body-max", body_mib, "MiB of one request (64)")->check(CLI::Range(1, 1024));
  app.add_option("--bodies-max", bodies_mib, "MiB of all requests at once (512)")->check(CLI::Range(1, 1 << 20));
  app.add_option("--ready-fd", ready_fd, "write one JSON line with the address to this descriptor once serving");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    return give_up({Errc::usage, error.what(), "gpuq-http --help"});
  }
  settings.patience = std::chrono::milliseconds(static_cast<std::int64_t>(patience_s * 1000));
  limits.body_bytes_max = body_mib << 20U;
  limits.bodies_bytes_max = std::max(bodies_mib, body_mib) << 20U;
  if (settings.tokens.empty()) settings.tokens = cli::state_dir() + "/keys/http";
  const auto wanted = net::parse_endpoint(listen, "--listen");
  if (!wanted) return give_up(wanted.error());
  const bool loopback = wanted->address().is_loopback();
  if (settings.insecure && !loopback) return give_up({Errc::usage, "--insecure lets everybody in, and " + listen + " is not loopback", "listen on 127.0.0.1, or use tokens"});
  if (settings.insecure && settings.broker.empty()) settings.broker = "tcp://127.0.0.1:7700";
  std::signal(SIGPIPE, SIG_IGN);

  asio::io_context io{1};
  asio::signal_set signals(io, SIGINT, SIGTERM);
  http::Routes routes(settings);
  http::Door door(io, routes, limits);
  const auto address = door.listen(listen);
  if (!address) return give_up(address.error());
  if (!loopback) log::warn("not_loopback", {{"listen", *address}, {"next", "put a proxy with TLS in front: tokens travel as they are"}});
  log::info("serving", {{"http", *address}, {"security", settings.insecure ? "insecure" : "tokens"}});
  if (ready_fd >= 0) {
    const std::string line = nlohmann::json{{"http", *address}, {"pid", getpid()}}.dump() + "\n";
    [[maybe_unused]] const ssize_t written = write(ready_fd, line.data(), line.size());
    close(ready_fd);
  }
  signals.async_wait([&](ErrorCode error, int) {
    if (!error) io.stop();
  });
  io.run();
  log::info("stopping");
  door.close();
  return 0;
}
