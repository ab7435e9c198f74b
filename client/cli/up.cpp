// up.cpp - everything on this machine: keys, a broker with its own Redis, one worker. Ends as a whole with ctrl-C.
//
// Durable by default: the data directory stays, the next `up` goes on with it. What it starts, it stops, in the right order:
// the worker first (it hands its jobs back), then the broker, which takes its Redis along.
#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>

#include "client/cli/cli.h"
#include "client/cli/programs.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"
#include "client/cli/tokens.h"
#include "client/lib/convert.h"
#include "common/net/keys.h"

namespace gq::cli {

namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string data_dir, simulate, devices, listen = "127.0.0.1", redis, config, profile;
  int port = 7700;
  bool no_config = false, no_worker = false, http = false;
  std::vector<std::string> broker_options, worker_options;
};

[[noreturn]] void give_up(const std::string& code, const std::string& what, const std::string& next) { throw gpuq::Error(code, what, next); }

std::string ended_how(const Child& child) {
  if (WIFSIGNALED(child.status())) return "was ended by signal " + std::to_string(WTERMSIG(child.status()));
  return "ended with code " + std::to_string(WEXITSTATUS(child.status()));
}

/// The access file of `name`: an earlier one when its key still may enter, else a new one.
net::AccessFile access_for(const std::string& keys, const std::string& file, const std::string& name, net::Role role, const std::string& endpoint, const std::string& server_key) {
  auto old = net::read_access_file(file);
  auto allowed = net::keys_list(keys);
  if (!allowed) throw client::to_public(allowed.error());
  bool known = false;
  for (const net::AllowedKey& key : *allowed) known = known || (old && key.name == name && key.role == role && key.public_key == old->public_key);
  if (old && known && old->server_key == server_key) return *old;   // its address too: another `up` may be serving there right now
  for (const net::AllowedKey& key : *allowed)
    if (key.name == name) net::keys_revoke(keys, name);   // its secret is lost: nobody can use it any more
  auto made = net::keys_issue(keys, name, role, endpoint, WallTime{wall_now_ms()});
  if (!made) throw client::to_public(made.error());
  return std::move(*made);
}

void write_access(const std::string& file, const net::AccessFile& access) {
  if (auto ok = net::write_access_file(file, access); !ok) throw client::to_public(ok.error());
}

/// A listening address as this machine dials it.
std::string dial(std::string endpoint) {
  for (const char* any : {"//0.0.0.0:", "//*:", "//[::]:"})
    if (const auto at = endpoint.find(any); at != std::string::npos) endpoint.replace(at, std::string_view(any).size(), "//127.0.0.1:");
  return endpoint;
}

struct Up {
  Cli& cli;
  const Arguments& a;
  std::string data, keys;
  net::ServerKeys server;
  Child broker, worker, door;
  std::string clients, workers, http, door_address;
  std::string config_written;

  std::vector<std::string> worker_argv(const std::string& program) const {
    std::vector<std::string> argv{program, "--access-file", data + "/worker.json", "--scratch", data + "/worker"};
    if (!a.simulate.empty()) argv.insert(argv.end(), {"--simulate-gpus", a.simulate});
    if (!a.devices.empty()) argv.insert(argv.end(), {"--devices", a.devices});
    argv.insert(argv.end(), a.worker_options.begin(), a.worker_options.end());
    return argv;
  }

