// app.cpp - parse, dispatch, report. Everything a command throws ends here as one error and one exit code.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/text.h"
#include "client/lib/convert.h"
#include "client/lib/version.h"

namespace gq::cli {

namespace {

volatile std::sig_atomic_t g_interrupted = 0;

void on_interrupt(int) {
  if (g_interrupted != 0) ::_exit(kInterrupted);   // asked twice: now
  g_interrupted = 1;
}

/// One line of consequence for the codes whose text alone does not carry it.
const char* why(const std::string& code) {
  if (code == "UNREACHABLE") return "nothing was sent; jobs that were accepted earlier are safe on the broker's disk";
  if (code == "KEY_REFUSED") return "the broker does not know this key, or it was revoked";
  if (code == "UNAVAILABLE") return "the broker cannot do this at the moment; nothing that was accepted is lost";
  if (code == "QUEUE_FULL") return "the broker protects its memory and takes no new jobs until some are done or fetched";
  if (code == "STORAGE_FULL") return "without disk the broker cannot promise to keep a job, so it takes none";
  if (code == "RESULT_EXPIRED") return "results are kept for a while after the end, then only the record stays";
  return nullptr;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  if (app.get_parent() != nullptr)
    for (std::string& name : option_names(*app.get_parent())) names.push_back(std::move(name));
  return names;
}

std::vector<std::string> verbs(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(sub->get_name());
    for (const std::string& alias : sub->get_aliases()) names.push_back(alias);
  }
  return names;
}

const CLI::App* named_command(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  return at;
}

gpuq::Error usage_error(const CLI::App& app, const std::string& text) {
  const CLI::App* command = named_command(app);
  const std::string name = command == &app ? "gpuq" : command->get_parent() == &app ? "gpuq " + command->get_name() : "gpuq " + command->get_parent()->get_name() + " " + command->get_name();
  return {"USAGE", text, name + " --help"};
}

/// Words nobody took: an unknown verb at the top, an unknown option or a word too many below.
std::optional<gpuq::Error> judge_extras(const CLI::App& app) {
  const std::vector<std::string> extras = app.remaining(true);
  if (extras.empty()) return std::nullopt;
  const CLI::App* command = named_command(app);
  const std::string& word = extras.front();
  std::string near, what;
  if (word.starts_with("-")) {
    near = client::closest(word.substr(0, word.find('=')), option_names(*command));
    what = "there is no option '" + word + "'";
  } else if (!verbs(*command).empty()) {
    near = client::closest(word, verbs(*command));
    what = "there is no command '" + word + "'";
  } else {
    what = "'" + word + "' is one word too many";
  }
  if (!near.empty()) what += ", did you mean '" + near + "'?";
  return usage_error(app, what);
}

}  // namespace

void watch_interrupts() {
  g_interrupted = 0;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);   // `gpuq list | head` ends by a write error, not by a signal
}
bool interrupted() { return g_interrupted != 0; }
void set_interrupted(bool value) { g_interrupted = value ? 1 : 0; }

Format Cli::format() const {
  if (globals.output == "wide") return Format::wide;
  if (globals.output == "json") return Format::json;
  if (globals.output == "jsonl") return Format::jsonl;
  return Format::table;
}

bool Cli::colour() const { return io.out_terminal && std::getenv("NO_COLOR") == nullptr; }

gpuq::Client& Cli::client(bool acknowledge) {
  if (!client_) {
    gpuq::Options options;
    options.broker = globals.broker;
    options.access_file = globals.access_file;
    options.insecure = globals.insecure;
    options.shares = globals.shares;
    options.timeout = globals.timeout;
    options.connect_timeout = std::min(globals.connect_timeout, globals.timeout);
    options.acknowledge = acknowledge;
    client_ = std::make_unique<gpuq::Client>(std::move(options));
  }
  return *client_;
}

