// keys.cpp - keys init|issue|list|revoke: works on the key directory, on the broker's machine; the broker re-reads it on change.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"
#include "client/cli/tokens.h"
#include "client/lib/convert.h"
#include "common/net/keys.h"

namespace gq::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  std::string dir, role = "client", name, broker, out, expires;
  bool http = false;
};

std::string default_dir() {
  std::error_code error;
  if (std::filesystem::exists("/etc/gpuq/keys/server.json", error)) return "/etc/gpuq/keys";
  return state_dir() + "/keys";
}

std::string dir_of(const Arguments& a) { return a.dir.empty() ? default_dir() : a.dir; }

template <class T>
T unwrap(Result<T>&& result) {
  if (!result) throw client::to_public(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

int run_init(Cli& cli, const Arguments& a) {
  const std::string dir = dir_of(a);
  std::error_code error;
  const bool existed = std::filesystem::exists(dir + "/server.json", error);
  const net::ServerKeys keys = unwrap(net::keys_init(dir));
  if (cli.is_json()) cli.io.out << Json{{"schema_version", kSchemaVersion}, {"dir", dir}, {"server_key", keys.public_key}, {"made", !existed}}.dump() << '\n';
  else cli.io.out << keys.public_key << '\n';
  cli.note((existed ? "there was a key pair already in " : "made a key pair in ") + dir);
  cli.note("next: gpuq keys issue --role worker --name gpu-1 --out worker.json");
  return 0;
}

int run_issue(Cli& cli, const Arguments& a) {
  const auto role = net::parse_role(a.role);
  if (!role) throw gpuq::Error("USAGE", "there is no role '" + a.role + "'", "use client, worker or admin");
  std::string broker = a.broker;
  if (broker.empty()) broker = *role == net::Role::worker ? "tcp://127.0.0.1:7701" : "tcp://127.0.0.1:7700";
  if (broker.find("://") == std::string::npos) broker.insert(0, "tcp://");
  const std::int64_t now = wall_now_ms();
  WallTime expires{};
  if (!a.expires.empty()) expires.ms = unwrap(parse_when(a.expires, now));
  if (!a.out.empty()) {
    std::error_code error;
    if (std::filesystem::exists(a.out, error)) throw gpuq::Error("USAGE", a.out + " exists already", "choose another file, or remove it first");
  }
  const std::string dir = dir_of(a);
  if (a.http && *role == net::Role::worker) throw gpuq::Error("USAGE", "a worker does not speak HTTP", "use --role client or admin");
  const net::AccessFile access = unwrap(net::keys_issue(dir, a.name, *role, broker, WallTime{now}, expires));
  if (a.http) {
    auto made = issue_token(dir + "/http", access);
    if (!made) (void)net::keys_revoke(dir, a.name);   // a key that nobody was given
    const std::string token = unwrap(std::move(made));
    if (cli.is_json()) cli.io.out << Json{{"schema_version", kSchemaVersion}, {"name", a.name}, {"role", a.role}, {"token", token}}.dump() << '\n';
    else cli.io.out << token << '\n';
    cli.note("this token is shown once; gpuq-http --tokens " + dir + "/http lets it in until gpuq keys revoke " + a.name);
    return 0;
  }
  if (!a.out.empty()) {
    unwrap(net::write_access_file(a.out, access));
    cli.note("wrote " + a.out + " for " + a.role + " " + a.name + " at " + broker);
  } else {
    // The same file on stdout, for `> worker.json` or ssh; whoever redirects it must keep it private (chmod 600).
    cli.io.out << Json{{"broker", access.broker}, {"server", access.server_key}, {"name", access.name}, {"role", std::string(net::to_string(access.role))},
                       {"public", access.public_key}, {"secret", access.secret_key.reveal()}}.dump(2) << '\n';
    cli.io.out.flush();
    struct stat status {};
    if (::fstat(STDOUT_FILENO, &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & 0077U) != 0 && status.st_uid == ::getuid()) ::fchmod(STDOUT_FILENO, 0600);
  }
  if (a.broker.empty()) cli.note("it names " + broker + "; a peer on another machine needs --broker tcp://HOST:" + (*role == net::Role::worker ? "7701" : "7700"));
  cli.note(*role == net::Role::worker ? "next: copy it to the worker, then gpuq-worker --access-file FILE" : "next: gpuq --access-file FILE status");
  return 0;
}

int run_list(Cli& cli, const Arguments& a) {
  auto keys = unwrap(net::keys_list(dir_of(a)));
  std::sort(keys.begin(), keys.end(), [](const net::AllowedKey& x, const net::AllowedKey& y) { return x.name < y.name; });
  if (cli.is_json()) {
    std::vector<Json> items;
    for (const net::AllowedKey& key : keys)
      items.push_back({{"name", key.name}, {"role", std::string(net::to_string(key.role))}, {"public", key.public_key}, {"issued_ms", key.issued.ms}, {"expires_ms", key.expires.ms}});
    print_json(cli.io.out, cli.format() == Format::jsonl, "keys", items);
    return 0;
  }
  if (keys.empty()) {
    cli.note("nobody may enter yet; gpuq keys issue --role client --name NAME");
    return 0;
  }
  Table table({"NAME", "ROLE", "ISSUED", "EXPIRES", "PUBLIC KEY"});
  for (const net::AllowedKey& key : keys)
    table.row({key.name, std::string(net::to_string(key.role)), stamp(key.issued.ms), key.expires.ms == 0 ? "never" : stamp(key.expires.ms), key.public_key});
  table.print(cli.io.out, !cli.globals.no_header);
  return 0;
}

int run_revoke(Cli& cli, const Arguments& a) {
  unwrap(net::keys_revoke(dir_of(a), a.name));
  std::error_code none;
  std::filesystem::remove(token_file(dir_of(a) + "/http", a.name), none);   // the broker refuses its key in any case
  cli.note("revoked " + a.name + "; the broker closes its links within a beat");
  return 0;
}

}  // namespace

void add_keys(CLI::App& app, Cli& cli) {
  auto a = std::make_shared<Arguments>();
  CLI::App* keys = app.add_subcommand("keys", "who may enter: init, issue, list, revoke (on the broker's machine)");
  keys->require_subcommand(0, 1);
  keys->fallthrough();
  keys->add_option("--keys", a->dir, "the key directory; else $GPUQ_KEYS, /etc/gpuq/keys, ~/.local/state/gpuq/keys")->envname("GPUQ_KEYS")->option_text("DIR");
  CLI::App* init = keys->add_subcommand("init", "make the broker's key pair, or show its public key");
  init->callback([&cli, a] { cli.action = [&cli, a] { return run_init(cli, *a); }; });
  CLI::App* issue = keys->add_subcommand("issue", "make an access file for one peer; give it to that peer only");
  issue->add_option("--role", a->role, "client, worker or admin")->option_text("ROLE")->check(CLI::IsMember({"client", "worker", "admin"}));
  issue->add_option("--name,name", a->name, "what operators will see")->option_text("NAME")->required();
  issue->add_option("--address,--for", a->broker, "the address that peer will dial; --broker works too")->option_text("tcp://HOST:PORT");
  CLI::Option* out = issue->add_option("--out", a->out, "file to write (0600); else stdout")->option_text("FILE");
  issue->add_flag("--http", a->http, "print a token for gpuq-http instead of an access file")->excludes(out);
  issue->add_option("--expires", a->expires, "30d (from now) or a date; else never")->option_text("TIME");
  issue->callback([&cli, a] {
    cli.action = [&cli, a] {
      if (a->broker.empty()) a->broker = cli.globals.broker;
      return run_issue(cli, *a);
    };
  });
  CLI::App* list = keys->add_subcommand("list", "who may enter")->alias("ls");
  list->callback([&cli, a] { cli.action = [&cli, a] { return run_list(cli, *a); }; });
  CLI::App* revoke = keys->add_subcommand("revoke", "this one no more");
  revoke->add_option("name", a->name, "as issued")->option_text("NAME")->required();
  revoke->callback([&cli, a] { cli.action = [&cli, a] { return run_revoke(cli, *a); }; });
}

}  // namespace gq::cli
