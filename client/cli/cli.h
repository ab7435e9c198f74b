// cli.h - what every command of `gpuq` shares: global options, streams, the client made on first use, how a command reports.
//
// Data goes to stdout, messages to stderr. -o table|wide|json|jsonl; JSON carries schema_version and units in names.
// A failure prints error[CODE], why when it helps, and what to try; the exit code follows from the code (client.h, Error).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "client/include/gpuq/client.h"

namespace CLI {
class App;
}

namespace gq::cli {

enum class Format : std::uint8_t { table, wide, json, jsonl };
inline constexpr int kSchemaVersion = 1;
inline constexpr int kInterrupted = 130;

struct Globals {
  std::string broker, access_file, output = "table";
  bool insecure = false;
  std::chrono::milliseconds timeout{30'000};
  std::chrono::milliseconds connect_timeout{5'000};
  bool no_header = false;
  std::vector<std::string> shares;                ///< NAME=DIR
};

struct Streams {
  std::ostream& out;
  std::ostream& err;
  bool out_terminal = false;
  bool err_terminal = false;
};

class Cli {
 public:
  explicit Cli(Streams streams) : io(streams) {}

  Streams io;
  Globals globals;
  std::vector<std::string> argv_after_dashes;     ///< what stood behind "--"
  bool had_dashes = false;
  std::function<int()> action;                    ///< set by the command that was named

  [[nodiscard]] Format format() const;
  [[nodiscard]] bool is_json() const { return format() == Format::json || format() == Format::jsonl; }
  /// `acknowledge`: this command takes the results for good (see gpuq::Options).
  gpuq::Client& client(bool acknowledge = false);
  void use_client(std::unique_ptr<gpuq::Client> client) { client_ = std::move(client); }
  void note(const std::string& line) const { io.err << line << '\n'; }
  [[nodiscard]] bool colour() const;

 private:
  std::unique_ptr<gpuq::Client> client_;
};

/// The whole program but for main(); tests call it.
int run(const std::vector<std::string>& args, Streams io);
/// error[CODE] … on stderr, and as an object on stdout when JSON was asked for. Returns the exit code.
int report(const Cli& cli, const gpuq::Error& error);

// One per command group; each adds its subcommands to the app.
void add_submit(CLI::App& app, Cli& cli);
void add_reserve(CLI::App& app, Cli& cli);
void add_job_commands(CLI::App& app, Cli& cli);     // wait result logs cancel retry
void add_status(CLI::App& app, Cli& cli);           // status list ls
void add_explain(CLI::App& app, Cli& cli);          // explain plan
void add_operate(CLI::App& app, Cli& cli);          // preempt hold release update drain undrain queue config
void add_top(CLI::App& app, Cli& cli);              // top workers
void add_keys(CLI::App& app, Cli& cli);
void add_models(CLI::App& app, Cli& cli);
void add_doctor(CLI::App& app, Cli& cli);
void add_up(CLI::App& app, Cli& cli);
void add_launch(CLI::App& app, Cli& cli);           // demo bench fsck version completion

/// Turns ctrl-C into a flag; a second one ends the program. Reset per command.
void watch_interrupts();
bool interrupted();
/// For tests, and for `up` that waits in poll().
void set_interrupted(bool value);

}  // namespace gq::cli