int report(const Cli& cli, const gpuq::Error& error) {
  const bool colour = cli.io.err_terminal && std::getenv("NO_COLOR") == nullptr;
  cli.io.err << (colour ? "\x1b[31m" : "") << "error[" << error.code() << "]" << (colour ? "\x1b[0m" : "") << ": " << error.what() << '\n';
  if (const char* reason = why(error.code())) cli.io.err << "  why: " << reason << '\n';
  if (!error.next().empty()) cli.io.err << "  try: " << error.next() << '\n';
  if (cli.is_json()) {
    nlohmann::ordered_json j{{"schema_version", kSchemaVersion},
                             {"error", {{"code", error.code()}, {"what", error.what()}, {"next", error.next()}, {"exit_code", error.exit_code()}}}};
    cli.io.out << j.dump(cli.format() == Format::json ? 2 : -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
  }
  return error.exit_code();
}

int run(const std::vector<std::string>& arguments, Streams io) {
  Cli cli(io);
  CLI::App app{"gpuq - a durable, preemptive job queue for machines with GPUs\n\n"
               "Start here:  gpuq up                      broker, Redis and a worker on this machine\n"
               "             gpuq submit echo hi --wait   a first job, in another terminal\n"
               "             gpuq submit -- python train.py\n",
               "gpuq"};
  app.set_help_flag("-h,--help", "this text, or a command's own");
  app.require_subcommand(0, 1);
  app.fallthrough();
  app.allow_extras();
  app.set_version_flag("--version", std::string("gpuq ") + client::kVersion);
  Globals& g = cli.globals;
  app.add_option("--broker", g.broker, "address, tcp://HOST:7700; else from the access file")->envname("GPUQ_BROKER");
  app.add_option("--access-file", g.access_file, "who we are; else $GPUQ_ACCESS_FILE, ~/.config/gpuq/client.json, /etc/gpuq/client.json");
  app.add_option("--share", g.shares, "NAME=DIR, may be repeated: a folder that workers see too (their --share); files below it are passed by reference; else $GPUQ_SHARES")->option_text("NAME=DIR")->allow_extra_args(false);
  app.add_flag("--insecure", g.insecure, "no keys; only to a broker on this machine started --insecure")->envname("GPUQ_INSECURE");
  app.add_option("-o,--output", g.output, "table, wide, json or jsonl")->check(CLI::IsMember({"table", "wide", "json", "jsonl"}))->option_text("FORMAT");
  app.add_flag("--no-header", g.no_header, "tables without their first line");
  std::string patience;
  app.add_option("--request-timeout", patience, "give up on a request after this long (30s)")->option_text("DURATION");
  add_up(app, cli);
  add_submit(app, cli);
  add_reserve(app, cli);
  add_status(app, cli);
  add_job_commands(app, cli);
  add_explain(app, cli);
  add_operate(app, cli);
  add_top(app, cli);
  add_models(app, cli);
  add_keys(app, cli);
  add_doctor(app, cli);
  add_launch(app, cli);

  std::vector<std::string> args = arguments;
  const auto first_word = std::find_if(args.begin(), args.end(), [](const std::string& a) { return !a.starts_with("-"); });
  const auto is_there = [&](const char* word) { return std::find(args.begin(), args.end(), word) != args.end(); };
  if (first_word != args.end() && (is_there("submit") || is_there("reserve"))) {
    const auto dashes = std::find(args.begin(), args.end(), "--");
    if (dashes != args.end()) {
      cli.had_dashes = true;
      cli.argv_after_dashes.assign(dashes + 1, args.end());
      args.erase(dashes, args.end());
    }
  }
  std::reverse(args.begin(), args.end());   // CLI11 takes them from the back
  try {
    app.parse(args);
    if (auto wrong = judge_extras(app)) return report(cli, *wrong);
    if (!patience.empty()) {
      auto span = parse_span(patience);
      if (!span || span->count() <= 0) return report(cli, {"USAGE", "--request-timeout '" + patience + "' is no duration", "for example 30s"});
      g.timeout = *span;
    }
    if (!cli.action) {
      if (const CLI::App* command = named_command(app); command != &app) {
        io.out << command->help();
        return 2;
      }
      io.out << app.help();
      return arguments.empty() ? 0 : 2;
    }
  } catch (const CLI::Success& e) {   // help, version
    return app.exit(e, io.out, io.err);
  } catch (const CLI::ParseError& e) {
    if (auto wrong = judge_extras(app)) return report(cli, *wrong);
    return report(cli, usage_error(app, e.what()));
  }
  try {
    const int code = cli.action();
    io.out.flush();
    return interrupted() && code == 0 ? kInterrupted : code;
  } catch (const gpuq::Error& error) {
    return report(cli, error);
  } catch (const std::exception& error) {
    return report(cli, {"INTERNAL", error.what(), "gpuq doctor"});
  }
}

}  // namespace gq::cli
