// models.cpp - model push|promote|rollback|list|show|diff|rm.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "client/cli/cli.h"
#include "client/cli/pack.h"
#include "client/cli/results.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"
#include "client/lib/convert.h"
#include "common/config/model_file.h"

namespace gq::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  std::string name, path, from, part, vram, other, condition, patience = "2min";
  bool no_promote = false, no_warm = false;
};

struct Named { std::string name, version; };   ///< version empty = not said
Named named(const std::string& text) {
  const auto at = text.find('@');
  return {text.substr(0, at), at == std::string::npos ? "" : text.substr(at + 1)};
}

/// NAME = the promoted version. UNKNOWN_MODEL names what there is.
gpuq::Model find_model(gpuq::Client& client, const std::string& text, bool newest = false) {
  const Named wanted = named(text);
  std::optional<gpuq::Model> found;
  std::string others;
  for (gpuq::Model& model : client.models()) {
    if (model.name != wanted.name) continue;
    others += (others.empty() ? "" : ", ") + model.version;
    const bool fits = !wanted.version.empty() ? model.version == wanted.version : newest ? !found || model.pushed_ms > found->pushed_ms : model.promoted;
    if (fits) found = std::move(model);
  }
  if (!found) throw gpuq::Error("UNKNOWN_MODEL", "model " + text + " is not registered", others.empty() ? "gpuq model list" : wanted.name + " has: " + others);
  return std::move(*found);
}

Json metadata_of(const gpuq::Model& model) {
  auto json = Json::parse(model.metadata, nullptr, false);
  return json.is_object() ? json : Json::object();
}

void show(Cli& cli, const gpuq::Model& model) {
  if (cli.is_json()) print_json(cli.io.out, cli.format() == Format::jsonl, "models", {to_json(model)});
  else cli.io.out << model.name << '@' << model.version << '\n';
}

/// "model" when there is one, else the only part that looks like weights.
const gpuq::Part& model_part(const gpuq::JobResult& result, const std::string& wanted) {
  std::string names;
  const gpuq::Part* found = nullptr;
  for (const gpuq::Part& part : result.parts) {
    names += (names.empty() ? "" : ", ") + part.name;
    const bool weights = part.name.ends_with(".pt") || part.name.ends_with(".torchscript");
    if (wanted.empty() ? part.name == "model" || (found == nullptr && weights) : part.name == wanted) found = &part;
  }
  if (found == nullptr)
    throw gpuq::Error("NOT_FOUND", "the result of job " + result.id + " has no part '" + (wanted.empty() ? "model" : wanted) + "'", names.empty() ? "it has no parts" : "--part with one of: " + names);
  return *found;
}

gpuq::Model push_from_job(Cli& cli, const Arguments& a, std::int64_t budget_mib, bool promote) {
  gpuq::Client& client = cli.client();
  const std::string id = resolve_job(cli, a.from);
  const gpuq::JobResult result = client.result(id);
  if (!result.ok()) throw gpuq::Error("JOB_FAILED", "job " + id + " is " + result.state + ", it left no model", "gpuq status " + id);
  const gpuq::Part& part = model_part(result, a.part);
  const std::string blob = part.blob.empty() ? client.upload(part.bytes) : part.blob;
  std::string metadata;
  if (const auto value = result.values.find("metadata"); value != result.values.end()) metadata = value->second;
  if (const gpuq::Part* about = result.part("metadata"); about != nullptr) metadata = client.fetch(*about);
  Json about = Json::parse(metadata, nullptr, false);   // beside what the trainer says of it: its figures, for `promote --if`, and where it came from
  if (!about.is_object()) about = Json::object();
  if (const gpuq::Part* figures = result.part("metrics"); figures != nullptr) {
    const Json numbers = Json::parse(client.fetch(*figures), nullptr, false);
    Json& metrics = about["metrics"];
    if (!metrics.is_object()) metrics = Json::object();
    if (numbers.is_object())
      for (const auto& [key, value] : numbers.items())
        if (value.is_number()) metrics[key] = value;
  }
  about["from_job"] = id;
  metadata = about.dump();
  const auto runtime = result.values.find("runtime");   // the trainer says what it made
  return client.push_model_from_blob(a.name, blob, part.blob.empty() ? part.bytes.size() : part.size, runtime == result.values.end() ? "torchscript" : runtime->second, metadata, budget_mib, promote);
}

