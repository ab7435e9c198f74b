// launch.cpp - demo, bench and fsck (programs of their own), version, completion.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/programs.h"
#include "client/lib/convert.h"
#include "client/lib/version.h"

namespace gq::cli {

namespace {

int hand_over(const std::string& name, const std::vector<std::string>& args) {
  const std::string program = find_program(name);
  if (program.empty()) throw gpuq::Error("NOT_FOUND", name + " is neither beside gpuq nor in PATH", "from the source tree: ./dev " + name.substr(5));
  std::vector<std::string> words{program};
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> raw;
  for (std::string& word : words) raw.push_back(word.data());
  raw.push_back(nullptr);
  ::execv(raw[0], raw.data());
  throw gpuq::Error("INTERNAL", "cannot start " + program + ": " + std::strerror(errno), "");
}

std::vector<std::string> long_options(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

/// The broker's own fsck, on the data that `gpuq up` keeps unless told otherwise.
struct FsckWords {
  std::string data_dir, redis, space, config;
  bool repair{}, deep{};
  [[nodiscard]] std::vector<std::string> argv(bool json) const {
    std::vector<std::string> words{"fsck"};
    for (const auto& [flag, value] : {std::pair<const char*, const std::string*>{"--data-dir", &data_dir}, {"--redis", &redis}, {"--namespace", &space}, {"--config", &config}})
      if (!value->empty()) words.insert(words.end(), {flag, *value});
    for (const auto& [flag, given] : {std::pair{"--repair", repair}, {"--deep", deep}, {"--json", json}})
      if (given) words.emplace_back(flag);
    return words;
  }
};

struct Words { std::string name; std::string next; };   ///< of one command: what may follow

std::vector<Words> grammar(const CLI::App& app) {
  std::vector<Words> all;
  const std::string common = joined(long_options(app));
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    std::vector<std::string> next;
    for (const CLI::App* below : sub->get_subcommands([](const CLI::App*) { return true; })) {
      next.push_back(below->get_name());
      for (const std::string& option : long_options(*below)) next.push_back(option);
    }
    if (sub->get_name() == "submit") next = client::kind_names();
    if (sub->get_name() == "plan") for (const std::string& kind : client::kind_names()) next.push_back(kind);
    if (sub->get_name() == "queue") next.insert(next.end(), {"inference", "training", "synthesis"});
    for (const std::string& option : long_options(*sub)) next.push_back(option);
    if (sub->get_name() == "completion") next.insert(next.end(), {"bash", "zsh", "fish"});
    all.push_back({sub->get_name(), joined(next) + " " + common});
  }
  return all;
}

int print_completion(Cli& cli, const CLI::App& app, const std::string& shell) {
  std::ostream& out = cli.io.out;
  const auto commands = grammar(app);
  std::string verbs;
  for (const Words& c : commands) verbs += (verbs.empty() ? "" : " ") + c.name;
  if (shell == "fish") {
    out << "# gpuq completion fish | source\ncomplete -c gpuq -n __fish_use_subcommand -f -a '" << verbs << "'\n";
    for (const Words& c : commands) out << "complete -c gpuq -n '__fish_seen_subcommand_from " << c.name << "' -a '" << c.next << "'\n";
    return 0;
  }
  if (shell == "zsh") out << "# source <(gpuq completion zsh)\nautoload -U +X bashcompinit && bashcompinit\n";
  else out << "# source <(gpuq completion bash)\n";
  out << "_gpuq() {\n  local current=${COMP_WORDS[COMP_CWORD]} words\n  case \"${COMP_WORDS[1]}\" in\n";
  for (const Words& c : commands) out << "    " << c.name << ") words='" << c.next << "' ;;\n";
  out << "    *) words='" << verbs << "' ;;\n  esac\n  [ \"$COMP_CWORD\" -eq 1 ] && words='" << verbs << "'\n"
      << "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n}\ncomplete -o default -F _gpuq gpuq\n";
  return 0;
}

}  // namespace

void add_launch(CLI::App& app, Cli& cli) {
  for (const char* name : {"demo", "bench"}) {
    CLI::App* c = app.add_subcommand(name, std::string(name) == "demo" ? "training and detection on drawn circuit boards, start to end" : "how fast, next to raw Redis");
    c->prefix_command();
    c->callback([&cli, c, name] {
      const std::vector<std::string> rest = c->remaining();
      cli.action = [name, rest] { return hand_over(std::string("gpuq-") + name, rest); };
    });
  }
  auto fsck = std::make_shared<FsckWords>();
  CLI::App* check = app.add_subcommand("fsck", "is the data of a broker that does not run whole? exit 1: no");
  check->add_option("--data-dir", fsck->data_dir, "the broker's; unless told otherwise, that of gpuq up");
  check->add_option("--redis", fsck->redis, "the broker's, when it has one of its own");
  check->add_option("--namespace", fsck->space, "in that Redis (default)");
  check->add_option("--config", fsck->config, "the broker's gpuq.toml: its [broker] section names all of these");
  check->add_flag("--repair", fsck->repair, "file jobs where they belong, put aside what cannot be read; nothing is deleted");
  check->add_flag("--deep", fsck->deep, "read every blob, and try the whole queue in a scheduler");
  check->callback([&cli, fsck] { cli.action = [&cli, fsck] { return hand_over("gpuq-broker", fsck->argv(cli.is_json())); }; });
  CLI::App* version = app.add_subcommand("version", "of this gpuq");
  version->callback([&cli] {
    cli.action = [&cli] {
      if (cli.is_json()) cli.io.out << nlohmann::ordered_json{{"schema_version", kSchemaVersion}, {"version", client::kVersion}}.dump() << '\n';
      else cli.io.out << "gpuq " << client::kVersion << '\n';
      return 0;
    };
  });
  auto shell = std::make_shared<std::string>();
  CLI::App* completion = app.add_subcommand("completion", "for your shell: source <(gpuq completion bash)");
  completion->add_option("shell", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completion->callback([&cli, &app, shell] { cli.action = [&cli, &app, shell] { return print_completion(cli, app, *shell); }; });
}

}  // namespace gq::cli