  /// --config FILE, or what is shipped as --profile NAME beside the programs; empty = what is built in.
  std::string policy_file() const {
    if (!a.config.empty()) return fs::absolute(a.config).lexically_normal().string();
    if (a.profile.empty()) return {};
    const fs::path shipped = fs::path(own_folder()).parent_path() / "share/gpuq/profiles";
    std::error_code error;
    if (const fs::path file = shipped / (a.profile + ".toml"); fs::is_regular_file(file, error)) return file.string();
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(shipped, error))
      if (entry.path().extension() == ".toml") found.insert(entry.path().stem().string());
    std::string names;
    for (const std::string& name : found) names += (names.empty() ? "" : ", ") + name;
    give_up("NOT_FOUND", "there is no profile '" + a.profile + "' in " + shipped.string(), names.empty() ? "gpuq up --config FILE" : "one of: " + names + "; or a file of your own: gpuq up --config FILE");
  }

  void prepare() {
    (void)policy_file();   // a wrong name is said before anything is made
    data = fs::absolute(a.data_dir.empty() ? state_dir() : a.data_dir).lexically_normal().string();
    keys = data + "/keys";
    std::error_code error;
    fs::create_directories(data, error);
    if (error) give_up("BAD_INPUT", "cannot make the data directory " + data + ": " + error.message(), "gpuq up --data-dir DIR");
    ::chmod(data.c_str(), 0700);
    auto made = net::keys_init(keys);
    if (!made) throw client::to_public(made.error());
    server = std::move(*made);
    // Issued before the broker starts, so that it knows them from its first moment; the addresses follow when they are known.
    write_access(data + "/client.json", access_for(keys, data + "/client.json", "local", net::Role::admin, "tcp://127.0.0.1:7700", server.public_key));
    write_access(data + "/worker.json", access_for(keys, data + "/worker.json", "local-worker", net::Role::worker, "tcp://127.0.0.1:7701", server.public_key));
  }

  bool start_broker() {
    const std::string program = find_program("gpuq-broker");
    if (program.empty()) give_up("NOT_FOUND", "gpuq-broker is neither beside gpuq nor in PATH", "build it: ./dev build");
    const auto port = [&](int offset) { return std::to_string(a.port == 0 ? 0 : a.port + offset); };
    std::vector<std::string> argv{program, "--data-dir", data, "--keys", keys, "--listen-clients", "tcp://" + a.listen + ":" + port(0), "--listen-workers",
                                  "tcp://" + a.listen + ":" + port(1), "--listen-http", "127.0.0.1:" + port(2)};
    if (!a.redis.empty()) argv.insert(argv.end(), {"--redis", a.redis});
    if (const std::string policy = policy_file(); !policy.empty()) argv.insert(argv.end(), {"--config", policy});
    argv.insert(argv.end(), a.broker_options.begin(), a.broker_options.end());
    const std::string log = data + "/broker.log";
    std::error_code ignored;
    const std::uintmax_t before = fs::exists(log, ignored) ? fs::file_size(log, ignored) : 0;
    std::string error;
    if (!broker.start(argv, log, true, error)) give_up("INTERNAL", "cannot start gpuq-broker: " + error, "");
    const auto line = broker.wait_ready(60'000);
    if (interrupted()) return false;
    const auto ready = nlohmann::json::parse(line.value_or(""), nullptr, false);
    if (!ready.is_object()) {
      const bool alive = !broker.ends_within(2000);
      cli.io.err << tail_of(log, 12, before);
      if (alive) give_up("TIMED_OUT", "the broker was not serving after 60 s", "look at " + log);
      const std::string why = tail_of(log, 4, before);
      const char* code = why.find("PORT_IN_USE") != std::string::npos ? "PORT_IN_USE" : why.find("DATA_DIR_IN_USE") != std::string::npos ? "DATA_DIR_IN_USE" : "UNAVAILABLE";
      give_up(code, "the broker " + ended_how(broker) + "; its last words are above", std::string(code) == "PORT_IN_USE" ? "gpuq up --port 0   (any free ports), or end what uses them" : "the whole log: " + log);
    }
    clients = dial(ready.value("clients", ""));
    workers = dial(ready.value("workers", ""));
    http = ready.value("http", "");
    auto client_access = net::read_access_file(data + "/client.json");
    auto worker_access = net::read_access_file(data + "/worker.json");
    if (!client_access || !worker_access) give_up("INTERNAL", "the access files just written cannot be read", data);
    client_access->broker = clients;
    worker_access->broker = workers;
    write_access(data + "/client.json", *client_access);
    write_access(data + "/worker.json", *worker_access);
    return true;
  }

  bool start_worker(bool first) {
    const std::string program = find_program("gpuq-worker");
    if (program.empty()) {
      cli.note("gpuq-worker is neither beside gpuq nor in PATH: jobs will wait (build it: ./dev build)");
      return true;
    }
    std::string error;
    if (!worker.start(worker_argv(program), data + "/worker.log", first, error)) give_up("INTERNAL", "cannot start gpuq-worker: " + error, "");
    if (!first) return true;
    const auto line = worker.wait_ready(60'000);
    if (interrupted()) return false;
    if (!line) {
      const bool alive = !worker.ends_within(2000);
      cli.io.err << tail_of(data + "/worker.log", 12);
      give_up(alive ? "TIMED_OUT" : "UNAVAILABLE", alive ? "the worker was not welcomed by the broker within 60 s" : "the worker " + ended_how(worker) + "; its last words are above", "the whole log: " + data + "/worker.log");
    }
    return true;
  }

  /// Jobs by HTTP: a token of its own for each start, kept beside the access files.
  bool start_door() {
    const std::string program = find_program("gpuq-http");
    if (program.empty()) give_up("NOT_FOUND", "gpuq-http is neither beside gpuq nor in PATH", "build it: ./dev build");
    net::keys_revoke(keys, "local-http");   // of an earlier start
    auto access = net::keys_issue(keys, "local-http", net::Role::client, clients, WallTime{wall_now_ms()});
    if (!access) throw client::to_public(access.error());
    const auto token = issue_token(keys + "/http", *access);
    if (!token) throw client::to_public(token.error());
    if (auto written = net::write_secret_file(data + "/http.token", *token + "\n"); !written) throw client::to_public(written.error());
    std::string error;
    if (!door.start({program, "--listen", "127.0.0.1:" + std::to_string(a.port == 0 ? 0 : a.port + 3), "--tokens", keys + "/http"}, data + "/http.log", true, error))
      give_up("INTERNAL", "cannot start gpuq-http: " + error, "");
    const auto line = door.wait_ready(20'000);
    if (interrupted()) return false;
    const auto ready = nlohmann::json::parse(line.value_or(""), nullptr, false);
    if (!ready.is_object()) {
      cli.io.err << tail_of(data + "/http.log", 8);
      give_up("UNAVAILABLE", "the HTTP door did not open; its last words are above", "gpuq up --port 0   (any free ports), or end what uses them");
    }
    door_address = ready.value("http", "");
    return true;
  }

  /// So that `gpuq submit` in another terminal just works. Somebody else's file stays as it is.
  void offer_config() {
    const std::string file = net::default_access_path(net::Role::client);
    if (a.no_config || file.empty()) return;
    auto access = net::read_access_file(data + "/client.json");
    std::error_code error;
    if (fs::exists(file, error)) {
      auto old = net::read_access_file(file);
      if (!old || !access || old->server_key != access->server_key) return;
    }
    fs::create_directories(fs::path(file).parent_path(), error);
    if (access && net::write_access_file(file, *access)) config_written = file;
  }

  void say_what_is() {
    const auto line = [&](const std::string& text) { cli.io.out << text << '\n'; };
    line("gpuq is up");
    line("  clients   " + clients);
    line("  workers   " + workers);
    if (!http.empty()) line("  http      " + (http.find("://") == std::string::npos ? "http://" + http : http) + "/healthz  /metrics");
    line("  data      " + data + "   (kept: the next `gpuq up` goes on with it)");
    line("  logs      " + data + "/broker.log  " + data + "/worker.log");
    line(config_written.empty() ? "  access    " + data + "/client.json" : "  access    " + config_written + "   (removed at the end)");
    line("in another terminal");
    const std::string prefix = config_written.empty() ? "GPUQ_ACCESS_FILE=" + data + "/client.json " : "";
    line("  " + prefix + "gpuq submit echo hello --wait");
    line("  " + prefix + "gpuq submit --wait -- uname -a");
    line("  " + prefix + "gpuq top");
    if (!door_address.empty())
      line("  curl -H \"Authorization: Bearer $(cat " + data + "/http.token)\" -H 'Content-Type: application/json' -d '{\"kind\":\"echo\"}' http://" + door_address + "/api/v1/jobs");
    line("ctrl-C ends it all");
    cli.io.out.flush();
  }

  int serve() {
    int restarts = 0;
    while (!interrupted()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      if (!broker.running()) {
        cli.io.err << tail_of(data + "/broker.log", 8);
        give_up("UNAVAILABLE", "the broker " + ended_how(broker), "gpuq up starts it again with everything it had accepted; its log: " + data + "/broker.log");
      }
      if (a.http && !door.running()) give_up("UNAVAILABLE", "gpuq-http " + ended_how(door), "its log: " + data + "/http.log");
      if (a.no_worker || worker.running() || worker.status() == 0) continue;
      if (++restarts > 10) give_up("UNAVAILABLE", "the worker ended too often; the last time it " + ended_how(worker), "its log: " + data + "/worker.log");
      cli.note("the worker " + ended_how(worker) + "; it is started again");
      start_worker(false);
    }
    return 0;
  }

  void stop() {
    cli.note("stopping: the worker, then the broker and its Redis");
    door.stop(5'000);
    worker.stop(35'000);
    broker.stop(20'000);
    if (!config_written.empty()) {
      std::error_code error;
      fs::remove(config_written, error);
    }
    cli.note("stopped; jobs that were accepted are in " + data);
  }
};

int run_up(Cli& cli, const Arguments& a) {
  Up up{cli, a, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  up.prepare();
  const bool serving = up.start_broker() && (a.no_worker || up.start_worker(true)) && (!a.http || up.start_door());
  if (!serving) {
    up.stop();
    return kInterrupted;
  }
  up.offer_config();
  up.say_what_is();
  try {
    up.serve();
  } catch (...) {
    up.stop();
    throw;
  }
  up.stop();
  set_interrupted(false);   // ctrl-C is how it ends
  return 0;
}

}  // namespace

void add_up(CLI::App& app, Cli& cli) {
  auto a = std::make_shared<Arguments>();
  CLI::App* up = app.add_subcommand("up", "all in one on this machine: keys, broker with its own Redis, a worker; ctrl-C ends it");
  up->add_option("--data-dir", a->data_dir, "where jobs, blobs and keys lie (~/.local/state/gpuq)")->option_text("DIR");
  up->add_option("--port", a->port, "of clients; workers one above, HTTP two above; 0 = any (7700)")->option_text("N")->check(CLI::Range(0, 65'533));
  up->add_option("--listen", a->listen, "address to listen on (127.0.0.1)")->option_text("ADDRESS");
  up->add_option("--devices", a->devices, "auto, cpu, or UUIDs (auto)")->option_text("LIST");
  up->add_option("--simulate-gpus", a->simulate, "pretend devices for trying out: 24GiB,8GiB")->option_text("LIST");
  up->add_option("--redis", a->redis, "use this Redis instead of a private one")->option_text("ADDRESS");
  up->add_option("--config", a->config, "gpuq.toml: the policy (and the broker's settings); gpuq config show says what holds")->option_text("FILE")->check(CLI::ExistingFile);
  up->add_option("--profile", a->profile, "a policy that is shipped: one-gpu, two-gpu or cpu")->option_text("NAME")->excludes("--config");
  up->add_flag("--no-worker", a->no_worker, "broker only");
  up->add_flag("--http", a->http, "jobs by HTTP too, three above --port, on loopback");
  up->add_flag("--no-config", a->no_config, "leave ~/.config/gpuq alone");
  up->add_option("--broker-option", a->broker_options, "handed to gpuq-broker as it is; may be repeated")->allow_extra_args(false)->option_text("WORD");
  up->add_option("--worker-option", a->worker_options, "handed to gpuq-worker as it is; may be repeated")->allow_extra_args(false)->option_text("WORD");
  up->callback([&cli, a] { cli.action = [&cli, a] { return run_up(cli, *a); }; });
}

}  // namespace gq::cli