/// A folder with model.toml: judged here, then packed so that equal folders are equal versions.
gpuq::Model push_folder(Cli& cli, const Arguments& a, std::int64_t budget_mib, bool promote) {
  namespace fs = std::filesystem;
  constexpr std::size_t kModelBytesMax = std::size_t{2} << 30U;
  constexpr std::size_t kNameMax = 100;                 // of a file below the folder: what a plain tar header holds
  const auto refuse = [](const Error& error) { return client::to_public(error); };
  const auto file = ModelFile::read(a.path);
  if (!file) throw refuse(file.error());
  std::error_code error;
  for (fs::recursive_directory_iterator it(a.path, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().lexically_relative(a.path).generic_string();
    if (it->is_symlink(error)) throw gpuq::Error("BAD_MODEL", a.path + " holds the symbolic link " + name, "put the file itself there: a worker on another host cannot follow it");
    if (it->path().filename() == "__pycache__" || it->path().filename() == ".git") it.disable_recursion_pending();
    else if (name.size() > kNameMax) throw gpuq::Error("BAD_MODEL", "the name " + name + " is longer than " + std::to_string(kNameMax) + " characters", "shorten it");
  }
  auto packed = pack_folder(a.path, kModelBytesMax);
  if (!packed) throw refuse(packed.error());
  gpuq::Client& client = cli.client();
  const std::size_t bytes = packed->size();
  const std::string blob = client.upload(*packed);
  Json about{{"entry", file->entry}, {"interpreter", file->interpreter}, {"kinds", file->kinds}, {"max_batch", file->max_batch}};
  return client.push_model_from_blob(a.name, blob, bytes, "python", about.dump(), budget_mib != 0 ? budget_mib : file->budget().value, promote);
}

/// Loads it on some device beside the promoted one, so that nobody waits for it later, and one that cannot be loaded is never promoted.
void warm(Cli& cli, const gpuq::Model& model, std::chrono::milliseconds patience) {
  gpuq::Client& client = cli.client();
  const auto workers = client.workers();
  const bool somebody = std::any_of(workers.begin(), workers.end(), [](const gpuq::WorkerStatus& w) { return w.state == "live" && std::find(w.kinds.begin(), w.kinds.end(), "warm") != w.kinds.end(); });
  if (!somebody) return cli.note("no worker is there to warm it; its first request loads it");
  gpuq::JobSpec spec;
  spec.kind = "warm";
  spec.model = model.name + "@" + model.version;
  spec.label = "before its promotion";
  const std::string id = client.submit(std::move(spec)).id;
  const auto results = [&]() -> std::optional<std::vector<gpuq::JobResult>> {
    try {
      return wait_for(client, {id}, patience);
    } catch (const gpuq::Error& error) {
      if (error.code() != "TIMED_OUT") throw;
      client.cancel({id});
      cli.note("there was no room beside the promoted version within " + age(patience.count()) + ": promoted all the same, its first requests wait while it loads");
      return std::vector<gpuq::JobResult>{};
    }
  }();
  if (!results) {
    client.cancel({id});
    throw gpuq::Error("CANCELLED", "interrupted; " + model.name + "@" + model.version + " is registered and not promoted", "gpuq model promote " + model.name + "@" + model.version);
  }
  if (!results->empty() && !results->front().ok())
    throw gpuq::Error(results->front().code, model.name + "@" + model.version + " is not promoted, for it cannot be loaded: " + results->front().what, "gpuq logs --model " + model.name + "@" + model.version + "   or --no-warm to promote it all the same");
}

std::chrono::milliseconds patience_of(const Arguments& a) {
  const auto span = parse_span(a.patience);
  if (!span) throw gpuq::Error("USAGE", span.error().what, "--warm-timeout 2min");
  return *span;
}

int run_promote(Cli& cli, const Arguments& a) {
  gpuq::Client& client = cli.client();
  const gpuq::Model model = find_model(client, a.name, true);
  const auto patience = patience_of(a);
  watch_interrupts();
  if (!model.promoted && !a.no_warm) warm(cli, model, patience);
  show(cli, client.promote_model(model.name, model.version, a.condition));
  cli.note(model.promoted ? "it was promoted already" : model.name + " means " + model.version + " from now on; back: gpuq model rollback " + model.name);
  return 0;
}

int run_rollback(Cli& cli, const Arguments& a) {
  show(cli, cli.client().rollback_model(named(a.name).name));
  return 0;
}

int run_push(Cli& cli, const Arguments& a) {
  if (a.path.empty() == a.from.empty()) throw gpuq::Error("USAGE", "a model comes from a file or from a job, exactly one of them", "gpuq model push NAME FILE   or   gpuq model push NAME --from JOB");
  std::int64_t budget_mib = 0;
  if (!a.vram.empty()) {
    auto range = parse_vram(a.vram);
    if (!range) throw gpuq::Error("USAGE", range.error().what, "--vram 2GiB");
    budget_mib = range->min_mib;
  }
  std::error_code ignored;
  const bool folder = a.from.empty() && std::filesystem::is_directory(a.path, ignored);
  const auto patience = patience_of(a);
  gpuq::Client& client = cli.client();
  const auto known = client.models();
  const bool is_first = std::none_of(known.begin(), known.end(), [&](const gpuq::Model& m) { return m.name == a.name; });
  const bool at_once = is_first && !a.no_promote;       // a later one is warmed before NAME means it
  gpuq::Model model = folder ? push_folder(cli, a, budget_mib, at_once) : a.from.empty() ? client.push_model(a.name, a.path, "torchscript", budget_mib, at_once) : push_from_job(cli, a, budget_mib, at_once);
  if (!model.promoted && !a.no_promote) {
    watch_interrupts();
    if (!a.no_warm) warm(cli, model, patience);
    model = client.promote_model(model.name, model.version);
  }
  show(cli, model);
  if (!model.promoted) {
    cli.note("registered, not promoted: gpuq model promote " + model.name + "@" + model.version);
    return 0;
  }
  cli.note("next: gpuq submit " + std::string(model.runtime == "python" && model.metadata.find("\"detect\"") == std::string::npos ? "infer" : "detect") + " --model " + model.name + " --wait FILE");
  return 0;
}

int run_list(Cli& cli) {
  const auto models = cli.client().models();
  if (cli.is_json()) {
    std::vector<Json> items;
    for (const gpuq::Model& model : models) items.push_back(to_json(model));
    print_json(cli.io.out, cli.format() == Format::jsonl, "models", items);
    return 0;
  }
  if (models.empty()) {
    cli.note("no models yet; gpuq model push NAME FILE");
    return 0;
  }
  Table table(cli.format() == Format::wide ? std::vector<std::string>{"NAME", "VERSION", "RUNTIME", "SIZE", "VRAM", "PUSHED", "PROMOTED", "OWNER", "BLOB"}
                                           : std::vector<std::string>{"NAME", "VERSION", "SIZE", "VRAM", "PUSHED", "PROMOTED"});
  for (const gpuq::Model& m : models) {
    const std::string vram = m.budget_mib == 0 ? "-" : mib(m.budget_mib);
    if (cli.format() == Format::wide) table.row({m.name, m.version, m.runtime, bytes_text(m.bytes), vram, stamp(m.pushed_ms), m.promoted ? "yes" : "", m.owner, m.blob});
    else table.row({m.name, m.version, bytes_text(m.bytes), vram, stamp(m.pushed_ms), m.promoted ? "yes" : ""});
  }
  table.print(cli.io.out, !cli.globals.no_header);
  return 0;
}

/// What is known of a version, as lines of key and value.
std::vector<std::pair<std::string, std::string>> facts_of(gpuq::Client& client, const gpuq::Model& m) {
  std::vector<std::pair<std::string, std::string>> out{
      {"version", m.version}, {"promoted", m.promoted ? "yes, since " + stamp(m.promoted_ms) : m.promoted_ms != 0 ? "no; was, " + stamp(m.promoted_ms) : "no"}, {"runtime", m.runtime},
      {"size", bytes_text(m.bytes)}, {"vram", m.budget_mib == 0 ? "1 GiB and its weights" : mib(m.budget_mib)}, {"pushed", stamp(m.pushed_ms) + " by " + m.owner}, {"content", m.blob}};
  std::string where;
  for (const gpuq::WorkerStatus& worker : client.workers())
    for (const gpuq::DeviceStatus& device : worker.devices)
      for (const std::string& warm_one : device.warm)
        if (warm_one == m.name + "@" + m.version) where += (where.empty() ? "" : ", ") + device.uuid + " of " + worker.name;
  out.emplace_back("warm", where.empty() ? "nowhere" : where);
  const Json about = metadata_of(m);
  for (const auto& [key, value] : about.items()) {
    if (key == "metrics" && value.is_object())
      for (const auto& [metric, number] : value.items()) out.emplace_back("metrics." + metric, number.dump());
    else out.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  return out;
}

int run_show(Cli& cli, const Arguments& a) {
  const gpuq::Model model = find_model(cli.client(), a.name);
  if (cli.is_json()) {
    show(cli, model);
    return 0;
  }
  Table table({"MODEL", model.name});
  for (const auto& [key, value] : facts_of(cli.client(), model)) table.row({key, value});
  table.print(cli.io.out, !cli.globals.no_header);
  return 0;
}

int run_diff(Cli& cli, const Arguments& a) {
  gpuq::Client& client = cli.client();
  const gpuq::Model one = find_model(client, a.name);
  const gpuq::Model two = find_model(client, a.other.find('@') == std::string::npos && a.other.size() == one.version.size() ? one.name + "@" + a.other : a.other);
  const auto left = facts_of(client, one), right = facts_of(client, two);
  std::vector<std::string> keys;
  for (const auto* side : {&left, &right})
    for (const auto& [key, value] : *side)
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  const auto value_of = [](const auto& side, const std::string& key) {
    const auto it = std::find_if(side.begin(), side.end(), [&](const auto& fact) { return fact.first == key; });
    return it == side.end() ? std::string("-") : it->second;
  };
  std::vector<Json> items;
  Table table({"", one.name + "@" + one.version, two.name + "@" + two.version});
  for (const std::string& key : keys) {
    const std::string before = value_of(left, key), after = value_of(right, key);
    if (before == after) continue;
    items.push_back({{"key", key}, {"left", before}, {"right", after}});
    table.row({key, before, after});
  }
  if (cli.is_json()) print_json(cli.io.out, cli.format() == Format::jsonl, "differences", items);
  else if (items.empty()) cli.note("they are the same version");
  else table.print(cli.io.out, !cli.globals.no_header);
  return 0;
}

int run_remove(Cli& cli, const Arguments& a) {
  const auto at = a.name.find('@');
  const gpuq::Model model = cli.client().remove_model(a.name.substr(0, at), at == std::string::npos ? "" : a.name.substr(at + 1));
  if (cli.is_json()) show(cli, model);
  cli.note("removed " + (model.name.empty() ? a.name : model.name + (model.version.empty() ? "" : "@" + model.version)));
  return 0;
}

}  // namespace

void add_models(CLI::App& app, Cli& cli) {
  auto a = std::make_shared<Arguments>();
  CLI::App* model = app.add_subcommand("model", "models by name and version: push, promote, rollback, list, show, diff, rm");
  model->require_subcommand(0, 1);
  model->fallthrough();
  CLI::App* push = model->add_subcommand("push", "a TorchScript file, a Python model's folder, or a job's artefact, under a name");
  push->add_option("name", a->name, "letters, digits, . _ -")->option_text("NAME")->required();
  push->add_option("path", a->path, "the file, or a folder with model.toml")->option_text("PATH");
  push->add_option("--from", a->from, "the job that made it")->option_text("JOB");
  push->add_option("--part", a->part, "which part of its result (model)")->option_text("NAME");
  push->add_option("--vram", a->vram, "what it needs on a device, contexts of all its instances included (1 GiB, and the file's size beyond 64 MiB)")->option_text("SIZE");
  push->add_flag("--no-promote", a->no_promote, "register it only; NAME goes on to mean what it means");
  const auto warming = [&](CLI::App* c) {
    c->add_flag("--no-warm", a->no_warm, "promote it without loading it first");
    c->add_option("--warm-timeout", a->patience, "wait so long for room beside the promoted version (2min)")->option_text("DURATION");
  };
  warming(push);
  push->callback([&cli, a] { cli.action = [&cli, a] { return run_push(cli, *a); }; });
  CLI::App* promote = model->add_subcommand("promote", "NAME means this version from now on; it is loaded first, so that nobody waits");
  promote->add_option("name", a->name, "NAME@VERSION; NAME = its newest version")->option_text("NAME[@VERSION]")->required();
  promote->add_option("--if", a->condition, "only if this holds, as 'map50 > current and recall >= 0.9'; exit 1 when not")->option_text("CONDITION");
  warming(promote);
  promote->callback([&cli, a] { cli.action = [&cli, a] { return run_promote(cli, *a); }; });
  CLI::App* rollback = model->add_subcommand("rollback", "the version that was promoted before; said again, the one before that");
  rollback->add_option("name", a->name, "the model")->option_text("NAME")->required();
  rollback->callback([&cli, a] { cli.action = [&cli, a] { return run_rollback(cli, *a); }; });
  CLI::App* show_one = model->add_subcommand("show", "all that is known of a version");
  show_one->add_option("name", a->name, "NAME = the promoted version")->option_text("NAME[@VERSION]")->required();
  show_one->callback([&cli, a] { cli.action = [&cli, a] { return run_show(cli, *a); }; });
  CLI::App* diff = model->add_subcommand("diff", "what differs between two versions");
  diff->add_option("one", a->name, "NAME[@VERSION]")->option_text("ONE")->required();
  diff->add_option("other", a->other, "NAME@VERSION, or a version of the same name")->option_text("OTHER")->required();
  diff->callback([&cli, a] { cli.action = [&cli, a] { return run_diff(cli, *a); }; });
  CLI::App* list = model->add_subcommand("list", "all versions")->alias("ls");
  list->callback([&cli] { cli.action = [&cli] { return run_list(cli); }; });
  CLI::App* remove = model->add_subcommand("rm", "a version, or all of a name");
  remove->add_option("name", a->name, "NAME or NAME@VERSION")->option_text("NAME[@VERSION]")->required();
  remove->callback([&cli, a] { cli.action = [&cli, a] { return run_remove(cli, *a); }; });
}

}  // namespace gq::cli
